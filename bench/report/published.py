"""What others have published, vs. what was measured here.

Absolute values of another card, model or library can't be reproduced. What can be compared is how a method relates to
its reference in one place: the published value over the published reference, vs. the same ratio of ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import yaml
from pydantic import TypeAdapter, ValidationError

from bench.config.groups import conf, options
from bench.errors import UsageError
from bench.records import stats
from bench.records.cell import OURS, STRICT
from bench.records.conditions import TRAIN_REFERENCE, alike, configured, distinct
from bench.records.record import CONTROL, TRAIN, UNMERGED, Point, Record, Status
from bench.records.units import half_width
from bench.report.labels import titles
from bench.report.table import Column, Table, Text

SPEED = "train_tokens_per_second"
SECONDS = "_seconds"
"""The ending of metrics that were timed in turn with the control, and have an interval if it is the reference."""


@dataclass(frozen=True)
class Row:
    """One published value of a method, and that of its reference in the same place."""

    __pydantic_config__: ClassVar = STRICT

    method: str
    value: float
    reference_value: float
    """In the same unit as ``value``."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the method in which rows differ."""
    label: str | None = None
    """What the source calls it."""
    state: str = UNMERGED
    batch_size: int | None = None
    prompt_length: int | None = None

    @property
    def name(self) -> str:
        """What the table calls it."""
        return self.label or self.method

    @property
    def point(self) -> Point | None:
        """The workload point; None if the value does not depend on it."""
        return None if self.batch_size is None or self.prompt_length is None else (self.batch_size, self.prompt_length)

    @property
    def place(self) -> str:
        """The workload point in words."""
        return "" if self.point is None else f"{self.batch_size} × {self.prompt_length}"

    @property
    def ratio(self) -> float:
        """The published value over the published reference."""
        return self.value / self.reference_value


@dataclass(frozen=True)
class Source:
    """One published table."""

    __pydantic_config__: ClassVar = STRICT

    source: str
    """The publication."""
    measured: str
    """Model and device."""
    metric: str
    """Our metric that it corresponds to."""
    reference: str
    """``control``, or the method whose value the others are divided by."""
    rows: tuple[Row, ...]
    model: str | None = None
    """Our model that it is compared with; None for any."""


def published(study: str) -> tuple[Source, ...]:
    """The published tables that a study's file names under ``study.published``: files of ``conf/published``.

    Raises:
        UsageError: a file is missing, or a source or a row lacks a key or has an unknown one.
    """
    if study not in options("study"):
        return ()
    text = (conf() / "study" / f"{study}.yaml").read_text()
    names = (yaml.safe_load(text).get("study") or {}).get("published", [])
    return tuple(source for name in names for source in _read(str(name), study))


def _read(name: str, study: str) -> tuple[Source, ...]:
    try:
        text = (conf() / "published" / f"{name}.yaml").read_text()
        return tuple(TypeAdapter(tuple[Source, ...]).validate_python(yaml.safe_load(text)))
    except OSError as error:
        raise UsageError(f"conf/study/{study}.yaml: study.published: there is no conf/published/{name}.yaml") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"conf/published/{name}.yaml: {where}: {first['msg']}") from error


def published_tables(records: Sequence[Record]) -> list[Table]:
    """One table for each published table of the records' studies and each set of conditions."""
    good = [record for record in records if record.status is Status.OK]
    found = []
    for study in sorted({record.study for record in good}):
        own = [record for record in good if record.study == study]
        for source in published(study):
            groups = [one for one in alike(distinct(own)) if source.model in (None, one[0].cell.model)]
            named = titles([_title(source, group[0]) for group in groups], groups)
            tables = (_table(source, group, title) for group, title in zip(groups, named, strict=True))
            found += [table for table in tables if table is not None]
    return found


def _title(source: Source, record: Record) -> str:
    config = record.cell.config
    return " · ".join((f"vs. {source.source}", record.cell.model, config["runtime"]["name"], config["device"]["name"]))


def _table(source: Source, records: Sequence[Record], title: str) -> Table | None:
    found = [(row, ours) for row in source.rows if (ours := _ours(source, row, records)) is not None]
    if not found:
        return None
    cell = records[0].cell
    unit = f"× {source.reference}"
    words = [Column(name, left=True, wrap=name == "method") for name in ("method", "state", "point")]
    notes = (
        f"{source.metric.replace('_', ' ')}, over that of {source.reference}",
        f"ours: {cell.model} on {records[0].processor}",
        f"published: {source.measured}",
        *_orders(found),
    )
    return Table(
        title=title,
        columns=(*words, Column("ours", unit), Column("published", unit)),
        rows=tuple((row.name, row.state, row.place, _shown(ours), f"{row.ratio:.3f}") for row, ours in found),
        notes=tuple(map(Text, notes)),
    )


