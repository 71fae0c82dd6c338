"""Comparison tables: which rows stand in one table, and what each says.

A table compares rows that differ in the method alone. Whatever else differs (`bench.records.conditions`) makes another
table with a title of its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from bench.probes.registry import metrics
from bench.records.conditions import alike, configured, distinct, shared
from bench.records.metrics import Better, Metric, Scope, Unit
from bench.records.record import CONTROL, REFERENCE, Record, Status
from bench.records.units import half_width, scale_for, show
from bench.report.footnotes import footnotes
from bench.report.frame import frame
from bench.report.labels import Labels, labels, size_label, titles
from bench.report.table import Column, Table

KEYS = (Column("method", left=True, wrap=True), Column("size"), Column("state", left=True))
CORE = ("trained_parameters", "train_peak_bytes", "train_ratio", "prefill_ratio", "decode_ratio")
"""Metrics that fit 80 columns."""
ONCE = {"train_ratio": "train_tokens_per_second"}
"""What stands in the place of a metric that no row has: what was measured once a cell."""
EXTRA = (
    "loss_after",
    "checkpoint_bytes",
    "cache_length",
    "decode_critical_path_matmuls",
    "decode_busy",
    "merge_error",
    "shipped_parameters",
)
"""Metrics that follow where a terminal is wide enough."""
UNMARKED = frozenset({Unit.TOKENS_PER_SECOND, Unit.SECONDS})
"""Units of timings without an interval: rows were measured minutes apart, and none is marked as best."""
BEST_MEANS = "best; of a ratio, all that the interval can't tell from the best"


@dataclass(frozen=True)
class Group:
    """Records that may be compared, and their rows of one workload point."""

    records: tuple[Record, ...]
    rows: pd.DataFrame

    @property
    def order(self) -> tuple[str, float, float, str]:
        first = self.rows.iloc[0]
        return (
            first["model"],
            first["batch_size"],
            first["prompt_length"],
            json.dumps(shared(self.records), sort_keys=True),
        )

    @property
    def title(self) -> str:
        """The part of a title that every table has."""
        row = self.rows.iloc[0]
        threads = "" if pd.isna(row["threads"]) else f" ({row['threads']} thread{'s' if row['threads'] > 1 else ''})"
        words = (
            row["model"],
            f"batch {row['batch_size']:.0f} × {row['prompt_length']:.0f}",
            f"training {row['train_batch_size']} × {row['train_length']}",
            row["dtype"],
            row["runtime"],
            f"{row['device']}{threads}",
        )
        return " · ".join(words)


def comparison_tables(records: Sequence[Record]) -> list[Table]:
    """One table for each group."""
    found = groups(records)
    return list(map(_table, found, titles([group.title for group in found], [group.records for group in found])))


def groups(records: Sequence[Record]) -> list[Group]:
    """What may be compared, in an order that does not depend on the order of the records."""
    return sorted(_groups(records), key=lambda group: group.order)


def _groups(records: Sequence[Record]) -> Iterable[Group]:
    for group in alike(distinct(records)):
        for _, rows in frame(group).groupby(["batch_size", "prompt_length"], sort=True):
            here = set(rows["cell"])
            yield Group(tuple(record for record in group if record.cell_id in here), rows)


def _table(group: Group, title: str) -> Table:
    names = labels(group.records)
    part = _ordered(group.rows, names)
    core = [ONCE[name] if name in ONCE and part[name].isna().all() else name for name in CORE]
    shown = [name for name in (*core, *EXTRA) if part[name].notna().any() or name in core]
    trained = str(configured(group.records[0])["workload.train_reference"])
    columns = [_column(part, name, trained) for name in shown]
    best = {(row, index) for index, name in enumerate(shown, start=len(KEYS)) for row in _best(part, name)}
    by_id = {record.cell_id: record for record in group.records}
    keys = [_keys(row, by_id[row["cell"]], names) for _, row in part.iterrows()]
    return Table(
        title=title,
        columns=(*KEYS, *(column for column, _ in columns)),
        rows=tuple((*key, *(cells[i] for _, cells in columns)) for i, key in enumerate(keys)),
        notes=footnotes(part, group.records, names, (*core, *EXTRA)),
        best=frozenset(best),
        best_means=BEST_MEANS,
    )


def _ordered(part: pd.DataFrame, names: Labels) -> pd.DataFrame:
    """One row for the base, which was timed with every method, by its medians; then the methods."""
    if (beside := part["train_reference_tokens_per_second"].median()) > 0:  # it was timed with every method
        part = part.assign(train_tokens_per_second=part["train_tokens_per_second"].where(~_is_trained(part), beside))
    control = part[part["method"] == CONTROL]
    methods = part[part["method"] != CONTROL]
    methods = methods.assign(variant=[names.letters.get(cell, "") for cell in methods["cell"]])
    methods = methods.sort_values(["method", "implementation", "size", "variant"], kind="stable", na_position="first")
    if control.empty:
        return methods
    first = control.iloc[[0]].copy()
    for name, metric in metrics().items():
        if name in control:
            first[name] = control[name].median()
        elif metric.scope is Scope.PROGRESS:
            first[f"{name}_after"] = control[f"{name}_before"].median()
    return pd.concat([first, methods])


def _keys(row: pd.Series, record: Record, names: Labels) -> tuple[str, str, str]:
    """Method, size and state. A cell that failed shows its status, after the state if it has metrics."""
    if row["method"] == CONTROL:
        return CONTROL, "", str(row["state"])
    state = row["state"]
    if row["status"] != Status.OK:
        state = f"{state}, {row['status']}" if state in record.states() else row["status"]
    cell, letter = record.cell, names.letters.get(record.cell_id, "")
    reference = cell.reference if row["state"] == REFERENCE else None
    name = cell.name if reference is None else reference.name
    return f"{name} {letter}".rstrip(), size_label(cell, reference), str(state)


def _is_trained(part: pd.DataFrame) -> pd.Series:
    """Which rows are of the training reference itself."""
    return (part["train_ratio"] == 1.0) & part["train_reference_tokens_per_second"].isna()


def _column(part: pd.DataFrame, name: str, trained: str) -> tuple[Column, list[str]]:
    """Header and cells; a cell is blank where there is no value. ``trained``: the training reference."""
    metric = _metric(name)
    optional = name in EXTRA
    if metric.unit is Unit.RATIO:
        anchor = trained if metric.scope is Scope.TRAINING else CONTROL
        column = Column(metric.label.removesuffix(" ratio"), f"× {anchor}", optional=optional, wrap=True)
        return column, [_ratio(row, name) for _, row in part.iterrows()]
    scale = scale_for(part[name].dropna(), metric.unit)
    cells = ["" if pd.isna(value) else scale.show(value) for value in part[name]]
    return Column(metric.label, scale.name, optional=optional), cells


def _metric(name: str) -> Metric:
    """The metric of a column."""
    return metrics()[name.removesuffix("_after")]


def _ratio(row: pd.Series, name: str) -> str:
    if pd.isna(row[name]):
        return ""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if row["method"] == CONTROL:
        return show(float(row[name.replace("_ratio", "_seconds")]), Unit.SECONDS)
    if _metric(name).scope is Scope.TRAINING and row[name] == 1.0 and pd.isna(low):  # the reference itself
        return f"{row['train_tokens_per_second']:.0f} tok/s"
    return f"{row[name]:.3f}" + ("" if pd.isna(low) else f" {half_width(low, high)}")


def _best(part: pd.DataFrame, name: str) -> Collection[int]:
    """Rows of the best methods; of a ratio, all whose interval reaches that of the best."""
    metric = _metric(name)
    values = list(part[name].where(part["method"] != CONTROL))
    known = [value for value in values if not math.isnan(value)]
    if metric.better is Better.NEITHER or metric.unit in UNMARKED or len(known) < 2:
        return []
    less = metric.better is Better.LOWER
    goal = min(known) if less else max(known)
    if metric.unit is not Unit.RATIO:
        return [i for i, value in enumerate(values) if value == goal]
    worst = list(part[f"{name}_{'high' if less else 'low'}"].fillna(part[name]))[values.index(goal)]
    ends = list(part[f"{name}_{'low' if less else 'high'}"].fillna(part[name]))
    reach = [end <= worst if less else end >= worst for end in ends]
    return [i for i, value in enumerate(values) if not math.isnan(value) and reach[i]]
