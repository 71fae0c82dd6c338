"""The two objects every method consists of: its settings (`Method`) and what it put into a model (`Attached`)."""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import ClassVar, Self

from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from methods.anatomy import Anatomy, anatomy_of
from methods.checkpoint import FORMAT
from methods.errors import MethodError, Unsupported

OCCUPANT = "_peft_verdict_method"
"""Attribute of a model that names the method inside it."""


@dataclass(frozen=True)
class Count:
    """Parameters by formula: how many train, and how many the checkpoint holds."""

    trained: int
    shipped: int


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """Settings of one method. Subclasses are frozen dataclasses, one a file, that check their values themselves."""

    name: ClassVar[str]
    identity: ClassVar[bool]
    """Whether the model's output is unchanged, bit for bit, right after attaching."""
    mergeable: ClassVar[bool] = False
    lossy_merge: ClassVar[bool] = False
    """Whether a merge rounds the weights by more than floating point does."""

    @property
    @abstractmethod
    def size(self) -> int | None:
        """Rank, bottleneck or number of virtual tokens; None for a method without one."""

    @property
    def virtual_tokens(self) -> int:
        """Positions that the method takes in the cache of every layer, in front of the real tokens."""
        return 0

    def check(self, model: PreTrainedModel) -> Anatomy:
        """Refuses, before anything is built, what `attach` would refuse. Reads names and shapes only.

        Raises:
            MethodError: a setting does not fit the model, or the model's family is unknown.
            Unsupported: the settings are sound but the method can't take this model.
        """
        return anatomy_of(model)

    @abstractmethod
    def count(self, model: PreTrainedModel) -> Count:
        """Trained and shipped parameters by formula, from names and shapes only."""

    def attach(self, model: PreTrainedModel) -> Attached:
        """Freezes ``model``, puts the method into it in place and returns the handle that trains, saves and removes it.

        Raises:
            MethodError: see `check`; or the model holds a method already.
        """
        with _occupied(model, self.name):
            self.check(model)
            return self._attach(model)

    def restore(self, model: PreTrainedModel, shipped: Mapping[str, Tensor]) -> Attached:
        """Puts the method into ``model`` in its serving form, with the tensors of a checkpoint.

        Raises:
            MethodError: a tensor is missing, surplus or of another shape; or the model holds a method already.
        """
        with _occupied(model, self.name):
            self.check(model)
            return self._restore(model, shipped)

    @abstractmethod
    def _attach(self, model: PreTrainedModel) -> Attached:
        """`attach` on a model that was checked."""

    @abstractmethod
    def _restore(self, model: PreTrainedModel, shipped: Mapping[str, Tensor]) -> Attached:
        """`restore` on a model that was checked."""

    @classmethod
    def from_settings(cls, settings: Mapping[str, object]) -> Self:
        """The inverse of `dataclasses.asdict`, for settings read from a checkpoint."""
        known = {field.name for field in dataclasses.fields(cls)}
        if surplus := sorted(set(settings) - known):
            raise MethodError(f"{cls.name} knows no setting {', '.join(surplus)}")
        try:
            return cls(**settings)  # each class checks its own values
        except (TypeError, ValueError) as error:
            raise MethodError(f"{cls.name}: {error}") from error


class State(Enum):
    """Where a method is."""

    ATTACHED = "attached"
    MERGED = "merged"
    DETACHED = "detached"


class Attached(ABC):
    """A method inside a model."""

    method: Method
    model: PreTrainedModel
    """What is called: the model that `Method.attach` was given, or what a method wraps around it."""
    state: State = State.ATTACHED

    @property
    def base(self) -> PreTrainedModel:
        """The model that `Method.attach` was given."""
        return self.model

    @abstractmethod
    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by stable name; none after `serve` or from a checkpoint."""

    @abstractmethod
    def shipped(self) -> dict[str, Tensor]:
        """What a checkpoint holds, by stable name."""

    def resident(self) -> dict[str, Tensor]:
        """What stays in memory at inference because of the method: by default what was shipped."""
        return self.shipped()

    def facts(self) -> dict[str, object]:
        """What a record should say about the trained form besides its parameters, such as final ranks."""
        return {}

    def penalty(self) -> Tensor | None:
        """A scalar that the training loss adds, None where the method has none."""
        return None

    def after_step(self, step: int) -> None:  # noqa: B027  # most methods have nothing to do then
        """Called after ``optimizer.step()`` number ``step`` (from 1), while gradients are still there."""

    def serve(self) -> None:  # noqa: B027
        """Turns the trained form into the serving form: encoders are run once and dropped, pruned ranks removed."""

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

    def _merge(self) -> None:
        """`merge`, for a method that can, while it is in the model."""
        raise Unsupported("nothing that could be merged into the base weights")

    @abstractmethod
    def _detach(self) -> None:
        """`detach`, while the method is in the model."""

    def _leave(self, state: State, leave: Callable[[], None]) -> None:
        if self.state is not State.ATTACHED:
            raise MethodError(f"{self.method.name} is {self.state.value} already; load the base anew to go on from it")
        leave()
        self.state = state
        if hasattr(self.base, OCCUPANT):
            delattr(self.base, OCCUPANT)

    def save(self, path: Path) -> Path:
        """Writes the shipped tensors and the settings into one safetensors file and returns its path."""
        tensors = {name: tensor.detach().contiguous() for name, tensor in self.shipped().items()}
        metadata = {
            "format": FORMAT,
            "method": self.method.name,
            "settings": json.dumps(dataclasses.asdict(self.method), sort_keys=True),
            "base": json.dumps(base_of(self.base), sort_keys=True),
        }
        save_file(tensors, path, metadata=metadata)
        return path


def base_of(model: PreTrainedModel) -> dict[str, object]:
    """What a checkpoint needs of the model that it is loaded into."""
    anatomy = anatomy_of(model)
    return {"family": anatomy.family.name, "layers": len(anatomy.layers), "hidden_size": anatomy.hidden_size}


@contextmanager
def _occupied(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Marks the model as holding a method; a second one would freeze the first, or be dropped when it is removed."""
    if holds := getattr(model, OCCUPANT, None):
        raise MethodError(f"the model holds {holds} already; merge or detach it first")
    setattr(model, OCCUPANT, name)
    try:
        yield
    except BaseException:
        delattr(model, OCCUPANT)
        raise


def freeze(model: nn.Module) -> None:
    """No parameter of the base trains."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
