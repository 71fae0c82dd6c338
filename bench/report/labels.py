"""How rows and columns are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_lowercase

from bench.records.conditions import differing, settings
from bench.records.record import Record

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
