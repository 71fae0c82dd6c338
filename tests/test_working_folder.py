"""The folder in which the command is typed: nothing in it takes the place of what the harness imports."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.command import ROOT, SMALL, really

OTHERS = ("conf", "methods", "random", "tempfile", "pathlib", "torch", "datasets", "hydra", "click", "tests")
"""Modules of ours, of Python's and of libraries, loaded by the parent, its server or its children."""
MINE = """
from dataclasses import dataclass
from typing import ClassVar

from methods.lora import Lora


@dataclass(frozen=True, kw_only=True)
class Mine(Lora):
    name: ClassVar[str] = "mine"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder full of names that are taken, and one module of a method."""
    for name in OTHERS:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('imported {name}')")
    (tmp_path / "conf").mkdir()
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("start", ["forkserver", pytest.param("spawn", marks=pytest.mark.longer)])
def test_a_cell_is_measured_in_a_folder_of_other_peoples_names(folder: Path, start: str) -> None:
    """Parent, server and children, forked or new, import what they mean; a method of the folder's own is found."""
    own = ("method=lora", "method._target_=mine.Mine", "method.rank=2", f"precision.start={start}")
    done = really("run", *own, *SMALL, folder=folder)
    assert (done.status, done.stderr) == (0, ""), done
    assert "mine (mine)" in done.stdout


def test_the_wheel_has_no_module_called_conf() -> None:
    """Its configuration lies in the package: a package called ``conf`` would be taken for other projects' conf.py."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["sources"] == {"conf": "bench/conf"}
    assert not (ROOT / "conf" / "__init__.py").exists()


def test_a_folder_that_was_removed_is_no_obstacle(tmp_path: Path) -> None:
    """A command started where there is no folder any more answers as anywhere else."""
    code = (
        "import os, sys; os.rmdir(os.getcwd()); os.execv(sys.executable, [sys.executable, '-m', 'bench', '--version'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
