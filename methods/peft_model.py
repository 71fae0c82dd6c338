"""A model inside the wrapper of Hugging Face peft, and what that wrapper needs to be called like any other model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from methods.base import Attached, Method, State
from methods.compat import OLD_CACHE_NAME, cache_argument
from methods.errors import MethodError, Unsupported
from methods.peft_format.config import INITS_THAT_KEEP_THE_BASE

ADAPTER = "default"
"""The name that peft gives an adapter when nobody gives it another."""


def library() -> Any:
    """The package, which takes seconds to import.

    Raises:
        Unsupported: it is not there.
    """
    try:
        import peft
    except ImportError as error:
        raise Unsupported(f"Hugging Face peft can't be imported: {error}") from error
    return peft


COMPILERS = ("CC", "CXX")
"""What peft sets to build BOFT's kernels and leaves so where that fails: whoever compiles C++ next would do it with a
compiler for C."""


@contextmanager
def refusals(kind: str) -> Iterator[None]:
    """Whatever peft raises about a configuration or a model, as the reason of a cell that can't be run.

    The environment's compilers are put back.
    """
    before = {name: os.environ.get(name) for name in COMPILERS}
    try:
        yield
    except (MethodError, OSError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # it raises all kinds, and has none of its own
        reason = " ".join(str(error).split()) or "no reason given"
        raise Unsupported(f"peft refuses {kind}: {type(error).__name__}: {reason[:300]}") from error
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class PeftAttached(Attached):
    """A model inside peft's wrapper."""

    def __init__(self, method: Method, kind: str, model: PreTrainedModel, wrapped: Any, own: set[int]) -> None:
        """``kind``: peft's type; ``own``: what `tensors_of` said of the model before it was wrapped."""
        super().__init__(method, model)
        self.kind = kind
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

    def named_parameters(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.wrapped.named_parameters() if id(parameter) not in self.own}

    def trained(self) -> dict[str, nn.Parameter]:
        """Whatever peft trains, which may be parameters of the base too (biases)."""
        return {name: parameter for name, parameter in self.wrapped.named_parameters() if parameter.requires_grad}

    def shipped(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = library().get_peft_model_state_dict(self.wrapped)
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
        card = folder / "README.md"  # peft puts an empty model card there, or changes what is there
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
        """peft writes the files."""

    def call_as_generate_does(self) -> None:
        """Has ``model`` be what runs for each token when peft generates.

        `PeftModel.generate` hands over to the model inside, in which peft's layers are: the wrapper runs once a text
        and not once a token. Types that do something in the wrapper's own forward pass, which the outputs show, are
        called through it.
        """
        if not isinstance(self.model, Prompted) and _same_outputs(self.wrapped, self.holder):
            self.model = self.holder

    @contextmanager
    def or_undone(self) -> Iterator[None]:
        """Takes peft's layers out of the model again if it turns out that they can't stay."""
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
        """Copies the weights that a merge changes: peft adds to them in place, and another model may share them."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers: list[Any] = [layer for layer in self.wrapped.modules() if isinstance(layer, BaseTunerLayer)]
        for module in {id(module): module for layer in layers for module in layer.modules()}.values():
            for name, parameter in list(module.named_parameters(recurse=False)):
                if id(parameter) in self.own:
                    setattr(module, name, nn.Parameter(parameter.detach().clone(), requires_grad=False))

    def detach(self) -> None:
        start = getattr(self.wrapped.peft_config[ADAPTER], "init_lora_weights", True)
        if start not in INITS_THAT_KEEP_THE_BASE:
            raise MethodError(f"init_lora_weights {start} changed the base weights; load them anew")
        super().detach()

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


def tensors_of(model: nn.Module) -> set[int]:
    """Which tensors are the base's own."""
    return {id(tensor) for tensor in (*model.parameters(), *model.buffers())}


def _name_task(_module: nn.Module, args: tuple[Any, ...], call: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
    """Types that learn several tasks at once are trained and served on the first."""
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
    except Exception:  # what needs the wrapper may fail in any way without it
        return False
    finally:
        wrapped.train(training)


def try_out(attached: PeftAttached) -> None:
    """One training loss of a few tokens: some types attach at settings with which they can't run."""
    device = next(attached.base.parameters()).device
    ids = torch.zeros(1, 4, dtype=torch.long, device=device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        loss = attached.model(input_ids=ids, labels=ids, use_cache=False).loss
    if not attached.trained():
        raise ValueError("nothing trains at these settings")
    if device.type != "meta" and not bool(torch.isfinite(loss)):
        raise ValueError(f"the loss is {float(loss)} at these settings")
