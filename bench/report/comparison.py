"""Comparison tables from records: which rows stand beside one another, and what each says.

A table compares rows that differ in the method alone. Whatever else differs (`bench.records.conditions`) makes another
group with a title of its own. How a table looks is in `bench.report.render`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.probes import figures
from bench.records.conditions import context, differing
from bench.records.figures import Better, Scope, Unit
from bench.records.record import CONTROL, RIVAL, Record, Status
from bench.records.units import scale_for, show
from bench.report.footnotes import _footnotes
from bench.report.frame import frame
from bench.report.labels import CORE, KEYS, _plain, variants
from bench.report.table import Grid

UNMARKED = frozenset({Unit.TOKENS_PER_SECOND, Unit.SECONDS})
"""Units of clock readings without an interval: rows were measured minutes apart, and none is marked as best."""


@dataclass(frozen=True)
class _Group:
    """Records that may be compared, and their rows of one workload point."""

    records: tuple[Record, ...]
    rows: pd.DataFrame

    @property
    def order(self) -> tuple[str, float, float, str]:
        first = self.rows.iloc[0]
        return first["model"], first["batch_size"], first["prompt_length"], _key(self.records[0])

    @property
    def title(self) -> str:
        """What every title says."""
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


def grids(records: Sequence[Record], wanted: Sequence[str]) -> list[Grid]:
    """One grid a group, in an order that does not depend on that of the records."""
    found = sorted(_groups(records), key=lambda group: group.order)
    twins: dict[str, list[_Group]] = {}
    for group in found:
        twins.setdefault(group.title, []).append(group)
    return [_grid(group, wanted, _apart([context(twin.records[0]) for twin in twins[group.title]])) for group in found]


def _groups(records: Sequence[Record]) -> Iterable[_Group]:
    by_id = {record.cell_id: record for record in sorted(records, key=lambda record: record.cell_id)}
    members: dict[str, list[Record]] = {}
    for record in by_id.values():
        members.setdefault(_key(record), []).append(record)
    for group in members.values():
        for _, rows in frame(group).groupby(["batch_size", "prompt_length"], sort=True):
            here = set(rows["cell"])
            yield _Group(tuple(record for record in group if record.cell_id in here), rows)


def _key(record: Record) -> str:
    return json.dumps(context(record), sort_keys=True)


def _apart(contexts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys by which groups of one title differ, but for names, which say the same in other words."""
    keys = differing(contexts)
    return [key for key in keys if not key.endswith(".name")] or keys


def _grid(group: _Group, wanted: Sequence[str], apart: Sequence[str]) -> Grid:
    letters, legend = variants(group.records)
    part = _ordered(group.rows, letters)
    names = [name for name in wanted if part[name].notna().any() or name in CORE]
    columns = [_column(part, name) for name in names]
    best = {(row, index) for index, name in enumerate(names, start=len(KEYS)) for row in _best(part, name)}
    measured = {record.cell_id for record in group.records if record.readings}
    names_of = {record.cell_id: (record, letters.get(record.cell_id, "")) for record in group.records}
    labels = [_labels(row, names_of, measured) for _, row in part.iterrows()]
    rows = tuple((*label, *(column[1][i] for column in columns)) for i, label in enumerate(labels))
    headers = (*((key, "") for key in KEYS), *(column[0] for column in columns))
    here = context(group.records[0])
    title = " · ".join([group.title, *(f"{key} {_plain(here.get(key))}" for key in apart)])
    return Grid(title, headers, rows, frozenset(best), (*legend, *_footnotes(part, group.records, letters)))


def _ordered(part: pd.DataFrame, letters: Mapping[str, str]) -> pd.DataFrame:
    """The base model's rows as one, by their medians (it was timed anew beside each method), then method by method."""
    control = part[part["method"] == CONTROL]
    methods = part[part["method"] != CONTROL]
    methods = methods.assign(variant=[letters.get(cell, "") for cell in methods["cell"]])
    methods = methods.sort_values(["method", "implementation", "size", "variant"], kind="stable", na_position="first")
    if control.empty:
        return methods
    first = control.iloc[[0]].copy()
    for name, figure in figures().items():
        if name in control:
            first[name] = control[name].median()
        elif figure.scope is Scope.PROGRESS:
            first[f"{name}_after"] = control[f"{name}_before"].median()
    return pd.concat([first, methods])


def _labels(row: pd.Series, names: Mapping[str, tuple[Record, str]], measured: Collection[str]) -> tuple[str, str, str]:
    """Method, size and state; a cell that ended badly shows its status, beside the state where it has figures."""
    control = row["method"] == CONTROL
    state = row["state"]
    if not control and row["status"] != Status.OK:
        state = f"{state}, {row['status']}" if row["cell"] in measured else row["status"]
    record, letter = names[row["cell"]]
    own = record.cell.rival if state == RIVAL and record.cell.rival is not None else record.cell
    return (
        CONTROL if control else f"{own.name} {letter}".rstrip(),
        "" if pd.isna(row["size"]) else f"{row['size']:.0f}",
        str(state),
    )


def _column(part: pd.DataFrame, name: str) -> tuple[tuple[str, str], list[str]]:
    """Header with unit, and the cells; blank where there is no figure."""
    figure = figures()[name.removesuffix("_after")]
    if figure.unit is Unit.RATIO:
        return (figure.label.removesuffix(" ratio"), "× control"), [_ratio(row, name) for _, row in part.iterrows()]
    scale = scale_for(part[name].dropna(), figure.unit)
    return (figure.label, scale.name), ["" if pd.isna(value) else scale.show(value) for value in part[name]]


def _ratio(row: pd.Series, name: str) -> str:
    if pd.isna(row[name]):
        return ""
    if row["method"] == CONTROL:
        return show(float(row[name.replace("_ratio", "_seconds")]), Unit.SECONDS)
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:.3f}" + ("" if pd.isna(low) else f" ±{(high - low) / 2:.3f}".replace("±0.", "±."))


def _best(part: pd.DataFrame, name: str) -> list[int]:
    """Row numbers of the best methods; of a ratio, all that its interval does not tell from the best."""
    figure = figures()[name.removesuffix("_after")]
    values = list(part[name].where(part["method"] != CONTROL))
    known = [value for value in values if not math.isnan(value)]
    if figure.better is Better.NEITHER or figure.unit in UNMARKED or len(known) < 2:
        return []
    goal = min(known) if figure.better is Better.LOWER else max(known)
    if figure.unit is not Unit.RATIO:
        return [i for i, value in enumerate(values) if value == goal]
    high = list(part[f"{name}_high"].fillna(part[name]))[values.index(goal)]
    lows = list(part[f"{name}_low"].fillna(part[name]))
    return [i for i, value in enumerate(values) if not math.isnan(value) and lows[i] <= high]
