"""Comparison tables from records: for a terminal, Markdown, LaTeX, CSV and Parquet.

A table compares rows that differ in the method alone. Whatever else differs (model, workload, dtype, attention kernel,
runtime, device, threads, machine, torch) makes another group with a title of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.errors import UsageError
from bench.figures import Better, Unit
from bench.frame import arm_ratio, frame, reasons, states
from bench.probes import figures
from bench.records import AA, CONTROL, Record, Status
from bench.units import scale_for, show

FORMATS = ("text", "md", "csv", "latex", "parquet")
GROUP = (
    "model", "batch_size", "prompt_length", "dtype", "attention", "runtime", "device", "threads",
    "train_batch_size", "train_length", "train_tokens", "torch", "machine",
)  # fmt: skip
TITLE = (
    "model",
    "batch_size",
    "prompt_length",
    "train_batch_size",
    "train_length",
    "dtype",
    "runtime",
    "device",
    "threads",
)
"""Of these, what every title says."""
KEYS = ("method", "size", "state")
CORE = ("trained_parameters", "train_peak_bytes", "train_tokens_per_second", "prefill_ratio", "decode_ratio")
"""The figures that fit 80 columns; `EXTRA` follow where there is room."""
EXTRA = ("loss_after", "checkpoint_bytes", "cache_length", "decode_matmul_chain", "merge_error", "shipped_parameters")
BEST = "*"


@dataclass(frozen=True)
class Grid:
    """One group, as text."""

    title: str
    headers: tuple[tuple[str, str], ...]
    """Name and unit of each column."""
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]]
    """(row, column) of the best values."""
    footnotes: tuple[str, ...]


def print_table(records: Sequence[Record], console: Console) -> None:
    """The comparison, as wide as the console."""
    for grid in grids(records, (*CORE, *EXTRA)):
        shown = _fitting(grid, console.width)
        # the title stands outside, so that it is not folded to the table's width
        console.print(grid.title, style="bold", markup=False)
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
        for index in shown:
            left = grid.headers[index][0] in ("method", "state")
            header = "\n".join(_stacked(grid.headers[index]))
            table.add_column(header, justify="left" if left else "right", no_wrap=True, vertical="bottom")
        for number, row in enumerate(grid.rows):
            table.add_row(*(_styled(row[i], (number, i) in grid.best) for i in shown))
        console.print(table)
        for note in grid.footnotes:
            console.print(note, markup=False)
        console.print()


def render(records: Sequence[Record], format: str, output: Path | None) -> str:
    """The comparison in one of `FORMATS` but ``text``; Parquet goes to ``output``, and the text returned is empty.

    Raises:
        UsageError: the format is unknown, or Parquet has no file to go to.
    """
    if format == "csv":
        return frame(records).to_csv(index=False)
    if format == "parquet":
        if output is None:
            raise UsageError("--format parquet needs --output FILE")
        frame(records).to_parquet(output, index=False)
        return ""
    if format not in ("md", "latex"):
        raise UsageError(f"--format {format}: there are {', '.join(FORMATS)}")
    parts = [(_markdown if format == "md" else _latex)(grid) for grid in grids(records, CORE)]
    return "\n".join(parts)


def grids(records: Sequence[Record], wanted: Sequence[str]) -> list[Grid]:
    """One grid a group, in an order that does not depend on that of the records."""
    by_id = {record.cell_id: record for record in sorted(records, key=lambda record: record.cell_id)}
    table = frame(list(by_id.values()))
    keys = table[list(GROUP)].astype(object).where(table[list(GROUP)].notna(), None)
    varying = [name for name in GROUP if keys[name].nunique(dropna=False) > 1]
    rows = [tuple(row) for row in keys.itertuples(index=False)]
    found = []
    for key in sorted(set(rows), key=_sortable):
        part = table[[row == key for row in rows]]
        members = [by_id[cell] for cell in dict.fromkeys(part["cell"])]
        found.append(_grid(_one_control(part), members, wanted, varying))
    return found


def _sortable(key: tuple[object, ...]) -> list[tuple[float, str]]:
    """Numbers by value, then words; what is missing first."""
    return [(float(part), "") if isinstance(part, int | float) else (-1.0, str(part or "")) for part in key]


def _one_control(part: pd.DataFrame) -> pd.DataFrame:
    """The base model's rows as one, by their medians: it was timed anew beside each method, and is the same model."""
    control = part[part["method"] == CONTROL]
    methods = part[part["method"] != CONTROL].sort_values(["method", "size"], kind="stable", na_position="first")
    if control.empty:
        return methods
    first = control.iloc[[0]].copy()
    for name in figures():
        if name in control:
            first[name] = control[name].median()
    return pd.concat([first, methods])


