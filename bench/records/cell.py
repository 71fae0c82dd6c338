"""A cell: one point of a sweep, and its identity. Standard library only."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from bench.config.aliases import config_in_schema_1

OURS = "peft-verdict"
"""The implementation of a method that is this project's own."""

LONGEST_SLUG = 80
"""Characters of a cell's id before its digits: a model may be called by a long path, a file may not."""

STRICT = {"extra": "forbid"}
"""How records are validated on reading: an unknown key is an error, not something to pass over."""


@dataclass(frozen=True)
class Reference:
    """The method beside which a cell's own is measured."""

    __pydantic_config__: ClassVar = STRICT

    method: str
    implementation: str
    size: int | None

    @property
    def name(self) -> str:
        """See `Cell.name`."""
        return name_of(self.method, self.implementation)


def name_of(method: str, implementation: str) -> str:
    """A method in words, with whose it is where it is not ours."""
    return method if implementation == OURS else f"{method} ({implementation})"


@dataclass(frozen=True)
class Cell:
    """One point of a sweep: everything that its metrics depend on, resolved."""

    __pydantic_config__: ClassVar = STRICT

    method: str
    """Name of the method, as in ``conf/method``; of one of peft's, its type in small letters."""
    implementation: str
    """Whose code the method is: `OURS`, ``peft``, or the package that brings it."""
    size: int | None
    """Rank, bottleneck or number of virtual tokens; None for a method without one."""
    model: str
    """Name of the base model, as in ``conf/model``; of a checkpoint its hub id or folder."""
    config: Mapping[str, Any]
    """The composed configuration, plain values only, without what does not change a metric (study, folders)."""
    reference: Reference | None = None
    """Measured beside the method, in the same processes."""

    @property
    def name(self) -> str:
        """The method in words."""
        return name_of(self.method, self.implementation)

    @property
    def points(self) -> list[tuple[int, int]]:
        """(batch size, prompt length) of every workload point."""
        work = self.config["workload"]
        return [(batch, length) for batch in work["batch_sizes"] for length in work["prompt_lengths"]]

    @property
    def id(self) -> str:
        """A readable slug plus ten hexadecimal digits of the configuration's digest, whatever its key order."""
        words = config_in_schema_1(self.config)
        canonical = json.dumps(words, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:10]
        whose = [] if self.implementation == OURS else [self.implementation]
        name = [self.model, *whose, self.method] + ([] if self.size is None else [str(self.size)])
        slug = re.sub(r"[^a-z0-9.]+", "-", "-".join(name).lower()).strip("-.")
        return f"{slug[:LONGEST_SLUG]}-{digest}"
