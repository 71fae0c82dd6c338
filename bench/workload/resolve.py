"""The checks of one cell that need no weights, and its identity. Runs in child processes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch.compiler import list_backends

from bench.config.schema import (
    ADDED,
    HARNESS_KEYS,
    RIVAL_KEY,
    CacheKind,
    DeviceType,
    Execution,
    Switch,
)
from bench.errors import UsageError
from bench.instruments.steps import MOST_STEPS
from bench.records.cell import Cell, Rival
from bench.records.results import Resolved
from bench.records.stats import margin_log
from bench.workload.models import ModelError, skeleton
from bench.workload.plan import Plan, read_plan
from methods import Method, MethodError, Unsupported
from methods.architectures import sizes_of
from methods.compat import recompute_activations

MOST_THREADS = 1024
MOST_PROCESSES = 12
"""Where so many do not make an interval narrow, more of the same hardly will; what is then unclear is said to be."""


def resolve(config: Mapping[str, Any], here: bool = True) -> Resolved:
    """Checks everything about a cell that can be told without weights, and gives it its identity.

    ``here``: whether it is to run on this machine, which must then have its device.

    Raises:
        UsageError: something that the person who typed the command should put right.
    """
    _check_finite(config, "")
    plan = read_plan(config)
    _check_numbers(plan)
    if here:
        _check_device(plan)
    _check_runtime(plan)
    cell = _identity(config, plan)
    method = plan.method
    try:
        if plan.runtime.execution is Execution.cudagraph and plan.device.type is not DeviceType.cuda:
            raise Unsupported("runtime.execution=cudagraph needs device=cuda")
        model = skeleton(plan.model)
        if plan.workload.gradient_checkpointing is Switch.on:
            recompute_activations(model)
        for method in (plan.method, *([plan.rival] if plan.rival is not None else [])):
            method.check(model)
            _check_positions(plan, method, sizes_of(model).max_positions)
    except Unsupported as reason:
        return Resolved(cell, skip=str(reason))
    except (ModelError, MethodError, ValueError) as error:
        raise UsageError(f"{plan.model.label}, {method.title}: {' '.join(str(error).split())}") from error
    return Resolved(cell, skip=None)


def _identity(config: Mapping[str, Any], plan: Plan) -> Cell:
    # defaults are spelt out, so that a setting given at its default value does not make another cell
    methods = {"method": plan.method} | ({} if plan.rival is None else {RIVAL_KEY: plan.rival})
    full = {
        **{name: _spelt_out(config[name], method) for name, method in methods.items()},
        **_as_before({key: value for key, value in config.items() if key not in methods}),
    }
    return Cell(
        method=plan.method.title,
        implementation=plan.method.implementation,
        size=plan.method.size,
        model=plan.model.label,
        config=full,
        rival=None
        if plan.rival is None
        else Rival(method=plan.rival.title, implementation=plan.rival.implementation, size=plan.rival.size),
    )


def _spelt_out(given: Mapping[str, Any], method: Method) -> dict[str, Any]:
    return {**{key: given[key] for key in HARNESS_KEYS}, **_plain(asdict(method))}


def _as_before(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without the settings of `ADDED` that have the value which all cells had before."""
    return {
        group: {key: value for key, value in values.items() if (f"{group}.{key}", value) not in ADDED.items()}
        if isinstance(values, Mapping)
        else values
        for group, values in config.items()
    }


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}


def _check_finite(values: Mapping[str, Any], prefix: str) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            _check_finite(value, f"{prefix}{key}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{prefix}{key} must be a finite number, not {value}")


def _check_numbers(plan: Plan) -> None:
    work, precision = plan.workload, plan.precision
    for key, values in (("batch_sizes", work.batch_sizes), ("prompt_lengths", work.prompt_lengths)):
        if not values or not all(type(value) is int and value > 0 for value in values):
            raise UsageError(f"workload.{key} must be a list of whole numbers of at least 1, not {values}")
        if len(set(values)) < len(values):
            raise UsageError(f"workload.{key} names a value twice: {values}; a point is measured once")
    cuda = plan.device.type is DeviceType.cuda
    ranges = {
        "seed": (plan.seed, 0, 2**63 - 1),
        "workload.train_batch_size": (work.train_batch_size, 1, None),
        "workload.train_length": (work.train_length, 2, None),
        # a first, a tracked and a timed step, and on CUDA one for the allocator's own peaks
        "workload.train_steps": (work.train_steps, 4 if cuda else 3, None),
        "workload.held_out_sequences": (work.held_out_sequences, 1, None),
        "precision.processes": (precision.processes, 1, None),
        "precision.most_processes": (precision.most_processes, 0, MOST_PROCESSES),
        "precision.pairs": (precision.pairs, 1, None),
        "precision.warmup_steps": (precision.warmup_steps, 1, MOST_STEPS),
        "precision.discarded_steps": (precision.discarded_steps, 0, MOST_STEPS - 1),
        "device.threads": (1 if plan.device.threads is None else plan.device.threads, 1, MOST_THREADS),
    }
    for key, (value, least, most) in ranges.items():
        if value < least:
            raise UsageError(f"{key} must be at least {least}, not {value}")
        if most is not None and value > most:
            raise UsageError(f"{key} must be at most {most}, not {value}")
    if not work.phases or len(set(work.phases)) < len(work.phases):
        raise UsageError(f"workload.phases must name prefill, decode or both, not {[str(p) for p in work.phases]}")
    try:
        margin_log(precision.margin)
    except ValueError as error:
        raise UsageError(f"precision.margin: {error}") from error
    if precision.block_seconds <= 0:
        raise UsageError(f"precision.block_seconds must be positive, not {precision.block_seconds}")


def _check_device(plan: Plan) -> None:
    if plan.device.type is DeviceType.cuda and not torch.cuda.is_available():
        raise UsageError("device=cuda: torch sees no CUDA device on this machine; use device=cpu")


def _check_runtime(plan: Plan) -> None:
    runtime = plan.runtime
    if runtime.execution is not Execution.eager and runtime.cache is not CacheKind.static:
        raise UsageError(
            f"runtime.cache={runtime.cache}: {runtime.execution} needs addresses that stay; use runtime.cache=static"
        )
    if runtime.execution is Execution.compile and runtime.backend not in (known := list_backends(exclude_tags=())):
        raise UsageError(f"runtime.backend={runtime.backend}: torch.compile knows {', '.join(known)}")


def _check_positions(plan: Plan, method: Method, room: int | None) -> None:
    """Refuses sequences longer than the model's positions, and skips a method whose virtual tokens make them so."""
    if room is None:
        return
    # a decode block grows the cache beyond the prompt
    lengths = {
        "workload.train_length": plan.workload.train_length,
        "workload.prompt_lengths": max(plan.workload.prompt_lengths) + MOST_STEPS,
    }
    for key, length in lengths.items():
        if length > room:
            raise UsageError(
                f"{key}: {length} positions are needed and {plan.model.label} has {room}; use a shorter one"
            )
        if length + method.virtual_tokens > room:
            raise Unsupported(
                f"{method.virtual_tokens} virtual tokens and {length} others do not fit the {room} positions "
                f"of {plan.model.label}"
            )
