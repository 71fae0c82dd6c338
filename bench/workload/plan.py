"""One cell, ready to be measured: its settings, typed, and its methods. Needs torch, so it runs in child processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.config.groups import method_config
from bench.config.schema import HARNESS_KEYS, REFERENCE_KEY
from bench.config.settings import Settings, first_line, merged, read_settings
from bench.errors import UsageError
from methods import Method, MethodError


@dataclass(frozen=True, kw_only=True)
class Plan(Settings):
    """One cell, typed."""

    method: Method
    reference: Method | None
    train_reference: Method | None
    """The method that the cell's training steps are timed in turn with; None where they are not, or where it is the
    cell's own method."""
    train_reference_learning_rate: float

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device.type.value)


def read_plan(config: Mapping[str, Any]) -> Plan:
    """Types and checks the plain configuration of a cell.

    Raises:
        UsageError: a value has the wrong type or is out of range, or a key is unknown.
    """
    settings = read_settings(config)
    method = _method(config["method"], "method")
    reference = _method(config[REFERENCE_KEY], REFERENCE_KEY) if REFERENCE_KEY in config else None
    trained, rate = reference, settings.reference_learning_rate
    name = settings.workload.train_reference
    if reference is None and name is not None and settings.precision.train_pairs > 0:
        own = method_config(name, config)
        named, rate = _method(own, "workload.train_reference"), float(own["learning_rate"])
        trained = None if named == method else named
    return Plan(
        **vars(settings),
        method=method,
        reference=reference,
        train_reference=trained,
        train_reference_learning_rate=rate,
    )


def _method(config: Mapping[str, Any], key: str) -> Method:
    """The method with its settings, which its class checks."""
    try:
        kind = get_class(config["_target_"])
    except Exception as error:  # Hydra raises whatever the import raised
        raise UsageError(f"{key}._target_: {' '.join(str(error).split())}") from error
    if not issubclass(kind, Method):
        raise UsageError(f"{key}._target_: {config['_target_']} is no methods.Method; see methods/README.md")
    settings = {name: value for name, value in config.items() if name not in HARNESS_KEYS}
    try:
        return cast(Method, merged(OmegaConf.structured(kind, flags={"readonly": False}), settings))
    except (OmegaConfBaseException, MethodError) as error:
        raise UsageError(f"{key}: {first_line(error)}") from error
