"""Which records a claim is about, which of them may be compared, and how they are named."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from bench.claims.claim import Evidence, Selector
from bench.records.conditions import configured, context, differing, flat
from bench.records.record import Pairs, Record

ABSENT = "no record of"
"""A cell without a partner decides nothing where others have one; a partner that may not be compared is told."""
Point = tuple[int, int]
"""Batch size and prompt length."""


def selects(selector: Selector, record: Record) -> bool:
    """Whether a record is of the cells meant."""
    known = configured(record)
    named = record.cell.method in selector.method and record.cell.implementation == selector.implementation
    return named and all(known.get(key) == value for key, value in selector.where.items())


def unfair(one: Record, other: Record) -> list[str]:
    """What two records differ in beside the method, each with both values; empty where comparing them is fair."""
    contexts = [context(one), context(other)]
    keys = [key for key in differing(contexts) if not key.endswith(".name")] or differing(contexts)
    return [f"{key} ({contexts[0].get(key)}, {contexts[1].get(key)})" for key in keys]


def cell_name(record: Record, point: Point | None = None) -> str:
    """A cell in words."""
    size = "" if record.cell.size is None else f" {record.cell.size}"
    layers = record.facts.get("model", {}).get("layers")
    deep = "" if layers is None else f", {layers} layers"
    where = "" if point is None else f", {point[0]} × {point[1]}"
    return f"{record.cell.name}{size}{deep}{where}"


def processes(record: Record, phase: str, state: str, point: Point, statistic: Callable[[Pairs], float]) -> list[float]:
    """The statistic of each process that timed this."""
    key = (phase, state, *point)
    return [statistic(p) for p in record.pairs if (p.phase, p.arm, p.batch_size, p.prompt_length) == key]


def best_measured(records: Sequence[Record], evidence: Evidence) -> list[Record]:
    """Of records that differ only in how much was measured, the one that measured most of what is asked for.

    So a closer look settles what a first one left open, instead of standing beside it.
    """
    best: dict[str, Record] = {}
    for record in records:
        config = {key: value for key, value in record.cell.config.items() if key != "precision"}
        work = {key: value for key, value in config["workload"].items() if key != "phases"}
        key = json.dumps([{**config, "workload": work}, _surroundings(record)], sort_keys=True, default=str)
        if key not in best or _amount(record, evidence) > _amount(best[key], evidence):
            best[key] = record
    return list(best.values())


def _surroundings(record: Record) -> dict[str, Any]:
    """What makes two records of one configuration two experiments: versions and machine."""
    held = flat(record.cell.config)
    return {key: value for key, value in context(record).items() if key not in held}


def _amount(record: Record, evidence: Evidence) -> tuple[int, str, str]:
    """How many pairs, or readings, a record has of what is asked for; of two alike, the later one."""
    if evidence.timed:
        count = sum(len(pairs.control_seconds) for pairs in record.pairs if pairs.phase == evidence.phase)
    else:
        count = sum(found.figure == evidence.quantity for found in record.readings)
    return count, record.started, record.cell_id