def _orders(found: Sequence[tuple[Row, stats.Interval]]) -> list[str]:
    """Whether ours have the published order: the methods at a point, and the points of a method."""
    lines = []
    for key, other in (("place", "name"), ("name", "place")):
        groups: dict[str, list[tuple[Row, stats.Interval]]] = {}
        for row, ours in found:
            groups.setdefault(getattr(row, key), []).append((row, ours))
        for name, group in groups.items():
            ordered = sorted(group, key=lambda item: item[0].ratio)
            if ordered[0][0].ratio < ordered[-1][0].ratio:
                lines.append(f"{name}: {_order([(getattr(row, other), ours) for row, ours in ordered])}")
    return lines


def _order(ordered: Sequence[tuple[str, stats.Interval]]) -> str:
    """What our intervals say of the published order."""
    pairs = [(one, two) for index, one in enumerate(ordered) for two in ordered[index + 1 :]]
    against = [(two[0], one[0]) for one, two in pairs if _below(two[1], one[1])]
    unclear = [(one[0], two[0]) for one, two in pairs if not _below(one[1], two[1]) and not _below(two[1], one[1])]
    if against:
        return f"not the published order, but {', '.join(f'{a} < {b}' for a, b in against)}"
    if unclear:
        return f"not told apart: {', '.join(f'{a} and {b}' for a, b in unclear)}"
    return f"the published order ({' < '.join(name for name, _ in ordered)})"


def _below(one: stats.Interval, two: stats.Interval) -> bool:
    """Whether one is certainly smaller; without intervals, whether it is smaller."""
    return (one.estimate if one.high is None else one.high) < (two.estimate if two.low is None else two.low)


def _ours(source: Source, row: Row, records: Sequence[Record]) -> stats.Interval | None:
    """Our ratio, with its interval if it was timed in turn with the reference."""
    record = _find(records, row.method, row)
    if record is None:
        return None
    if source.reference == CONTROL and source.metric.endswith(SECONDS):
        logs = record.log_ratios(source.metric.removesuffix(SECONDS), row.state, row.point)
        return stats.ratio(logs) if logs else None
    other = _find(records, source.reference, dataclasses.replace(row, where={}))
    if source.metric == SPEED and other is not None and (trained := _speed(record, other)) is not None:
        return trained
    ours = record.value(source.metric, row.state, row.point)
    reference = None if other is None else other.value(source.metric, row.state, row.point)
    return None if ours is None or reference is None else stats.Interval(ours / reference, None, None, processes=1)


def _speed(record: Record, other: Record) -> stats.Interval | None:
    """Training speed over that of another cell, by steps timed in turn with a training reference that both have.

    None where either was not timed so. The training reference itself is its own.
    """
    if configured(record)[TRAIN_REFERENCE] != configured(other)[TRAIN_REFERENCE]:
        return None
    mine, theirs = (_faster(one) for one in (record, other))
    if mine is None or theirs is None:
        return None
    if mine and theirs:
        return stats.as_ratio(stats.difference(mine, theirs), len(mine))
    return stats.ratio(mine or [-log for log in theirs] or [0.0])


def _faster(record: Record) -> list[float] | None:
    """Logs of a cell's training speed over the training reference's, a number a process; none of the reference itself.

    None where it was not timed with it: a cell with a reference of its own was timed with that one.
    """
    if record.cell.reference is not None:
        return None
    if record.value("train_ratio", UNMERGED) == 1:
        return []
    return [-log for log in record.log_ratios(TRAIN, UNMERGED)] or None


def _shown(ratio: stats.Interval) -> str:
    if ratio.low is None or ratio.high is None:  # of one process
        return f"{ratio.estimate:.3f}"
    return f"{ratio.estimate:.3f} {half_width(ratio.low, ratio.high)}"


def _find(records: Sequence[Record], method: str, row: Row) -> Record | None:
    """The cell of our method with the row's settings and workload point."""
    for record in records:
        settings = record.cell.config["method"]
        if (record.cell.method, record.cell.implementation) != (method, OURS):
            continue
        if row.point is not None and row.point not in record.cell.points:
            continue
        if all(settings.get(key) == value for key, value in row.where.items()):
            return record
    return None
