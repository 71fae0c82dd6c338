"""Claim files: YAML in, checked claims out."""

from __future__ import annotations

import dataclasses
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from bench.claims.claim import Claim, Evidence, Relation, Selector
from bench.claims.validate import _problems
from bench.errors import UsageError

STRUCTURE = ("operations", "matmuls", "chain", "matmul_chain")
"""Figures of a phase that equivalence rests on as much as on its seconds."""


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
