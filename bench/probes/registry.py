"""All probes, found by being files of this folder.

A probe has ``METRICS``, the `Metric`s that it measures, and a function for each stage at which it measures some of
them: ``measure_base``, ``measure_training`` and ``measure_served``, or ``measure_inference`` for the base and what is
served alike. What a function may read is the type of its argument (`bench.workload.subject`). It yields a `Measurement`
for each metric, or a `Missing` with the reason. A probe with ``NEEDS_DATA = False`` reads shapes alone and also
measures models whose tensors have no data.

torch is imported inside these functions, because tables read ``METRICS`` without it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache
from types import ModuleType

from bench import probes as package
from bench.records.metrics import Metric, Scope
from bench.records.record import MERGED, UNMERGED, Measurement, Missing, Point, Record
from bench.workload.subject import BaseSubject, ServedSubject, Subject, TrainingSubject

STAGES: dict[type, tuple[str, ...]] = {
    BaseSubject: ("measure_base", "measure_inference"),
    TrainingSubject: ("measure_training",),
    ServedSubject: ("measure_served", "measure_inference"),
}


@cache
def probes() -> tuple[ModuleType, ...]:
    """All probes, by name."""
    names = sorted(info.name for info in pkgutil.iter_modules(package.__path__))
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names if name != "registry"]
    return tuple(module for module in modules if hasattr(module, "METRICS"))


def measure(probe: ModuleType, subject: Subject) -> Iterator[Measurement | Missing]:
    """What a probe measures at the subject's stage."""
    for name in STAGES[type(subject)]:
        if hasattr(probe, name):
            yield from getattr(probe, name)(subject)


@cache
def metrics() -> dict[str, Metric]:
    """All metrics by name."""
    return {metric.name: metric for probe in probes() for metric in probe.METRICS}


def measured(record: Record, metric: str, state: str, point: Point) -> float | int | None:
    """A metric of a state at a workload point. What describes the training was recorded with the unmerged state."""
    trained = metric in metrics() and metrics()[metric].scope is Scope.TRAINING
    return record.value(metric, UNMERGED if trained and state == MERGED else state, point)
