"""What CUDA's own caching allocator says of memory: peaks by phase, and what of them the exact count does not explain.

The exact count (`bench.instruments.memory`) is of live tensors. The allocator hands out blocks, so it allocates more by
rounding, and by what libraries take for themselves below the dispatcher: the workspaces of products, mostly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from bench.instruments.memory import MemoryPeak


@dataclass(frozen=True)
class AllocatorPeak:
    """Peaks of one phase, whatever was there before it included."""

    allocated_bytes: int
    """Of blocks that were handed out."""
    reserved_bytes: int
    """Of what the allocator had taken from the card, in use or not."""


class Allocator(Protocol):
    """An allocator that keeps its peaks until told to begin anew."""

    def reset(self) -> None:
        """Begins a phase."""

    def peak(self) -> AllocatorPeak:
        """The peaks since."""


class CudaAllocator:
    """The caching allocator of one card."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def reset(self) -> None:
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> AllocatorPeak:
        torch.cuda.synchronize(self.device)
        return AllocatorPeak(torch.cuda.max_memory_allocated(self.device), torch.cuda.max_memory_reserved(self.device))


@dataclass(frozen=True)
class Reconciled:
    """The allocator's peak, taken apart. The parts add up to it."""

    tensors_bytes: int
    """Live tensors, counted exactly."""
    rounding_bytes: int
    """Each of them in whole blocks."""
    workspace_bytes: int
    """The rest: what is below the dispatcher, or alive at another moment. Negative where a phase freed early."""


def reconcile(exact: MemoryPeak, allocated_bytes: int) -> Reconciled:
    """What the allocator's peak is made of."""
    rounding = exact.rounded_bytes - exact.total_bytes
    return Reconciled(exact.total_bytes, rounding, allocated_bytes - exact.rounded_bytes)
