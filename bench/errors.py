"""The one exception for the person at the keyboard."""

from __future__ import annotations

from collections.abc import Iterable


class UsageError(Exception):
    """Something that the person at the keyboard can correct: printed as one line, exit status 2."""


def refuse(problems: Iterable[str]) -> None:
    """Refuses several things at once: the first of them in words, the others by number.

    Raises:
        UsageError: there is a problem.
    """
    lines = list(dict.fromkeys(problems))
    if lines:
        raise UsageError(lines[0] + (f" (and {len(lines) - 1} more like it)" if len(lines) > 1 else ""))
