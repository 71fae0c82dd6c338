"""One table, as text: what every report is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

LEAST_NAME = 12


@dataclass(frozen=True)
class Sheet:
    """One table, as text."""

    title: str
    headers: tuple[tuple[str, str], ...]
    """Name and unit of each column; the first is the name of a row."""
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def print_sheets(many: Sequence[Sheet], console: Console) -> None:
    """The tables, as wide as the console."""
    for sheet in many:
        console.print(sheet.title, style="bold", markup=False)
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
        for index, (name, unit) in enumerate(sheet.headers):
            words = "\n".join([*name.split(), *([unit] if unit else [])])
            left = index == 0 or name == "figure"
            table.add_column(
                words,
                justify="left" if left else "right",
                vertical="bottom",
                no_wrap=index > 0,
                overflow="fold",
                min_width=LEAST_NAME if index == 0 else None,
            )
        for row in sheet.rows:
            table.add_row(*row)
        if sheet.rows:
            console.print(table, markup=False)
        for note in sheet.notes:
            console.print(note, markup=False)
        console.print()


def _markdown(sheet: Sheet) -> str:
    names = [f"{name} ({unit})" if unit else name for name, unit in sheet.headers]
    lines = [names, [":--" if not i else "--:" for i in range(len(names))], *sheet.rows]
    body = "".join("| " + " | ".join(cell.strip() or " " for cell in line) + " |\n" for line in lines)
    return f"**{sheet.title}**\n\n{body}\n" + "".join(f"- {note}\n" for note in sheet.notes)


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
