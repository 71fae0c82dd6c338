"""The modules that a checkpoint of peft's low-rank methods adapts: ``target_modules``, to and from projections."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from transformers import PreTrainedModel

from methods.architectures import ALL_LINEAR, architecture_of
from methods.errors import MethodError
from methods.peft_format.config import USE_PEFT, shorten
from methods.projections import Projection


def target_names(model: PreTrainedModel, paths: Sequence[str]) -> list[str]:
    """Names for ``target_modules`` that match exactly ``paths``: the shortest ends of the paths that do."""
    for length in (1, 2):
        ends = sorted({".".join(path.split(".")[-length:]) for path in paths})
        if _matching(model, ends) == set(paths):
            return ends
    return sorted(paths)


def target_projections(model: PreTrainedModel, config: Mapping[str, object]) -> tuple[list[str], list[Projection]]:
    """The roles that ``target_modules`` names, and those of their projections that it matches.

    Raises:
        MethodError: it names modules that no method here adapts, or none that the model has.
    """
    targets = cast("str | Iterable[str]", config.get("target_modules"))
    known = {projection.path: projection for projection in architecture_of(model).projections(model, [ALL_LINEAR])}
    paths = set(known) if targets == ALL_LINEAR else _matching(model, targets)
    if foreign := sorted(paths - set(known)):
        raise MethodError(
            f"target_modules of the checkpoint include {foreign[0]}, which is not a linear layer of the decoder and "
            f"is not supported by this implementation; {USE_PEFT}"
        )
    found = [projection for path, projection in known.items() if path in paths]
    if not found:
        raise MethodError(f"target_modules of the checkpoint ({shorten(targets)}) match no module of the model")
    return list(dict.fromkeys(projection.role for projection in found)), found


def _matching(model: PreTrainedModel, targets: str | Iterable[str]) -> set[str]:
    """Paths of the modules that peft adapts: a string is a pattern for the whole path, a list holds ends of paths."""
    paths = [path for path, _ in model.named_modules()]
    if isinstance(targets, str):
        return {path for path in paths if re.fullmatch(targets, path)}
    ends = tuple(f".{end}" for end in targets)
    return {path for path in paths if f".{path}".endswith(ends)}
