"""What estimates say: tables of 80 columns for a reader, rows in base units for a program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from bench.estimate.estimate import GIB, RESERVE_BYTES, TOLERANCE, Comparison, Estimate, Fit
from bench.probes.registry import metrics
from bench.records.conditions import differing, flatten
from bench.records.metrics import Unit
from bench.records.record import CONTROL, UNMERGED, Point, Status
from bench.records.units import scale_for, show, significant
from bench.report.labels import size_label
from bench.report.table import Column, Report, Table, Text

METHOD_STATE = "train_method_state_bytes"
"""A column where a method has some."""
TRAINING = (
    "trained_parameters",
    "checkpoint_bytes",
    "train_peak_bytes",
    "train_weights_bytes",
    "train_gradients_bytes",
    "train_optimizer_state_bytes",
    METHOD_STATE,
    "train_other_bytes",
    "train_flops",
)
STRUCTURE = ("operations", "matmuls", "critical_path", "critical_path_matmuls", "flops")
PREFILL = ("cache_length", "cache_bytes", *(f"prefill_{name}" for name in STRUCTURE))
DECODE = tuple(f"decode_{name}" for name in STRUCTURE)
METHOD = Column("method", left=True, wrap=True)


def estimate_report(estimates: Sequence[Estimate]) -> Report:
    """Training, cards, and both phases of inference, for each model, workload and device."""
    groups: dict[str, list[Estimate]] = {}
    for estimate in estimates:
        free = ("method", "reference", "seed")
        held = {key: value for key, value in estimate.cell.config.items() if key not in free}
        groups.setdefault(json.dumps(held, sort_keys=True), []).append(estimate)
    rows = _rows(estimates)
    tables = [table for group in groups.values() for table in _group(group)]
    return Report(tables, frame=pd.DataFrame(rows, dtype=object), plain=rows)


def _group(group: Sequence[Estimate]) -> list[Table]:
    config = group[0].cell.config
    model, work, device = config["model"], config["workload"], config["device"]["type"]
    where = f"{group[0].cell.model}, {model['dtype']}, {model['attention']} attention, {device}"
    names = dict(zip((one.cell.id for one in group), _labels(group), strict=True))
    good = [estimate for estimate in group if estimate.status is Status.OK]
    notes = [f"{names[one.cell.id]}: {one.status}: {one.reason}" for one in group if one.status is not Status.OK]
    notes += [note for one in good for note in _absent(names[one.cell.id], one)]
    if not good:
        return [Table(where, (METHOD,), (), tuple(map(Text, notes)))]
    step = f"a training step of {work['train_batch_size']} x {work['train_length']} tokens"
    rows = [(names[one.cell.id], one, UNMERGED) for one in good]
    training = [name for name in TRAINING if name != METHOD_STATE or any(one.value(name, UNMERGED) for one in good)]
    found = [_metrics(f"{where}: {step}", rows, training, None, notes)]
    if good[0].fits:
        found.append(_cards(step, good, names, work["train_length"]))
    both = [("control", good[0], CONTROL), *rows]
    for point in good[0].cell.points:
        size = f"{point[0]} x {point[1]} tokens"
        found.append(_metrics(f"Prefill of {size}, cache of a sequence", both, PREFILL, point, ()))
        found.append(_metrics(f"One decode step after {size}", both, DECODE, point, ()))
    return found


def _absent(name: str, estimate: Estimate) -> list[str]:
    """Why metrics that stand in a table are missing, those with the same reason together."""
    found: dict[tuple[str, str], list[str]] = {}
    for missing in estimate.missing:
        row = CONTROL if missing.state == CONTROL else name
        if missing.metric in (None, *TRAINING, *PREFILL, *DECODE):
            found.setdefault((row, missing.reason), []).append(missing.metric or "")
    lines = []
    for (row, reason), those in found.items():
        what = ", ".join(dict.fromkeys(filter(None, those)))
        lines.append(f"{row}: {f'no {what}: ' if what else ''}{reason}")
    return lines


def _labels(group: Sequence[Estimate]) -> list[str]:
    """Method and size, and the settings that differ if two rows would have the same name."""
    plain = [f"{one.cell.name} {size_label(one.cell)}".rstrip() for one in group]
    found = []
    for name, estimate in zip(plain, group, strict=True):
        same = [flatten(other.cell.config) for label, other in zip(plain, group, strict=True) if label == name]
        own = flatten(estimate.cell.config)
        found.append(" ".join([name, *(f"{key.partition('.')[2]}={own.get(key)}" for key in differing(same))]))
    return found


def _metrics(
    title: str,
    rows: Sequence[tuple[str, Estimate, str]],
    names: Sequence[str],
    point: Point | None,
    notes: Sequence[str],
) -> Table:
    columns, cells = [METHOD], [[name] for name, _, _ in rows]
    for name in names:
        values = [estimate.value(name, state, point) for _, estimate, state in rows]
        metric = metrics()[name]
        scale = scale_for((value or 0 for value in values), metric.unit)
        label = metric.label.removeprefix("prefill ").removeprefix("decode ")
        columns.append(Column(label, scale.name))
        for line, value in zip(cells, values, strict=True):
            line.append("-" if value is None else scale.show(value))
    return Table(title, tuple(columns), tuple(map(tuple, cells)), tuple(map(Text, notes)))


def _cards(step: str, good: Sequence[Estimate], names: dict[str, str], length: int) -> Table:
    needed = [(one.value("train_rounded_bytes", UNMERGED) or 0) + RESERVE_BYTES for one in good]
    scale = scale_for(needed, Unit.BYTES)
    columns = (METHOD, Column("needs", scale.name), *(Column(_gib(fit), "GiB") for fit in good[0].fits))
    rows = tuple(
        (names[one.cell.id], scale.show(total), *map(_answer, one.fits))
        for one, total in zip(good, needed, strict=True)
    )
    reserve = show(RESERVE_BYTES, Unit.BYTES)
    notes = [f"needs: the peak in blocks of CUDA's allocator, and {reserve} for context, workspaces and gaps"]
    if good[0].cell.config["device"]["type"] != "cuda":
        notes.append("device=cpu: with the CPU's attention kernels and optimizer; use device=cuda for those of a card")
    if good[0].fits[0].largest_batch is not None:
        notes.append(f"largest batch at {length} tokens / tokens of the longest single sequence")
    return Table(f"What fits which card: {step}", columns, rows, tuple(map(Text, notes)))


def _gib(fit: Fit) -> str:
    return significant(fit.card_bytes / GIB)


def _answer(fit: Fit) -> str:
    if fit.largest_batch is None:
        return "fits" if fit.fits else "no"
    return f"{fit.largest_batch or 'no'} / {fit.longest or 'no'}"


def comparison_report(comparisons: Sequence[Comparison], estimates: Sequence[Estimate]) -> Report:
    """Each metric estimated and measured, side by side."""
    rows = []
    last = ""
    for one in comparisons:
        named = f"{one.method}{'' if one.size is None else f' {one.size}'}, {one.model}"
        name, last = ("" if one.cell_id == last else named), one.cell_id
        both = [show(value, Unit.BYTES) for value in (one.estimated, one.measured)]
        rows.append((name, _label(one.metric), *both, f"{one.difference:+.2%}"))
    peaks = [one for one in comparisons if one.metric == "train_peak_bytes"]
    beyond = sum(one.beyond for one in peaks)
    exact = sum(one.estimated == one.measured for one in peaks)
    notes = (
        f"{len(peaks)} cells: {exact} peaks are estimated to the byte, {beyond} are off by more than {TOLERANCE:.0%}",
        *(f"{one.cell.id}: {one.status}: {one.reason}" for one in estimates if one.status is not Status.OK),
    )
    columns = (
        Column("cell", left=True, wrap=True),
        Column("metric", left=True),
        *map(Column, ("estimated", "measured", "difference")),
    )
    title = "Memory of a training step, estimated and measured"
    plain = [asdict(one) for one in comparisons]
    table = Table(title, columns, tuple(rows), tuple(map(Text, notes)))
    return Report([table], frame=pd.DataFrame(plain, dtype=object), plain=plain)


def _label(metric: str) -> str:
    """The metric's label, indented below that of the peak."""
    return ("" if metric == "train_peak_bytes" else "  ") + metrics()[metric].label


def _rows(estimates: Sequence[Estimate]) -> list[dict[str, Any]]:
    """One row for each metric, in base units."""
    found: list[dict[str, Any]] = []
    for estimate in estimates:
        cell = estimate.cell
        ours = {"cell_id": cell.id, "method": cell.name, "size": cell.size, "model": cell.model}
        head = {**ours, "status": str(estimate.status), "reason": estimate.reason}
        plain: dict[str, Any] = {"state": None, "batch_size": None, "prompt_length": None, "card_bytes": None}
        found += [{**head, **plain, **asdict(one)} for one in estimate.measurements]
        for fit in estimate.fits:
            answers = {key: value for key, value in asdict(fit).items() if key != "card_bytes" and value is not None}
            card = {**plain, "state": UNMERGED, "card_bytes": fit.card_bytes}
            found += [{**head, **card, "metric": key, "value": int(value)} for key, value in answers.items()]
        if not estimate.measurements:
            found.append({**head, **plain, "metric": None, "value": None})
    return found
