"""What stands in more than one file is the same in each: versions, pins, the lock."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import bench
import methods
from tests.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
REQUIREMENTS = [
    *PROJECT["project"]["dependencies"],
    *(one for extra in PROJECT["project"]["optional-dependencies"].values() for one in extra),
]


def requirement(name: str) -> str:
    """What pyproject.toml asks of a package, without its name."""
    (found,) = [one.removeprefix(name) for one in REQUIREMENTS if re.match(rf"{re.escape(name)}(?![\w-])", one)]
    return found


def test_the_version_stands_in_one_place() -> None:
    """The package, its distribution and the citation have the version of ``bench/__init__.py``."""
    assert metadata.version("peft-verdict") == bench.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == bench.__version__
    assert f"## {bench.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_types_are_published() -> None:
    """Both packages say to a type checker that their annotations count."""
    for package in (bench, methods):
        assert (Path(package.__path__[0]) / "py.typed").is_file()


@pytest.mark.parametrize("tool", ["ruff"])
def test_pre_commit_has_the_pinned_tools(tool: str) -> None:
    """The hooks run the very version that CI installs; mypy runs from the project's own environment."""
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    pins = {pin for hook in repo["hooks"] for pin in hook.get("additional_dependencies", ()) if pin.startswith(tool)}
    assert pins == {tool + requirement(tool)}
    assert "mypy" in {hook["entry"] for hook in repo["hooks"] if hook["language"] == "system"}


def test_the_workflow_tests_the_oldest_versions_that_are_allowed() -> None:
    """Python from the oldest that is required to 3.14; torch and transformers at their lower bounds."""
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    matrix = jobs["tests"]["strategy"]["matrix"]
    (oldest,) = matrix["include"]
    assert f">={oldest['python']}" == PROJECT["project"]["requires-python"]
    for name in ("torch", "transformers"):
        (bound,) = re.findall(r">=([\d.]+)", requirement(name))
        assert f"{name}=={bound}.*" in oldest["pins"].split()
    assert {oldest["python"], *matrix["python"]} == {"3.11", "3.12", "3.13", "3.14"}


def test_the_lock_is_of_these_requirements() -> None:
    """``uv.lock`` was made from the requirements as they stand; ``uv lock`` makes it anew."""
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    (own,) = [package for package in lock["package"] if package["name"] == "peft-verdict"]
    locked = {(one["name"], one.get("specifier", "")) for one in own["metadata"]["requires-dist"]}

    def parts(text: str) -> tuple[str, str]:
        name = re.match(r"[\w-]+", text)
        assert name is not None
        return name[0], ",".join(sorted(text.removeprefix(name[0]).split(",")))

    assert {parts(one) for one in REQUIREMENTS} == {(name, ",".join(sorted(s.split(",")))) for name, s in locked}


def test_a_vulnerable_hydra_is_not_installed() -> None:
    """Releases of Hydra before 1.3.4 have a published vulnerability."""
    assert requirement("hydra-core").startswith(">=1.3.4")


def test_issue_forms_are_forms() -> None:
    """GitHub reads them: each has a name, a description and a body; one is for a verdict and asks for its record."""
    forms = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")}
    forms.pop("config")
    for form in forms.values():
        assert {"name", "description", "body"} <= set(form)
        assert len({one["id"] for one in form["body"] if "id" in one}) == sum("id" in one for one in form["body"])
    assert forms["verdict"]["name"] == "A verdict I doubt"
    (record,) = [one for one in forms["verdict"]["body"] if one.get("id") == "record"]
    assert record["validations"]["required"]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_fault_has_its_place_in_the_code(mutant: Mutant) -> None:
    """What a fault replaces is there exactly once, so that ``python -m tests.mutants`` can plant it."""
    assert (ROOT / "methods" / mutant.file).read_text().count(mutant.old) == 1
    assert mutant.new != mutant.old
