"""Checks every cell of a sweep before the first one starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.config.sources import SourceError
from bench.errors import UsageError
from bench.records.results import CheckedCell
from bench.worker.setup import Report, load_text
from bench.workload.plan import Plan, read_plan
from bench.workload.resolve import reason_of, resolve

Checked = list[CheckedCell | str]
"""For each cell what was found, or the line that says what the person who typed the command must correct."""


def check_all(configs: Sequence[Mapping[str, Any]], report: Report) -> Checked:
    """Checks cells that are to run on this machine."""
    texts: dict[str, Text] = {}
    found: Checked = []
    for item, config in zip(_resolve_all(configs, True, report), configs, strict=True):
        if isinstance(item, str) or item.skip is not None:
            found.append(item)
            continue
        # most cells of a sweep have the same text, which takes long to read
        key = repr([config[name] for name in ("model", "data", "workload")])
        if key not in texts:
            report("reading the text")
            texts[key] = _check_text(read_plan(config))
        found.append(texts[key].refused or replace(item, skip=texts[key].skip))
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


@dataclass(frozen=True)
class Text:
    """What is wrong with a text, if anything is."""

    refused: str | None = None
    """What the person who typed the command must correct."""
    skip: str | None = None
    """Why the cells with this text can't be run."""


def _check_text(plan: Plan) -> Text:
    try:
        load_text(plan)
    except SourceError as error:
        return Text(refused=f"{plan.data.name}: {error}")
    except Exception as error:  # the trouble of these cells, whatever it is, must not end the sweep
        return Text(skip=f"{plan.data.name}: {reason_of(error)}")
    return Text()
