"""The keys that a configuration has, and overrides whose key nobody knows.

Free of Hydra and OmegaConf: Hydra would refuse an unknown key as well, but only after it has been imported.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Collection, Sequence

from bench.config.aliases import GROUPS as RENAMED_GROUPS
from bench.config.aliases import setting_today
from bench.config.groups import method_settings, options
from bench.config.schema import REFERENCE_GROUP, REFERENCE_KEY, Config, Device, Precision, Runtime, Study, Workload
from bench.config.sources import DataConfig, ModelConfig
from bench.errors import UsageError

GROUPS = ("method", "model", "data", "workload", "runtime", "device", "precision", "study")
SCHEMAS = {
    "model": ModelConfig,
    "data": DataConfig,
    "workload": Workload,
    "runtime": Runtime,
    "device": Device,
    "precision": Precision,
    "study": Study,
}
PLAIN = re.compile(r"(?P<sign>~?)(?P<key>[\w@][\w@.-]*)(=(?P<value>.*))?", flags=re.DOTALL)
"""An override without a sign that adds a key."""
NAMES = re.compile(r"[\w.-]+(,[\w.-]+)*")
"""One option of a group, or several with commas between them."""


def is_key(path: str) -> bool:
    """Whether a dotted key is one of a cell's configuration."""
    group, _, setting = path.partition(".")
    if group == "method":
        return bool(setting) and _is_setting(setting, options("method"))
    if group in SCHEMAS and group != "study":
        return setting.partition(".")[0] in _fields(group)
    return path == "seed"


def check_overrides(arguments: Sequence[str]) -> None:
    """Refuses overrides that name an option or a key that does not exist, or by a name that it no longer has.

    What only Hydra's grammar understands is left to Hydra.

    Raises:
        UsageError: naming the override and what exists.
    """
    parsed = [match for argument in arguments if (match := PLAIN.fullmatch(argument))]
    chosen = [name for match in parsed if match["key"] == "method" for name in _names(match["value"]) if name]
    for match in parsed:
        check_renamed(match["key"])
        if group_of(match["key"]) in GROUPS:
            for name in _names(match["value"]):
                check_option(match["key"], name)
    for match in parsed:  # a key is looked for in the method that is chosen, which must exist
        key = match["key"]
        if not match["sign"] and "@" not in key and key not in GROUPS:
            _check_key(key, chosen or options("method"))


def group_of(key: str) -> str:
    """The group in which an override looks for a name: ``method`` of ``method@reference``."""
    return key.partition("@")[0]


def check_option(key: str, name: str | None, group: str | None = None) -> None:
    """Refuses a name that a group does not have. None is null, which a cell may have for its reference alone.

    ``group``: where the name is looked up, if the key does not say so.

    Raises:
        UsageError: naming the options, or the nearest of them.
    """
    if name is None and key == REFERENCE_GROUP:
        return
    group = group or group_of(key)
    if name not in options(group):
        word = "null" if name is None else name
        raise UsageError(f"{key}={word}: unknown {group}{hint(name or '', options(group))}")


def check_renamed(key: str) -> None:
    """Refuses a key of schema 1 that has another name now.

    Raises:
        UsageError: naming today's key.
    """
    group, at, package = key.partition("@")
    today = f"{group}@{RENAMED_GROUPS.get(package, package)}" if at else setting_today(key)
    first, _, setting = key.partition(".")
    if setting and first in options("method"):  # NAME.setting speaks of the method NAME alone
        today = f"{first}.{setting_today(f'method.{setting}').partition('.')[2]}"
    if today != key:
        raise UsageError(f"{key} is now called {today}")


def hint(word: str, known: Sequence[str]) -> str:
    """The nearest of the known words, or all of them."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; choose from {', '.join(known)}"


def _names(value: str | None) -> list[str | None]:
    """The options that an override chooses, none where it takes Hydra to tell. None is null."""
    names = value.split(",") if value is not None and NAMES.fullmatch(value) else []
    return [None if name == "null" else name for name in names]


def _check_key(key: str, methods: Sequence[str]) -> None:
    group, dot, setting = key.partition(".")
    if group in options("method") and dot:
        group, methods = "method", (group,)
    if group == "hydra":
        raise UsageError(f"{key}: Hydra's own settings have no effect here; leave it out")
    if not dot:
        known: Collection[str] = {field.name for field in dataclasses.fields(Config)}
        if key not in known:
            raise UsageError(f"{key}: there is no key '{key}'{hint(key, sorted(known))}")
    elif group in ("method", REFERENCE_KEY):
        if group == "method" and not _is_setting(setting, methods):
            names = sorted({name for method in methods for name in method_settings(method) or ()} - {"_target_"})
            owner = f"{methods[0]} has no" if len(methods) == 1 else "none of the methods has the"
            raise UsageError(f"{key}: {owner} key '{setting}'{hint(setting, names)}")
    elif group in SCHEMAS:
        name = setting.partition(".")[0]
        if name not in _fields(group):
            raise UsageError(f"{key}: {group} has no key '{name}'{hint(name, sorted(_fields(group)))}")
    else:
        raise UsageError(f"{key}: there is no key '{group}'{hint(group, (*GROUPS, REFERENCE_KEY))}")


def _is_setting(setting: str, methods: Sequence[str]) -> bool:
    """Whether one of the methods has the setting. The class alone knows those of a method of another package."""
    known = [method_settings(name) for name in methods]
    return any(settings is None or setting.partition(".")[0] in settings for settings in known)


def _fields(group: str) -> set[str]:
    return {field.name for field in dataclasses.fields(SCHEMAS[group])}
