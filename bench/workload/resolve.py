"""The checks of one cell that need no weights, and its identity. Runs in child processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from enum import Enum
from typing import Any

import torch
from torch.compiler import list_backends

from bench.config.schema import (
    ADDED,
    HARNESS_KEYS,
    MAX_STEPS,
    REFERENCE_KEY,
    DeviceType,
    Execution,
)
from bench.config.sources import SourceError
from bench.errors import UsageError
from bench.records.cell import Cell, Reference
from bench.records.results import CheckedCell
from bench.workload.models import meta_model
from bench.workload.plan import Plan, read_plan
from methods import Method, Unsupported
from methods.architectures import sizes_of
from methods.compat import recompute_activations


def resolve(config: Mapping[str, Any], here: bool = True) -> CheckedCell:
    """Checks everything about a cell that can be known without weights, and gives it its identity.

    What this model or this machine can't run is a cell with the reason why it is skipped.

    ``here``: whether it is to run on this machine, which must then have its device.

    Raises:
        UsageError: something that the person who typed the command must correct, whatever the model.
    """
    plan = read_plan(config)
    _check_backend(plan)
    return CheckedCell(_identity(config, plan), _why_not(plan, here), _seen(plan, here))


def _why_not(plan: Plan, here: bool) -> str | None:
    """Why a cell can't run, in one line; None if nothing is known that speaks against it.

    Raises:
        UsageError: there is no such model.
    """
    try:
        _check_device(plan, here)
        model = meta_model(plan.model)
        if plan.workload.gradient_checkpointing:
            recompute_activations(model)
        for method in (plan.method, *([plan.reference] if plan.reference is not None else [])):
            method.check(model)
            _check_positions(plan, method, sizes_of(model).max_positions)
    except Unsupported as reason:
        return str(reason)
    except SourceError as error:
        raise UsageError(str(error)) from error
    except Exception as error:  # one cell's trouble, whatever it is, must not end the sweep
        return reason_of(error)
    return None


def reason_of(error: Exception) -> str:
    """An error in one line. The message of a `ValueError` is a sentence; of other kinds the name is needed, too."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text or 'no reason given'}"


def _seen(plan: Plan, here: bool) -> dict[str, Any]:
    """What a record of the cell says of this machine and only torch knows."""
    if not here or plan.device.type is not DeviceType.cuda or not torch.cuda.is_available():
        return {}
    return {"accelerator": torch.cuda.get_device_name(plan.torch_device)}


def _identity(config: Mapping[str, Any], plan: Plan) -> Cell:
    # defaults are spelt out, so that a setting given at its default value does not make another cell
    methods = {"method": plan.method} | ({} if plan.reference is None else {REFERENCE_KEY: plan.reference})
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
        reference=None
        if plan.reference is None
        else Reference(
            method=plan.reference.title, implementation=plan.reference.implementation, size=plan.reference.size
        ),
    )


def _spelt_out(given: Mapping[str, Any], method: Method) -> dict[str, Any]:
    return {**{key: given[key] for key in HARNESS_KEYS}, **_plain(asdict(method))}


def _as_before(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without the settings of `ADDED` at the value that all cells had before."""
    return {
        group: {key: value for key, value in values.items() if (f"{group}.{key}", value) not in ADDED.items()}
        if isinstance(values, Mapping)
        else values
        for group, values in config.items()
    }


def _plain(value: Any) -> Any:
    """Settings as JSON has them. To read one whose type is a method's, the parent would have to import torch."""
    if isinstance(value, Mapping):
        return {_plain(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.value if isinstance(value, Enum) else value


def _check_device(plan: Plan, here: bool) -> None:
    if plan.runtime.execution is Execution.cudagraph and plan.device.type is not DeviceType.cuda:
        raise Unsupported("runtime.execution=cudagraph needs device=cuda")
    if here and plan.device.type is DeviceType.cuda and not torch.cuda.is_available():
        raise Unsupported("device=cuda: torch sees no CUDA device on this machine; use device=cpu")


def _check_backend(plan: Plan) -> None:
    runtime = plan.runtime
    if runtime.execution is Execution.compile and runtime.backend not in (known := list_backends(exclude_tags=())):
        raise UsageError(f"runtime.backend={runtime.backend}: torch.compile knows {', '.join(known)}")


def _check_positions(plan: Plan, method: Method, room: int | None) -> None:
    """Refuses sequences longer than the model's positions, with a method's virtual tokens or without.

    Raises:
        Unsupported: naming the setting, the positions that are needed and those that the model has.
    """
    if room is None:
        return
    # a decode block grows the cache beyond the prompt
    lengths = {
        "workload.train_length": plan.workload.train_length,
        "workload.prompt_lengths": max(plan.workload.prompt_lengths) + MAX_STEPS,
    }
    for key, length in lengths.items():
        if length > room:
            raise Unsupported(
                f"{key}: {length} positions are needed and {plan.model.label} has {room}; use a shorter one"
            )
        if length + method.virtual_tokens > room:
            raise Unsupported(
                f"{method.virtual_tokens} virtual tokens and {length} others do not fit the {room} positions "
                f"of {plan.model.label}"
            )
