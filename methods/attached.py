"""A method inside a model, and the mark on the model that says so."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from methods.architectures import SIZES_BEFORE, architecture_of, sizes_of
from methods.checkpoint import Origin, checkpoint_bytes, write_checkpoint
from methods.errors import MethodError, Unsupported
from methods.settings import Settings

ATTACHED_METHOD = "_peft_verdict_method"
"""Attribute of a model that names the method inside it."""


class State(Enum):
    """Where a method is."""

    ATTACHED = "attached"
    MERGED = "merged"
    DETACHED = "detached"


class Attached(ABC):
    """A method inside a model.

    A subclass names its parameters in `named_parameters`. It puts modules into the model with `replace_module`, or
    keeps the handles of its hooks in ``hooks``. The rest has defaults.
    """

    def __init__(self, method: Settings, model: PreTrainedModel) -> None:
        self.method = method
        self.model = model
        """What is called: the model that `methods.base.Method.attach` was given, or what the method wraps around it."""
        self.state = State.ATTACHED
        self.replaced: dict[str, nn.Module] = {}
        """The modules of the base that `replace_module` took out, by path."""
        self.hooks: list[RemovableHandle] = []
        """Handles of the hooks that are removed when the method is."""

    @property
    def base(self) -> PreTrainedModel:
        """The model that `methods.base.Method.attach` was given."""
        return self.model

    @abstractmethod
    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Every parameter that the method has in the model now, by a name that is the same in every such model."""

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by stable name. A method that is ready for inference has none."""
        return {name: parameter for name, parameter in self.named_parameters().items() if parameter.requires_grad}

    def shipped(self) -> dict[str, Tensor]:
        """What a checkpoint holds, by stable name."""
        return {name: parameter.detach() for name, parameter in self.named_parameters().items()}

    def resident(self) -> dict[str, Tensor]:
        """What stays in memory at inference because of the method: what is shipped, and nothing after a merge."""
        return {} if self.state is State.MERGED else self.shipped()

    def metadata(self) -> dict[str, object]:
        """What is worth recording about the trained form besides its parameters, such as final ranks."""
        return {}

    def training_state(self) -> Iterable[Tensor]:
        """Tensors that the method keeps from one training step to the next beside parameters and buffers."""
        return ()

    def regularization_loss(self) -> Tensor | None:
        """A scalar to add to the training loss, None where the method has none."""
        return None

    def after_step(self, step: int) -> None:  # noqa: B027  # most methods have nothing to do then
        """Called after ``optimizer.step()`` number ``step`` (from 1), while gradients are still there."""

    def prepare_for_inference(self) -> None:
        """Turns the trained form into the form for inference: runs encoders once and drops them, removes pruned ranks.

        By default the parameters stay as they are, and no longer require gradients.
        """
        for parameter in self.named_parameters().values():
            parameter.requires_grad_(False)

    def merge(self) -> None:
        """Folds the method into the base weights and removes it from the module tree.

        Raises:
            Unsupported: the method has no merged form on this model.
            MethodError: the method is no longer in the model.
        """
        self._leave(State.MERGED, self._merge)

    def detach(self) -> None:
        """Removes the method and leaves the base as it was, bit for bit.

        Raises:
            MethodError: the base weights themselves were changed (full fine-tuning, a merged method).
        """
        self._leave(State.DETACHED, self._detach)

    def save(self, folder: Path) -> Path:
        """Makes a folder that holds the method, in peft's format where peft has it, and returns the folder.

        `methods.checkpoint` describes the files. Those of an earlier save are overwritten.

        Raises:
            MethodError: the folder can't be made, or it holds a method in another format.
        """
        write_checkpoint(folder, *self._contents())
        return folder

    def checkpoint_bytes(self) -> int | None:
        """Bytes that `save` would write, from shapes alone; None where only writing them tells."""
        return checkpoint_bytes(*self._contents())

    def replace_module(self, path: str, module: nn.Module) -> None:
        """Puts ``module`` in the place of the one at ``path``, in the training mode of the model."""
        self.replaced.setdefault(path, self.base.get_submodule(path))
        self.base.set_submodule(path, module.train(self.base.training))

    def _merge(self) -> None:
        """`merge`, while the method is in the model. By default a method has no merged form."""
        raise Unsupported("nothing that could be merged into the base weights")

    def _detach(self) -> None:
        """`detach`, while the method is in the model: puts back what was replaced, and removes the hooks."""
        for path, module in self.replaced.items():
            self.base.set_submodule(path, module)
        for hook in self.hooks:
            hook.remove()

    def _leave(self, state: State, leave: Callable[[], None]) -> None:
        if self.state is not State.ATTACHED:
            raise MethodError(f"{self.method.name} is {self.state.value} already; load the base again to continue")
        leave()
        self.state = state
        _unmark(self.base)

    def _contents(self) -> tuple[Mapping[str, Tensor], Origin, dict[str, object] | None]:
        """Tensors, where they come from, and peft's configuration where they are in its format."""
        settings, base = dataclasses.asdict(self.method), base_of(self.base)
        if (peft := self.method.peft_format()) is None:
            return self.shipped(), Origin(self.method.name, settings, base), None
        checkpoint = peft.to_peft(self)
        return checkpoint.tensors, Origin(self.method.name, settings, base, checkpoint.ranks), checkpoint.config


def base_of(model: PreTrainedModel) -> dict[str, object]:
    """What a checkpoint requires of the model that it is loaded into: family, number of layers and hidden size."""
    try:
        family = architecture_of(model).family.name
    except MethodError:  # a family that is not known here goes by the name that transformers gives it
        family = model.config.get_text_config().model_type
    sizes = sizes_of(model)
    return {"family": family, "layers": len(sizes.layers), "hidden_size": sizes.hidden_size}


@contextmanager
def mark_attached(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Marks the model as holding the method ``name``. An error that is raised inside takes the mark off again.

    The mark keeps the sizes that the model has without the method.

    A model holds one method, because a second one would freeze the first, or vanish when the first is removed.

    Raises:
        MethodError: the model holds a method already.
    """
    if holds := getattr(model, ATTACHED_METHOD, None):
        raise MethodError(f"the model holds {holds} already; merge or detach it first")
    with suppress(MethodError):  # a method that runs on any model needs no sizes
        setattr(model, SIZES_BEFORE, sizes_of(model))
    setattr(model, ATTACHED_METHOD, name)
    try:
        yield
    except BaseException:
        _unmark(model)
        raise


def _unmark(model: PreTrainedModel) -> None:
    for mark in (ATTACHED_METHOD, SIZES_BEFORE):
        if hasattr(model, mark):
            delattr(model, mark)


def freeze(model: nn.Module) -> None:
    """Makes no parameter of ``model`` require gradients."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
