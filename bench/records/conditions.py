"""What measurements depend on besides the method. Rows are compared only where all of it is the same."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from bench.config.schema import ADDED
from bench.records.cell import OURS
from bench.records.record import Record

FREE = ("method", "reference", "precision", "seed")
"""Parts of a cell's configuration that may differ within one comparison."""
POINTS = ("workload.batch_sizes", "workload.prompt_lengths", "workload.phases")
"""Lists whose entries are rows of their own."""
TARGETS = ("method._target_", "reference._target_")
TRAIN_REFERENCE = "workload.train_reference"
"""A condition of training speeds alone: nothing else depends on it."""
VERSIONS = ("torch", "transformers", "python")
MACHINE = ("machine", "accelerator", "cores")
USED_WITH = {"double_quantization": "bitsandbytes"}
"""Packages by the setting that tells of them, for records that do not say on which packages their methods ran."""


def conditions(record: Record) -> dict[str, Any]:
    """What must be equal in two rows that are compared, by dotted key: model, text, workload, device, versions.

    Two rows must also agree in every package on which both run: `packages`.
    """
    whole = configured(record)
    held = {key: value for key, value in whole.items() if key.split(".")[0] not in FREE and key not in POINTS}
    return {**held, **surroundings(record)}


def surroundings(record: Record) -> dict[str, Any]:
    """The part of `conditions` that no configuration says: versions and machine."""
    versions = {name: record.versions.get(name) for name in VERSIONS}
    device = {"machine": record.machine.get("processor"), "accelerator": record.machine.get("accelerator")}
    if configured(record).get("device.threads") is None:  # torch then takes as many threads as there are cores
        device["cores"] = record.machine.get("cores")
    return {**versions, **device}


def packages(record: Record) -> dict[str, str | None]:
    """Versions of what the record's methods run on, such as peft, and of what brings the base; nothing else matters."""
    cell = record.cell
    named = {cell.implementation, OURS if cell.reference is None else cell.reference.implementation} - {OURS}
    told: Collection[str] | None = record.metadata.get("packages")
    if told is None:
        keys = flatten(cell.config)
        told = [name for setting, name in USED_WITH.items() if {f"method.{setting}", f"reference.{setting}"} & {*keys}]
    return {name: record.versions.get(name) for name in sorted({*named, *told})}


def identity(record: Record) -> tuple[str, str]:
    """What makes two records the same experiment: the cell, and where and with which versions it was measured."""
    return record.cell_id, json.dumps({**surroundings(record), **packages(record)}, sort_keys=True)


def distinct(records: Iterable[Record]) -> list[Record]:
    """The records without repetitions, in an order that does not depend on theirs: of one experiment the latest."""
    found = {identity(record): record for record in sorted(records, key=lambda record: record.started)}
    return [found[key] for key in sorted(found)]


def alike(records: Iterable[Record], free: Collection[str] = ()) -> list[list[Record]]:
    """Groups of records that may be compared: their `conditions` are equal, except for the keys in ``free``.

    Where records ran on different versions of a package there is a group for each; those that do not run on it are in
    all of them.
    """
    by_conditions: dict[str, list[Record]] = {}
    for record in records:
        held = {key: value for key, value in conditions(record).items() if key not in free}
        by_conditions.setdefault(json.dumps(held, sort_keys=True, default=str), []).append(record)
    groups = [by_conditions[key] for key in sorted(by_conditions)]
    for name in sorted({name for group in groups for record in group for name in packages(record)} - {*free}):
        groups = [part for group in groups for part in _by_version(group, name)]
    return groups


def _by_version(group: Sequence[Record], package: str) -> list[list[Record]]:
    used = [packages(record) for record in group]
    versions = sorted({own[package] for own in used if package in own}, key=str)
    if len(versions) < 2:
        return [list(group)]
    return [
        [record for record, own in zip(group, used, strict=True) if own.get(package, version) == version]
        for version in versions
    ]


def shared(group: Sequence[Record]) -> dict[str, Any]:
    """The `conditions` of one of the groups of `alike`, with the versions of the packages on which its records run."""
    return {**conditions(group[0]), **{name: own for record in group for name, own in packages(record).items()}}


def configured(record: Record) -> dict[str, Any]:
    """The whole configuration of a cell by dotted key, with the settings that were added later at their defaults."""
    return {**ADDED, **flatten(record.cell.config)}


def settings(record: Record) -> dict[str, Any]:
    """What may distinguish two rows of one method, by dotted key."""
    whole = flatten(record.cell.config)
    free = {key: value for key, value in whole.items() if key.split(".")[0] in FREE or key in POINTS}
    return {key: value for key, value in free.items() if key not in TARGETS}


def conflicts(one: Record, other: Record) -> dict[str, tuple[Any, Any]]:
    """Both values of each condition that differs, and of each package on whose version two records do not agree."""
    sides = conditions(one), conditions(other)
    found = {key: (sides[0].get(key), sides[1].get(key)) for key in differing(sides)}
    used = packages(one), packages(other)
    return found | {key: (used[0][key], used[1][key]) for key in differing(used) if all(key in own for own in used)}


def differing(many: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys whose value is not the same everywhere."""
    many = list(many)
    keys = dict.fromkeys(key for one in many for key in one)
    return [key for key in keys if len({repr(one.get(key)) for one in many}) > 1]


def telling(many: Iterable[Mapping[str, Any]]) -> list[str]:
    """The differing keys, without names, which repeat the others in other words; names only if nothing else differs."""
    return without_names(differing(many))


def without_names(keys: Iterable[str]) -> list[str]:
    """The keys but those of names; all of them if there are no others."""
    keys = list(keys)
    return [key for key in keys if not key.endswith(".name")] or keys


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration by dotted key."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
