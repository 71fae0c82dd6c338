"""Any method of Hugging Face peft (https://github.com/huggingface/peft), run by that library itself.

Nothing is done over here: the configuration class that peft registers for ``type`` is filled with ``config``,
`get_peft_model` wraps the model, and peft trains, saves, loads and merges. What is called afterwards is peft's own
wrapper, as whoever deploys peft calls it.
"""

from __future__ import annotations

import dataclasses
import difflib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from methods.attached import occupied
from methods.base import Attached, Count, Method
from methods.checkpoint import expect
from methods.errors import MethodError, Unsupported
from methods.peft_model import ADAPTER, PeftAttached, library, refusals, tensors_of, try_out
from methods.validators import Options, PositiveInt

SIZES = ("num_virtual_tokens", "target_r", "r", "rank", "n_frequency", "oft_block_size", "block_size")
"""Keys of peft's configurations that say how large a method is; the first that a configuration sets counts."""
FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, kw_only=True)
class Peft(Method):
    """The method that peft registers as ``type``, at ``config`` and otherwise at peft's defaults."""

    name: ClassVar[str] = "peft"
    identity: ClassVar[bool] = False  # some are, some are not
    mergeable: ClassVar[bool] = True  # so it is tried, and peft says why not

    type: str
    """A name of ``peft.PeftType``: LORA, VERA, ..."""
    config: Options = field(default_factory=dict)
    """Fields of that type's configuration class."""
    total_steps: PositiveInt | None = None
    """Optimiser steps of the whole training, for the types that lay out a schedule (``total_step``)."""
    label: str | None = None
    """What tables call it; None for ``type`` in small letters."""

    @property
    def title(self) -> str:
        return self.label or self.type.lower()

    @property
    def implementation(self) -> str:
        return "peft"

    @property
    def size(self) -> int | None:
        known = self._defaults()
        values = (self.config.get(name, known[name]) for name in SIZES if name in known)
        # 0 is how some types say that another key counts
        return next((v for v in values if isinstance(v, int) and not isinstance(v, bool) and v > 0), None)

    @property
    def virtual_tokens(self) -> int:
        try:
            config = self.configuration()
        except MethodError:
            return 0
        return int(config.num_virtual_tokens or 0) if config.is_prompt_learning else 0

    def configuration(self) -> Any:
        """A new ``PeftConfig``; peft writes into it when it is used.

        Raises:
            Unsupported: peft has no such type, the type has no such key, or peft refuses a value.
        """
        kinds, known = _kinds(), self._defaults()
        if self.type not in kinds:
            raise Unsupported(f"peft {library().__version__} has no type {self.type}{_hint(self.type, list(kinds))}")
        if unknown := sorted(set(self.config) - set(known)):
            raise Unsupported(
                f"{kinds[self.type].__name__} of peft has no key {', '.join(unknown)}{_hint(unknown[0], list(known))}"
            )
        given = {"task_type": "CAUSAL_LM", **self.config}
        if "total_step" in known and self.total_steps is not None:
            given.setdefault("total_step", self.total_steps)
        with refusals(self.type):
            return kinds[self.type](**given)

    def check(self, model: PreTrainedModel) -> None:
        self.configuration()

    def count(self, model: PreTrainedModel) -> Count:
        raise Unsupported("peft has no formula for its parameters: attach the method and count them")

    def load(self, model: PreTrainedModel, path: Path) -> Attached:
        if lacking := [name for name in FILES if not (path / name).is_file()]:
            raise MethodError(f"{path} is no checkpoint of peft: it has no {' and no '.join(lacking)}")
        with occupied(model, self.name):
            own = tensors_of(model)
            with refusals(self.type), warnings.catch_warnings():
                # what it would warn of, missing keys, is an error below
                warnings.filterwarnings("ignore", message="Found missing adapter keys")
                wrapped = library().PeftModel.from_pretrained(model, str(path))
            attached = PeftAttached(self, self.type, model, wrapped, own)
            with attached.or_undone():
                self._expect(wrapped.peft_config[ADAPTER], path)
                stored = load_file(path / FILES[1])
                expect(stored, {name: tuple(t.shape) for name, t in attached.shipped().items()}, f"peft {self.type}")
                attached.serve()
                attached.call_as_generate_does()
            return attached

    def _expect(self, found: Any, path: Path) -> None:
        """Refuses a folder of another type, or of other values of what ``config`` sets."""
        if (kind := str(found.peft_type.value)) != self.type:
            raise MethodError(f"{path} is a checkpoint of peft's {kind}, not of {self.type}")
        mine = self.configuration()
        for key in self.config:
            wanted, there = (_plain(getattr(one, key, None)) for one in (mine, found))
            if wanted != there:
                raise MethodError(f"{path} was made with {key} {there}, not {wanted}")

    def _attach(self, model: PreTrainedModel) -> Attached:
        own = tensors_of(model)
        training = model.training
        with refusals(self.type):
            wrapped = library().get_peft_model(model, self.configuration())
        attached = PeftAttached(self, self.type, model, wrapped, own)
        with attached.or_undone(), refusals(self.type):
            try_out(attached)
        attached.model.train(training)
        return attached

    def _restore(self, model: PreTrainedModel, shipped: Mapping[str, Tensor]) -> Attached:
        raise MethodError("a checkpoint of peft is loaded by peft itself, from its folder: use load")

    def _defaults(self) -> dict[str, Any]:
        """The keys of the type's configuration class and their defaults; none for a type that peft has not."""
        kind = _kinds().get(self.type)
        return {f.name: f.default for f in dataclasses.fields(kind) if f.init} if kind is not None else {}


def _kinds() -> dict[str, Any]:
    """Every configuration class that peft has registered, by type."""
    library()
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return {str(kind.value): config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}


def _plain(value: Any) -> Any:
    """A value of a configuration as JSON would give it back: peft turns lists into sets."""
    return sorted(map(str, value)) if isinstance(value, list | tuple | set) else getattr(value, "value", value)


def _hint(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(known))}"
