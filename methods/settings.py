"""What a method is before it meets a model: its settings, and what tables and checkpoints call it."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self, cast

from methods import peft_format as formats
from methods.checkpoint import PeftFormat
from methods.errors import MethodError
from methods.validators import check_settings

IMPLEMENTATION = "peft-verdict"
"""Who wrote the methods of this package, in tables."""


@dataclass(frozen=True, kw_only=True)
class Settings(ABC):
    """The settings of a method, each of them checked by its annotation (`methods.validators`)."""

    name: ClassVar[str]
    identity: ClassVar[bool]
    """Whether the model's output is unchanged, bit for bit, right after attaching."""
    mergeable: ClassVar[bool] = False
    lossy_merge: ClassVar[bool] = False
    """Whether a merge rounds the weights by more than floating point does."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Packages besides torch and transformers on which the method runs, as their distributions are called."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def title(self) -> str:
        """What tables call the method; differs from ``name`` where one class runs several methods."""
        return self.name

    @property
    def implementation(self) -> str:
        """Who wrote the method: this project, or the package that the class comes from."""
        return IMPLEMENTATION if self._is_ours() else type(self).__module__.partition(".")[0]

    @property
    def size(self) -> int | None:
        """Rank, bottleneck or number of virtual tokens; None for a method without one."""
        return None

    @property
    def virtual_tokens(self) -> int:
        """Positions that the method takes in the cache of every layer, in front of the real tokens."""
        return 0

    @classmethod
    def from_settings(cls, settings: Mapping[str, object]) -> Self:
        """The inverse of `dataclasses.asdict`, for settings that were read from a checkpoint.

        Raises:
            MethodError: a setting is unknown or missing, or its value is not allowed.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if surplus := sorted(set(settings) - known):
            raise MethodError(f"{cls.name} has no setting {', '.join(surplus)}")
        try:
            return cls(**settings)
        except (TypeError, ValueError) as error:
            raise MethodError(f"{cls.name}: {error}") from error

    @classmethod
    def peft_format(cls) -> PeftFormat | None:
        """The module of `methods.peft_format` for this method, None where Hugging Face peft has no such method.

        A module is registered by its name. It is imported here, when needed, because it imports the method's own file.
        """
        if not cls._is_ours() or cls.name not in {info.name for info in pkgutil.iter_modules(formats.__path__)}:
            return None
        return cast(PeftFormat, importlib.import_module(f"{formats.__name__}.{cls.name}"))

    @classmethod
    def _is_ours(cls) -> bool:
        return cls.__module__.partition(".")[0] == __package__
