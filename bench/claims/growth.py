"""Evidence of growth: the slope, over one axis of the cells, of the seconds beyond the control's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.claims.claim import Evidence
from bench.claims.pairing import cell_name
from bench.claims.result import EvidenceResult, Sample, Test, Verdict, directed
from bench.records import stats
from bench.records.conditions import differing, flatten, identity, settings, shared
from bench.records.record import Point, Record

UNITS = {"num_hidden_layers": "layer", "n_layer": "layer", "batch_size": "sequence", "size": "unit of size"}
"""The unit of an axis, where it is not the axis's name."""
LISTS = ("workload.batch_sizes", "workload.prompt_lengths", "workload.phases")


@dataclass(frozen=True)
class Spot:
    """One point of a line: a record at a workload point."""

    record: Record
    point: Point
    level: float
    rest: Mapping[str, Any]
    """What must be equal along the line."""


def growth(evidence: Evidence, state: str, group: Sequence[Record]) -> Iterator[Test | EvidenceResult]:
    """The slope over the axis, at the largest values of the other axes, where an effect is largest.

    Of records of several machines, or with several versions, each set has a line.
    """
    assert evidence.over is not None
    phase, over = evidence.phase, evidence.over
    spots = [
        spot
        for record in group
        for point in record.cell.points
        if (spot := _spot(over, record, point, _size_keys(group))) is not None and record.pairs_of(phase, state, point)
    ]
    lines: dict[str, list[Spot]] = {}
    for spot in spots:
        lines.setdefault(json.dumps(spot.rest, sort_keys=True, default=str), []).append(spot)
    grown = [line for line in lines.values() if len({spot.level for spot in line}) > 1]
    if not grown:
        yield _no_line(evidence, group, spots)
        return
    places: dict[str, list[list[Spot]]] = {}
    for line in grown:
        places.setdefault(identity(line[0].record)[1], []).append(line)
    for those in places.values():
        line = max(those, key=lambda line: (len({spot.level for spot in line}), _largest(line)))
        yield _slope(evidence, state, sorted({spot.level: spot for spot in line}.values(), key=lambda spot: spot.level))


def _slope(evidence: Evidence, state: str, line: Sequence[Spot]) -> Test:
    phase, over = evidence.phase, str(evidence.over)
    pairs = [spot.record.pairs_of(phase, state, spot.point) for spot in line]
    levels = [spot.level for spot in line]
    found = Sample(
        stats.mean(stats.slopes(levels, [[own.extra_seconds for own in those] for those in pairs])),
        stats.mean(stats.slopes(levels, [[own.mean_extra_seconds for own in those] for those in pairs])),
    )
    # growth over the whole range that is less than the margin, as a fraction of the control's step, does not matter
    control = max(_control_seconds(spot, phase) for spot in line)
    margin = evidence.margin * control / (levels[-1] - levels[0])
    axis = over.rpartition(".")[2]
    subject = f"{cell_name(line[-1].record, line[-1].point)}; {axis} {', '.join(f'{level:g}' for level in levels)}"
    ids = tuple(dict.fromkeys(spot.record.cell_id for spot in line))
    p = directed(found, margin)
    return Test(evidence, subject, "0", found, f"s per {UNITS.get(axis, axis)}", p, p.evidence, ids)


def _size_keys(group: Sequence[Record]) -> set[str]:
    """Settings of the method whose value is the cell's size, in every record."""
    flats = [(record.cell.size, flatten(record.cell.config)) for record in group]
    keys = [key for key in flats[0][1] if key.startswith("method.")]
    return {key for key in keys if all(size is not None and own.get(key) == size for size, own in flats)}


def _spot(over: str, record: Record, point: Point, size_keys: set[str]) -> Spot | None:
    axes: dict[str, Any] = {"size": record.cell.size, "batch_size": point[0], "prompt_length": point[1]}
    level = axes.get(over, flatten(record.cell.config).get(over))
    if isinstance(level, bool) or not isinstance(level, int | float):
        return None
    same = {**shared([record]), **settings(record), **axes}
    freed = {over, *LISTS, *({"size", *size_keys} if over == "size" or over in size_keys else ())}
    return Spot(record, point, float(level), {key: value for key, value in same.items() if key not in freed})


def _largest(line: Sequence[Spot]) -> tuple[float, ...]:
    return max((float(spot.record.cell.size or 0), *map(float, spot.point)) for spot in line)


def _control_seconds(spot: Spot, phase: str) -> float:
    return stats.seconds([p.control_seconds for p in spot.record.pairs_of(phase, point=spot.point)])


def _no_line(evidence: Evidence, group: Sequence[Record], spots: Sequence[Spot]) -> EvidenceResult:
    reason = f"growth over {evidence.over} needs cells with at least two values of it"
    if len({spot.level for spot in spots}) > 1:
        keys = differing([spot.rest for spot in spots])
        reason = f"not compared: the cells differ in more than {evidence.over}: {', '.join(keys)}"
    names = ", ".join(dict.fromkeys(cell_name(record) for record in group))
    ids = tuple(record.cell_id for record in group)
    return EvidenceResult(evidence, Verdict.UNCLEAR, names, "0", reason=reason, records=ids)
