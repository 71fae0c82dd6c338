"""How forecasts look: tables of 80 columns for a terminal, Markdown, CSV and JSON in base units."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bench.estimate.estimate import GIB, RESERVE_BYTES, TOLERANCE, Comparison, Fit, Forecast
from bench.records.conditions import differing, flat
from bench.records.figures import Unit
from bench.records.record import CONTROL, UNMERGED, Status
from bench.records.units import scale_for, show, significant
from bench.report.table import Sheet, _markdown

FORMATS = ("text", "md", "csv", "json")
TRAINING = (
    ("trained", "trained_parameters", Unit.PARAMETERS),
    ("file", "checkpoint_bytes", Unit.BYTES),
    ("train mem", "train_peak_bytes", Unit.BYTES),
    ("weights", "train_weights_bytes", Unit.BYTES),
    ("gradients", "train_gradients_bytes", Unit.BYTES),
    ("optimizer", "train_optimizer_state_bytes", Unit.BYTES),
    ("other", "train_other_bytes", Unit.BYTES),
    ("step FLOPs", "train_flops", Unit.FLOPS),
)
PREFILL = (
    ("cache length", "cache_length", Unit.COUNT),
    ("cache", "cache_bytes", Unit.BYTES),
    ("operations", "prefill_operations", Unit.COUNT),
    ("matmuls", "prefill_matmuls", Unit.COUNT),
    ("chain", "prefill_chain", Unit.COUNT),
    ("matmul chain", "prefill_matmul_chain", Unit.COUNT),
    ("FLOPs", "prefill_flops", Unit.FLOPS),
)
DECODE = (
    ("operations", "decode_operations", Unit.COUNT),
    ("matmuls", "decode_matmuls", Unit.COUNT),
    ("chain", "decode_chain", Unit.COUNT),
    ("matmul chain", "decode_matmul_chain", Unit.COUNT),
    ("FLOPs", "decode_flops", Unit.FLOPS),
)
"""Header, figure and unit of each column."""
LABELS = {
    "train_peak_bytes": "train mem",
    "train_weights_bytes": "  weights",
    "train_gradients_bytes": "  gradients",
    "train_optimizer_state_bytes": "  optimizer",
    "train_other_bytes": "  other",
    "train_cuda_allocated_bytes": "cuda alloc",
}


def forecast_sheets(forecasts: Sequence[Forecast]) -> list[Sheet]:
    """Training, cards, and both phases of inference, for each model, workload and device."""
    groups: dict[str, list[Forecast]] = {}
    for forecast in forecasts:
        rest = {key: value for key, value in forecast.cell.config.items() if key not in ("method", "rival", "seed")}
        groups.setdefault(json.dumps(rest, sort_keys=True), []).append(forecast)
    return [sheet for group in groups.values() for sheet in _group(group)]


def _group(group: Sequence[Forecast]) -> list[Sheet]:
    config = group[0].cell.config
    model, work, device = config["model"], config["workload"], config["device"]["type"]
    where = f"{group[0].cell.model}, {model['dtype']}, {model['attention']} attention, {device}"
    names = dict(zip((f.cell.id for f in group), _labels(group), strict=True))
    good = [forecast for forecast in group if forecast.status is Status.OK]
    notes = [f"{names[f.cell.id]}: {f.status}: {f.reason}" for f in group if f.status is not Status.OK]
    notes += [f"{names[f.cell.id]}: no {m.figure}: {m.reason}".replace("no *:", "") for f in good for m in f.missing]
    if not good:
        return [Sheet(where, (("method", ""),), (), tuple(notes))]
    step = f"a training step of {work['train_batch_size']} x {work['train_length']} tokens"
    rows = [(names[f.cell.id], f, UNMERGED) for f in good]
    found = [_figures(f"{where}: {step}", rows, TRAINING, None, notes)]
    if good[0].fits:
        found.append(_cards(step, good, names, work["train_length"]))
    both = [("control", good[0], CONTROL), *rows]
    for point in good[0].cell.points:
        size = f"{point[0]} x {point[1]} tokens"
        found.append(_figures(f"Prefill of {size}, cache of a sequence", both, PREFILL, point, ()))
        found.append(_figures(f"One decode step after {size}", both, DECODE, point, ()))
    return found


def _labels(group: Sequence[Forecast]) -> list[str]:
    """Method and size, and where two rows would be called the same, the settings in which they differ."""
    plain = [f.cell.name + ("" if f.cell.size is None else f" {f.cell.size}") for f in group]
    found = []
    for name, forecast in zip(plain, group, strict=True):
        same = [flat(other.cell.config) for label, other in zip(plain, group, strict=True) if label == name]
        own = flat(forecast.cell.config)
        told = [f"{key.partition('.')[2]}={own.get(key)}" for key in differing(same)]
        found.append(" ".join([name, *told]))
    return found


def _figures(
    title: str,
    rows: Sequence[tuple[str, Forecast, str]],
    columns: Sequence[tuple[str, str, Unit]],
    point: tuple[int, int] | None,
    notes: Sequence[str],
) -> Sheet:
    values = [[forecast.value(figure, state, point) for _, figure, _ in columns] for _, forecast, state in rows]
    scales = [
        scale_for((row[i] or 0 for row in values), unit) if unit is not Unit.COUNT else None
        for i, (_, _, unit) in enumerate(columns)
    ]
    cells = [
        [
            "-" if v is None else f"{v:.0f}" if scale is None else scale.show(v)
            for v, scale in zip(row, scales, strict=True)
        ]
        for row in values
    ]
    units = ["" if scale is None else scale.name for scale in scales]
    headers = (("method", ""), *((name, unit) for (name, _, _), unit in zip(columns, units, strict=True)))
    return Sheet(title, headers, tuple((row[0], *line) for row, line in zip(rows, cells, strict=True)), tuple(notes))


def _cards(step: str, good: Sequence[Forecast], names: dict[str, str], length: int) -> Sheet:
    needed = [(f.value("train_rounded_bytes", UNMERGED) or 0) + RESERVE_BYTES for f in good]
    scale = scale_for(needed, Unit.BYTES)
    headers = (("method", ""), ("needs", scale.name), *((f"{_gib(fit)}", "GiB") for fit in good[0].fits))
    rows = tuple(
        (names[f.cell.id], scale.show(bytes_), *map(_answer, f.fits)) for f, bytes_ in zip(good, needed, strict=True)
    )
    reserve = show(RESERVE_BYTES, Unit.BYTES)
    notes = [f"needs: the peak in blocks of CUDA's allocator, and {reserve} for context, workspaces and holes"]
    if good[0].cell.config["device"]["type"] != "cuda":
        notes.append("device=cpu: its attention kernels and optimiser; device=cuda for those that a card has")
    if good[0].fits[0].largest_batch is not None:
        notes.append(f"largest batch at {length} tokens / tokens of the longest sequence alone")
    return Sheet(f"What fits which card: {step}", headers, rows, tuple(notes))


def _gib(fit: Fit) -> str:
    return significant(fit.card_bytes / GIB)


def _answer(fit: Fit) -> str:
    if fit.largest_batch is None:
        return "fits" if fit.fits else "no"
    return f"{fit.largest_batch or 'no'} / {fit.longest or 'no'}"


def comparison_sheet(comparisons: Sequence[Comparison], forecasts: Sequence[Forecast]) -> Sheet:
    """Each figure foretold and measured, side by side."""
    rows = []
    last = ""
    for row in comparisons:
        named = f"{row.method}{'' if row.size is None else f' {row.size}'}, {row.model}"
        name, last = ("" if row.cell_id == last else named), row.cell_id
        both = [show(value, Unit.BYTES) for value in (row.predicted, row.measured)]
        rows.append((name, LABELS[row.figure], *both, f"{row.difference:+.2%}"))
    peaks = [row for row in comparisons if row.figure == "train_peak_bytes"]
    beyond = sum(row.beyond for row in peaks)
    exact = sum(row.predicted == row.measured for row in peaks)
    notes = [
        f"{len(peaks)} cells: the peak of {exact} is foretold to the byte, that of {beyond} not within {TOLERANCE:.0%}",
        *(f"{f.cell.id}: {f.status}: {f.reason}" for f in forecasts if f.status is not Status.OK),
    ]
    headers = tuple((name, "") for name in ("cell", "figure", "foretold", "measured", "difference"))
    return Sheet("Memory of a training step, foretold and measured", headers, tuple(rows), tuple(notes))


def rows_of(forecasts: Sequence[Forecast]) -> list[dict[str, Any]]:
    """One row a figure, in base units: for CSV and JSON."""
    found: list[dict[str, Any]] = []
    for forecast in forecasts:
        cell = forecast.cell
        ours = {"cell_id": cell.id, "method": cell.name, "size": cell.size, "model": cell.model}
        head = {**ours, "status": str(forecast.status), "reason": forecast.reason}
        plain: dict[str, Any] = {"state": None, "batch_size": None, "prompt_length": None, "card_bytes": None}
        found += [{**head, **plain, **asdict(reading)} for reading in forecast.readings]
        for fit in forecast.fits:
            answers = {key: value for key, value in asdict(fit).items() if key != "card_bytes" and value is not None}
            card = {**plain, "state": UNMERGED, "card_bytes": fit.card_bytes}
            found += [{**head, **card, "figure": key, "value": int(value)} for key, value in answers.items()]
        if not forecast.readings:
            found.append({**head, **plain, "figure": None, "value": None})
    return found


def render(many: Sequence[Sheet], rows: Sequence[dict[str, Any]], format: str) -> str:
    """The forecasts as one of `FORMATS` but ``text``: sheets for a reader, rows for a program."""
    if format == "json":
        return json.dumps(list(rows), indent=2) + "\n"
    if format == "md":
        return "\n".join(map(_markdown, many))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
