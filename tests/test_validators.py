"""Settings are checked by their annotations, with or without the class at hand."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

import pytest
from omegaconf import OmegaConf

import methods
from methods import MethodError, validators
from methods.validators import (
    Fraction,
    Names,
    NonNegativeFloat,
    NonNegativeInt,
    Options,
    PositiveFloat,
    PositiveInt,
    check_settings,
    check_value,
)


class Side(StrEnum):
    left = "left"
    right = "right"


HUGE = 10**400
"""An int that no float can hold."""
ALLOWED: list[tuple[Any, object, object]] = [
    (PositiveInt, 1, 1),
    (PositiveInt | None, None, None),
    (PositiveInt | None, 3, 3),
    (NonNegativeInt, 0, 0),
    (PositiveFloat, 2, 2),
    (NonNegativeFloat, 0.0, 0.0),
    (Fraction, 0, 0),
    (int, -HUGE, -HUGE),
    (float, -1.5, -1.5),
    (bool, False, False),
    (str, "", ""),
    (str | None, None, None),
    (Names, "q_proj", ("q_proj",)),
    (Names, ["q", "v"], ("q", "v")),
    (tuple[int, ...], [], ()),
    (Side, "left", Side.left),
    (Side | None, Side.right, Side.right),
    (Options, {"r": [1, None]}, {"r": [1, None]}),
]
REFUSED: list[tuple[Any, object, str]] = [
    (PositiveInt, 0, "rank must be a whole number of at least 1, not 0"),
    (PositiveInt, 1.0, "rank must be a whole number of at least 1, not 1.0"),
    (PositiveInt, True, "rank must be a whole number of at least 1, not True"),
    (PositiveInt, None, "rank must be a whole number of at least 1, not None"),
    (PositiveInt | None, "4", "rank must be a whole number of at least 1, not 4"),
    (NonNegativeInt, -1, "rank must be a whole number of at least 0, not -1"),
    (PositiveFloat, 0.0, "rank must be a positive number, not 0.0"),
    (PositiveFloat, float("nan"), "rank must be a positive number, not nan"),
    (PositiveFloat, HUGE, "rank must be a positive number, not 1000"),
    (NonNegativeFloat, float("inf"), "rank must be a number of at least 0, not inf"),
    (Fraction, 1.0, "rank must be at least 0 and less than 1, not 1.0"),
    (int, 0.5, "rank must be a whole number, not 0.5"),
    (float, False, "rank must be a finite number, not False"),
    (bool, 1, "rank must be true or false, not 1"),
    (str, 7, "rank must be a string, not 7"),
    (Names, (), "rank must name at least one"),
    (Names, 7, "rank must be a list, not 7"),
    (Names, ["q", 7], "rank must be a string, not 7"),
    (Side, "both", "rank must be one of left, right, not both"),
    (Side, ["left"], "rank must be one of left, right, not ['left']"),
    (Options, ["r"], "rank must be a mapping from names to values, not ['r']"),
    (Options, {1: 2}, "rank must be a mapping from names to values, not {1: 2}"),
]


@pytest.mark.parametrize(("annotation", "given", "kept"), ALLOWED)
def test_an_allowed_value_is_kept_in_one_form(annotation: Any, given: object, kept: object) -> None:
    """Lists become tuples, strings members of their enumeration; what is in form already stays the same, type too."""
    for value in (given, kept):
        found = check_value(annotation, value, "rank")
        assert (found, type(found)) == (kept, type(kept))


@pytest.mark.parametrize(("annotation", "value", "says"), REFUSED)
def test_another_value_is_refused(annotation: Any, value: object, says: str) -> None:
    """The message is one line that begins with the setting's name and says what is allowed."""
    with pytest.raises(MethodError) as caught:
        check_value(annotation, value, "rank")
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("annotation", [list[int], tuple, tuple[int, str], int | str, complex, object])
def test_an_unknown_annotation_is_the_mistake_of_its_author(annotation: Any) -> None:
    """A setting whose annotation says nothing to the validators is not passed over in silence."""
    with pytest.raises(TypeError, match=r"annotation .* of rank is not supported"):
        check_value(annotation, 1, "rank")


@dataclass(frozen=True)
class Settings:
    rank: PositiveInt
    side: Side = Side.left
    names: Names = ("q",)
    step: NonNegativeInt | None = None

    def __post_init__(self) -> None:
        check_settings(self)


def test_every_field_of_a_dataclass_is_checked() -> None:
    """A frozen dataclass holds normalized values once it is made, and is not made with others."""
    made = Settings(3, cast(Any, "right"), cast(Any, ["q", "v"]))
    assert made == Settings(3, Side.right, ("q", "v"), None)
    assert made.side is Side.right
    with pytest.raises(MethodError, match="step must be"):
        Settings(3, step=-1)


def test_omegaconf_reads_these_annotations() -> None:
    """OmegaConf takes the dataclass as a schema, converts by type, and leaves ranges to the class."""
    schema = OmegaConf.structured(Settings, flags={"readonly": False})
    merged = OmegaConf.merge(schema, {"rank": "4", "side": "right", "names": ["k"], "step": 2})
    assert OmegaConf.to_object(merged) == Settings(4, Side.right, ("k",), 2)
    with pytest.raises(MethodError, match="rank must be"):
        OmegaConf.to_object(OmegaConf.merge(schema, {"rank": 0}))


NEEDED = {"total_steps": 10, "type": "LORA"}
"""Values of settings that have no default."""


def settings_of(tree: ast.ClassDef) -> dict[str, str]:
    """The source of the annotation of each setting."""
    fields = [node for node in tree.body if isinstance(node, ast.AnnAssign)]
    annotations = {ast.unparse(field.target): ast.unparse(field.annotation) for field in fields}
    return {name: text for name, text in annotations.items() if not text.startswith("ClassVar")}


@pytest.mark.parametrize("name", methods.available())
def test_the_annotations_of_a_method_can_be_read_without_importing_it(name: str) -> None:
    """They consist of names of `methods.validators`, builtins, and enumerations that stand in the same file."""
    kind = methods.available()[name]
    tree = ast.parse(Path(inspect.getfile(kind)).read_text())
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    enums = {
        name: StrEnum(name, [ast.literal_eval(value.value) for value in node.body if isinstance(value, ast.Assign)])
        for name, node in classes.items()
        if [ast.unparse(base) for base in node.bases] == ["StrEnum"]
    }
    needed = {field.name for field in dataclasses.fields(kind) if field.default is field.default_factory}
    default = kind(**{setting: NEEDED[setting] for setting in needed})
    found = settings_of(classes[kind.__name__])
    assert found.keys() == vars(default).keys()
    for setting, text in found.items():
        annotation = eval(text, {**vars(validators), **enums})
        assert check_value(annotation, getattr(default, setting), setting) == getattr(default, setting)
