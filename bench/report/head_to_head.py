"""A method vs. its reference, both measured in the same processes.

Every ratio is the method's over the reference's in one process, so that what a process does to both cancels out. Of
latency, where each was timed in turn with the control, it is the quotient of the two ratios to the control; training
steps were timed in turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.records import stats
from bench.records.conditions import alike, distinct
from bench.records.record import REFERENCE, TRAIN, UNMERGED, Point, Record, Status
from bench.records.units import half_width
from bench.report.footnotes import IntervalWidth, Legend, MeasuredOn
from bench.report.labels import Labels, labels, size_label, titles
from bench.report.table import Column, Note, Table, Text

BEST_MEANS = "the method is better than its reference, and so is the whole interval"


@dataclass(frozen=True)
class Compared:
    """One metric of the comparison: how it is computed, and whether more of it is better."""

    label: str
    of: Callable[[Record, Point], stats.Interval | None]
    more: bool = False
    skewed: bool = False
    """Whether the interval is far from symmetric, so that its ends are shown."""


def reference_tables(records: Sequence[Record]) -> list[Table]:
    """One table for all methods that were measured vs. the same implementation under the same conditions."""
    found: dict[tuple[str, Point], list[Record]] = {}
    ordered = sorted(distinct(records), key=lambda record: (record.cell.name, record.cell.size or 0, record.cell_id))
    for record in ordered:
        if record.cell.reference is not None and record.status is Status.OK:
            for point in record.cell.points:
                found.setdefault((record.cell.reference.implementation, point), []).append(record)
    tables = []
    for key in sorted(found):
        groups = alike(found[key])
        named = titles([_title(group[0], key[1]) for group in groups], groups)
        tables += [_table(group, key[1], title) for group, title in zip(groups, named, strict=True)]
    return tables


def speed(record: Record, _point: Point) -> stats.Interval | None:
    """Training tokens per second."""
    logs = [-log for log in record.log_ratios(TRAIN, UNMERGED)]
    return stats.ratio(logs) if logs else None


def memory(record: Record, _point: Point) -> stats.Interval | None:
    """Peak training memory, which has no noise."""
    ours, theirs = (record.value("train_peak_bytes", state) for state in (UNMERGED, REFERENCE))
    if ours is None or theirs is None:
        return None
    return stats.Interval(ours / theirs, ours / theirs, ours / theirs, 1)


def prefill(record: Record, point: Point) -> stats.Interval | None:
    """Seconds of a prefill, unmerged."""
    return _latency(record, point, "prefill")


def decode(record: Record, point: Point) -> stats.Interval | None:
    """Seconds of a decode step, unmerged."""
    return _latency(record, point, "decode")


def added_decode(record: Record, point: Point) -> stats.Interval | None:
    """What each adds to the control's decode step; None if the reference adds nothing that differs from noise."""
    ours, theirs = _sides(record, point, "decode")
    found = stats.ratio_of_means([math.expm1(log) for log in ours], [math.expm1(log) for log in theirs])
    return None if found is None else stats.Interval(*found, len(ours))


COMPARED = (
    Compared("train tok/s", speed, more=True),
    Compared("train mem", memory),
    Compared("prefill", prefill),
    Compared("decode", decode),
    Compared("added decode", added_decode, skewed=True),
)


def _latency(record: Record, point: Point, phase: str) -> stats.Interval | None:
    ours, theirs = _sides(record, point, phase)
    logs = [a - b for a, b in zip(ours, theirs, strict=True)]
    return stats.ratio(logs) if logs else None


def _sides(record: Record, point: Point, phase: str) -> tuple[list[float], list[float]]:
    """Log-ratios to the control, process by process, of the method and of its reference."""
    ours, theirs = (
        {pairs.process: pairs.log_ratio for pairs in record.pairs_of(phase, arm, point)}
        for arm in (UNMERGED, REFERENCE)
    )
    shared = sorted(ours.keys() & theirs.keys())
    return [ours[process] for process in shared], [theirs[process] for process in shared]


def _title(record: Record, point: Point) -> str:
    reference = record.cell.reference
    assert reference is not None
    version = record.versions.get(reference.implementation, "")
    config = record.cell.config
    work = config["workload"]
    words = (
        f"vs. {reference.implementation} {version}".rstrip(),
        record.cell.model,
        f"batch {point[0]} × {point[1]}",
        f"training {work['train_batch_size']} × {work['train_length']}",
        str(config["model"]["dtype"]),
        str(config["runtime"]["name"]),
        str(config["device"]["name"]),
    )
    return " · ".join(words)


def _table(records: Sequence[Record], point: Point, title: str) -> Table:
    first = records[0]
    names = labels(records)
    found = [[compared.of(record, point) for compared in COMPARED] for record in records]
    rows = [(names.full(record), *map(_shown, COMPARED, row)) for record, row in zip(records, found, strict=True)]
    notes: tuple[Note, ...] = (
        *(Legend(row, settings) for row, settings in names.legend),
        *(Text(line) for line in _differences(records, names)),
        Text(
            "added decode: what each adds to the control's decode step, Fieller's 95% interval; blank if the reference "
            "adds nothing that differs from noise"
        ),
        Text("both ran in the same processes; training steps in turn, latency each in turn with the control"),
        IntervalWidth(tuple(sorted({len({pairs.process for pairs in record.pairs}) for record in records}))),
        MeasuredOn(str(first.processor), ()),
    )
    return Table(
        title=title,
        columns=(
            Column("method", left=True, wrap=True),
            *(Column(compared.label, "× reference") for compared in COMPARED),
        ),
        rows=tuple(rows),
        notes=notes,
        best=frozenset(
            (number, index)
            for number, row in enumerate(found)
            for index, (compared, one) in enumerate(zip(COMPARED, row, strict=True), start=1)
            if _better(one, compared.more)
        ),
        best_means=BEST_MEANS,
    )


def _better(interval: stats.Interval | None, more: bool) -> bool:
    """Whether the whole interval is on the method's side of 1."""
    if interval is None or interval.low is None or interval.high is None:
        return False
    return interval.low > 1 if more else interval.high < 1


def _shown(compared: Compared, interval: stats.Interval | None) -> str:
    """The estimate, with half its interval or with both ends."""
    if interval is None:
        return ""
    if interval.low is None or interval.high is None or interval.low == interval.high:
        return f"{interval.estimate:.3f}"
    if compared.skewed:
        return f"{interval.estimate:.2f} ({interval.low:.2f}, {interval.high:.2f})"
    digits = 3 if interval.high - interval.low < 0.2 else 2  # no more digits than the interval justifies
    return f"{interval.estimate:.{digits}f} {half_width(interval.low, interval.high, digits)}"


def _differences(records: Sequence[Record], names: Labels) -> list[str]:
    """Where the reference is another method or size, and where the two train different numbers of parameters."""
    lines = []
    for record in records:
        cell, reference = record.cell, record.cell.reference
        assert reference is not None
        if (reference.method, reference.size) != (cell.method, cell.size):
            label = f"{reference.name} {size_label(cell, reference)}".rstrip()
            lines.append(f"{names.full(record)}: the reference is {label}")
        ours, theirs = (record.value("trained_parameters", state) for state in (UNMERGED, REFERENCE))
        if ours != theirs:
            lines.append(f"{names.full(record)}: trains {ours} parameters, its reference {theirs}")
    return lines
