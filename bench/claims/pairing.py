"""Which records a claim is about, which of them may be compared, and how they are named."""

from __future__ import annotations

import json
from collections.abc import Sequence

from bench.claims.claim import TRAIN_RATIO, Evidence, Selector
from bench.records.conditions import TRAIN_REFERENCE, configured, conflicts, identity, without_names
from bench.records.record import Point, Record

ABSENT = "no record of"
"""How the reason begins if a cell has no partner, which does not matter if other cells have one."""


def selects(selector: Selector, record: Record) -> bool:
    """Whether a record belongs to the cells that are meant."""
    known = configured(record)
    named = record.cell.method in selector.method and record.cell.implementation == selector.implementation
    return named and all(known.get(key) == value for key, value in selector.where.items())


def confounders(one: Record, other: Record, evidence: Evidence) -> list[str]:
    """What two records differ in besides the method, each with both values; empty if they can be compared."""
    found = {key: values for key, values in conflicts(one, other).items() if key not in _indifferent(evidence)}
    return [f"{key} ({found[key][0]}, {found[key][1]})" for key in without_names(found)]


def _indifferent(evidence: Evidence) -> tuple[str, ...]:
    """Conditions that the evidence does not depend on."""
    return () if evidence.quantity == TRAIN_RATIO else (TRAIN_REFERENCE,)


def cell_name(record: Record, point: Point | None = None) -> str:
    """A cell in words."""
    size = "" if record.cell.size is None else f" {record.cell.size}"
    layers = record.metadata.get("model", {}).get("layers")
    deep = "" if layers is None else f", {layers} layers"
    where = "" if point is None else f", {point[0]} × {point[1]}"
    return f"{record.cell.name}{size}{deep}{where}"


def best_measured(records: Sequence[Record], evidence: Evidence) -> list[Record]:
    """Of records that differ only in how much was measured, the one that measured most of the evidence.

    So a longer measurement replaces a first look instead of standing beside it.
    """
    best: dict[str, Record] = {}
    for record in records:
        free = ("workload.phases", *_indifferent(evidence))
        config = {k: v for k, v in configured(record).items() if k not in free and not k.startswith("precision.")}
        key = json.dumps([config, identity(record)[1]], sort_keys=True, default=str)
        if key not in best or _amount(record, evidence) > _amount(best[key], evidence):
            best[key] = record
    return list(best.values())


def _amount(record: Record, evidence: Evidence) -> tuple[int, str, str]:
    """How many pairs or measurements of the evidence a record has; of two equal ones the later counts."""
    if evidence.timed:
        count = sum(len(pairs.control_seconds) for pairs in record.pairs_of(evidence.phase))
    else:
        count = sum(found.metric == evidence.quantity for found in record.measurements)
    return count, record.started, record.cell_id
