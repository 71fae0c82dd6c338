"""The two objects every method consists of: its settings (`Method`) and what it put into a model (`Attached`)."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import ClassVar, Self, cast

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from methods import peft_format as formats
from methods.anatomy import anatomy_of, sizes_of
from methods.checkpoint import (
    Checkpoint,
    Origin,
    PeftCheckpoint,
    PeftFormat,
    checkpoint_bytes,
    expect,
    read_checkpoint,
    write_checkpoint,
)
from methods.errors import MethodError, Unsupported
from methods.validators import check_settings

IMPLEMENTATION = "peft-verdict"
"""Whose code the methods of this package are."""

MALFORMED_CONFIG_ERRORS = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, re.error)
"""What reading a configuration of peft may raise, which is JSON of any shape."""

OCCUPANT = "_peft_verdict_method"
"""Attribute of a model that names the method inside it."""


@dataclass(frozen=True)
class Count:
    """Parameters by formula: how many train, and how many the checkpoint holds."""

    trained: int
    shipped: int


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """Settings of one method. Subclasses are frozen dataclasses, one a file.

    Each setting is checked by its annotation (`methods.validators`) when an instance is made. A subclass has a
    ``__post_init__`` only where several settings must fit together, and calls this one first.
    """

    name: ClassVar[str]
    identity: ClassVar[bool]
    """Whether the model's output is unchanged, bit for bit, right after attaching."""
    mergeable: ClassVar[bool] = False
    lossy_merge: ClassVar[bool] = False
    """Whether a merge rounds the weights by more than floating point does."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def title(self) -> str:
        """What tables call it; differs from ``name`` where one class runs several methods."""
        return self.name

    @property
    def implementation(self) -> str:
        """Whose code it is: ours, or the package that brings it."""
        package = type(self).__module__.partition(".")[0]
        return IMPLEMENTATION if package == __package__ else package

    @property
    def size(self) -> int | None:
        """Rank, bottleneck or number of virtual tokens; None for a method without one."""
        return None

    @property
    def virtual_tokens(self) -> int:
        """Positions that the method takes in the cache of every layer, in front of the real tokens."""
        return 0

    def check(self, model: PreTrainedModel) -> None:
        """Refuses, before anything is built, what `attach` would refuse. Reads names and shapes only.

        Raises:
            MethodError: a setting does not fit the model, or the model's family is unknown.
            Unsupported: the settings are sound but the method can't take this model.
        """
        anatomy_of(model)

    @abstractmethod
    def count(self, model: PreTrainedModel) -> Count:
        """Trained and shipped parameters by formula, from names and shapes only."""

    def attach(self, model: PreTrainedModel) -> Attached:
        """Freezes ``model``, puts the method into it in place and returns the handle that trains, saves and removes it.

        Raises:
            MethodError: see `check`; or the model holds a method already.
        """
        with occupied(model, self.name):
            self.check(model)
            return self._attach(model)

    def restore(self, model: PreTrainedModel, shipped: Mapping[str, Tensor]) -> Attached:
        """Puts the method into ``model`` in its serving form, with the tensors of a checkpoint.

        Raises:
            MethodError: a tensor is missing, surplus or of another shape; or the model holds a method already.
        """
        with occupied(model, self.name):
            self.check(model)
            return self._restore(model, shipped)

    def load(self, model: PreTrainedModel, path: Path) -> Attached:
        """Attaches, in its serving form, what a folder holds of this very method.

        Raises:
            MethodError: the folder holds no checkpoint, one of another method or of other settings, or one that does
                not fit the model.
        """
        found = read_checkpoint(path)
        peft = self.peft_format()
        if found.made_by not in (self.name, peft and peft.PEFT_TYPE):
            raise MethodError(f"{path} holds the method '{found.made_by}', not {self.name}")
        method, shipped = self.read(model, found)
        if method != self:
            raise MethodError(f"{path} was made with other settings: it holds {method}, not {self}")
        return method.restore(model, shipped)

    @classmethod
    def read(cls, model: PreTrainedModel, found: Checkpoint) -> tuple[Self, Mapping[str, Tensor]]:
        """The method that a checkpoint of this class holds, and its tensors under our names.

        Raises:
            MethodError: it was made on another base, its settings make no sense, or ours can't do what they ask for.
        """
        if found.origin is not None and (base := base_of(model)) != found.origin.base:
            raise MethodError(f"the checkpoint was made on another base: {found.origin.base}, and this one is {base}")
        method = None if found.origin is None else cls.from_settings(found.origin.settings)
        if found.config is None:
            assert method is not None  # only peft's format may lack an origin
            return method, found.tensors
        if (peft := cls.peft_format()) is None:
            raise MethodError(f"{cls.name} has no checkpoints in peft's format")
        try:
            ranks = {} if found.origin is None else found.origin.ranks
            return peft.from_peft(model, PeftCheckpoint(found.config, found.tensors, ranks), method)
        except MethodError:
            raise
        except MALFORMED_CONFIG_ERRORS as error:
            raise MethodError(f"the {cls.name} checkpoint can't be understood: {error!r}") from error

    @classmethod
    def peft_format(cls) -> PeftFormat | None:
        """The module of `methods.peft_format` for this method, None where Hugging Face peft has no such method.

        A module is registered by its name. It is imported here, when needed, because it imports the method's own file.
        """
        ours = cls.__module__.partition(".")[0] == __package__
        if not ours or cls.name not in {info.name for info in pkgutil.iter_modules(formats.__path__)}:
            return None
        return cast(PeftFormat, importlib.import_module(f"{formats.__name__}.{cls.name}"))

    @abstractmethod
    def _attach(self, model: PreTrainedModel) -> Attached:
        """`attach` on a model that was checked."""

    def _restore(self, model: PreTrainedModel, shipped: Mapping[str, Tensor]) -> Attached:
        """`restore` on a model that was checked.

        By default the method is attached, and each tensor is copied into the parameter of the same name. A method
        overrides this where a checkpoint holds something else than its parameters, or where `_attach` does more than
        that can be undone by `Attached.detach`.
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
        attached.serve()
        return attached

    @classmethod
    def from_settings(cls, settings: Mapping[str, object]) -> Self:
        """The inverse of `dataclasses.asdict`, for settings read from a checkpoint."""
        known = {field.name for field in dataclasses.fields(cls)}
        if surplus := sorted(set(settings) - known):
            raise MethodError(f"{cls.name} knows no setting {', '.join(surplus)}")
        try:
            return cls(**settings)
        except (TypeError, ValueError) as error:
            raise MethodError(f"{cls.name}: {error}") from error


