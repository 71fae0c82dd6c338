"""The rooms of the harness: who may import whom, where torch may be imported, and what stays out of the parent."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.cli import app

ROOT = Path(__file__).parent.parent
FILES = sorted(path for folder in ("bench", "methods") for path in (ROOT / folder).rglob("*.py"))
HEAVY = ("torch", "transformers", "datasets", "evaluate", "bitsandbytes", "pandas", "scipy", "hydra")
ROOMS = (
    "errors",
    "config",
    "records",
    "instruments",
    "workload",
    "probes",
    "runner",
    "report",
    "estimate",
    "claims",
    "gate",
    "worker",
    "commands",
    "cli",
    "__main__",
)
"""From the ground up: a room imports only rooms before it."""
WITH_TORCH = ("instruments", "workload", "worker")
"""Rooms that may import torch at the top of a file; a probe may inside the functions that measure."""


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(name: str) -> str | None:
    """The room of a module of the harness, None for other modules and for ``bench`` itself."""
    package, _, rest = name.partition(".")
    return rest.partition(".")[0] or None if package == "bench" else None


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module, or name in a module, that is imported anywhere below ``tree``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports(path: Path) -> set[str]:
    """Modules of this project that a file imports, anywhere in it."""
    modules = {name_of(other) for other in FILES}
    found = set(imported(ast.parse(path.read_text())))
    return {name if name in modules else name.rpartition(".")[0] for name in found} & modules


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


def test_every_file_is_in_a_room() -> None:
    """The list of rooms is complete, and no module lies loose in ``bench/``."""
    assert {room for path in FILES if (room := room_of(name_of(path)))} == set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_room_imports_only_rooms_before_it(path: Path) -> None:
    """Imports point one way, from the command line down to the exception for the person at the keyboard."""
    if (room := room_of(name_of(path))) is not None:
        others = {other for name in imports(path) if (other := room_of(name)) is not None}
        assert max(map(ROOMS.index, others), default=0) <= ROOMS.index(room), others


@pytest.mark.parametrize("path", sorted((ROOT / "bench").glob("*/__init__.py")), ids=name_of)
def test_a_room_says_its_purpose_in_one_sentence(path: Path) -> None:
    """Its ``__init__.py`` is that sentence and no code, which ``--help`` would have to run."""
    (node,) = ast.parse(path.read_text()).body
    assert isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    assert str(node.value.value).count("\n") == 0


def test_child_processes_are_entered_by_name_alone() -> None:
    """Nobody imports the room of the children's entry points, and every name by which one is started exists."""
    for path in FILES:
        if room_of(name_of(path)) != "worker":
            assert not any(room_of(name) == "worker" for name in imports(path)), path
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and node.value.startswith("bench.worker.")
            ):
                module, colon, function = node.value.partition(":")
                (file,) = [file for file in FILES if name_of(file) == module]
                assert not colon or f"def {function}(" in file.read_text(), node.value


def test_torch_is_imported_where_it_may_be() -> None:
    """Nowhere else: tables, commands and the runner start without it."""
    for path in FILES:
        room = room_of(name_of(path))
        if room is None or room in WITH_TORCH:
            continue
        tree = ast.parse(path.read_text())
        heavy = {name for name in imported(tree) if name.partition(".")[0] in ("torch", "transformers")}
        inside = {
            name
            for node in tree.body
            if room == "probes" and isinstance(node, ast.FunctionDef)
            for name in imported(node)
        }
        assert heavy <= inside, path


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
        ("import bench.cli", set[str]()),
        ("import bench.config.keys, bench.config.schema, bench.runner.process", set[str]()),
        ("import bench.commands.run, bench.commands.table, bench.commands.estimate", set[str]()),
        ("import bench.config.compose", {"hydra"}),
        ("import bench.report.records", {"pandas"}),
    ],
)
def test_the_parent_loads_no_more_than_it_needs(code: str, loaded: set[str]) -> None:
    """What is wrong with a command is said before anything heavy is imported; torch is never imported."""
    assert loaded_by(code) == loaded


def subcommands() -> list[list[str]]:
    """Every subcommand of the command line."""
    found: list[list[str]] = [[]]
    for name, sub in app.commands.items():
        found += [[name], *([name, below] for below in getattr(sub, "commands", ()))]
    return found


@pytest.mark.parametrize("verb", subcommands(), ids=" ".join)
def test_help_needs_nothing_heavy(verb: list[str]) -> None:
    """``python -m bench --help``, and that of each subcommand, answers without torch, pandas or Hydra."""
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
