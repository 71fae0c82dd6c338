"""One family of figures a file. A probe is registered by being here; it has

- ``FIGURES``: the `Figure`s that it measures,
- ``STAGES``: the `Stage`s at which it runs,
- ``measure(subject)``: yields a `Reading`, or a `Missing` with the reason, for each.

Imports of torch stand inside ``measure``, because tables read ``FIGURES`` without it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Iterator
from functools import cache
from typing import Protocol, cast

from bench.records.figures import Figure
from bench.records.record import Missing, Reading
from bench.workload.subject import Stage, Subject


class Probe(Protocol):
    """What a module of this package offers."""

    FIGURES: tuple[Figure, ...]
    STAGES: Collection[Stage]

    def measure(self, subject: Subject) -> Iterator[Reading | Missing]:
        """The figures of one subject."""


@cache
def probes() -> tuple[Probe, ...]:
    """All probes, by name."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    return tuple(cast(Probe, importlib.import_module(f"{__name__}.{name}")) for name in names)


@cache
def figures() -> dict[str, Figure]:
    """All figures by name."""
    return {figure.name: figure for probe in probes() for figure in probe.FIGURES}
