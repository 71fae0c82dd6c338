"""What holds for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from bench.config import groups
from bench.records import machine
from tests.command import ROOT

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded: the workers of pytest share the cores
# no test asserts on wall time, and Hypothesis would by default
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

OUTSIDE = ROOT / "tests" / "data" / "outside"
"""A package with a method, as an installer leaves it."""
CACHED = (groups.outside_methods, groups.options, groups.method_settings, machine.versions)
"""What is looked up once in a process."""


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is repeated on the twin of a family."""
    from tests.families import TWINS  # which loads torch

    for item in items:
        given = getattr(item, "callspec", None)
        if given is not None and given.params.get("family") in TWINS and item.path.stem != "test_layouts":
            item.add_marker("longer")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package is installed: its folder holds what an installer would have written."""
    monkeypatch.syspath_prepend(OUTSIDE)
    for lookup in CACHED:
        lookup.cache_clear()
    yield
    monkeypatch.undo()
    for lookup in CACHED:
        lookup.cache_clear()
