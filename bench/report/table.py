"""One table, as text: every report is made of these. `bench.report.render` prints and writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pandas as pd


class Note(Protocol):
    """What a reader must know of a table, as a sentence; see `bench.report.footnotes`."""

    @property
    def text(self) -> str:
        """The sentence."""


@dataclass(frozen=True)
class Text:
    """A note that is just its sentence."""

    text: str


@dataclass(frozen=True)
class Column:
    """The header of a column and how its cells are set."""

    name: str
    unit: str = ""
    left: bool = False
    """Whether the cells are words, which are set to the left, and not numbers."""
    wrap: bool = False
    """Whether long cells are wrapped."""
    optional: bool = False
    """Whether the column is left out where a terminal is too narrow."""

    @property
    def header(self) -> str:
        """Name and unit in one line."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


@dataclass(frozen=True)
class Table:
    """Rows of text under a title, with notes below."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[Note, ...] = ()
    best: frozenset[tuple[int, int]] = frozenset()
    """(row, column) of the best values."""
    best_means: str = ""
    """What it means that a value is marked as best."""
    styles: Mapping[tuple[int, int], str] = field(default_factory=dict)
    """Colors of cells on a terminal, by (row, column); in Markdown these cells are bold."""


@dataclass(frozen=True)
class Report:
    """What a command has to say: tables for a reader and data for a program."""

    tables: Sequence[Table]
    closing: Sequence[str] = ()
    """Lines below the last table of a terminal or of Markdown."""
    frame: pd.DataFrame | None = None
    """For CSV and Parquet, in base units."""
    plain: Any = None
    """For JSON."""
