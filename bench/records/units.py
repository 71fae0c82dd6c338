"""Scaling for print: base units in, short text out. Stored and exported values are never scaled."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.records.metrics import Unit


@dataclass(frozen=True)
class Scale:
    """One unit for a whole column: ``value / factor`` in ``name``."""

    factor: float
    name: str

    def show(self, value: float) -> str:
        """Three significant digits, whole numbers from a hundred on."""
        return significant(value / self.factor)


_ONE = (Scale(1, ""),)
_DECIMAL = tuple(Scale(1000**power, prefix) for power, prefix in enumerate(("", "k", "M", "G", "T")))
_SCALES: dict[Unit, Sequence[Scale]] = {
    Unit.PARAMETERS: _DECIMAL,
    Unit.FLOPS: tuple(Scale(scale.factor, f"{scale.name}FLOP") for scale in _DECIMAL),
    Unit.BYTES: tuple(Scale(1024**power, name) for power, name in enumerate(("B", "KiB", "MiB", "GiB", "TiB"))),
    Unit.SECONDS: (Scale(1e-9, "ns"), Scale(1e-6, "µs"), Scale(1e-3, "ms"), Scale(1, "s")),
    Unit.JOULES: (Scale(1e-6, "µJ"), Scale(1e-3, "mJ"), Scale(1, "J"), Scale(1e3, "kJ")),
    Unit.NATS: (Scale(1, "nats"),),
    Unit.BITS: (Scale(1, "bits"),),
    Unit.TOKENS: (Scale(1, "tokens"),),
}


def scale_for(values: Iterable[float], unit: Unit) -> Scale:
    """The largest scale in which no value but zero is below 1, so that a whole column has one unit."""
    scales = _SCALES.get(unit, _ONE)
    smallest = min((abs(value) for value in values if value), default=0.0)
    fitting = [scale for scale in scales if scale.factor <= smallest]
    return fitting[-1] if fitting else scales[0]


def show(value: float, unit: Unit) -> str:
    """One value with its unit: ``0.00192`` seconds to ``1.92 ms``."""
    scale = scale_for([value], unit)
    return f"{scale.show(value)} {scale.name}".rstrip()


def significant(value: float, digits: int = 3) -> str:
    """``value`` with so many significant digits, without an exponent, and as an integer from 10^digits on."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    # a small integer is exact: a count of 49 is not a measurement of 49.0
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 10**6 else f"{value:.{decimals}f}"


def half_width(low: float, high: float, digits: int = 3) -> str:
    """Half an interval: ``±.012``."""
    return f"±{(high - low) / 2:.{digits}f}".replace("±0.", "±.")