def _grid(part: pd.DataFrame, records: Sequence[Record], wanted: Sequence[str], varying: Sequence[str]) -> Grid:
    names = [name for name in wanted if part[name].notna().any() or name in CORE]
    columns = [_column(part, name) for name in names]
    best = {(row, index) for index, name in enumerate(names, start=len(KEYS)) for row in _best(part, name)}
    labels = [_labels(row) for _, row in part.iterrows()]
    rows = tuple((*label, *(column[1][i] for column in columns)) for i, label in enumerate(labels))
    headers = (*((key, "") for key in KEYS), *(column[0] for column in columns))
    return Grid(_title(part.iloc[0], varying), headers, rows, frozenset(best), _footnotes(part, records))


def _labels(row: pd.Series) -> tuple[str, str, str]:
    """Method, size and state; a cell that did not end well shows its status for a state."""
    state = row["state"] if row["method"] == CONTROL or row["status"] == Status.OK else row["status"]
    return str(row["method"]), "" if pd.isna(row["size"]) else f"{row['size']:.0f}", str(state)


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
    return f"{row[name]:.3f}" + ("" if pd.isna(low) else f" ±{(high - low) / 2:.3f}".replace("0.", ".", 1))


def _best(part: pd.DataFrame, name: str) -> list[int]:
    """Row numbers of the best methods; of a ratio, all that its interval does not tell from the best."""
    figure = figures()[name.removesuffix("_after")]
    values = list(part[name].where(part["method"] != CONTROL))
    known = [value for value in values if not math.isnan(value)]
    if figure.better is Better.NEITHER or len(known) < 2:
        return []
    goal = min(known) if figure.better is Better.LOWER else max(known)
    if figure.unit is not Unit.RATIO:
        return [i for i, value in enumerate(values) if value == goal]
    high = list(part[f"{name}_high"].fillna(part[name]))[values.index(goal)]
    lows = list(part[f"{name}_low"].fillna(part[name]))
    return [i for i, value in enumerate(values) if not math.isnan(value) and lows[i] <= high]


def _title(row: pd.Series, varying: Sequence[str]) -> str:
    """What the rows have in common: the usual things, and whatever else tells this group from another."""
    threads = "" if pd.isna(row["threads"]) else f" ({row['threads']} thread{'s' if row['threads'] > 1 else ''})"
    words = [
        row["model"],
        f"batch {row['batch_size']:.0f} × {row['prompt_length']:.0f}",
        f"training {row['train_batch_size']} × {row['train_length']}",
        row["dtype"],
        row["runtime"],
        f"{row['device']}{threads}",
        *(f"{name} {row[name]}" for name in varying if name not in TITLE),
    ]
    return " · ".join(words)


