"""Any method of Hugging Face peft (https://github.com/huggingface/peft), run by that library itself.

``config`` fills the configuration class that peft registers for ``type``. `get_peft_model` wraps the model, and peft
trains, saves, loads and merges. What is called afterwards is what runs when peft generates.
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

from methods.attached import mark_attached
from methods.base import Attached, Count, Method
from methods.checkpoint import expect
from methods.compat import cache_argument
from methods.errors import MethodError, Unsupported
from methods.peft_library import library, refusals
from methods.peft_model import PeftAttached, own_storage, tensors_of, try_out
from methods.peft_resolve import ADAPTER, plain, refuse_idle, rehearse, resolve
from methods.validators import Options, PositiveInt
from methods.virtual import require_arguments

SIZES = ("num_virtual_tokens", "target_r", "r", "rank", "n_frequency", "oft_block_size", "block_size")
"""Keys of peft's configurations that say how large a method is. The first one that a configuration sets counts."""
SAVED_OTHERWISE = {"inference_mode"}
"""Keys whose value in a checkpoint is not the one that the method was trained with."""
PREFIXES = ("PREFIX_TUNING", "CARTRIDGE")
"""Types of peft whose virtual tokens are keys and values. Those of the others are embeddings."""
FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, kw_only=True)
class Peft(Method):
    """The method that peft registers as ``type``, with ``config`` and peft's defaults for the rest."""

    name: ClassVar[str] = "peft"
    identity: ClassVar[bool] = False  # True of some types only
    mergeable: ClassVar[bool] = True  # a merge is tried, and peft says why it can't be done
    packages: ClassVar[tuple[str, ...]] = ("peft",)

    type: str
    """A name of ``peft.PeftType``: LORA, VERA, ..."""
    config: Options = field(default_factory=dict)
    """Fields of that type's configuration class."""
    total_steps: PositiveInt | None = None
    """Optimizer steps of the whole training, for types with a schedule (``total_step``)."""
    label: str | None = None
    """What tables call the method. None stands for ``type`` in small letters."""

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
        # in some types 0 means that another key counts
        return next((v for v in values if isinstance(v, int) and not isinstance(v, bool) and v > 0), None)

    @property
    def virtual_tokens(self) -> int:
        try:
            config = self.configuration()
        except MethodError:
            return 0
        return int(config.num_virtual_tokens or 0) if config.is_prompt_learning else 0

    def configuration(self) -> Any:
        """Makes a new ``PeftConfig``, because peft writes into one that it uses.

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
        config = self.configuration()
        if config.is_prompt_learning:
            means = cache_argument(model) if config.peft_type in PREFIXES else "inputs_embeds"
            require_arguments(model, means, "logits_to_keep")
        with refusals(self.type):
            wrapped = rehearse(model, self.configuration)
            if wrapped is not None:
                refuse_idle(model, self.config, wrapped)

    def count(self, model: PreTrainedModel) -> Count:
        raise Unsupported("there is no formula for the parameters of peft's methods; attach the method and count them")

    def load(self, model: PreTrainedModel, path: Path) -> Attached:
        if lacking := [name for name in FILES if not (path / name).is_file()]:
            raise MethodError(f"{path} is not a checkpoint of peft: it has no {' and no '.join(lacking)}")
        with mark_attached(model, self.name):
            with refusals(self.type):
                asked = resolve(model, self.configuration)
            if getattr(asked, "bias", "none") != "none":  # peft then loads into the base's own biases, in place
                own_storage(model, [one for name, one in model.named_parameters() if name.endswith("bias")])
            own = tensors_of(model)
            with refusals(self.type), warnings.catch_warnings():
                # missing keys, of which it warns, are an error below
                warnings.filterwarnings("ignore", message="Found missing adapter keys")
                wrapped = library().PeftModel.from_pretrained(model, str(path))
            attached = PeftAttached(self, self.type, model, wrapped, own)
            with attached.or_undone():
                self._expect(asked, wrapped.peft_config[ADAPTER], path)
                stored = load_file(path / FILES[1])
                expect(stored, {name: tuple(t.shape) for name, t in attached.shipped().items()}, f"peft {self.type}")
                attached.prepare_for_inference()
                attached.call_as_generate_does()
            return attached

    def _expect(self, asked: Any, found: Any, path: Path) -> None:
        """Refuses a folder of another type, or of other values of the keys in ``config``.

        Values are compared as peft resolves them for this model: a checkpoint holds nothing else.
        """
        if (kind := str(found.peft_type.value)) != self.type:
            raise MethodError(f"{path} is a checkpoint of peft's {kind}, not of {self.type}")
        for key in self.config.keys() - SAVED_OTHERWISE:
            wanted, there = (plain(getattr(one, key, None)) for one in (asked, found))
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
        raise MethodError("peft itself loads its checkpoints, from a folder; use load")

    def _defaults(self) -> dict[str, Any]:
        """The keys of the type's configuration class with their defaults; none for a type that peft does not have."""
        kind = _kinds().get(self.type)
        return {f.name: f.default for f in dataclasses.fields(kind) if f.init} if kind is not None else {}


def _kinds() -> dict[str, Any]:
    """Every configuration class that peft has registered, by type."""
    library()
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return {str(kind.value): config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}


def _hint(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; choose from {', '.join(sorted(known))}"
