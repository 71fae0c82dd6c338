"""What the README shows is what the repository holds."""

from __future__ import annotations

import configparser
import inspect
import io
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_origin

import pytest
import torch
from rich.console import Console

import methods
from bench.claims.load import load_claims
from bench.claims.report import render_claims
from bench.claims.verdict import judge_all
from bench.gate.report import print_rates
from bench.gate.selftest import read_trials
from bench.records.store import read_paths
from bench.report.render import render
from methods import validators
from tests.families import VOCABULARY, build

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TABLES = re.findall(r"<!-- table: (\S+) -->\n(.*?)<!-- end -->", README, flags=re.DOTALL)


@pytest.mark.parametrize(("folder", "shown"), TABLES, ids=[folder for folder, _ in TABLES])
def test_tables_are_generated_from_committed_records(folder: str, shown: str) -> None:
    """Each table between marks is the rendering of the records in the folder that the mark names."""
    assert shown.strip() == render(read_paths([ROOT / folder]), "md").decode().strip()


RIVALS = re.findall(r"<!-- beside: (\S+) -->\n(.*?)<!-- end -->", README, flags=re.DOTALL)


@pytest.mark.parametrize(("folder", "shown"), RIVALS, ids=[folder for folder, _ in RIVALS])
def test_comparisons_are_generated_from_committed_records(folder: str, shown: str) -> None:
    """Of the rendering of such records, the part that puts methods beside their rivals, or beside what is published."""
    whole = render(read_paths([ROOT / folder]), "md").decode()
    assert shown.strip() == whole[whole.index("**beside") :].strip()


CLAIMS = re.findall(r"<!-- claims: ([^>]+) -->\n(.*?)<!-- end -->", README, flags=re.DOTALL)


def told(text: str) -> list[str]:
    """The tables of a report with their titles, as far as there are verdicts."""
    decided = text.partition("**Without a verdict**")[0]
    return [line.strip() for line in decided.splitlines() if line.startswith(("|", "**"))]


@pytest.mark.parametrize(("folders", "shown"), CLAIMS, ids=[folders for folders, _ in CLAIMS])
def test_verdicts_are_generated_from_committed_records(folders: str, shown: str) -> None:
    """The verdicts between marks are those of the records in the folders that the mark names."""
    records = read_paths([ROOT / folder for folder in folders.split()])
    assert told(shown) == told(render_claims(judge_all(load_claims(), records), "md").decode())


def test_error_rates_are_those_of_the_committed_trials() -> None:
    """The block of the README is what the self-test prints of the trials in the repository."""
    (shown,) = re.findall(r"<!-- selftest: \S+ -->\n```\n(.*?)```\n<!-- end -->", README, flags=re.DOTALL)
    console = Console(file=io.StringIO(), width=80, highlight=False)
    folder = ROOT / "results" / "reference" / "selftest"
    print_rates([read_trials(path) for path in sorted(folder.glob("*.json"))], console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert [line.rstrip() for line in shown.strip().splitlines()] == [
        line.rstrip() for line in text.strip().splitlines()
    ]


FORECASTS = re.findall(r"<!-- estimate: ([^>]+) -->\n(.*?)<!-- end -->", README, flags=re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "shown"), FORECASTS, ids=[arguments for arguments, _ in FORECASTS])
def test_forecasts_are_what_the_command_says(arguments: str, shown: str) -> None:
    """The forecast between marks is what the command of the mark prints, on whatever machine."""
    command = [sys.executable, "-m", "bench", "estimate", *shlex.split(arguments), "--format", "md"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.strip() == done.stdout.strip()


def test_the_readme_shows_a_table() -> None:
    """The marks are still there, so that the tests above check something."""
    assert TABLES
    assert len(RIVALS) == 2
    assert CLAIMS
    assert FORECASTS


def test_the_claim_of_the_readme_is_one(tmp_path: Path) -> None:
    """The YAML that shows how to add a claim is read as it stands."""
    (block,) = re.findall(r"```yaml\n(statement:.*?)```", README, flags=re.DOTALL)
    (tmp_path / "mine.yaml").write_text(block)
    (mine,) = load_claims(tmp_path)
    assert len(mine.evidence) == 3


@pytest.mark.parametrize("page", ["README.md", "methods/README.md"])
def test_the_library_example_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first Python block of the page does what it says, on a small model saved for the purpose."""
    monkeypatch.chdir(tmp_path)
    build("llama").save_pretrained("my-model")
    block = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)[0]
    ids = torch.randint(3, VOCABULARY, (2, 8), generator=torch.Generator().manual_seed(0))
    names = {"batches": [ids, ids], "fresh_model": build("llama")}
    exec(compile(block, page, "exec"), names)
    assert Path("lora/adapter_model.safetensors").is_file()


def test_the_example_of_a_method_is_the_one_that_is_tested() -> None:
    """The class on the page for authors is the file that `test_outside` sweeps, word for word."""
    page = (ROOT / "methods" / "README.md").read_text()
    ((name, shown),) = re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```\n<!-- end -->", page, flags=re.DOTALL)
    assert shown == (ROOT / name).read_text()


def test_the_page_of_the_library_names_every_method() -> None:
    """Each file that defines a method is linked in the table, and each link of the page leads to a file."""
    folder = ROOT / "methods"
    page = (folder / "README.md").read_text()
    links = set(re.findall(r"\]\(([^)#]+)\)", page))
    assert all((folder / link).exists() for link in links)
    assert {Path(inspect.getfile(kind)).name for kind in methods.available().values()} <= links


def test_the_page_of_the_library_lists_every_annotation() -> None:
    """The types of `methods.validators` and the table of annotations are the same."""
    page = (ROOT / "methods" / "README.md").read_text()
    (table,) = re.findall(r"\| annotation \| allows \|\n(.*?)\n\n", page, flags=re.DOTALL)
    kinds = {name for name, value in vars(validators).items() if name[0].isupper() and get_origin(value) is not None}
    assert kinds == set(re.findall(r"`([A-Z]\w+)`", table)) - {"StrEnum"}


def test_the_entry_point_on_the_page_is_the_one_that_is_tested() -> None:
    """What the page says goes into ``pyproject.toml`` is what the installed example has."""
    page = (ROOT / "methods" / "README.md").read_text()
    (block,) = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    ((group, points),) = tomllib.loads(block)["project"]["entry-points"].items()
    installed = configparser.ConfigParser()
    installed.read(ROOT / "tests" / "data" / "outside" / "acme_methods-1.0.dist-info" / "entry_points.txt")
    assert dict(installed[group]) == points
