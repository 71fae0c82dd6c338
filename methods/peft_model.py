"""A model inside the wrapper of Hugging Face peft, called like any other model."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from methods.base import Attached, Method, State
from methods.compat import OLD_CACHE_NAME, cache_argument
from methods.errors import MethodError, Unsupported
from methods.peft_format.config import INITS_THAT_KEEP_THE_BASE
from methods.peft_library import library, refusals
from methods.peft_resolve import ADAPTER


class PeftAttached(Attached):
    """A model inside peft's wrapper."""

    def __init__(self, method: Method, kind: str, model: PreTrainedModel, wrapped: Any, own: set[int]) -> None:
        """``kind`` is peft's type, ``own`` what `tensors_of` returned for the model before it was wrapped."""
        super().__init__(method, model)
        self.kind = kind
        self.holder = model
        self.wrapped = wrapped
        self.own = own
        config = wrapped.peft_config[ADAPTER]
        if any(getattr(config, name, None) for name in ("num_tasks", "n_tasks")):
            wrapped.register_forward_pre_hook(_name_task, with_kwargs=True)
        # peft's wrapper looks up in the model inside what it lacks
        self.model = cast(PreTrainedModel, Prompted(wrapped) if config.is_prompt_learning else wrapped)

    @property
    def base(self) -> PreTrainedModel:
        return self.holder

    def named_parameters(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.wrapped.named_parameters() if id(parameter) not in self.own}

    def trained(self) -> dict[str, nn.Parameter]:
        """Whatever peft trains, which may include parameters of the base (biases)."""
        return {name: parameter for name, parameter in self.wrapped.named_parameters() if parameter.requires_grad}

    def shipped(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = library().get_peft_model_state_dict(self.wrapped)
        return {name: tensor.detach() for name, tensor in tensors.items()}

    def resident(self) -> dict[str, Tensor]:
        if self.state is State.MERGED:
            return {}
        named = (*self.wrapped.named_parameters(), *self.wrapped.named_buffers())
        return {name: tensor.detach() for name, tensor in named if id(tensor) not in self.own}

    def metadata(self) -> dict[str, object]:
        pattern = getattr(self.wrapped.peft_config[ADAPTER], "rank_pattern", None) or {}
        # AdaLoRA's pattern lists for each layer which triplets are kept; LoRA's is a number
        ranks = {name: sum(kept) for name, kept in pattern.items() if isinstance(kept, list)}
        return {"ranks": ranks} if ranks else {}

    def after_step(self, step: int) -> None:
        if hasattr(self.wrapped.base_model, "update_and_allocate"):
            self.wrapped.base_model.update_and_allocate(step)

    def training_state(self) -> list[Tensor]:
        """The importance scores that AdaLoRA's budget is allocated by."""
        allocator = getattr(self.wrapped.base_model, "rankallocator", None)
        return [] if allocator is None else [leaf for leaf in tree_leaves(vars(allocator)) if isinstance(leaf, Tensor)]

    def prepare_for_inference(self) -> None:
        for parameter in self.wrapped.parameters():
            parameter.requires_grad_(False)

    def save(self, folder: Path) -> Path:
        card = folder / "README.md"  # peft writes an empty model card, or changes the one that is there
        before = card.read_bytes() if card.is_file() else None
        try:
            with refusals(self.kind):
                self.wrapped.save_pretrained(str(folder))
            card.unlink(missing_ok=True)
            if before is not None:
                card.write_bytes(before)
        except OSError as error:
            raise MethodError(f"{folder} can't be written: {error}") from error
        return folder

    def checkpoint_bytes(self) -> None:
        """None, because peft writes the files."""

    def call_as_generate_does(self) -> None:
        """Makes ``model`` what runs for each token when peft generates.

        `PeftModel.generate` calls the model inside, which holds peft's layers: the wrapper runs once per text and not
        once per token. Types that compute something in the wrapper's own forward pass are called through the wrapper;
        their outputs differ from those of the model inside.
        """
        if not isinstance(self.model, Prompted) and _same_outputs(self.wrapped, self.holder):
            self.model = self.holder

    @contextmanager
    def or_undone(self) -> Iterator[None]:
        """Takes peft's layers out of the model again where an error is raised inside."""
        try:
            yield
        except BaseException:
            self._detach()
            raise

    def _merge(self) -> None:
        if not hasattr(self.wrapped, "merge_and_unload"):
            raise Unsupported("nothing that could be merged into the base weights")
        self._own_storage()
        with refusals(self.kind):
            self.model = self.wrapped.merge_and_unload()

    def _own_storage(self) -> None:
        """Copies the weights that a merge changes: peft changes them in place, and another model may share them.

        Places of the model that share a weight share the copy: what a merge does to one of them, it does to the others.
        """
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers: list[Any] = [layer for layer in self.wrapped.modules() if isinstance(layer, BaseTunerLayer)]
        parameters = (parameter for layer in layers for parameter in layer.parameters())
        self.own |= own_storage(self.wrapped, [one for one in parameters if id(one) in self.own])

    def detach(self) -> None:
        config = self.wrapped.peft_config[ADAPTER]
        start, bias = getattr(config, "init_lora_weights", True), getattr(config, "bias", "none")
        if start not in INITS_THAT_KEEP_THE_BASE:
            raise MethodError(f"init_lora_weights {start} changed the base weights; load them again")
        if bias != "none":
            raise MethodError(f"bias {bias} trains the base's own biases; load them again")
        super().detach()

    def _detach(self) -> None:
        if hasattr(self.wrapped, "unload"):
            self.wrapped.unload()
        self.model = self.holder


class Prompted(nn.Module):
    """A model with a prompt method of peft, called the way that peft's `generate` calls it.

    peft's own forward pass puts the prompt in front of every input and returns logits for the prompt too. Here a
    prefill is that forward pass without those logits. A call with a filled cache, which holds the prompt already, goes
    to the base model, as in `generate`.
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
        """Looks up in peft's wrapper what a `PreTrainedModel` has and this class lacks."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "wrapped":  # not set yet, as in deepcopy
                raise
            return getattr(self.wrapped, name)


def tensors_of(model: nn.Module) -> set[int]:
    """Identities of the model's own tensors, to tell them from those that peft adds."""
    return {id(tensor) for tensor in (*model.parameters(), *model.buffers())}


def own_storage(model: nn.Module, parameters: Iterable[nn.Parameter]) -> set[int]:
    """Puts a copy of each of ``parameters`` into every place in ``model``, and returns the identities of the copies."""
    # a deep copy of a quantized weight keeps its kind
    copies = {id(one): copy.deepcopy(one).requires_grad_(False) for one in dict.fromkeys(parameters)}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if (own := copies.get(id(parameter))) is not None:
                setattr(module, name, own)
    return {id(one) for one in copies.values()}


def _name_task(_module: nn.Module, args: tuple[Any, ...], call: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
    """Has types that learn several tasks at once train and run on the first task."""
    tokens = args[0] if args else call.get("input_ids")
    if tokens is not None:
        call.setdefault("task_ids", torch.zeros(len(tokens), dtype=torch.long, device=tokens.device))
    return args, call


def _same_outputs(wrapped: Any, model: PreTrainedModel) -> bool:
    ids = torch.zeros(1, 4, dtype=torch.long, device=next(model.parameters()).device)
    training = model.training
    try:
        with torch.no_grad():
            wrapped.eval()
            return torch.equal(wrapped(input_ids=ids).logits, model(input_ids=ids).logits)
    except Exception:  # a type that needs the wrapper may fail in any way without it
        return False
    finally:
        wrapped.train(training)


def try_out(attached: PeftAttached) -> None:
    """Computes one training loss of a few tokens, because some types attach with settings that they can't run with.

    Raises:
        ValueError: nothing trains, or the loss is not finite.
    """
    device = next(attached.base.parameters()).device
    ids = torch.zeros(1, 4, dtype=torch.long, device=device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        loss = attached.model(input_ids=ids, labels=ids, use_cache=False).loss
    if not attached.trained():
        raise ValueError("nothing trains at these settings")
    if device.type != "meta" and not bool(torch.isfinite(loss)):
        raise ValueError(f"the loss is {float(loss)} at these settings")
