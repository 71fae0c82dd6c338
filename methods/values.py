"""Checks of a method's settings, each refusing a value in one line that names the setting."""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import Enum
from typing import TypeVar

from methods.errors import MethodError

E = TypeVar("E", bound=Enum)


def whole(value: int, what: str, least: int = 1) -> None:
    """Refuses a count that is no whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise MethodError(f"{what} must be a whole number of at least {least}, not {value}")


def fraction(value: float, what: str) -> None:
    """Refuses a number outside [0, 1)."""
    if not 0.0 <= value < 1.0:
        raise MethodError(f"{what} must be at least 0 and less than 1, not {value}")


def finite(value: float, what: str, zero: bool = False) -> None:
    """Refuses a number that is not positive (or, with ``zero``, negative), or not finite."""
    if not (0.0 <= value < math.inf) or (value == 0 and not zero):
        raise MethodError(f"{what} must be a {'number of at least 0' if zero else 'positive number'}, not {value}")


def member(kind: type[E], value: object, what: str) -> E:
    """A value of an enumeration, spelled as in configuration and checkpoints.

    Raises:
        MethodError: naming those there are.
    """
    try:
        return kind(value)
    except ValueError:
        raise MethodError(f"{what} must be one of {', '.join(str(one.value) for one in kind)}, not {value}") from None


def names(value: str | Iterable[str], what: str) -> tuple[str, ...]:
    """Several names, of which configuration and checkpoints bring a list and a hurried caller just one.

    Raises:
        MethodError: there is none.
    """
    found = (value,) if isinstance(value, str) else tuple(value)
    if not found:
        raise MethodError(f"{what} must name at least one")
    return found
