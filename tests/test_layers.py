"""Who may import whom: the layers point down, and the parent process stays free of torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(path for folder in ("bench", "methods") for path in (ROOT / folder).rglob("*.py"))
HEAVY = ("torch", "transformers", "datasets", "evaluate", "bitsandbytes", "pandas", "scipy", "hydra")


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Modules of this project that a file imports, wherever in it."""
    modules = {name_of(other) for other in FILES}
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path}: relative import"
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (below & modules) or {node.module}
    return found & modules


def test_methods_know_nothing_of_the_harness() -> None:
    """``methods/`` can be taken out of the repository and used alone."""
    for path in FILES:
        if name_of(path).startswith("methods"):
            assert not {name for name in imports(path) if name.startswith("bench")}, path


def test_no_import_runs_in_a_circle() -> None:
    """The files of the project can be put in an order in which each imports only those before it."""
    waiting = {name_of(path): imports(path) - {name_of(path)} for path in FILES}
    while ready := [name for name, needs in waiting.items() if not needs & waiting.keys()]:
        for name in ready:
            del waiting[name]
    assert waiting == {}


def test_the_harness_names_no_method() -> None:
    """A method is added without a change in ``bench/``: no name of one stands there, as code or as text."""
    names = {path.stem for path in (ROOT / "conf" / "method").glob("*.yaml")} - {"peft"}  # a package too
    allowed = {"cli.py"}  # examples in the help
    for path in FILES:
        if not name_of(path).startswith("bench") or path.name in allowed:
            continue
        tree = ast.parse(path.read_text())
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            words: set[str] = set()
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                words = {node.value}
            elif isinstance(node, ast.Name):
                words = {node.id}
            elif isinstance(node, ast.ImportFrom):
                words = set(str(node.module).split("."))
            assert not words & (names - {"full"}), f"{path}:{getattr(node, 'lineno', 0)}"


def loaded_by(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split()) & set(HEAVY)


@pytest.mark.parametrize(
    ("code", "loaded"),
    [
        ("from bench.cli import app", set[str]()),
        ("import bench.config.compose", {"hydra"}),
        ("import bench.commands.run", {"pandas", "scipy"}),
    ],
)
def test_the_parent_loads_no_more_than_it_needs(code: str, loaded: set[str]) -> None:
    """``--help`` needs nothing heavy, composing needs Hydra, running and printing need pandas and scipy; none torch."""
    assert loaded_by(code) == loaded


def test_help_needs_nothing_heavy() -> None:
    """``python -m bench --help``, and that of each verb, answer without torch, pandas or Hydra."""
    for verb in (
        [],
        ["run"],
        ["multirun"],
        ["table"],
        ["claims"],
        ["baseline", "save"],
        ["check"],
        ["selftest"],
        ["estimate"],
    ):
        code = (
            "import contextlib, io\nfrom bench.cli import app\n"
            "with contextlib.redirect_stdout(io.StringIO()) as text:\n"
            f"    app({[*verb, '--help']!r}, standalone_mode=False)\n"
            "assert 'Usage' in text.getvalue()"
        )
        assert loaded_by(code) == set()


@pytest.mark.parametrize("module", ["methods", "methods.errors", "methods.validators"])
def test_settings_and_errors_of_methods_need_no_torch(module: str) -> None:
    """Reading what a setting may be, and catching what a method raises, loads neither torch nor transformers."""
    assert loaded_by(f"import {module}") == set()


def test_the_classes_of_methods_are_loaded_on_demand() -> None:
    """``from methods import Method`` works as if the class stood there, and an unknown name is an error as ever."""
    code = (
        "import methods\n"
        "assert not {'torch', 'methods.base'} & sys.modules.keys()\n"
        "from methods import Attached, Count, Method\n"
        "assert Method is sys.modules['methods.base'].Method\n"
        "assert not hasattr(methods, 'Nonsense')"
    )
    assert {"torch", "transformers"} <= loaded_by(code)
