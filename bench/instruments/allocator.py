"""What CUDA's own caching allocator says of memory: peaks by phase, and what of them the exact count does not explain.

The exact count (`bench.instruments.memory`) is of live tensors. More is asked of the allocator below the dispatcher:
the workspaces of products, mostly. And what it hands out are blocks, which are larger than what was asked for.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Protocol

import torch

from bench.instruments.memory import MemoryPeak


@dataclass(frozen=True)
class AllocatorPeak:
    """Peaks of one phase, whatever was there before it included."""

    requested_bytes: int
    """Of what was asked for."""
    allocated_bytes: int
    """Of the blocks that were handed out for it."""
    reserved_bytes: int
    """Of what the allocator had taken from the card, in use or not."""


class Allocator(Protocol):
    """An allocator that keeps its peaks until told to begin anew."""

    def reset(self) -> None:
        """Begins a phase."""

    def peak(self) -> AllocatorPeak:
        """The peaks since."""


class CudaAllocator:
    """The caching allocator of one card, emptied of what others have left in it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()  # hooks and the models that they are on know one another
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()

    def reset(self) -> None:
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> AllocatorPeak:
        torch.cuda.synchronize(self.device)
        known = torch.cuda.memory_stats(self.device)
        return AllocatorPeak(*(int(known[f"{kind}_bytes.all.peak"]) for kind in ("requested", "allocated", "reserved")))


@dataclass(frozen=True)
class Reconciled:
    """The allocator's peak, taken apart. The parts add up to it."""

    tensors_bytes: int
    """Live tensors, counted exactly."""
    workspace_bytes: int
    """What else was asked for, below the dispatcher."""
    rounding_bytes: int
    """What blocks have beyond what was asked for."""


def reconcile(exact: MemoryPeak, peak: AllocatorPeak) -> Reconciled:
    """What the allocator's peak is made of."""
    return Reconciled(
        exact.total_bytes, peak.requested_bytes - exact.total_bytes, peak.allocated_bytes - peak.requested_bytes
    )
