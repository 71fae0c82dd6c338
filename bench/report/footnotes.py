"""What a reader should know of a table's rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from bench.records.cell import OURS
from bench.records.record import AA, CONTROL, Record
from bench.report.frame import arm_ratio, reasons, states
from bench.report.labels import CORE, EXTRA, _name

DEVICE_BOUND = 0.9
"""From this part of a step on the device, not the host that feeds it, is what was timed."""


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
