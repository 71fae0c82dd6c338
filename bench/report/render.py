"""How tables look: on a terminal, in Markdown, LaTeX, CSV, JSON and Parquet."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table as TerminalTable
from rich.text import Text
from tabulate import tabulate

from bench.report.table import Column, Report, Table

if TYPE_CHECKING:
    import pandas as pd

BEST = "*"
"""Marks the best values on a terminal. Elsewhere they are bold."""
LEAST_NAME = 10
"""Characters that a column which is wrapped gets at least, if it has so long a word."""


def print_report(report: Report, console: Console) -> None:
    """Prints tables as wide as the console, and the closing lines."""
    print_tables(report.tables, console)
    for line in report.closing:
        console.print(line, markup=False, soft_wrap=True)


def print_tables(tables: Sequence[Table], console: Console) -> None:
    """Prints tables as wide as the console."""
    for table in tables:
        if table.title:  # outside the table, which would wrap it
            console.print(table.title, style="bold", markup=False)
        if table.rows:
            console.print(_terminal(table, console.width))
        for note in _notes(table, BEST):
            console.print(note, markup=False)
        console.print()


def render(report: Report, format: str) -> bytes:
    """The report as a file in one of `FORMATS`."""
    return FORMATS[format](report)


def _terminal(table: Table, width: int) -> TerminalTable:
    """The columns that fit. Headers are stacked, a word a line, and columns stand close, only if they have to."""
    shown = _fitting(table, width)
    roomy = sum(_width(table, index, stacked=False) + 3 for index in shown) <= width
    found = TerminalTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1) if roomy else 0)
    for index in shown:
        column = table.columns[index]
        found.add_column(
            column.header if roomy else "\n".join(_stacked(column)),
            justify="left" if column.left else "right",
            vertical="bottom",
            no_wrap=not column.wrap,
            overflow="fold",
            min_width=min(LEAST_NAME, _longest_word(table, index)) if column.wrap else None,
        )
    for number, row in enumerate(table.rows):
        found.add_row(*(_cell(table, number, index, row[index]) for index in shown))
    return found


def _fitting(table: Table, width: int) -> list[int]:
    """Columns that fit: those that are not optional, whatever their width, and as many others as there is room for."""
    must = [index for index, column in enumerate(table.columns) if not column.optional]
    used = sum(_width(table, index, stacked=True) + 1 for index in must)
    shown = list(must)
    for index, column in enumerate(table.columns):
        needed = _width(table, index, stacked=True) + 1
        if column.optional and used + needed <= width:
            shown.append(index)
            used += needed
    return shown


def _width(table: Table, index: int, stacked: bool) -> int:
    """Characters that a column needs on a terminal."""
    column = table.columns[index]
    headers = _stacked(column) if stacked else [column.header]
    return max(map(len, (*headers, "x" * _longest(table, index))))


def _longest(table: Table, index: int) -> int:
    cells = (BEST * ((number, index) in table.best) + row[index] for number, row in enumerate(table.rows))
    return max(map(len, cells), default=0)


def _longest_word(table: Table, index: int) -> int:
    """Characters below which a column would be wrapped within a word."""
    cells = (BEST * ((number, index) in table.best) + row[index] for number, row in enumerate(table.rows))
    return max((len(word) for cell in cells for word in cell.split()), default=0)


def _stacked(column: Column) -> list[str]:
    """The header in as many lines as it has words, the unit last."""
    return [*column.name.split(), *([column.unit] if column.unit else [])]


def _cell(table: Table, row: int, column: int, text: str) -> Text:
    if (row, column) in table.best:
        return Text(f"{BEST}{text}", style="bold green")
    return Text(text, style=table.styles.get((row, column), ""))


def _notes(table: Table, mark: str) -> list[str]:
    return [*(note.text for note in table.notes), *([f"{mark} {table.best_means}"] if table.best else [])]


def _markdown(report: Report) -> bytes:
    parts = [_markdown_table(table) for table in report.tables]
    return "\n".join([*parts, *report.closing]).encode()


def _markdown_table(table: Table) -> str:
    strong = table.best | table.styles.keys()
    rows = _marked(table, lambda text: text, strong, "**{}**")
    columns = _required(table)
    sides = ["left" if column.left else "right" for column in columns]
    headers = [column.header for column in columns]
    body = tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=sides)
    notes = "".join(f"- {note}\n" for note in _notes(table, "**bold**:"))
    return f"**{table.title}**\n\n" + (f"{body}\n\n" if rows else "") + notes


def _latex(report: Report) -> bytes:
    return "\n".join(map(_latex_table, report.tables)).encode()


def _latex_table(table: Table) -> str:
    import pandas as pd  # only LaTeX needs it here

    columns = _required(table)
    body = pd.DataFrame(_marked(table, _tex, table.best, r"\textbf{{{}}}"), columns=[_tex(c.header) for c in columns])
    align = "".join("l" if column.left else "r" for column in columns)
    text = body.to_latex(index=False, escape=False, column_format=align, caption=_tex(table.title))
    notes = r" \\ ".join(_tex(note) for note in _notes(table, "bold:"))
    end = r"\end{table}"
    return text.replace(end, rf"\par\raggedright\footnotesize {notes}" + f"\n{end}")


def _required(table: Table) -> list[Column]:
    """The columns that a page has: a page may be narrow."""
    return [column for column in table.columns if not column.optional]


def _marked(
    table: Table, escape: Callable[[str], str], strong: Collection[tuple[int, int]], mark: str
) -> list[list[str]]:
    """The cells of the required columns, ``strong`` ones inside ``mark``."""
    return [
        [
            mark.format(escape(text)) if (number, index) in strong else escape(text)
            for index, text in enumerate(row)
            if not table.columns[index].optional
        ]
        for number, row in enumerate(table.rows)
    ]


_TEX: dict[str, str | int | None] = {
    **{character: rf"\{character}" for character in "_%&#$" + "{}"},
    **{"±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$", "µ": r"$\mu$", "Σ": r"$\Sigma$"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
}


def _tex(text: str) -> str:
    return text.translate(str.maketrans(_TEX))


def _csv(report: Report) -> bytes:
    return _frame(report).to_csv(index=False).encode()


def _parquet(report: Report) -> bytes:
    return bytes(_frame(report).to_parquet(None, index=False))


def _json(report: Report) -> bytes:
    return (json.dumps(report.plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _frame(report: Report) -> pd.DataFrame:
    assert report.frame is not None, "this report has no data frame"
    return report.frame


FORMATS: dict[str, Callable[[Report], bytes]] = {
    "md": _markdown,
    "latex": _latex,
    "csv": _csv,
    "parquet": _parquet,
    "json": _json,
}
"""How a report becomes a file. A command names those that it offers."""
