"""What a claim is: a statement about methods and the evidence that decides it, one YAML file each. Data, never code.

A claim holds where all of its evidence does. A piece of evidence compares one quantity of the cells that the claim is
about with the untouched base (``control``), with other cells, or with a formula: a sum of products of whole numbers
and names, written as a list of lists.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import TypeAdapter, ValidationError

from bench.config.groups import method_settings, options
from bench.config.schema import Device, Precision, Runtime, Workload
from bench.config.sources import DataConfig, ModelConfig
from bench.errors import UsageError
from bench.probes import figures
from bench.records.cell import OURS, STRICT
from bench.records.record import MERGED, UNMERGED
from bench.records.stats import margin_log

TIMED = ("prefill_ratio", "decode_ratio")
"""Ratios to the control: a number a process, hence an interval."""
EXTRA = ("prefill_extra_seconds", "decode_extra_seconds")
"""Seconds a step beyond the control's; what growth is read from, since a ratio hides it where the base grows too."""
STRUCTURE = ("operations", "matmuls", "chain", "matmul_chain")
"""Figures of a phase that equivalence rests on as much as on its seconds."""
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


class Relation(StrEnum):
    """How a quantity must stand to what it is compared with."""

    greater = "greater"
    less = "less"
    equal = "equal"
    """Exactly: for figures without noise."""
    same = "same"
    """Within the margin either way (two one-sided tests): for ratios."""
    not_greater = "not_greater"
    """Not more by as much as the margin: for ratios."""
    grows = "grows"
    """A slope above zero over `Evidence.over`: for extra seconds."""


@dataclass(frozen=True)
class Selector:
    """Cells."""

    __pydantic_config__: ClassVar = STRICT

    method: tuple[str, ...]
    state: str = UNMERGED
    implementation: str = OURS
    """Whose code; ``peft`` for what that library runs, where ``method`` is the type in small letters."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """Values that dotted keys of the configuration must have."""


@dataclass(frozen=True)
class Evidence:
    """One thing that must hold."""

    __pydantic_config__: ClassVar = STRICT

    quantity: str
    relation: Relation
    than: str | float | Selector | tuple[tuple[int | str, ...], ...] | None = None
    """``control``, a number, other cells, or a formula. A ratio without it is compared with 1, which is the control."""
    equal_size: bool = False
    """Of other cells, only those of the same size."""
    times: float = 1.0
    """Factor on what it is compared with."""
    margin: float = 0.03
    """Of a ratio, the smallest difference that matters, as a fraction."""
    over: str | None = None
    """What it grows over."""
    state: str | None = None
    """Another state than the claim's."""

    @property
    def phase(self) -> str:
        """``decode`` of ``decode_ratio``."""
        return self.quantity.partition("_")[0]

    @property
    def timed(self) -> bool:
        """Whether it rests on a clock."""
        return self.quantity in (*TIMED, *EXTRA)


class Expected(StrEnum):
    """What the harness's authors think a claim will come out as."""

    supported = "supported"
    refuted = "refuted"


@dataclass(frozen=True)
class Claim:
    """A statement and what decides it."""

    __pydantic_config__: ClassVar = STRICT

    statement: str
    source: str
    about: Selector | None = None
    evidence: tuple[Evidence, ...] = ()
    settle: tuple[str, ...] = ()
    """Overrides of a sweep that has the cells."""
    across: tuple[str, ...] = ()
    """Dotted keys in which the cells may differ and still be judged as one."""
    later: str | None = None
    """Why it can't be decided yet."""
    expected: Expected | None = None
    """Another verdict ends the command with status 1."""
    id: str = ""
    """The file's name."""


def load_claims(folder: Path | None = None) -> list[Claim]:
    """The claims of a folder, ``conf/claim`` where none is given, by name.

    Raises:
        UsageError: naming the file and the key that is wrong.
    """
    try:
        place: Traversable = resources.files("conf") / "claim" if folder is None else folder
        files = sorted((file for file in place.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    except OSError as error:
        raise UsageError(f"--claims {folder}: {error.strerror}") from error
    if not files:
        raise UsageError(f"--claims {folder} holds no claims: give a folder of YAML files")
    return [read_claim(file) for file in files]


def read_claim(file: Traversable) -> Claim:
    """One claim.

    Raises:
        UsageError: naming the file and the key that is wrong.
    """
    try:
        raw = _listed(yaml.safe_load(file.read_text()))
    except OSError as error:
        raise UsageError(f"{file} can't be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none, an alias of itself
        raise UsageError(f"{file} is no YAML of a claim: {' '.join(str(error).split())}") from error
    try:
        claim = TypeAdapter(Claim).validate_python(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the top level"
        raise UsageError(f"{file}: {where}: {first['msg']}") from error
    claim = dataclasses.replace(claim, id=file.name.removesuffix(".yaml"))
    for key, problem in _problems(claim):
        raise UsageError(f"{file}: {key}: {problem}")
    return dataclasses.replace(claim, evidence=(*claim.evidence, *_structure(claim)))


def _structure(claim: Claim) -> list[Evidence]:
    """What must be the same beside a ratio that is: two computations of the same duration may still be two."""
    there = {(evidence.quantity, evidence.state) for evidence in claim.evidence}
    return [
        Evidence(f"{evidence.phase}_{name}", Relation.equal, "control", state=evidence.state)
        for evidence in claim.evidence
        if evidence.relation is Relation.same and not isinstance(evidence.than, Selector)
        for name in STRUCTURE
        if (f"{evidence.phase}_{name}", evidence.state) not in there
    ]


def _listed(raw: object) -> object:
    """One method or override may be written without a list."""
    if isinstance(raw, dict):
        return {
            key: [value] if key in ("method", "settle") and isinstance(value, str) else _listed(value)
            for key, value in raw.items()
        }
    return [_listed(value) for value in raw] if isinstance(raw, list) else raw


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
