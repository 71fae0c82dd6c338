"""What types can't say of a claim: whether its keys, quantities and relations make sense together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from bench.claims.claim import EXTRA, TIMED, Claim, Evidence, Relation, Selector
from bench.config.groups import method_settings, options
from bench.config.schema import Device, Precision, Runtime, Workload
from bench.config.sources import DataConfig, ModelConfig
from bench.probes import figures
from bench.records.cell import OURS
from bench.records.record import MERGED, UNMERGED
from bench.records.stats import margin_log

FACTS = ("size", "layers", "hidden_size", "kv_size", "vocabulary", "batch_size", "prompt_length")
"""Names in a formula, beside ``control`` (the base's figure of the same name) and any exact figure of the cell."""
SCHEMAS = {
    "model": ModelConfig,
    "data": DataConfig,
    "workload": Workload,
    "runtime": Runtime,
    "device": Device,
    "precision": Precision,
}
"""What may stand before the dot in a key of the configuration, beside ``method``."""
AXES = ("size", "batch_size", "prompt_length")
"""What a quantity may grow over, beside a dotted key of the configuration."""


def _problems(claim: Claim) -> Iterator[tuple[str, str]]:
    """(key, what is wrong with it), whatever types can't say."""
    if claim.later is not None:
        return
    if claim.about is None or not claim.evidence or not claim.settle:
        yield "about, evidence, settle", "a claim needs all three, unless 'later' says why it can't be decided yet"
        return
    yield from _selector_problems("about", claim.about)
    for path in claim.across:
        if not is_key(path):
            yield f"across.{path}", "the configuration has no such key"
    for number, evidence in enumerate(claim.evidence):
        key = f"evidence.{number}"
        if isinstance(evidence.than, Selector):
            yield from _selector_problems(f"{key}.than", evidence.than)
        if evidence.state not in (None, UNMERGED, MERGED):
            yield f"{key}.state", f"there are {UNMERGED} and {MERGED}, not '{evidence.state}'"
        yield from ((f"{key}.{name}", problem) for name, problem in _evidence_problems(evidence))


def _selector_problems(key: str, selector: Selector) -> Iterator[tuple[str, str]]:
    for name in selector.method:
        if selector.implementation == OURS and name not in options("method"):
            yield f"{key}.method", f"there is no method '{name}'; there are {', '.join(options('method'))}"
    if not selector.method:
        yield f"{key}.method", "name a method"
    if selector.state not in (UNMERGED, MERGED):
        yield f"{key}.state", f"there are {UNMERGED} and {MERGED}, not '{selector.state}'"
    for path, value in selector.where.items():
        if not is_key(path):
            yield f"{key}.where.{path}", "the configuration has no such key"
        if not all(
            isinstance(one, str | int | float | None) for one in (value if isinstance(value, list) else [value])
        ):
            yield f"{key}.where.{path}", "is no text, number, switch or list of them"


def is_key(path: str) -> bool:
    """Whether a dotted key is one of a cell's configuration."""
    group, _, rest = path.partition(".")
    if group == "method":
        known = [method_settings(name) for name in options("method")]
        # a method of another package may have any setting: its class alone knows
        return any(settings is None or rest.partition(".")[0] in settings for settings in known)
    if group in SCHEMAS:
        return rest.split(".")[0] in {item.name for item in dataclasses.fields(SCHEMAS[group])}
    return path == "seed"


def _evidence_problems(evidence: Evidence) -> Iterator[tuple[str, str]]:
    if not math.isfinite(evidence.times) or evidence.times <= 0:
        yield "times", f"a factor is a positive number, not {evidence.times}"
    if evidence.quantity in EXTRA:
        yield from _growth_problems(evidence)
    elif evidence.over is not None or evidence.relation is Relation.grows:
        yield "relation", f"growth is read from {' or '.join(EXTRA)}, with 'over'"
    elif evidence.quantity in TIMED:
        yield from _ratio_problems(evidence)
    else:
        yield from _exact_problems(evidence)
    if evidence.timed:
        try:
            margin_log(evidence.margin)
        except ValueError as error:
            yield "margin", str(error)


def _growth_problems(evidence: Evidence) -> Iterator[tuple[str, str]]:
    if evidence.relation is not Relation.grows:
        yield "relation", f"of {evidence.quantity} only growth can be judged: relation: grows"
    if evidence.over is None or not (evidence.over in AXES or is_key(evidence.over)):
        yield "over", f"{evidence.over} is none of {', '.join(AXES)} and no key of the configuration"


def _ratio_problems(evidence: Evidence) -> Iterator[tuple[str, str]]:
    if evidence.relation is Relation.equal:
        yield "relation", "a ratio of seconds is never equal; use same, with a margin"
    if not (evidence.than in (None, "control") or isinstance(evidence.than, Selector)):
        yield "than", "a ratio is compared with the control or with other cells"


def _exact_problems(evidence: Evidence) -> Iterator[tuple[str, str]]:
    if not is_exact(evidence.quantity):
        known = ", ".join([*TIMED, *EXTRA, *(name for name in figures() if is_exact(name))])
        yield "quantity", f"'{evidence.quantity}' is none that a claim can rest on; there are {known}"
    elif evidence.relation not in (Relation.greater, Relation.less, Relation.equal):
        yield "relation", f"{evidence.quantity} has no noise: use greater, less or equal"
    than = evidence.than
    if than is None:
        yield "than", "is missing: control, a number, other cells or a formula"
    if isinstance(than, str) and than != "control":
        yield "than", f"'{than}' is not 'control'"
    if isinstance(than, float) and not math.isfinite(than):
        yield "than", f"{than} is no number to compare with"
    if isinstance(than, tuple):
        for name in (name for product in than for name in product if isinstance(name, str)):
            if name not in (*FACTS, "control") and not is_exact(name):
                yield "than", f"a formula knows no '{name}'; it knows control, {', '.join(FACTS)} and exact figures"


def is_exact(name: str) -> bool:
    """Whether there is a figure of this name that needs no interval."""
    return name in figures() and figures()[name].exact
