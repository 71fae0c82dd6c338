"""Checks of a method's settings by the annotations in its source file.

The file is read and not imported, because importing it would import torch. What can't be told like this, such as a
check across settings, the class itself checks in a child process.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any

from bench.errors import UsageError
from methods import MethodError, validators

PACKAGE = "methods"


def check_method(config: Mapping[str, Any], key: str) -> None:
    """Refuses a value that the method's class would refuse. ``key``: where the configuration has the method.

    Raises:
        UsageError: naming the setting and what it may be.
    """
    target = config.get("_target_")
    parts = target.split(".") if isinstance(target, str) else []
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise UsageError(f"{key}._target_ must name a class, as package.module.Class, not {target}")
    *package, module, name = parts
    if package != [PACKAGE]:  # the class of another package may be anything
        return
    for setting, annotation in field_types(module, name).items():
        if setting in config:
            try:
                validators.check_value(annotation, config[setting], setting)
            except MethodError as error:
                raise UsageError(f"{key}: {error}") from error


@cache
def field_types(module: str, name: str) -> Mapping[str, Any]:
    """Annotations of the fields of a class in ``methods/MODULE.py`` that are made of validators, builtins and enums."""
    try:
        tree = ast.parse((resources.files(PACKAGE) / f"{module}.py").read_text())
    except OSError:  # the child process says that there is no such module
        return {}
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    enums = [node for node in classes.values() if any(ast.unparse(base) == "StrEnum" for base in node.bases)]
    names: dict[str, Any] = {**vars(validators), "StrEnum": StrEnum, "__name__": f"{PACKAGE}.{module}"}
    exec(compile(ast.Module(list(enums), []), f"{module}.py", "exec"), names)
    found = {}
    for node in classes[name].body if name in classes else ():
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            try:
                annotation = eval(compile(ast.Expression(node.annotation), f"{module}.py", "eval"), names)
            except NameError:  # a class variable, or a type that only torch has
                continue
            found[node.target.id] = annotation
    return found
