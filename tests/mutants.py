"""Faults planted in the methods, one at a time: the tests of what methods compute must find each.

``python -m tests.mutants`` plants those of ``tests/data/mutants.yaml``, ``python -m tests.mutants merge`` those whose
name has the word. It ends with status 1 if one survives. Each is planted in a copy of the tree, and tested in a process
that is forked from this one, so that torch is imported once.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers
import yaml

ROOT = Path(__file__).parent.parent
COPIED = ("methods", "bench", "conf", "tests", "pyproject.toml")
TESTS = (
    "test_definitions.py",
    "test_merging.py",
    "test_layouts.py",
    "test_refused_models.py",
    "test_forward_arguments.py",
    "test_conformance.py",
    "test_library.py",
)
"""The tests of what a method computes, in the order in which they are run until one fails."""
LIBRARIES = ("torch", "transformers")


@dataclass(frozen=True)
class Mutant:
    """One fault: in ``methods/FILE``, ``old``, which is there exactly once, becomes ``new``."""

    name: str
    file: str
    old: str
    new: str


MUTANTS = [Mutant(**one) for one in yaml.safe_load((ROOT / "tests" / "data" / "mutants.yaml").read_text())]


def survives(mutant: Mutant | None) -> bool:
    """Whether the tests pass with the fault in the code, or without any."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name in COPIED:
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, place / name)
        if mutant is not None:
            _plant(mutant, place / "methods" / mutant.file)
        child = os.fork()
        if child == 0:
            try:
                os._exit(_run_tests(place))
            finally:
                os._exit(pytest.ExitCode.INTERNAL_ERROR)
        _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise SystemExit(f"{mutant}: the tests did not run (pytest ended with {code})")
    return code == pytest.ExitCode.OK


def _plant(mutant: Mutant, path: Path) -> None:
    text = path.read_text()
    if text.count(mutant.old) != 1:
        raise SystemExit(f"{mutant.name}: methods/{mutant.file} has {text.count(mutant.old)} times {mutant.old!r}")
    path.write_text(text.replace(mutant.old, mutant.new))


def _run_tests(place: Path) -> int:
    os.chdir(place)
    for name in [name for name in sys.modules if name.partition(".")[0] in COPIED]:
        del sys.modules[name]
    sys.path[:] = [str(place), *(entry for entry in sys.path if entry not in ("", str(ROOT)))]
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # they are imported here already
    options = ("-x", "-q", "-p", "no:cacheprovider", "-o", "addopts=")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return int(pytest.main([*options, *(f"tests/{name}" for name in TESTS)]))


def main() -> None:
    """Plants the faults that the arguments name, and prints what became of each."""
    chosen = [one for one in MUTANTS if all(word in one.name for word in sys.argv[1:])]
    survivors = []
    torch.set_num_threads(1)
    begun = time.monotonic()
    if not survives(None):
        raise SystemExit("the tests fail as the code stands")
    for number, mutant in enumerate(chosen, start=1):
        alive = survives(mutant)
        survivors += [mutant.name] * alive
        verdict = "SURVIVES" if alive else "caught"
        print(f"[{number}/{len(chosen)}] {verdict:8} {mutant.name} ({time.monotonic() - begun:.0f} s)", flush=True)
    versions = ", ".join(f"{name} {sys.modules[name].__version__}" for name in LIBRARIES)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} are caught ({versions})")
    raise SystemExit(bool(survivors))


if __name__ == "__main__":
    assert transformers.__version__
    main()