def _footnotes(part: pd.DataFrame, records: Iterable[Record]) -> tuple[str, ...]:
    """Why something is blank, rows with the same reason together, and what a reader should know of a row."""
    why: dict[tuple[str, str], list[str]] = {}
    shown = {name for name in (*CORE, *EXTRA)}
    for record in records:
        name = record.cell.method + ("" if record.cell.size is None else f" {record.cell.size}")
        stated = {*states(record), *(missing.state for missing in record.missing)}
        for state in sorted(stated):
            for figure, reason in reasons(record, state).items():
                if figure == "*" or figure in shown:
                    what = f"no {state} row" if figure == "*" and state not in states(record) else figure
                    why.setdefault((what.replace("*", "no figures"), reason), []).append(name)
    lines = [f"{', '.join(dict.fromkeys(names))}: {what}: {reason}" for (what, reason), names in why.items()]
    lines += [note for record in records for note in record.notes]
    if (part["method"] == CONTROL).any():
        lines.append("control: the untouched base, not trained; its latency is in seconds, the others' is over it")
    if copies := _copies(records):
        lines.append(f"A/A: a second control, timed like an arm, came out at {copies} of the first")
    if len(part) > 2:
        lines.append(f"{BEST} best; of a ratio, all that its 95% interval (±) can't tell from the best")
    return tuple(dict.fromkeys(lines))


def _copies(records: Iterable[Record]) -> str:
    """How far an identical copy seemed to differ: what the measurement itself contributes."""
    found = []
    for phase in ("prefill", "decode"):
        ratios = [r.estimate for record in records if (r := arm_ratio(record.pairs, phase, AA)) is not None]
        if ratios:
            found.append(f"{phase} {min(ratios):.3f} to {max(ratios):.3f}")
    return ", ".join(found)


def _fitting(grid: Grid, width: int) -> list[int]:
    """Columns that fit, the core ones first and whatever their width."""
    shown: list[int] = []
    used = 0
    for index, (header, column) in enumerate(zip(grid.headers, zip(*grid.rows, strict=True), strict=True)):
        texts = [*_stacked(header), *(BEST * ((row, index) in grid.best) + text for row, text in enumerate(column))]
        needed = max(map(len, texts)) + 1
        if index < len(KEYS) + len(CORE) or used + needed <= width:
            shown.append(index)
            used += needed
    return shown


def _stacked(header: tuple[str, str]) -> list[str]:
    """A header in as many lines as it has words, the unit last."""
    return [*header[0].split(), header[1]]


def _styled(text: str, best: bool) -> Text:
    return Text(f"{BEST}{text}", style="bold green") if best else Text(text)


def _plain_headers(grid: Grid) -> list[str]:
    return [f"{name} ({unit})" if unit else name for name, unit in grid.headers]


def _alignment(grid: Grid) -> list[str]:
    return ["left" if name in ("method", "state") else "right" for name, _ in grid.headers]


def _markdown(grid: Grid) -> str:
    rows = [[f"**{t}**" if (r, c) in grid.best else t for c, t in enumerate(row)] for r, row in enumerate(grid.rows)]
    body = pd.DataFrame(rows, columns=_plain_headers(grid))
    text = body.to_markdown(index=False, disable_numparse=True, colalign=_alignment(grid))
    notes = "".join(f"- {note}\n" for note in grid.footnotes)
    return f"**{grid.title}**\n\n{text}\n\n{notes}"


def _latex(grid: Grid) -> str:
    escaped = [[_tex(t) for t in row] for row in grid.rows]
    rows = [
        [rf"\textbf{{{t}}}" if (r, c) in grid.best else t for c, t in enumerate(row)] for r, row in enumerate(escaped)
    ]
    body = pd.DataFrame(rows, columns=[_tex(header) for header in _plain_headers(grid)])
    align = "".join(side[0] for side in _alignment(grid))
    notes = "".join(f"% {note}\n" for note in grid.footnotes)
    return body.to_latex(index=False, escape=False, column_format=align, caption=_tex(grid.title)) + notes


def _tex(text: str) -> str:
    for plain, tex in (
        ("_", r"\_"),
        ("±", r"$\pm$"),
        ("×", r"$\times$"),
        ("·", r"$\cdot$"),
        ("µ", r"$\mu$"),
        ("%", r"\%"),
    ):
        text = text.replace(plain, tex)
    return text
