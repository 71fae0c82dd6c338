"""Checks every cell of a sweep before the first one starts. Runs in a child process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.errors import UsageError
from bench.records.results import Resolved
from bench.worker.setup import Report, load_text
from bench.workload.corpus import DataError
from bench.workload.models import ModelError
from bench.workload.plan import Plan, read_plan
from bench.workload.resolve import resolve


def resolve_elsewhere(configs: Sequence[Mapping[str, Any]], report: Report) -> list[Resolved | str]:
    """As `bench.worker.check.resolve_all`, of cells that this machine need not be able to run, and of no text."""
    found: list[Resolved | str] = []
    for config in configs:
        try:
            found.append(resolve(config, here=False))
        except UsageError as error:
            found.append(str(error))
    return found


def resolve_all(configs: Sequence[Mapping[str, Any]], report: Report) -> list[Resolved | str]:
    """Every configuration resolved, or the line that says why it can't be."""
    found: list[Resolved | str] = []
    texts: dict[str, str | None] = {}
    for config in configs:
        try:
            found.append(resolve(config))
        except UsageError as error:
            found.append(str(error))
            continue
        # the text is the same for most cells of a sweep, and worth reading once
        key = repr([config[name] for name in ("model", "data", "workload")])
        if key not in texts:
            texts[key] = _text_refused(read_plan(config))
        if (line := texts[key]) is not None:
            found[-1] = line
    return found


def _text_refused(plan: Plan) -> str | None:
    try:
        load_text(plan)
    except (DataError, ModelError) as error:
        return f"{plan.data.name}: {error}"
    return None
