"""Comparison tables from records: which rows stand beside one another, and what each says.

A table compares rows that differ in the method alone. Whatever else differs (`bench.records.conditions`) makes another
group with a title of its own. How a table looks is in `bench.render`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

import pandas as pd

from bench.frame import arm_ratio, frame, reasons, states
from bench.probes import figures
from bench.records.cell import OURS
from bench.records.conditions import context, differing, settings
from bench.records.figures import Better, Scope, Unit
from bench.records.record import AA, CONTROL, RIVAL, Record, Status
from bench.records.units import scale_for, show

KEYS = ("method", "size", "state")
CORE = ("trained_parameters", "train_peak_bytes", "train_tokens_per_second", "prefill_ratio", "decode_ratio")
"""The figures that fit 80 columns; `EXTRA` follow where there is room."""
EXTRA = (
    "loss_after",
    "checkpoint_bytes",
    "cache_length",
    "decode_matmul_chain",
    "decode_busy",
    "merge_error",
    "shipped_parameters",
)

DEVICE_BOUND = 0.9
"""From this part of a step on the device, not the host that feeds it, is what was timed."""

UNMARKED = frozenset({Unit.TOKENS_PER_SECOND, Unit.SECONDS})
"""Units of clock readings without an interval: rows were measured minutes apart, and none is marked as best."""


@dataclass(frozen=True)
class Grid:
    """One group, as text."""

    title: str
    headers: tuple[tuple[str, str], ...]
    """Name and unit of each column."""
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]]
    """(row, column) of the best values; of a ratio, all that its interval does not tell from the best."""
    footnotes: tuple[str, ...]
    mark_means: str = "best; of a ratio, all that the interval can't tell from the best"
    """What it says that a value is marked as best."""


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


def variants(records: Sequence[Record]) -> tuple[dict[str, str], list[str]]:
    """A letter for each cell that shares method and size with another one, and what the letters mean."""
    alike: dict[tuple[str, int | None], list[Record]] = {}
    for record in records:
        alike.setdefault((record.cell.name, record.cell.size), []).append(record)
    letters, legend = {}, []
    for (_, size), same in alike.items():
        if len(same) == 1:
            continue
        keys = differing([settings(record) for record in same])
        told = {record.cell_id: ", ".join(f"{k} {_plain(settings(record).get(k))}" for k in keys) for record in same}
        for number, record in enumerate(sorted(same, key=lambda record: told[record.cell_id])):
            letters[record.cell_id] = _letter(number)
            label = f"{_name(record, letters)}{'' if size is None else f' {size}'}"
            legend.append(f"{label}: {told[record.cell_id]}")
    return letters, legend


def _letter(number: int) -> str:
    return (_letter(number // 26 - 1) if number >= 26 else "") + ascii_lowercase[number % 26]


def _name(record: Record, letters: Mapping[str, str]) -> str:
    return f"{record.cell.name} {letters.get(record.cell_id, '')}".rstrip()


def _plain(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


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


def _footnotes(part: pd.DataFrame, records: Iterable[Record], letters: Mapping[str, str]) -> tuple[str, ...]:
    """Why something is blank, rows with the same reason together, and what a reader should know of a row."""
    why: dict[tuple[str, str], list[str]] = {}
    shown = {name for name in (*CORE, *EXTRA)}
    for record in records:
        name = _name(record, letters) + ("" if record.cell.size is None else f" {record.cell.size}")
        stated = {*states(record), *(missing.state for missing in record.missing)}
        for state in sorted(stated):
            for figure, reason in reasons(record, state).items():
                if figure == "*" or figure in shown:
                    whole = "incomplete" if record.readings else "no figures"
                    what = f"no {state} row" if figure == "*" and state not in states(record) else figure
                    why.setdefault((what.replace("*", whole), reason), []).append(name)
    lines = [f"{', '.join(dict.fromkeys(names))}: {what}: {reason}" for (what, reason), names in why.items()]
    lines += [f"{_name(record, letters)}: {note}" for record in records for note in record.notes]
    if sharing := [_name(record, letters) for record in records if any(pair.shared_weights for pair in record.pairs)]:
        lines.append(f"{', '.join(dict.fromkeys(sharing))}: the arms shared one set of weights, as copies did not fit")
    lines += _bounds(part, letters)
    if (part["method"] == CONTROL).any():
        lines.append("control: the untouched base; its latency is in seconds, the others' is over it")
    if copies := _copies(records, part.iloc[0]):
        lines.append(f"A/A: a second control, timed like an arm, came out at {copies} of the first")
    if part["train_tokens_per_second"].notna().any():
        lines.append("train tok/s: read once a cell, minutes apart and without an interval, so none is marked")
    if counts := sorted({int(count) for count in part["processes"].dropna() if count > 1}):
        lines.append(f"±: half the 95% interval, Student's t over {' or '.join(map(str, counts))} processes")
    first = part.iloc[0]
    packages = [f"{name} {first[name]}" for name in ("torch", "transformers") if pd.notna(first[name])]
    packages += sorted(
        {f"{p} {r.versions[p]}" for r in records if (p := r.cell.implementation) != OURS and p in r.versions}
    )
    lines.append(f"measured on {first['machine']} with {', '.join(packages)}")
    return tuple(dict.fromkeys(lines))


def _bounds(part: pd.DataFrame, letters: Mapping[str, str]) -> list[str]:
    """Which rows time the device, and which the host that feeds it."""
    lines = []
    for phase in ("prefill", "decode"):
        busy = part[f"{phase}_busy"]
        for word, chosen in (("host", busy < DEVICE_BOUND), ("device", busy >= DEVICE_BOUND)):
            rows = [
                CONTROL
                if row["method"] == CONTROL
                else f"{row['method']} {letters.get(row['cell'], '')}".rstrip() + f" {row['state']}"
                for _, row in part[chosen].iterrows()
            ]
            if rows:
                span = f"{busy[chosen].min():.0%} to {busy[chosen].max():.0%}"
                lines.append(f"{phase} is {word}-bound (the device computes {span} of it): {', '.join(rows)}")
    return lines


def _copies(records: Iterable[Record], row: pd.Series) -> str:
    """How far an identical copy seemed to differ at this row's workload point: what measuring itself contributes."""
    point = (row["batch_size"], row["prompt_length"])
    pairs = [[p for p in record.pairs if (p.batch_size, p.prompt_length) == point] for record in records]
    found = []
    for phase in ("prefill", "decode"):
        ratios = [r.estimate for own in pairs if (r := arm_ratio(own, phase, AA)) is not None]
        if ratios:
            found.append(f"{phase} {min(ratios):.3f} to {max(ratios):.3f}")
    return ", ".join(found)
