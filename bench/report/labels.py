"""How rows are called: the method, its size, and a letter where two rows would have the same name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

from bench.config.schema import REFERENCE_KEY
from bench.records.cell import Cell, Reference
from bench.records.conditions import differing, settings, shared, telling
from bench.records.record import Record

SYMBOLS = {"rank": "r", "r": "r", "target_r": "r", "bottleneck": "b", "num_virtual_tokens": "tokens"}
"""What a size is called in a row, by the setting of the method that gives it."""


@dataclass(frozen=True)
class Labels:
    """The names of a table's rows."""

    letters: Mapping[str, str]
    """Letters by cell id, of cells that share method and size with another one."""
    legend: tuple[tuple[str, str], ...]
    """A row's name, and the settings that its letter stands for."""

    def name(self, record: Record) -> str:
        """The method, with its letter."""
        return f"{record.cell.name} {self.letters.get(record.cell_id, '')}".rstrip()

    def full(self, record: Record) -> str:
        """The method, with its letter and its size."""
        return f"{self.name(record)} {size_label(record.cell)}".rstrip()


def labels(records: Sequence[Record]) -> Labels:
    """Names that are different for different cells."""
    groups: dict[tuple[str, int | None], list[Record]] = {}
    for record in records:
        groups.setdefault((record.cell.name, record.cell.size), []).append(record)
    letters: dict[str, str] = {}
    meanings: dict[str, str] = {}
    for group in groups.values():
        if len(group) == 1:
            continue
        keys = differing([settings(record) for record in group])
        for record in group:
            own = settings(record)
            meanings[record.cell_id] = ", ".join(f"{key} {plain(own.get(key))}" for key in keys)
        for number, record in enumerate(sorted(group, key=lambda record: meanings[record.cell_id])):
            letters[record.cell_id] = _letter(number)
    found = Labels(letters, ())
    lettered = sorted((r for r in records if r.cell_id in letters), key=lambda r: (found.name(r), r.cell.size or 0))
    return Labels(letters, tuple((found.full(record), meanings[record.cell_id]) for record in lettered))


def size_label(cell: Cell, reference: Reference | None = None) -> str:
    """The size of a cell's method, or of its reference: ``r=8``, ``b=16``, ``tokens=20``; empty without a size."""
    side: Cell | Reference = cell if reference is None else reference
    if side.size is None:
        return ""
    config: Mapping[str, Any] = cell.config["method" if reference is None else REFERENCE_KEY]
    given = {**config, **config.get("config", {})}  # peft's own keys are one level down
    symbol = next((symbol for key, symbol in SYMBOLS.items() if given.get(key) == side.size), None)
    other = next((key for key, value in given.items() if type(value) is int and value == side.size), "size")
    return f"{symbol or other}={side.size}"


def titles(short: Sequence[str], groups: Sequence[Sequence[Record]]) -> list[str]:
    """Titles of tables, one for each group of records: where two would be the same, with the conditions that differ."""
    held = [shared(group) for group in groups]
    keys = {title: telling(own for own, other in zip(held, short, strict=True) if other == title) for title in {*short}}
    return [
        " · ".join([title, *(f"{key} {plain(own.get(key))}" for key in keys[title])])
        for title, own in zip(short, held, strict=True)
    ]


def plain(value: object) -> str:
    """A setting as text."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _letter(number: int) -> str:
    return (_letter(number // 26 - 1) if number >= 26 else "") + ascii_lowercase[number % 26]
