"""Checks every cell of a sweep before the first one starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.config.sources import SourceError
from bench.errors import UsageError
from bench.records.results import CheckedCell
from bench.worker.setup import Report, load_text
from bench.workload.plan import Plan, read_plan
from bench.workload.resolve import resolve

Checked = list[CheckedCell | str]
"""For each cell what was found, or the line that says why it is refused."""


def check_all(configs: Sequence[Mapping[str, Any]], report: Report) -> Checked:
    """Checks cells that are to run on this machine."""
    found = _resolve_all(configs, True, report)
    texts: dict[str, str | None] = {}
    for number, config in enumerate(configs):
        if isinstance(found[number], str):
            continue
        # most cells of a sweep have the same text, which takes long to read
        key = repr([config[name] for name in ("model", "data", "workload")])
        if key not in texts:
            report("reading the text")
            texts[key] = _text_refused(read_plan(config))
        if (line := texts[key]) is not None:
            found[number] = line
    return found


def check_elsewhere(configs: Sequence[Mapping[str, Any]], report: Report) -> Checked:
    """Checks cells that this machine need not be able to run, and no text."""
    return _resolve_all(configs, False, report)


def _resolve_all(configs: Sequence[Mapping[str, Any]], here: bool, report: Report) -> Checked:
    found: Checked = []
    for number, config in enumerate(configs, start=1):
        report(f"checking cell {number} of {len(configs)}")
        try:
            found.append(resolve(config, here))
        except UsageError as error:
            found.append(str(error))
    return found


def _text_refused(plan: Plan) -> str | None:
    try:
        load_text(plan)
    except SourceError as error:
        return f"{plan.data.name}: {error}"
    return None
