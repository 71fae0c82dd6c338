"""Checks of a claim that types can't make: whether its keys, quantities and relations fit together."""

from __future__ import annotations

import math
from collections.abc import Iterator

from bench.claims.claim import EXTRA, TIMED, TRAIN_RATIO, Claim, Evidence, Relation, Selector
from bench.config.groups import options
from bench.config.keys import hint, is_key
from bench.probes.registry import metrics
from bench.records.cell import OURS
from bench.records.conditions import MACHINE, VERSIONS
from bench.records.machine import PACKAGES
from bench.records.record import MERGED, UNMERGED
from bench.records.stats import margin_log

NAMES = ("size", "layers", "hidden_size", "kv_size", "vocabulary", "batch_size", "prompt_length")
"""Names in a formula, besides ``control`` (the base's metric of the same name) and any exact metric of the cell."""
POOLED = (*MACHINE, *dict.fromkeys((*VERSIONS, *PACKAGES)))
"""What a verdict may be pooled over besides keys of the configuration: machines, and versions of packages."""
AXES = ("size", "batch_size", "prompt_length")
"""Axes over which a quantity may grow, besides a dotted key of the configuration."""


def problems(claim: Claim) -> Iterator[tuple[str, str]]:
    """Each key that is wrong, with what is wrong, beyond what types say."""
    if claim.blocked_by is not None:
        return
    if claim.about is None or not claim.evidence or not claim.reproduce:
        yield "about, evidence, reproduce", "a claim needs all three, unless 'blocked_by' says why it can't be decided"
        return
    yield from _selector_problems("about", claim.about)
    for path in claim.pool_over:
        if not is_key(path) and path not in POOLED:
            yield f"pool_over.{path}", f"is no key of the configuration, nor one of {', '.join(POOLED)}"
    for number, evidence in enumerate(claim.evidence):
        key = f"evidence.{number}"
        if isinstance(evidence.compared_to, Selector):
            yield from _selector_problems(f"{key}.compared_to", evidence.compared_to)
        if evidence.state not in (None, UNMERGED, MERGED):
            yield f"{key}.state", f"invalid state '{evidence.state}': choose from {UNMERGED}, {MERGED}"
        yield from ((f"{key}.{name}", problem) for name, problem in _evidence_problems(evidence))


def _selector_problems(key: str, selector: Selector) -> Iterator[tuple[str, str]]:
    for name in selector.method:
        if selector.implementation == OURS and name not in options("method"):
            yield f"{key}.method", f"unknown method '{name}'{hint(name, options('method'))}"
    if not selector.method:
        yield f"{key}.method", "name a method"
    if selector.state not in (UNMERGED, MERGED):
        yield f"{key}.state", f"invalid state '{selector.state}': choose from {UNMERGED}, {MERGED}"
    for path, value in selector.where.items():
        if not is_key(path):
            yield f"{key}.where.{path}", "the configuration has no such key"
        if not all(
            isinstance(one, str | int | float | None) for one in (value if isinstance(value, list) else [value])
        ):
            yield f"{key}.where.{path}", "must be a text, a number, a boolean or a list of them"


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
        yield "relation", f"{evidence.quantity} can only be judged for growth: relation: grows"
    if evidence.over is None or not (evidence.over in AXES or is_key(evidence.over)):
        yield "over", f"unknown axis '{evidence.over}': choose from {', '.join(AXES)}, or a key of the configuration"


def _ratio_problems(evidence: Evidence) -> Iterator[tuple[str, str]]:
    if evidence.relation is Relation.equal:
        yield "relation", "a ratio of seconds is never equal; use same, with a margin"
    if evidence.quantity == TRAIN_RATIO and evidence.compared_to == "control":
        yield (
            "compared_to",
            "the control does not train: leave it out for workload.train_reference, or name cells",
        )
    elif not (evidence.compared_to in (None, "control") or isinstance(evidence.compared_to, Selector)):
        yield "compared_to", "a ratio is compared with the control or with other cells"


def _exact_problems(evidence: Evidence) -> Iterator[tuple[str, str]]:
    if not is_exact(evidence.quantity):
        known = ", ".join([*TIMED, *EXTRA, *(name for name in metrics() if is_exact(name))])
        yield "quantity", f"a claim can't rest on '{evidence.quantity}': choose from {known}"
    elif evidence.relation not in (Relation.greater, Relation.less, Relation.equal):
        yield "relation", f"{evidence.quantity} is deterministic: use greater, less or equal"
    other = evidence.compared_to
    if other is None:
        yield "compared_to", "is missing: control, a number, other cells or a formula"
    if isinstance(other, str) and other != "control":
        yield "compared_to", f"'{other}' is not 'control'"
    if isinstance(other, float) and not math.isfinite(other):
        yield "compared_to", f"{other} is no number to compare with"
    if isinstance(other, tuple):
        for name in (name for product in other for name in product if isinstance(name, str)):
            if name not in (*NAMES, "control") and not is_exact(name):
                yield (
                    "compared_to",
                    f"unknown name '{name}' in a formula: choose from control, {', '.join(NAMES)}, or an exact metric",
                )


def is_exact(name: str) -> bool:
    """Whether a metric of this name needs no interval."""
    return name in metrics() and metrics()[name].exact
