"""Claim files: YAML in, checked claims out."""

from __future__ import annotations

import dataclasses
from importlib.resources.abc import Traversable
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from bench.claims.claim import TRAIN_RATIO, Claim, Evidence, Relation, Selector
from bench.claims.validate import problems
from bench.config.aliases import claim_from_schema_1
from bench.config.groups import conf
from bench.errors import UsageError

STRUCTURE = ("operations", "matmuls", "critical_path", "critical_path_matmuls")
"""Metrics of a phase that must be equal where its seconds are said to be the same."""


def load_claims(folder: Path | None = None) -> list[Claim]:
    """The claims of a folder by name; of ``conf/claim`` if none is given.

    Raises:
        UsageError: naming the file and the key that is wrong.
    """
    try:
        place = conf() / "claim" if folder is None else folder
        files = sorted((file for file in place.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    except OSError as error:
        raise UsageError(f"--claims {folder}: {error.strerror}") from error
    if not files:
        raise UsageError(f"--claims {folder} holds no claims: give a folder of YAML files")
    return [read_claim(file) for file in files]


def read_claim(file: Traversable) -> Claim:
    """One claim. A file in the words of schema 1 is read as one in today's.

    Raises:
        UsageError: naming the file and the key that is wrong.
    """
    try:
        raw = _listed(claim_from_schema_1(yaml.safe_load(file.read_text())))
    except OSError as error:
        raise UsageError(f"{file} can't be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # an impossible date, an alias of itself
        raise UsageError(f"{file} is no YAML of a claim: {' '.join(str(error).split())}") from error
    try:
        claim = TypeAdapter(Claim).validate_python(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the top level"
        raise UsageError(f"{file}: {where}: {first['msg']}") from error
    claim = dataclasses.replace(claim, id=file.name.removesuffix(".yaml"))
    for key, problem in problems(claim):
        raise UsageError(f"{file}: {key}: {problem}")
    return dataclasses.replace(claim, evidence=(*claim.evidence, *_structure(claim)))


def _structure(claim: Claim) -> list[Evidence]:
    """What must be equal beside a ratio that is the same: two different computations may take equally long."""
    given = {(evidence.quantity, evidence.state) for evidence in claim.evidence}
    return [
        Evidence(f"{evidence.phase}_{name}", Relation.equal, "control", state=evidence.state)
        for evidence in claim.evidence
        if evidence.relation is Relation.same
        and not isinstance(evidence.compared_to, Selector)
        and evidence.quantity != TRAIN_RATIO
        for name in STRUCTURE
        if (f"{evidence.phase}_{name}", evidence.state) not in given
    ]


def _listed(raw: object) -> object:
    """A single method or override may be written without a list."""
    if isinstance(raw, dict):
        return {
            key: [value] if key in ("method", "reproduce") and isinstance(value, str) else _listed(value)
            for key, value in raw.items()
        }
    return [_listed(value) for value in raw] if isinstance(raw, list) else raw
