"""The largest size that fits: a search among whole numbers that tries few of them, for each try is a whole step."""

from __future__ import annotations

from collections.abc import Callable


def largest(peak: Callable[[int], int], limit: int, least: int = 1, most: int | None = None) -> int:
    """The largest n from ``least`` to ``most`` with ``peak(n) <= limit``; 0 where not even ``least`` has it.

    ``peak`` must not fall as n grows. The answer was tried, and so was the next n, unless it is beyond ``most``. A
    peak that grows in a straight line takes four tries; what it does otherwise is found by halving.
    """
    known = {least: peak(least)}
    if known[least] > limit:
        return 0
    low, high, guess = least, None, least + 1
    while low != most and high != low + 1:
        guess = max(low + 1, guess if high is None else min(guess, high - 1))
        guess = guess if most is None else min(guess, most)
        width = None if high is None else high - low
        known[guess] = peak(guess)
        if known[guess] <= limit:
            before, low = low, guess
        else:
            before, high = low, guess
        slow = width is not None and high is not None and high - low > width // 2
        guess = (low + (high or low)) // 2 if slow else _straight(known, low, high, before, limit)
    return low


def _straight(known: dict[int, int], low: int, high: int | None, before: int, limit: int) -> int:
    """Where the line through two known points meets the limit."""
    other = high if high is not None else before
    rise = (known[other] - known[low]) / (other - low) if other != low else 0.0
    # a flat peak says nothing about where it will rise
    return 2 * low if rise <= 0 else low + int((limit - known[low]) / rise)
