"""The names that the groups of ``conf/`` take. Free of Hydra, which costs more to load than reading a folder."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import yaml

OUTSIDE_LEARNING_RATE = 1e-3
"""What a method of another package trains with, unless told otherwise."""
ENTRY_POINTS = "peft_verdict.methods"
"""The group of entry points by which an installed package brings its methods, as ``name = package.module:Class``."""


def conf() -> Path:
    """The folder of the configuration files: a wheel has it in the package, a checkout beside the package."""
    package = Path(__file__).parent.parent
    return next(folder for folder in (package / "conf", package.parent / "conf") if folder.is_dir())


@cache
def options(group: str) -> tuple[str, ...]:
    """The names that ``group=`` takes: the files of the folder, and of methods those that other packages bring."""
    folder = conf() / group
    files = {file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml")}
    return tuple(sorted(files | (set(outside_methods()) if group == "method" else set())))


@cache
def outside_methods() -> Mapping[str, str]:
    """Methods of other packages: name and ``package.module.Class``. A name that is ours stays ours."""
    folder = conf() / "method"
    found = {point.name: point.value for point in metadata.entry_points(group=ENTRY_POINTS)}
    return {name: value.replace(":", ".") for name, value in found.items() if not (folder / f"{name}.yaml").is_file()}


@cache
def default(group: str) -> str:
    """The name that ``group`` has where nobody chooses another."""
    defaults = yaml.safe_load((conf() / "config.yaml").read_text())["defaults"]
    return next(str(entry[group]) for entry in defaults if isinstance(entry, dict) and group in entry)


def method_config(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A method with its defaults, as a cell's configuration has it; ``config`` is what its file may refer to."""
    settings = method_settings(name)
    if settings is None:
        return {"_target_": outside_methods()[name], "learning_rate": OUTSIDE_LEARNING_RATE}
    from omegaconf import OmegaConf

    whole = OmegaConf.create({**config, "method": dict(settings)})
    return cast(dict[str, Any], OmegaConf.to_container(whole.method, resolve=True))


@cache
def method_settings(name: str) -> Mapping[str, Any] | None:
    """``conf/method/NAME.yaml``; None for a method of another package, whose class alone knows its settings."""
    if name in outside_methods():
        return None
    text = (conf() / "method" / f"{name}.yaml").read_text()
    return dict(yaml.safe_load(text))
