"""The state of a graphics card, as its driver tells it: clocks, power, temperature, who else is on it.

Clocks and power cap are read and left alone. A card that slowed itself down, or that others computed on, gives metrics
that a reader should be warned of. Everything is read through NVML, NVIDIA's management library; where it is missing,
nothing is known, which is said and stops no measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

MILLI = 1e-3
SLOWED = {
    0x04: "software power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
"""Why clocks are lower than the card would have them, by NVML's bit. Idling and settings of the user's are no fault."""


@dataclass(frozen=True)
class Card:
    """One look at a card; None where the driver does not say."""

    driver: str | None = None
    sm_clock_mhz: int | None = None
    sm_clock_most_mhz: int | None = None
    memory_clock_mhz: int | None = None
    power_watts: float | None = None
    power_cap_watts: float | None = None
    temperature_celsius: int | None = None
    slowed_by: tuple[str, ...] = ()
    processes: int | None = None
    """Processes that compute on the card, this one included."""


class Nvml:
    """NVML on the card that torch calls ``device``."""

    def __init__(self, library: Any, handle: Any) -> None:
        self.library = library
        self.handle = handle

    @classmethod
    def of(cls, device: torch.device) -> Nvml | None:
        """None where there is no such library, driver or card."""
        try:
            import pynvml

            pynvml.nvmlInit()
            identity = str(torch.cuda.get_device_properties(device).uuid)
            return cls(pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{identity.removeprefix('GPU-')}"))
        except Exception:  # NVML's own errors derive from Exception alone, and torch's for a card that is gone
            return None

    def snapshot(self) -> Card:
        """The card at this moment."""
        nvml, handle = self.library, self.handle
        reasons = self._ask(lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)) or 0
        return Card(
            driver=self._ask(nvml.nvmlSystemGetDriverVersion),
            sm_clock_mhz=self._ask(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            sm_clock_most_mhz=self._ask(lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)),
            memory_clock_mhz=self._ask(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            power_watts=self._ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle) * MILLI),
            power_cap_watts=self._ask(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) * MILLI),
            temperature_celsius=self._ask(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            slowed_by=tuple(name for bit, name in SLOWED.items() if reasons & bit),
            processes=self._ask(lambda: len(nvml.nvmlDeviceGetComputeRunningProcesses(handle))),
        )

    def joules(self) -> float | None:
        """Energy that the card has used since the driver was loaded; None where it does not count."""
        used: float | None = self._ask(lambda: self.library.nvmlDeviceGetTotalEnergyConsumption(self.handle) * MILLI)
        return used

    def _ask(self, question: Callable[[], Any]) -> Any:
        """An answer, or None: what a card, a driver or a container does not tell is not known."""
        try:
            answer = question()
        except (self.library.NVMLError, AttributeError):
            return None
        return answer.decode() if isinstance(answer, bytes) else answer


def card_warnings(seen: Sequence[Card]) -> list[str]:
    """What a reader of metrics that were measured while the card was ``seen`` so should know."""
    found = []
    if slowed := [reason for reason in SLOWED.values() if any(reason in card.slowed_by for card in seen)]:
        found.append(f"the card was slowed down: {', '.join(slowed)}")
    others = max(((card.processes or 1) - 1 for card in seen), default=0)
    if others:
        found.append(f"the card was shared with {others} other process{'es' if others > 1 else ''}")
    return found
