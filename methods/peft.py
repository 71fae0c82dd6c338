"""Any method of Hugging Face peft (https://github.com/huggingface/peft), run by that library itself.

Nothing is done over here: the configuration class that peft registers for ``type`` is filled with ``config``,
`get_peft_model` wraps the model, and peft trains, saves, loads and merges. What is called afterwards is peft's own
wrapper, as whoever deploys peft calls it.
"""

from __future__ import annotations

import dataclasses
import difflib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from methods.base import Attached, Count, Method, State, occupied
from methods.checkpoint import expect
from methods.compat import OLD_CACHE_NAME, cache_argument
from methods.errors import MethodError, Unsupported

ADAPTER = "default"
"""The name that peft gives an adapter when nobody gives it another."""
SIZES = ("num_virtual_tokens", "target_r", "r", "rank", "n_frequency", "oft_block_size", "block_size")
"""Keys of peft's configurations that say how large a method is; the first that a configuration sets counts."""
FILES = ("adapter_config.json", "adapter_model.safetensors")


def _library() -> Any:
    try:
        import peft  # takes seconds to import
    except ImportError as error:
        raise Unsupported(f"Hugging Face peft can't be imported: {error}") from error
    return peft


@dataclass(frozen=True, kw_only=True)
class Peft(Method):
    """The method that peft registers as ``type``, at ``config`` and otherwise at peft's defaults."""

    name: ClassVar[str] = "peft"
    identity: ClassVar[bool] = False  # some are, some are not
    mergeable: ClassVar[bool] = True  # so it is tried, and peft says why not

    type: str
    """A name of ``peft.PeftType``: LORA, VERA, ..."""
    config: dict[str, Any] = field(default_factory=dict)
    """Fields of that type's configuration class."""
    total_steps: int | None = None
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
            raise Unsupported(f"peft {_library().__version__} has no type {self.type}{_hint(self.type, list(kinds))}")
        if unknown := sorted(set(self.config) - set(known)):
            raise Unsupported(
                f"{kinds[self.type].__name__} of peft has no key {', '.join(unknown)}{_hint(unknown[0], list(known))}"
            )
        given = {"task_type": "CAUSAL_LM", **self.config}
        if "total_step" in known and self.total_steps is not None:
            given.setdefault("total_step", self.total_steps)
        with self._refusals():
            return kinds[self.type](**given)

    def check(self, model: PreTrainedModel) -> None:
        self.configuration()

    def count(self, model: PreTrainedModel) -> Count:
        raise Unsupported("peft has no formula for its parameters: attach the method and count them")

    def load(self, model: PreTrainedModel, path: Path) -> Attached:
        if lacking := [name for name in FILES if not (path / name).is_file()]:
            raise MethodError(f"{path} is no checkpoint of peft: it has no {' and no '.join(lacking)}")
        with occupied(model, self.name):
            own = _tensors(model)
            with self._refusals(), warnings.catch_warnings():
                # what it would warn of, missing keys, is an error below
                warnings.filterwarnings("ignore", message="Found missing adapter keys")
                wrapped = _library().PeftModel.from_pretrained(model, str(path))
            attached = PeftAttached(self, model, wrapped, own)
            stored = _stored(path / FILES[1])
            expect(stored, {name: tuple(t.shape) for name, t in attached.shipped().items()}, f"peft {self.type}")
            attached.serve()
            return attached

    def _attach(self, model: PreTrainedModel) -> Attached:
        own = _tensors(model)
        training = model.training
        with self._refusals():
            wrapped = _library().get_peft_model(model, self.configuration())
            attached = PeftAttached(self, model, wrapped, own)
            _try_out(attached)
        attached.model.train(training)
        return attached

    def _restore(self, model: PreTrainedModel, shipped: Mapping[str, Tensor]) -> Attached:
        raise MethodError("a checkpoint of peft is loaded by peft itself, from its folder: use load")

    def _defaults(self) -> dict[str, Any]:
        """The keys of the type's configuration class and their defaults; none for a type that peft has not."""
        kind = _kinds().get(self.type)
        return {f.name: f.default for f in dataclasses.fields(kind) if f.init} if kind is not None else {}

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Whatever peft raises about a configuration or a model, as the reason of a cell that can't be run."""
        try:
            yield
        except (MethodError, torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # it raises all kinds, and has none of its own
            reason = " ".join(str(error).split()) or "no reason given"
            raise Unsupported(f"peft refuses {self.type}: {type(error).__name__}: {reason[:300]}") from error


class PeftAttached(Attached):
    """A model inside peft's wrapper."""

    method: Peft

    def __init__(self, method: Peft, model: PreTrainedModel, wrapped: Any, own: set[int]) -> None:
        """``own``: what `_tensors` said of the model before it was wrapped."""
        self.method = method
        self.holder = model
        self.wrapped = wrapped
        self.own = own
        config = wrapped.peft_config[ADAPTER]
        if any(getattr(config, name, None) for name in ("num_tasks", "n_tasks")):
            wrapped.register_forward_pre_hook(_name_task, with_kwargs=True)
        # peft's wrapper passes on what it lacks to the model inside
        self.model = cast(PreTrainedModel, Prompted(wrapped) if config.is_prompt_learning else wrapped)

    @property
    def base(self) -> PreTrainedModel:
        return self.holder

    def trained(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.wrapped.named_parameters() if parameter.requires_grad}

    def shipped(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = _library().get_peft_model_state_dict(self.wrapped)
        return {name: tensor.detach() for name, tensor in tensors.items()}

    def resident(self) -> dict[str, Tensor]:
        if self.state is State.MERGED:
            return {}
        named = (*self.wrapped.named_parameters(), *self.wrapped.named_buffers())
        return {name: tensor.detach() for name, tensor in named if id(tensor) not in self.own}

    def facts(self) -> dict[str, object]:
        pattern = getattr(self.wrapped.peft_config[ADAPTER], "rank_pattern", None) or {}
        # a budget that was spread is a list of kept triplets a layer; LoRA's pattern is a number
        ranks = {name: sum(kept) for name, kept in pattern.items() if isinstance(kept, list)}
        return {"ranks": ranks} if ranks else {}

    def after_step(self, step: int) -> None:
        if hasattr(self.wrapped.base_model, "update_and_allocate"):
            self.wrapped.base_model.update_and_allocate(step)

    def serve(self) -> None:
        for parameter in self.wrapped.parameters():
            parameter.requires_grad_(False)

    def save(self, folder: Path) -> Path:
        with self.method._refusals():
            self.wrapped.save_pretrained(str(folder))
        (folder / "README.md").unlink(missing_ok=True)  # an empty model card
        return folder

    def _merge(self) -> None:
        if not hasattr(self.wrapped, "merge_and_unload"):
            raise Unsupported("nothing that could be merged into the base weights")
        self._own_storage()
        with self.method._refusals():
            self.model = self.wrapped.merge_and_unload()

    def _own_storage(self) -> None:
        """Copies the weights that a merge changes: peft adds to them in place, and another model may share them."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers: list[Any] = [layer for layer in self.wrapped.modules() if isinstance(layer, BaseTunerLayer)]
        for module in {id(module): module for layer in layers for module in layer.modules()}.values():
            for name, parameter in list(module.named_parameters(recurse=False)):
                if id(parameter) in self.own:
                    setattr(module, name, nn.Parameter(parameter.detach().clone(), requires_grad=False))

    def _detach(self) -> None:
        if hasattr(self.wrapped, "unload"):
            self.wrapped.unload()
        self.model = self.holder


class Prompted(nn.Module):
    """peft's prompt methods, called the way its `generate` calls them.

    peft's own forward pass puts the prompt in front of whatever it is given and returns logits for the prompt too. Here
    a prefill is that forward pass less those logits, and a call with a filled cache, which holds the prompt already,
    goes straight to the base model, as it does in `generate`.
    """

    def __init__(self, wrapped: Any) -> None:
        super().__init__()
        self.wrapped = wrapped
        self.argument = cache_argument(wrapped.get_base_model())

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **call: Any) -> Any:
        """input_ids [B, T]; logits [B, T, V]."""
        cache = call.get(self.argument, call.get(OLD_CACHE_NAME))
        if cache is not None and cache.get_seq_length():
            if attention_mask is not None:
                front = attention_mask.new_ones(len(attention_mask), self._count())
                attention_mask = torch.cat([front, attention_mask], dim=1)
            return self.wrapped.base_model(input_ids=input_ids, attention_mask=attention_mask, **call)
        if call.get("labels") is None:
            length = input_ids.shape[1]
            call["logits_to_keep"] = min(call.get("logits_to_keep") or length, length)
        return self.wrapped(input_ids=input_ids, attention_mask=attention_mask, **call)

    def _count(self) -> int:
        return int(self.wrapped.peft_config[ADAPTER].num_virtual_tokens)

    def __getattr__(self, name: str) -> Any:
        """What a `PreTrainedModel` has and this lacks."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "wrapped":  # not there yet, or asked for by deepcopy
                raise
            return getattr(self.wrapped, name)


def _kinds() -> dict[str, Any]:
    """Every configuration class that peft has registered, by type."""
    _library()
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return {str(kind.value): config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}


def _hint(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(known))}"


def _tensors(model: nn.Module) -> set[int]:
    """Which tensors are the base's own."""
    return {id(tensor) for tensor in (*model.parameters(), *model.buffers())}


def _name_task(_module: nn.Module, args: tuple[Any, ...], call: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
    """Types that learn several tasks at once are trained and served on the first."""
    tokens = args[0] if args else call.get("input_ids")
    if tokens is not None:
        call.setdefault("task_ids", torch.zeros(len(tokens), dtype=torch.long, device=tokens.device))
    return args, call


def _try_out(attached: PeftAttached) -> None:
    """One training loss of a few tokens: some types attach at settings with which they can't run."""
    device = next(attached.base.parameters()).device
    ids = torch.zeros(1, 4, dtype=torch.long, device=device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        loss = attached.model(input_ids=ids, labels=ids, use_cache=False).loss
    if not attached.trained():
        raise ValueError("nothing trains at these settings")
    if device.type != "meta" and not bool(torch.isfinite(loss)):
        raise ValueError(f"the loss is {float(loss)} at these settings")


def _stored(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(file)
