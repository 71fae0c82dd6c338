"""Types of settings: the annotation says what a value may be, and the check follows from it.

    @dataclass(frozen=True, kw_only=True)
    class Lora(Method):
        rank: PositiveInt = 8
        targets: Names = ("q", "v")
        start_rank: PositiveInt | None = None

An annotation is one of the names below, ``bool``, ``int``, ``float``, ``str`` or a ``StrEnum``, with ``| None`` where a
setting may be left open. Only the standard library is needed here, so settings can be checked without loading torch.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import NoneType, UnionType
from typing import Annotated, Any, Protocol, Union, get_args, get_origin, get_type_hints

from methods.errors import MethodError


class NumberRule(Protocol):
    """Which numbers an annotation allows."""

    def allows(self, value: float) -> bool: ...

    def describe(self, noun: str) -> str:
        """What the value must be; ``noun`` is "number" or "whole number"."""


@dataclass(frozen=True)
class Finite:
    """Any number but NaN and the infinities."""

    def allows(self, value: float) -> bool:
        return True

    def describe(self, noun: str) -> str:
        return f"a {noun}" if noun == "whole number" else f"a finite {noun}"


@dataclass(frozen=True)
class AtLeast:
    """A number of at least ``least``."""

    least: int

    def allows(self, value: float) -> bool:
        return value >= self.least

    def describe(self, noun: str) -> str:
        return f"a {noun} of at least {self.least}"


@dataclass(frozen=True)
class Positive:
    """A number above zero."""

    def allows(self, value: float) -> bool:
        return value > 0

    def describe(self, noun: str) -> str:
        return f"a positive {noun}"


@dataclass(frozen=True)
class HalfOpen:
    """A number of the interval [least, limit)."""

    least: int
    limit: int

    def allows(self, value: float) -> bool:
        return self.least <= value < self.limit

    def describe(self, noun: str) -> str:
        return f"at least {self.least} and less than {self.limit}"


@dataclass(frozen=True)
class NotEmpty:
    """A tuple with at least one element."""


PositiveInt = Annotated[int, AtLeast(1)]
NonNegativeInt = Annotated[int, AtLeast(0)]
PositiveFloat = Annotated[float, Positive()]
NonNegativeFloat = Annotated[float, AtLeast(0)]
Fraction = Annotated[float, HalfOpen(0, 1)]
Names = Annotated[tuple[str, ...], NotEmpty()]
"""One or more strings. A list becomes a tuple, and a single string a tuple of one."""
Options = dict[str, Any]
"""Values by name, which are passed on to another library and checked there."""


def check_settings(settings: Any) -> None:
    """Checks and normalizes every field of a frozen dataclass, in place, by its annotation.

    Raises:
        MethodError: naming the first field whose value is not allowed.
        TypeError: the annotation of a field is none of those that `check_value` knows.
    """
    annotations = get_type_hints(type(settings), include_extras=True)
    for field in dataclasses.fields(settings):
        value = check_value(annotations[field.name], getattr(settings, field.name), field.name)
        object.__setattr__(settings, field.name, value)


def check_value(annotation: object, value: object, name: str) -> object:
    """Returns ``value`` as a setting with this annotation keeps it; ``name`` is that of the setting, for messages.

    A list becomes a tuple, a single string where several may stand a tuple of one, and a string the member of its
    ``StrEnum``. Numbers stay as they are: an ``int`` is a valid ``float``, a ``bool`` is no number.

    Raises:
        MethodError: the value is not allowed. The message says what is.
        TypeError: the annotation is not supported.
    """
    if get_origin(annotation) in (Union, UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
        if len(kinds) == 1:
            return None if value is None else check_value(kinds[0], value, name)
    kind, *rules = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    check = _check_of(kind)
    if check is None:
        raise TypeError(f"the annotation {annotation} of {name} is not supported; use one of methods.validators")
    return check(kind, rules, value, name)


_Check = Callable[[Any, list[Any], Any, str], object]
"""Takes the type, the rules that stand beside it in ``Annotated``, the value and the name of the setting."""


def _check_of(kind: Any) -> _Check | None:
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return _check_member
    if get_origin(kind) is tuple:
        return _check_tuple if get_args(kind)[1:] == (Ellipsis,) else None
    checks: dict[object, _Check] = {
        bool: _check_bool,
        int: _check_number,
        float: _check_number,
        str: _check_string,
        dict: _check_options,
    }
    return checks.get(get_origin(kind) or kind)


def _check_number(kind: Any, rules: list[NumberRule], value: Any, name: str) -> object:
    rule = rules[0] if rules else Finite()
    noun, accepted = ("whole number", int) if kind is int else ("number", int | float)
    is_number = isinstance(value, accepted) and not isinstance(value, bool)
    # an int may be larger than any float, and NaN is not in this range either
    finite = is_number and (kind is int or abs(value) <= sys.float_info.max)
    if not finite or not rule.allows(value):
        raise MethodError(f"{name} must be {rule.describe(noun)}, not {value}")
    return value


def _check_bool(kind: Any, rules: list[Any], value: Any, name: str) -> object:
    if not isinstance(value, bool):
        raise MethodError(f"{name} must be true or false, not {value}")
    return value


def _check_string(kind: Any, rules: list[Any], value: Any, name: str) -> object:
    if not isinstance(value, str):
        raise MethodError(f"{name} must be a string, not {value}")
    return value


def _check_member(kind: Any, rules: list[Any], value: Any, name: str) -> object:
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(str(member.value) for member in kind)
        raise MethodError(f"{name} must be one of {known}, not {value}") from None


def _check_tuple(kind: Any, rules: list[NotEmpty], value: Any, name: str) -> object:
    values = (value,) if isinstance(value, str) else value
    if not isinstance(values, list | tuple | set | frozenset):
        raise MethodError(f"{name} must be a list, not {value}")
    if rules and not values:
        raise MethodError(f"{name} must name at least one")
    element = get_args(kind)[0]
    return tuple(check_value(element, one, name) for one in values)


def _check_options(kind: Any, rules: list[Any], value: Any, name: str) -> object:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise MethodError(f"{name} must be a mapping from names to values, not {value}")
    return value
