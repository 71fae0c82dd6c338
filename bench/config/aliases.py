"""The words of schema 1 and those that replaced them, in stored files, in configurations and in claims.

Files that were stored before are read in today's words. Cells keep their ids: an id is a digest of the configuration in
the words of schema 1, so that a renamed setting does not make another cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEYS = {
    "readings": "measurements",
    "figure": "metric",
    "notes": "warnings",
    "facts": "metadata",
    "rival": "reference",
}
"""Keys of records and baselines."""
METRICS = {
    **{f"{phase}_chain": f"{phase}_critical_path" for phase in ("prefill", "decode")},
    **{f"{phase}_matmul_chain": f"{phase}_critical_path_matmuls" for phase in ("prefill", "decode")},
    "rank_least": "rank_min",
    "rank_most": "rank_max",
}
STATES = {"rival": "reference"}
GROUPS = {"rival": "reference"}
"""Parts of a cell's configuration."""
SETTINGS = {
    "precision.most_processes": "max_processes",
    **{
        f"{group}.{old}": new
        for group in ("method", "reference")
        for old, new in (("reparametrise", "reparametrize"), ("double_quantisation", "double_quantization"))
    },
}
"""Settings of a cell: ``group.setting``, the group in today's word, and the setting's name today."""
SWITCHES = ("precision.second_control", "workload.gradient_checkpointing")
"""Settings that were ``off`` or ``on`` and are booleans now."""
CLAIM_KEYS = {"settle": "reproduce", "later": "blocked_by", "across": "pool_over", "than": "compared_to"}

Raw = dict[str, Any]


def config_from_schema_1(config: Mapping[str, Any]) -> Raw:
    """A cell's configuration, ``{group: {setting: value}}``, in today's words."""
    return {
        GROUPS.get(group, group): _each_setting(GROUPS.get(group, group), values, SETTINGS, {"off": False, "on": True})
        for group, values in config.items()
    }


def config_in_schema_1(config: Mapping[str, Any]) -> Raw:
    """The inverse of `config_from_schema_1`."""
    groups = {new: old for old, new in GROUPS.items()}
    settings = {f"{old.partition('.')[0]}.{new}": old.partition(".")[2] for old, new in SETTINGS.items()}
    return {
        groups.get(group, group): _each_setting(group, values, settings, {False: "off", True: "on"})
        for group, values in config.items()
    }


def _each_setting(group: str, values: Any, settings: Mapping[str, str], switch: Mapping[Any, Any]) -> Any:
    if not isinstance(values, Mapping):
        return values
    return {
        settings.get(f"{group}.{key}", key): switch.get(value, value) if f"{group}.{key}" in SWITCHES else value
        for key, value in values.items()
    }


def record_from_schema_1(raw: Raw) -> Raw:
    """A stored record in the words of schema 2."""
    record = _renamed(raw)
    record["cell"] = _cell(raw["cell"])
    record["measurements"] = [_measurement(one) for one in raw.get("readings", ())]
    record["missing"] = [_measurement(one) for one in raw.get("missing", ())]
    record["pairs"] = [{**pairs, "arm": STATES.get(pairs["arm"], pairs["arm"])} for pairs in raw.get("pairs", ())]
    record["metadata"] = _renamed(raw.get("facts", {}))
    return {**record, "schema_version": 2}


def baseline_from_schema_1(raw: Raw) -> Raw:
    """A stored baseline in the words of schema 2."""
    cells = [
        {**cell, "cell": _cell(cell["cell"]), "exact": [_measurement(one) for one in cell["exact"]]}
        for cell in raw["cells"]
    ]
    return {**raw, "cells": cells, "schema_version": 2}


def trials_from_schema_1(raw: Raw) -> Raw:
    """Stored trials of the gate's self-test in the words of schema 2."""
    return {**raw, "config": config_from_schema_1(raw["config"]), "schema_version": 2}


def claim_from_schema_1(raw: Any) -> Any:
    """A claim file as YAML gives it: keys, metrics and settings in today's words."""
    if isinstance(raw, Mapping):
        found = {CLAIM_KEYS.get(key, setting_today(str(key))): claim_from_schema_1(value) for key, value in raw.items()}
        if isinstance(over := found.get("over"), str):
            found["over"] = setting_today(over)
        if isinstance(paths := found.get("pool_over"), list):
            found["pool_over"] = [setting_today(path) if isinstance(path, str) else path for path in paths]
        return found
    if isinstance(raw, list):
        return [claim_from_schema_1(value) for value in raw]
    return METRICS.get(raw, raw) if isinstance(raw, str) else raw


def setting_today(path: str) -> str:
    """A dotted key of a configuration in today's words."""
    group, dot, setting = path.partition(".")
    group = GROUPS.get(group, group)
    first, more, rest = setting.partition(".")
    return f"{group}{dot}{SETTINGS.get(f'{group}.{first}', first)}{more}{rest}"


def _renamed(raw: Mapping[str, Any]) -> Raw:
    return {KEYS.get(key, key): value for key, value in raw.items()}


def _cell(raw: Mapping[str, Any]) -> Raw:
    return {**_renamed(raw), "config": config_from_schema_1(raw["config"])}


def _measurement(raw: Mapping[str, Any]) -> Raw:
    """Of what is missing, ``*`` stood for a whole state."""
    metric = raw["figure"]
    found = _renamed(raw)
    found["metric"] = None if metric == "*" else METRICS.get(metric, metric)
    found["state"] = STATES.get(raw["state"], raw["state"])
    return found
