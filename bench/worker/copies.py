"""Copies of a model for the arms of a measurement, and the memory that there is for them."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bench.workload.training import weight_tensors


def copy_of(base: PreTrainedModel, share: bool = False) -> PreTrainedModel:
    """A copy of the model with its own weights or, with ``share``, with the same storage."""
    memo = {id(tensor): _alias(tensor) for tensor in weight_tensors(base)} if share else {}
    return copy.deepcopy(base, memo)


def _alias(tensor: Tensor) -> Tensor:
    """The same storage. A parameter becomes another object, because one model may train what another freezes."""
    return nn.Parameter(tensor.detach(), requires_grad=False) if type(tensor) is nn.Parameter else tensor


def weight_bytes(model: PreTrainedModel) -> int:
    """Bytes of all weights of a model."""
    return sum(tensor.numel() * tensor.element_size() for tensor in weight_tensors(model))


def fits(needed_bytes: int, device: torch.device) -> bool:
    """Whether so much more fits the device and leaves a fifth of what is free."""
    return needed_bytes <= 0.8 * free_bytes(device)


def free_bytes(device: torch.device) -> int:
    """Bytes that the device, or the machine, has left."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    for line in Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 1 << 62  # unknown: copies are the rule
