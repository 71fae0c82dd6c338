"""A method beside its rival, both measured in the same processes.

Every ratio is the method's over the rival's of one process, so what a process does to both is in neither: of latency,
where each was timed against the control, the quotient of the two ratios; of training, steps timed in turn.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.records import stats
from bench.records.cell import Cell, Rival
from bench.records.conditions import context
from bench.records.record import RIVAL, TRAIN, UNMERGED, Record, Status
from bench.report.labels import variants
from bench.report.table import Grid

Point = tuple[int, int]


@dataclass(frozen=True)
class Column:
    """One figure of the comparison: how it is worked out, and whether more of it is better."""

    label: str
    of: Callable[[Record, Point], stats.Interval | None]
    more: bool = False
    skewed: bool = False
    """Whether the interval is far from even around the estimate, and so shown by its ends."""


def rival_grids(records: Sequence[Record]) -> list[Grid]:
    """A grid for all methods that were measured beside the same implementation under the same conditions."""
    groups: dict[str, list[tuple[Record, Point]]] = {}
    for record in sorted(records, key=lambda record: (record.cell.name, record.cell.size or 0, record.cell_id)):
        if record.cell.rival is not None and record.status is Status.OK:
            for point in record.cell.points:
                key = json.dumps(
                    [record.cell.rival.implementation, point, context(record)], sort_keys=True, default=str
                )
                groups.setdefault(key, []).append((record, point))
    return [_grid(groups[key]) for key in sorted(groups)]


def speed(record: Record, _point: Point) -> stats.Interval | None:
    """Training tokens per second."""
    logs = [-stats.log_ratio(pairs) for pairs in record.pairs if pairs.phase == TRAIN]
    return stats.ratio(logs) if logs else None


def memory(record: Record, _point: Point) -> stats.Interval | None:
    """Peak training memory; it has no noise."""
    peaks = {found.state: found.value for found in record.readings if found.figure == "train_peak_bytes"}
    if UNMERGED not in peaks or RIVAL not in peaks:
        return None
    value = peaks[UNMERGED] / peaks[RIVAL]
    return stats.Interval(value, value, value, 1)


def prefill(record: Record, point: Point) -> stats.Interval | None:
    """Seconds of a prefill, unmerged."""
    return _latency(record, point, "prefill")


def decode(record: Record, point: Point) -> stats.Interval | None:
    """Seconds of a decode step, unmerged."""
    return _latency(record, point, "decode")


def added_decode(record: Record, point: Point) -> stats.Interval | None:
    """What each adds to the control's decode step; None where what the rival adds is lost in noise."""
    ours, theirs = _sides(record, point, "decode")
    found = stats.ratio_of_means([math.expm1(log) for log in ours], [math.expm1(log) for log in theirs])
    return None if found is None else stats.Interval(*found, len(ours))


COLUMNS = (
    Column("train tok/s", speed, more=True),
    Column("train mem", memory),
    Column("prefill", prefill),
    Column("decode", decode),
    Column("added decode", added_decode, skewed=True),
)


def _latency(record: Record, point: Point, phase: str) -> stats.Interval | None:
    ours, theirs = _sides(record, point, phase)
    logs = [a - b for a, b in zip(ours, theirs, strict=True)]
    return stats.ratio(logs) if logs else None


def _sides(record: Record, point: Point, phase: str) -> tuple[list[float], list[float]]:
    """Log-ratios to the control, process by process, of the method and of its rival."""
    here = [pairs for pairs in record.pairs if (pairs.phase, pairs.batch_size, pairs.prompt_length) == (phase, *point)]
    by_arm = [{p.process: stats.log_ratio(p) for p in here if p.arm == arm} for arm in (UNMERGED, RIVAL)]
    shared = sorted(by_arm[0].keys() & by_arm[1].keys())
    return [by_arm[0][process] for process in shared], [by_arm[1][process] for process in shared]


