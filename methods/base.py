"""The two objects that every method consists of: its settings (`Method`) and what it put into a model (`Attached`)."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from torch import Tensor
from transformers import PreTrainedModel

from methods.architectures import sizes_of
from methods.attached import Attached, State, base_of, freeze, mark_attached
from methods.checkpoint import Checkpoint, PeftCheckpoint, expect, read_checkpoint
from methods.errors import MethodError
from methods.settings import Settings

__all__ = ["Attached", "Count", "Method", "State", "freeze"]

MALFORMED_CONFIG_ERRORS = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, re.error)
"""What reading a configuration of peft may raise, which is JSON of any shape."""


@dataclass(frozen=True)
class Count:
    """Parameters by formula: how many train, and how many the checkpoint holds."""

    trained: int
    shipped: int


@dataclass(frozen=True, kw_only=True)
class Method(Settings):
    """A method: its settings, and how it is put into a model. Subclasses are frozen dataclasses, one a file.

    A subclass has a ``__post_init__`` only where several settings must fit together, and calls the inherited one first.
    """

    def check(self, model: PreTrainedModel) -> None:
        """Refuses what `attach` would refuse, before anything is built. Only names and shapes are read.

        By default a model of any family will do, as long as its sizes can be read.

        Raises:
            MethodError: a setting does not fit the model, or the method needs a family that is known here.
            Unsupported: the settings are valid, but the method can't run on this model or machine.
        """
        sizes_of(model)

    @abstractmethod
    def count(self, model: PreTrainedModel) -> Count:
        """Trained and shipped parameters by formula, from names and shapes only."""

    def attach(self, model: PreTrainedModel) -> Attached:
        """Freezes ``model``, puts the method into it, in place, and returns a handle to train, save and remove it.

        Raises:
            MethodError: see `check`; or the model holds a method already.
        """
        with mark_attached(model, self.name):
            self.check(model)
            return self._attach(model)

    def restore(self, model: PreTrainedModel, shipped: Mapping[str, Tensor]) -> Attached:
        """Puts the method into ``model`` in its form for inference, with the tensors of a checkpoint.

        Raises:
            MethodError: a tensor is missing, surplus or of another shape; or the model holds a method already.
        """
        with mark_attached(model, self.name):
            self.check(model)
            return self._restore(model, shipped)

    def load(self, model: PreTrainedModel, path: Path) -> Attached:
        """Attaches the method in its form for inference, from a folder that holds this method with these settings.

        Raises:
            MethodError: the folder holds no checkpoint, one of another method or of other settings, or one that does
                not fit the model.
        """
        checkpoint = read_checkpoint(path)
        peft = self.peft_format()
        if checkpoint.made_by not in (self.name, peft and peft.PEFT_TYPE):
            raise MethodError(f"{path} holds the method '{checkpoint.made_by}', not {self.name}")
        method, shipped = self.read(model, checkpoint)
        if method != self:
            raise MethodError(f"{path} was made with other settings: it holds {method}, not {self}")
        return method.restore(model, shipped)

    @classmethod
    def read(cls, model: PreTrainedModel, checkpoint: Checkpoint) -> tuple[Self, Mapping[str, Tensor]]:
        """The method that a checkpoint of this class holds, and its tensors under the names of this package.

        Raises:
            MethodError: it was made on another base, its settings make no sense, or it needs what is not supported
                here.
        """
        origin = checkpoint.origin
        if origin is not None and (base := base_of(model)) != origin.base:
            raise MethodError(f"the checkpoint was made on another base: {origin.base}, but the model is {base}")
        method = None if origin is None else cls.from_settings(origin.settings)
        if checkpoint.config is None:
            assert method is not None  # only peft's format may lack an origin
            return method, checkpoint.tensors
        if (peft := cls.peft_format()) is None:
            raise MethodError(f"{cls.name} has no checkpoints in peft's format")
        ranks = {} if origin is None else origin.ranks
        try:
            return peft.from_peft(model, PeftCheckpoint(checkpoint.config, checkpoint.tensors, ranks), method)
        except MethodError:
            raise
        except MALFORMED_CONFIG_ERRORS as error:
            raise MethodError(f"the configuration of the {cls.name} checkpoint is malformed: {error!r}") from error

    @abstractmethod
    def _attach(self, model: PreTrainedModel) -> Attached:
        """`attach` on a model that was checked."""

    def _restore(self, model: PreTrainedModel, shipped: Mapping[str, Tensor]) -> Attached:
        """`restore` on a model that was checked.

        By default this attaches the method and copies each tensor into the parameter of the same name. A method
        overrides it if its checkpoint holds something else, or if `_attach` does more than `Attached.detach` undoes.
        """
        gradients = {parameter: parameter.requires_grad for parameter in model.parameters()}
        attached = self._attach(model)
        parameters = attached.named_parameters()
        try:
            expect(shipped, {name: tuple(parameter.shape) for name, parameter in parameters.items()}, self.name)
        except MethodError:
            attached._detach()
            for parameter, required in gradients.items():
                parameter.requires_grad_(required)
            raise
        for name, parameter in parameters.items():
            parameter.data.copy_(shipped[name])
        attached.prepare_for_inference()
        return attached
