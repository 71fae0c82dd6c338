"""What others have published, beside what was measured here. Pure: records and rows in, grids out.

Absolute figures of another card, model or library are not to be met. What can be compared is how a method stands to its
reference in one and the same place: the published value over the published reference, beside the same ratio of ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, ClassVar

import yaml
from pydantic import TypeAdapter, ValidationError

from bench.config.groups import options
from bench.errors import UsageError
from bench.records import stats
from bench.records.cell import OURS, STRICT
from bench.records.conditions import context
from bench.records.record import CONTROL, UNMERGED, Record, Status
from bench.report.frame import arm_ratio
from bench.report.table import Grid

SECONDS = "_seconds"
"""Figures that were timed beside the control, and have an interval where that is the reference."""


@dataclass(frozen=True)
class Row:
    """One published value: of a method, over that of its reference in the same place."""

    __pydantic_config__: ClassVar = STRICT

    method: str
    value: float
    reference_value: float
    """In the same unit as ``value``."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the method by which rows differ."""
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
    def point(self) -> str:
        """The workload point in words."""
        return "" if self.batch_size is None else f"{self.batch_size} × {self.prompt_length}"

    @property
    def ratio(self) -> float:
        """The published value over the published reference."""
        return self.value / self.reference_value


@dataclass(frozen=True)
class Source:
    """One published table."""

    __pydantic_config__: ClassVar = STRICT

    source: str
    """Where it stands."""
    measured: str
    """On what: model and device."""
    figure: str
    """Which of our figures it is one of."""
    reference: str
    """``control``, or the method over whose figure the others' are put."""
    rows: tuple[Row, ...]
    model: str | None = None
    """Of our models the only one that it is put beside; None for any."""


def published(study: str) -> tuple[Source, ...]:
    """What the file of a study says that others have published.

    Raises:
        UsageError: a source or a row lacks something, or has something that is none of its keys.
    """
    if study not in options("study"):
        return ()
    text = (resources.files("conf") / "study" / f"{study}.yaml").read_text()
    found = (yaml.safe_load(text).get("study") or {}).get("published", [])
    try:
        return tuple(TypeAdapter(tuple[Source, ...]).validate_python(found))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"conf/study/{study}.yaml: study.published.{where}: {first['msg']}") from error


def published_grids(records: Sequence[Record]) -> list[Grid]:
    """A grid for each published table of the records' studies and each context of theirs."""
    good = [record for record in records if record.status is Status.OK]
    found = []
    for study in sorted({record.study for record in good}):
        own = [record for record in good if record.study == study]
        for source in published(study):
            for group in _alike(own):
                if source.model not in (None, group[0].cell.model):
                    continue
                if grid := _grid(source, group):
                    found.append(grid)
    return found


def _alike(records: Sequence[Record]) -> list[list[Record]]:
    """Records that differ in method and workload point alone."""
    groups: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: record.cell_id):
        groups.setdefault(repr(context(record)), []).append(record)
    return list(groups.values())


def _grid(source: Source, records: Sequence[Record]) -> Grid | None:
    found = [(row, ours) for row in source.rows if (ours := _ours(source, row, records)) is not None]
    if not found:
        return None
    cell, machine = records[0].cell, records[0].machine
    words = (f"beside {source.source}", cell.model, cell.config["runtime"]["name"], cell.config["device"]["name"])
    unit = f"× {source.reference}"
    headers = (("method", ""), ("state", ""), ("point", ""), ("ours", unit), ("published", unit))
    rows = [(row.name, row.state, row.point, _shown(ours), f"{row.ratio:.3f}") for row, ours in found]
    notes = (
        f"{source.figure.replace('_', ' ')}, over that of {source.reference}",
        f"ours: {cell.model} on {machine.get('accelerator') or machine.get('processor')}",
        f"published: {source.measured}",
        *_orders(found),
    )
    return Grid(" · ".join(words), headers, tuple(rows), frozenset(), notes)


def _orders(found: Sequence[tuple[Row, stats.Interval]]) -> list[str]:
    """Whether ours come in the published order: the methods at a point, and the points of a method."""
    lines = []
    for key, other in (("point", "name"), ("name", "point")):
        groups: dict[str, list[tuple[Row, stats.Interval]]] = {}
        for row, ours in found:
            groups.setdefault(getattr(row, key), []).append((row, ours))
        for name, group in groups.items():
            ordered = sorted(group, key=lambda item: item[0].ratio)
            if ordered[0][0].ratio < ordered[-1][0].ratio:
                lines.append(f"{name}: {_order([(getattr(row, other), ours) for row, ours in ordered])}")
    return lines


def _order(ordered: Sequence[tuple[str, stats.Interval]]) -> str:
    """What our intervals say of names in their published order."""
    pairs = [(one, two) for index, one in enumerate(ordered) for two in ordered[index + 1 :]]
    against = [(two[0], one[0]) for one, two in pairs if _below(two[1], one[1])]
    unclear = [(one[0], two[0]) for one, two in pairs if not _below(one[1], two[1]) and not _below(two[1], one[1])]
    if against:
        return f"not the published order, but {', '.join(f'{a} < {b}' for a, b in against)}"
    if unclear:
        return f"not told apart: {', '.join(f'{a} and {b}' for a, b in unclear)}"
    return f"the published order ({' < '.join(name for name, _ in ordered)})"


def _below(one: stats.Interval, two: stats.Interval) -> bool:
    """Whether one is smaller for sure; of figures without an interval, whether it is smaller."""
    return (one.estimate if one.high is None else one.high) < (two.estimate if two.low is None else two.low)


def _ours(source: Source, row: Row, records: Sequence[Record]) -> stats.Interval | None:
    """Our ratio, with its interval where it was timed beside the reference."""
    record = _find(records, row.method, row)
    if record is None:
        return None
    if source.reference == CONTROL and source.figure.endswith(SECONDS):
        here = [p for p in record.pairs if (p.batch_size, p.prompt_length) == (row.batch_size, row.prompt_length)]
        return arm_ratio(here, source.figure.removesuffix(SECONDS), row.state)
    other = _find(records, source.reference, dataclasses.replace(row, where={}))
    ours = _value(record, source.figure, row)
    reference = None if other is None else _value(other, source.figure, row)
    return None if ours is None or reference is None else stats.Interval(ours / reference, None, None, processes=1)


def _shown(ratio: stats.Interval) -> str:
    if ratio.low is None or ratio.high is None:  # of one process
        return f"{ratio.estimate:.3f}"
    return f"{ratio.estimate:.3f} ±{(ratio.high - ratio.low) / 2:.3f}".replace("±0.", "±.")


def _find(records: Sequence[Record], method: str, row: Row) -> Record | None:
    """The cell of our method with the row's settings and workload point."""
    for record in records:
        settings = record.cell.config["method"]
        if (record.cell.method, record.cell.implementation) != (method, OURS):
            continue
        if row.batch_size is not None and (row.batch_size, row.prompt_length) not in record.cell.points:
            continue
        if all(settings.get(key) == value for key, value in row.where.items()):
            return record
    return None


def _value(record: Record, figure: str, row: Row) -> float | None:
    point = (row.batch_size, row.prompt_length)
    for reading in record.readings:
        anywhere = reading.batch_size is None
        here = anywhere or (reading.batch_size, reading.prompt_length) == point
        if here and (reading.figure, reading.state) == (figure, row.state):
            return reading.value
    return None
