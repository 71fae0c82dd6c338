"""What a record's figures depend on besides the method: rows are compared only where all of it is the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bench.config.schema import ADDED
from bench.records.record import Record

FREE = ("method", "rival", "precision", "seed")
"""Parts of a cell's configuration that may differ within one comparison."""
POINTS = ("workload.batch_sizes", "workload.prompt_lengths", "workload.phases")
"""Lists whose entries are rows of their own."""
UNTOLD = ("method._target_", "rival._target_")


def context(record: Record) -> dict[str, Any]:
    """What must be the same for two rows to be compared, by dotted key."""
    whole = configured(record)
    held = {key: value for key, value in whole.items() if key.split(".")[0] not in FREE and key not in POINTS}
    versions = {name: record.versions.get(name) for name in ("torch", "transformers", "python")}
    device = {"machine": record.machine.get("processor"), "accelerator": record.machine.get("accelerator")}
    if record.cell.config["device"]["threads"] is None:  # then torch takes as many as there are
        device["cores"] = record.machine.get("cores")
    return {**held, **versions, **device}


def configured(record: Record) -> dict[str, Any]:
    """The whole configuration of a cell by dotted key, settings that came after it included."""
    return {**ADDED, **flat(record.cell.config)}


def settings(record: Record) -> dict[str, Any]:
    """What may tell two rows of one method apart, by dotted key."""
    whole = flat(record.cell.config)
    free = {key: value for key, value in whole.items() if key.split(".")[0] in FREE or key in POINTS}
    return {key: value for key, value in free.items() if key not in UNTOLD}


def differing(many: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys whose value is not the same everywhere."""
    seen: dict[str, set[str]] = {}
    many = list(many)
    for key in dict.fromkeys(key for one in many for key in one):
        seen[key] = {repr(one.get(key)) for one in many}
    return [key for key, values in seen.items() if len(values) > 1]


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration by dotted key."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
