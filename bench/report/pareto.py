"""Which methods no other beats on all chosen axes at once, and what beats each of the others.

One cell dominates another if its estimate is at least as good on every axis, and certainly better on one: of exact
metrics a better value, of ratios an interval that ends before the other's begins. So noise alone never removes a method
from the front, and dominance has no circles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.errors import UsageError
from bench.records.metrics import Scope, Unit
from bench.records.record import CONTROL, MERGED, UNMERGED, Record
from bench.records.units import half_width, scale_for
from bench.report.axes import DEFAULT, Axis, Value, read_axes
from bench.report.comparison import Group, groups
from bench.report.footnotes import Legend
from bench.report.labels import labels, size_label, titles
from bench.report.table import Column, Note, Report, Table, Text

FRONT_MEANS = "on the front: no other method is at least as good on every axis and certainly better on one"
NAMED = 3
"""Methods that are named of those that dominate one."""


def dominates(one: Sequence[Value], other: Sequence[Value]) -> bool:
    """Whether ``one`` is at least as good on every axis and certainly better on one; less is better."""
    pairs = list(zip(one, other, strict=True))
    return all(a.estimate <= b.estimate for a, b in pairs) and any(a.high < b.low for a, b in pairs)


def pareto_report(records: Sequence[Record], axes: Sequence[Axis] | None = None) -> Report:
    """One table for each group of cells that may be compared, and workload point.

    ``axes``: None for those of `DEFAULT` that the group has.

    Raises:
        UsageError: no cell has all of the axes.
    """
    found = groups(records)
    placed = [_place(group, axes) for group in found]
    if not any(one.values for one in placed):
        raise UsageError(f"--axes: no record has all of {', '.join(axis.name for axis in axes or read_axes(DEFAULT))}")
    named = titles([group.title for group in found], [group.records for group in found])
    tables = [_table(one, title) for one, title in zip(placed, named, strict=True)]
    plain = [row for one, title in zip(placed, named, strict=True) for row in _plain(one, title)]
    return Report(tables, plain=plain, frame=pd.DataFrame(map(_flat, plain)))


@dataclass(frozen=True)
class _Placed:
    """The cells of one group on their axes."""

    group: Group
    axes: tuple[Axis, ...]
    values: dict[str, list[Value]]
    """By cell id, for cells that have a value on every axis."""
    lacking: tuple[tuple[Record, str], ...]
    """The others, with the first axis on which they have none."""

    dominated_by: dict[str, list[Record]]
    """By cell id, of the same cells: empty for one on the front."""

    @property
    def records(self) -> list[Record]:
        """Those that have a place."""
        return [record for record in self.group.records if record.cell_id in self.values]


def _place(group: Group, chosen: Sequence[Axis] | None) -> _Placed:
    rows = group.rows[group.rows["method"] != CONTROL].set_index(["cell", "state"])
    axes = tuple(chosen) if chosen is not None else tuple(a for a in read_axes(DEFAULT) if rows[a.column].notna().any())
    values: dict[str, list[Value]] = {}
    lacking: list[tuple[Record, str]] = []
    for record in group.records:
        own = {axis.name: _value(rows, record.cell_id, axis) for axis in axes}
        there = [value for value in own.values() if value is not None]
        if len(there) == len(axes):
            values[record.cell_id] = there
        else:
            lacking.append((record, next(name for name, value in own.items() if value is None)))
    return _Placed(group, axes, values, tuple(lacking), _dominated_by(group, axes, values))


def _dominated_by(group: Group, axes: Sequence[Axis], values: Mapping[str, Sequence[Value]]) -> dict[str, list[Record]]:
    turned = {
        cell: [value.turned(axis.metric.better) for axis, value in zip(axes, own, strict=True)]
        for cell, own in values.items()
    }
    there = [record for record in group.records if record.cell_id in values]
    return {cell: [other for other in there if dominates(turned[other.cell_id], own)] for cell, own in turned.items()}


def _value(rows: pd.DataFrame, cell: str, axis: Axis) -> Value | None:
    key = next((key for key in ((cell, axis.state), (cell, UNMERGED)) if key in rows.index), None)
    if key is None:
        return None
    row: Any = rows.loc[key]
    estimate = float(row[axis.column])
    low, high = (
        float(row[f"{axis.column}_{end}"]) if axis.metric.unit is Unit.RATIO else estimate for end in ("low", "high")
    )
    if math.isnan(estimate):
        return None
    return Value(estimate, *((estimate, estimate) if math.isnan(low) else (low, high)))


def _table(placed: _Placed, title: str) -> Table:
    """The front first, then what is dominated."""
    names = labels(placed.group.records)
    ordered = sorted(placed.records, key=lambda record: (bool(placed.dominated_by[record.cell_id]), names.full(record)))
    columns, cells = [], []
    for number, axis in enumerate(placed.axes):
        column, shown = _column(axis, [placed.values[record.cell_id][number] for record in ordered])
        columns.append(column)
        cells.append(shown)
    rows = []
    for number, record in enumerate(ordered):
        by = [names.full(other) for other in placed.dominated_by[record.cell_id]]
        more = f" and {len(by) - NAMED} more" if len(by) > NAMED else ""
        rows.append((
            names.name(record),
            size_label(record.cell),
            *(shown[number] for shown in cells),
            ", ".join(by[:NAMED]) + more,
        ))  # fmt: skip
    notes: tuple[Note, ...] = (
        *(Legend(row, settings) for row, settings in names.legend),
        *(Text(f"{names.full(record)}: not compared: it has no {axis}") for record, axis in placed.lacking),
        *_about_merging(placed, names.full),
    )
    front = frozenset((number, 0) for number, record in enumerate(ordered) if not placed.dominated_by[record.cell_id])
    words = (Column("method", left=True, wrap=True), Column("size"))
    return Table(
        title=title,
        columns=(*words, *columns, Column("dominated by", left=True, wrap=True)),
        rows=tuple(rows),
        notes=notes,
        best=front,
        best_means=FRONT_MEANS,
    )


def _column(axis: Axis, values: Sequence[Value]) -> tuple[Column, list[str]]:
    """Header and cells of an axis."""
    label = axis.metric.label.removesuffix(" ratio") + (f" {axis.state}" if axis.state != UNMERGED else "")
    if axis.metric.unit is Unit.RATIO:
        return Column(label, "ratio", wrap=True), [_ratio(value) for value in values]
    scale = scale_for([value.estimate for value in values], axis.metric.unit)
    return Column(label, scale.name), [scale.show(value.estimate) for value in values]


def _ratio(value: Value) -> str:
    return f"{value.estimate:.3f}" + ("" if value.low == value.high else f" {half_width(value.low, value.high)}")


def _about_merging(placed: _Placed, name: Callable[[Record], str]) -> list[Text]:
    """Which cells stand with their unmerged value on an axis of merged ones."""
    if all(axis.state == UNMERGED or axis.metric.scope is not Scope.STATE for axis in placed.axes):
        return []
    merged = {row["cell"] for _, row in placed.group.rows.iterrows() if row["state"] == MERGED}
    rest = [name(record) for record in placed.records if record.cell_id not in merged]
    return [Text(f"{', '.join(rest)}: no merged form, so the unmerged one stands for it")] if rest else []


def _plain(placed: _Placed, title: str) -> list[dict[str, Any]]:
    """The same for a program."""
    return [
        {
            "table": title,
            "cell": record.cell_id,
            "method": record.cell.name,
            "size": record.cell.size,
            "front": not placed.dominated_by[record.cell_id],
            "dominated_by": [other.cell_id for other in placed.dominated_by[record.cell_id]],
            "axes": {
                axis.name: {"value": number(value.estimate), "low": number(value.low), "high": number(value.high)}
                for axis, value in zip(placed.axes, placed.values[record.cell_id], strict=True)
                for number in (int if axis.metric.integer else float,)
            },
        }
        for record in placed.records
    ]


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `_plain` in columns."""
    axes = {
        f"{name}{'' if key == 'value' else f'_{key}'}": value
        for name, found in row["axes"].items()
        for key, value in found.items()
    }
    plain = {key: value for key, value in row.items() if key != "axes"}
    return {**plain, "dominated_by": " ".join(row["dominated_by"]), **axes}