def _grid(cells: Sequence[tuple[Record, Point]]) -> Grid:
    first, point = cells[0]
    rival = first.cell.rival
    assert rival is not None
    version = first.versions.get(rival.implementation, "")
    config = first.cell.config
    work = config["workload"]
    words = [
        f"beside {rival.implementation} {version}".rstrip(),
        first.cell.model,
        f"batch {point[0]} × {point[1]}",
        f"training {work['train_batch_size']} × {work['train_length']}",
        str(config["model"]["dtype"]),
        str(config["runtime"]["name"]),
        str(config["device"]["name"]),
    ]
    headers = (("method", ""), *((column.label, "× rival") for column in COLUMNS))
    rows: list[tuple[str, ...]] = []
    best: set[tuple[int, int]] = set()
    letters, legend = variants([record for record, _ in cells])
    for number, (record, where) in enumerate(cells):
        found = [column.of(record, where) for column in COLUMNS]
        shown = [_ends(one) if column.skewed else _half(one) for column, one in zip(COLUMNS, found, strict=True)]
        rows.append((_named(record.cell, letters.get(record.cell_id, "")), *shown))
        best |= {(number, i) for i, one in enumerate(found, start=1) if _ahead(one, COLUMNS[i - 1].more)}
    counts = sorted({len({pairs.process for pairs in record.pairs}) for record, _ in cells})
    notes = (
        *legend,
        *_unlike([record for record, _ in cells], letters),
        "added decode: what each adds to the control's decode step, Fieller's 95% interval; blank where the rival adds "
        "nothing that could be told from noise",
        "both ran in the same processes; training steps in turn, latency each in turn with the control",
        f"±: half the 95% interval over {' or '.join(map(str, counts))} processes, Student's t",
        f"measured on {first.machine.get('processor')}",
    )
    return Grid(
        " · ".join(words),
        headers,
        tuple(rows),
        frozenset(best),
        notes,
        "the method is ahead of its rival, and so is the whole interval",
    )


def _ahead(interval: stats.Interval | None, more: bool) -> bool:
    """Whether the whole interval is on the method's side of 1."""
    if interval is None or interval.low is None or interval.high is None:
        return False
    return interval.low > 1 if more else interval.high < 1


def _half(interval: stats.Interval | None) -> str:
    """The estimate and half its interval."""
    if interval is None:
        return ""
    if interval.low is None or interval.high is None or interval.low == interval.high:
        return f"{interval.estimate:.3f}"
    half = (interval.high - interval.low) / 2
    digits = 3 if half < 0.1 else 2  # no more of them than the interval bears
    return f"{interval.estimate:.{digits}f} ±{half:.{digits}f}".replace("±0.", "±.")


def _ends(interval: stats.Interval | None) -> str:
    """The estimate and both ends of its interval."""
    return "" if interval is None else f"{interval.estimate:.2f} ({interval.low:.2f}, {interval.high:.2f})"


def _named(side: Cell | Rival, letter: str) -> str:
    """A method, its letter and its size."""
    return " ".join(filter(None, (side.name, letter, "" if side.size is None else str(side.size))))


def _unlike(records: Sequence[Record], letters: Mapping[str, str]) -> list[str]:
    """Where the rival is not the same method of the same size, and where the two do not train as many parameters."""
    lines = []
    for record in records:
        rival, letter = record.cell.rival, letters.get(record.cell_id, "")
        assert rival is not None
        name = _named(record.cell, letter)
        if (rival.method, rival.size) != (record.cell.method, record.cell.size):
            lines.append(f"{name}: the rival is {_named(rival, '')}")
        trained = {r.state: r.value for r in record.readings if r.figure == "trained_parameters"}
        if trained.get(UNMERGED) != trained.get(RIVAL):
            lines.append(f"{name}: trains {trained.get(UNMERGED)} parameters, its rival {trained.get(RIVAL)}")
    return lines
