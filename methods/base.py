"""The two objects every method consists of: its settings (`Method`) and what it put into a model (`Attached`)."""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from methods.anatomy import Anatomy, anatomy_of
from methods.errors import MethodError

FORMAT = "peft-verdict/1"


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

    @abstractmethod
    def attach(self, model: PreTrainedModel) -> Attached:
        """Freezes ``model``, puts the method into it in place and returns the handle that trains, saves and removes it.

        Raises:
            MethodError: see `check`.
        """

    @abstractmethod
    def restore(self, model: PreTrainedModel, shipped: Mapping[str, Tensor]) -> Attached:
        """Puts the method into ``model`` in its serving form, with the tensors of a checkpoint.

        Raises:
            MethodError: a tensor is missing, surplus or of another shape.
        """

    @classmethod
    def from_settings(cls, settings: Mapping[str, object]) -> Self:
        """The inverse of `dataclasses.asdict`, for settings read from a checkpoint."""
        known = {field.name for field in dataclasses.fields(cls)}
        if surplus := sorted(set(settings) - known):
            raise MethodError(f"{cls.name} knows no setting {', '.join(surplus)}")
        return cls(**settings)  # each class checks its own values


class Attached(ABC):
    """A method inside a model."""

    method: Method
    model: PreTrainedModel

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
            MethodError: the method can't be merged.
        """
        raise MethodError(f"{self.method.name} has no merged form")

    @abstractmethod
    def detach(self) -> None:
        """Removes the method and leaves the base as it was, bit for bit.

        Raises:
            MethodError: the base weights themselves were changed (full fine-tuning, a merged method).
        """

    def save(self, path: Path) -> Path:
        """Writes the shipped tensors and the settings into one safetensors file and returns its path."""
        tensors = {name: tensor.detach().contiguous() for name, tensor in self.shipped().items()}
        settings = json.dumps(dataclasses.asdict(self.method), sort_keys=True)
        save_file(tensors, path, metadata={"format": FORMAT, "method": self.method.name, "settings": settings})
        return path


def freeze(model: nn.Module) -> None:
    """No parameter of the base trains."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def whole(value: int, what: str, least: int = 1) -> None:
    """Refuses a count that is no whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise MethodError(f"{what} must be a whole number of at least {least}, not {value}")


def within(value: float, what: str, low: float, high: float) -> None:
    """Refuses a number outside [low, high]."""
    if not low <= value <= high:
        raise MethodError(f"{what} must lie between {low} and {high}, not {value}")


def expect(shipped: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], method: str) -> None:
    """Refuses tensors that are not exactly those of ``shapes``.

    Raises:
        MethodError: naming what is missing, surplus or of another shape.
    """
    if missing := sorted(set(shapes) - set(shipped)):
        raise MethodError(f"the {method} checkpoint lacks {_few(missing)}")
    if surplus := sorted(set(shipped) - set(shapes)):
        raise MethodError(f"the {method} checkpoint holds {_few(surplus)}, which the model has no place for")
    for name, shape in shapes.items():
        if tuple(shipped[name].shape) != shape:
            got = tuple(shipped[name].shape)
            raise MethodError(f"{name} of the {method} checkpoint has shape {got}, the model needs {shape}")


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def read_checkpoint(path: Path) -> tuple[str, dict[str, object], dict[str, Tensor]]:
    """Method name, settings and tensors of a file written by `Attached.save`.

    Raises:
        MethodError: the file is absent, torn or not ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping, has only keys()
    except (OSError, SafetensorError) as error:
        raise MethodError(f"{path} can't be read as a checkpoint: {error}") from error
    if metadata.get("format") != FORMAT:
        raise MethodError(f"{path} is no {FORMAT} checkpoint (format: {metadata.get('format')})")
    return metadata["method"], json.loads(metadata["settings"]), tensors
