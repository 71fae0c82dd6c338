"""The names that the groups of ``conf/`` take. Free of Hydra, which costs more to load than reading a folder."""

from __future__ import annotations

from functools import cache
from importlib import resources

import yaml


@cache
def options(group: str) -> tuple[str, ...]:
    """The names that ``group=`` takes: the files of the folder."""
    folder = resources.files("conf") / group
    return tuple(sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml")))


@cache
def default(group: str) -> str:
    """The name that ``group`` has where nobody chooses another."""
    defaults = yaml.safe_load((resources.files("conf") / "config.yaml").read_text())["defaults"]
    return next(str(entry[group]) for entry in defaults if isinstance(entry, dict) and group in entry)


@cache
def method_keys(name: str) -> tuple[str, ...]:
    """The keys of ``conf/method/NAME.yaml``."""
    text = (resources.files("conf") / "method" / f"{name}.yaml").read_text()
    return tuple(yaml.safe_load(text))