class State(Enum):
    """Where a method is."""

    ATTACHED = "attached"
    MERGED = "merged"
    DETACHED = "detached"


class Attached(ABC):
    """A method inside a model.

    A subclass names its parameters in `named_parameters`, and puts modules into the model with `replace_module` or
    keeps the handles of its hooks in ``hooks``. The rest has defaults.
    """

    def __init__(self, method: Method, model: PreTrainedModel) -> None:
        self.method = method
        self.model = model
        """What is called: the model that `Method.attach` was given, or what a method wraps around it."""
        self.state = State.ATTACHED
        self.replaced: dict[str, nn.Module] = {}
        """The modules of the base that `replace_module` took out, by path."""
        self.hooks: list[RemovableHandle] = []
        """Handles of the hooks that are to be removed when the method is."""

    @property
    def base(self) -> PreTrainedModel:
        """The model that `Method.attach` was given."""
        return self.model

    @abstractmethod
    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Every parameter that the method has in the model now, by a name that stays the same from model to model."""

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by stable name; none after `serve` or from a checkpoint."""
        return {name: parameter for name, parameter in self.named_parameters().items() if parameter.requires_grad}

    def shipped(self) -> dict[str, Tensor]:
        """What a checkpoint holds, by stable name."""
        return {name: parameter.detach() for name, parameter in self.named_parameters().items()}

    def resident(self) -> dict[str, Tensor]:
        """What stays in memory at inference because of the method: what was shipped, and nothing after a merge."""
        return {} if self.state is State.MERGED else self.shipped()

    def facts(self) -> dict[str, object]:
        """What a record should say about the trained form besides its parameters, such as final ranks."""
        return {}

    def penalty(self) -> Tensor | None:
        """A scalar that the training loss adds, None where the method has none."""
        return None

    def after_step(self, step: int) -> None:  # noqa: B027  # most methods have nothing to do then
        """Called after ``optimizer.step()`` number ``step`` (from 1), while gradients are still there."""

    def serve(self) -> None:
        """Turns the trained form into the serving form: encoders are run once and dropped, pruned ranks removed.

        By default the parameters stay as they are, and no longer require gradients.
        """
        for parameter in self.named_parameters().values():
            parameter.requires_grad_(False)

    def replace_module(self, path: str, module: nn.Module) -> None:
        """Puts ``module`` in the place of the one at ``path``, in the training mode of the model."""
        self.replaced[path] = self.base.get_submodule(path)
        self.base.set_submodule(path, module.train(self.base.training))

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

    def _detach(self) -> None:
        """`detach`, while the method is in the model: puts back what was replaced, and removes the hooks."""
        for path, module in self.replaced.items():
            self.base.set_submodule(path, module)
        for hook in self.hooks:
            hook.remove()

    def _leave(self, state: State, leave: Callable[[], None]) -> None:
        if self.state is not State.ATTACHED:
            raise MethodError(f"{self.method.name} is {self.state.value} already; load the base anew to go on from it")
        leave()
        self.state = state
        if hasattr(self.base, OCCUPANT):
            delattr(self.base, OCCUPANT)

    def save(self, folder: Path) -> Path:
        """Makes a folder that holds the method, in peft's format where peft has it, and returns it.

        See `methods.checkpoint`; what lies there from an earlier save is overwritten.

        Raises:
            MethodError: there can be no such folder, or it holds a method in another format.
        """
        write_checkpoint(folder, *self._contents())
        return folder

    def checkpoint_bytes(self) -> int | None:
        """Bytes that `save` would write, from shapes alone; None where only writing them tells."""
        return checkpoint_bytes(*self._contents())

    def _contents(self) -> tuple[Mapping[str, Tensor], Origin, dict[str, object] | None]:
        """Tensors, where they come from, and peft's configuration where they are in its format."""
        settings, base = dataclasses.asdict(self.method), base_of(self.base)
        if (peft := self.method.peft_format()) is None:
            return self.shipped(), Origin(self.method.name, settings, base), None
        checkpoint = peft.to_peft(self)
        origin = Origin(self.method.name, settings, base, checkpoint.ranks)
        return checkpoint.tensors, origin, checkpoint.config


def base_of(model: PreTrainedModel) -> dict[str, object]:
    """What a checkpoint needs of the model that it is loaded into; its family by our name, or else by transformers'."""
    try:
        family = anatomy_of(model).family.name
    except MethodError:
        family = model.config.get_text_config().model_type
    sizes = sizes_of(model)
    return {"family": family, "layers": len(sizes.layers), "hidden_size": sizes.hidden_size}


@contextmanager
def occupied(model: PreTrainedModel, name: str) -> Iterator[None]:
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
