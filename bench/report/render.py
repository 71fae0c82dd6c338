"""How a comparison looks: for a terminal, Markdown, LaTeX, CSV and Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.errors import UsageError
from bench.records.record import Record
from bench.report.comparison import grids
from bench.report.frame import export
from bench.report.head_to_head import rival_grids
from bench.report.labels import CORE, EXTRA, KEYS
from bench.report.published import published_grids
from bench.report.table import Grid

BEST = "*"
"""Marks the best values on a terminal; elsewhere they are bold."""
LEAST_NAME = 12
"""Characters that the name of a method gets, however much else there is to show."""
FORMATS = ("text", "md", "csv", "latex", "parquet")


def print_table(records: Sequence[Record], console: Console) -> None:
    """The comparison, as wide as the console."""
    for grid in _all_grids(records, (*CORE, *EXTRA)):
        shown = _fitting(grid, console.width)
        # the title stands outside, so that it is not folded to the table's width
        console.print(grid.title, style="bold", markup=False)
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
        for index in shown:
            left = grid.headers[index][0] in ("method", "state")
            header = "\n".join(_stacked(grid.headers[index]))
            # names may be long, and are folded before a figure is cut
            least = _width(grid, index) if index else min(LEAST_NAME, _width(grid, index))
            plain: dict[str, Any] = {"justify": "left" if left else "right", "vertical": "bottom"}
            table.add_column(header, no_wrap=index > 0, overflow="fold", min_width=least, **plain)
        for number, row in enumerate(grid.rows):
            table.add_row(*(_styled(row[i], (number, i) in grid.best) for i in shown))
        console.print(table)
        for note in _notes(grid, BEST):
            console.print(note, markup=False)
        console.print()


def render(records: Sequence[Record], format: str) -> bytes:
    """The comparison as a file in one of `FORMATS` but ``text``.

    Raises:
        UsageError: the format is unknown.
    """
    if format == "csv":
        return export(records).to_csv(index=False).encode()
    if format == "parquet":
        return bytes(export(records).to_parquet(None, index=False))
    if format not in ("md", "latex"):
        raise UsageError(f"--format {format}: there are {', '.join(FORMATS)}")
    parts = [(_markdown if format == "md" else _latex)(grid) for grid in _all_grids(records, CORE)]
    return "\n".join(parts).encode()


def _all_grids(records: Sequence[Record], wanted: Sequence[str]) -> list[Grid]:
    """The methods beside one another, then beside their rivals, then beside what others have published."""
    return [*grids(records, wanted), *rival_grids(records), *published_grids(records)]


def _notes(grid: Grid, mark: str) -> list[str]:
    return [*grid.footnotes, *([f"{mark} {grid.mark_means}"] if grid.best else [])]


def _fitting(grid: Grid, width: int) -> list[int]:
    """Columns that fit, the core ones first and whatever their width."""
    shown: list[int] = []
    used = 0
    for index in range(len(grid.headers)):
        needed = _width(grid, index) + 1
        if index < len(KEYS) + len(CORE) or used + needed <= width:
            shown.append(index)
            used += needed
    return shown


def _width(grid: Grid, index: int) -> int:
    """Characters that a column needs on a terminal."""
    column = (BEST * ((row, index) in grid.best) + cells[index] for row, cells in enumerate(grid.rows))
    return max(map(len, (*_stacked(grid.headers[index]), *column)))


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
    notes = "".join(f"- {note}\n" for note in _notes(grid, "**bold**:"))
    return f"**{grid.title}**\n\n{text}\n\n{notes}"


def _latex(grid: Grid) -> str:
    escaped = [[_tex(t) for t in row] for row in grid.rows]
    rows = [
        [rf"\textbf{{{t}}}" if (r, c) in grid.best else t for c, t in enumerate(row)] for r, row in enumerate(escaped)
    ]
    body = pd.DataFrame(rows, columns=[_tex(header) for header in _plain_headers(grid)])
    align = "".join(side[0] for side in _alignment(grid))
    table = body.to_latex(index=False, escape=False, column_format=align, caption=_tex(grid.title))
    notes = r" \\ ".join(_tex(note) for note in _notes(grid, "bold:"))
    end = r"\end{table}"
    return table.replace(end, rf"\par\raggedright\footnotesize {notes}" + f"\n{end}")


_TEX: dict[str, str | int | None] = {
    **{character: rf"\{character}" for character in "_%&#$" + "{}"},
    **{"±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$", "µ": r"$\mu$", "Σ": r"$\Sigma$"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
}


def _tex(text: str) -> str:
    return text.translate(str.maketrans(_TEX))
