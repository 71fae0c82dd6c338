"""The typed reading of one cell's configuration, and the checks that need torch. Runs in child processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.config.schema import (
    HARNESS_KEYS,
    RIVAL_KEY,
    Device,
    Precision,
    Runtime,
    Workload,
)
from bench.config.sources import DataConfig, ModelConfig
from bench.errors import UsageError
from methods import Method, MethodError

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """One cell, typed."""

    method: Method
    learning_rate: float
    rival: Method | None
    rival_learning_rate: float
    model: ModelConfig
    data: DataConfig
    workload: Workload
    runtime: Runtime
    device: Device
    precision: Precision
    seed: int

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device.type.value)

    def points(self) -> list[tuple[int, int]]:
        """(batch size, prompt length) of every workload point."""
        return [(batch, length) for batch in self.workload.batch_sizes for length in self.workload.prompt_lengths]


def read_plan(config: Mapping[str, Any]) -> Plan:
    """Types and checks the plain configuration of a cell.

    Raises:
        UsageError: a value has the wrong type or lies outside its range, or a key is unknown.
    """
    method, rate = _build_method(config["method"], "method")
    rival, rival_rate = _build_method(config[RIVAL_KEY], RIVAL_KEY) if RIVAL_KEY in config else (None, rate)
    return Plan(
        method=method,
        learning_rate=rate,
        rival=rival,
        rival_learning_rate=rival_rate,
        model=_typed(ModelConfig, config["model"], "model"),
        data=_typed(DataConfig, config["data"], "data"),
        workload=_typed(Workload, config["workload"], "workload"),
        runtime=_typed(Runtime, config["runtime"], "runtime"),
        device=_typed(Device, config["device"], "device"),
        precision=_typed(Precision, config["precision"], "precision"),
        seed=int(config["seed"]),
    )


def _build_method(config: Mapping[str, Any], key: str) -> tuple[Method, float]:
    """The method's settings, checked against the fields of its class, and the harness's learning rate for it."""
    try:
        kind = get_class(config["_target_"])
    except Exception as error:  # Hydra raises whatever the import raised
        raise UsageError(f"{key}._target_: {' '.join(str(error).split())}") from error
    if not issubclass(kind, Method):
        raise UsageError(f"{key}._target_: {config['_target_']} is no methods.Method; see methods/README.md")
    settings = {key: value for key, value in config.items() if key not in HARNESS_KEYS}
    try:
        method = _merge(OmegaConf.structured(kind, flags={"readonly": False}), settings)
    except (OmegaConfBaseException, MethodError) as error:
        raise UsageError(f"{key}: {_first_line(error)}") from error
    rate = config.get("learning_rate")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not rate > 0:
        raise UsageError(f"{key}.learning_rate must be a positive number, not {rate}")
    return cast(Method, method), float(rate)


def _typed(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    try:
        return cast(T, _merge(OmegaConf.structured(kind), values))
    except OmegaConfBaseException as error:
        raise UsageError(f"{where}: {_first_line(error)}") from error


def _merge(schema: DictConfig, values: Mapping[str, Any]) -> Any:
    return OmegaConf.to_object(OmegaConf.merge(schema, dict(values)))


def _first_line(error: Exception) -> str:
    key = getattr(error, "full_key", None)
    text = str(error).split("\n", maxsplit=1)[0]
    return f"{key}: {text}" if key and key not in text else text
