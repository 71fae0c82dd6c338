"""What measurements depend on besides the method. Rows are compared only where all of it is the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bench.config.schema import ADDED
from bench.records.record import Record

FREE = ("method", "reference", "precision", "seed")
"""Parts of a cell's configuration that may differ within one comparison."""
POINTS = ("workload.batch_sizes", "workload.prompt_lengths", "workload.phases")
"""Lists whose entries are rows of their own."""
TARGETS = ("method._target_", "reference._target_")


def conditions(record: Record) -> dict[str, Any]:
    """What must be equal in two rows that are compared, by dotted key: model, text, workload, device, versions."""
    whole = configured(record)
    held = {key: value for key, value in whole.items() if key.split(".")[0] not in FREE and key not in POINTS}
    versions = {name: record.versions.get(name) for name in ("torch", "transformers", "python")}
    device = {"machine": record.machine.get("processor"), "accelerator": record.machine.get("accelerator")}
    if record.cell.config["device"]["threads"] is None:  # torch then takes as many threads as there are cores
        device["cores"] = record.machine.get("cores")
    return {**held, **versions, **device}


def configured(record: Record) -> dict[str, Any]:
    """The whole configuration of a cell by dotted key, with the settings that were added later at their defaults."""
    return {**ADDED, **flatten(record.cell.config)}


def settings(record: Record) -> dict[str, Any]:
    """What may distinguish two rows of one method, by dotted key."""
    whole = flatten(record.cell.config)
    free = {key: value for key, value in whole.items() if key.split(".")[0] in FREE or key in POINTS}
    return {key: value for key, value in free.items() if key not in TARGETS}


def differing(many: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys whose value is not the same everywhere."""
    many = list(many)
    keys = dict.fromkeys(key for one in many for key in one)
    return [key for key in keys if len({repr(one.get(key)) for one in many}) > 1]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration by dotted key."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
