"""What the README shows is what the repository holds."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from bench.claims.load import load_claims
from bench.claims.report import render_claims
from bench.claims.verdict import judge_all
from bench.gate.report import print_rates
from bench.gate.selftest import read_trials
from bench.records.store import read_paths
from bench.report.render import render
from tests.families import VOCABULARY, build

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TABLES = re.findall(r"<!-- table: (\S+) -->\n(.*?)<!-- end -->", README, flags=re.DOTALL)


@pytest.mark.parametrize(("folder", "shown"), TABLES, ids=[folder for folder, _ in TABLES])
def test_tables_are_generated_from_committed_records(folder: str, shown: str) -> None:
    """Each table between marks is the rendering of the records in the folder that the mark names."""
    assert shown.strip() == render(read_paths([ROOT / folder]), "md").decode().strip()


REFERENCES = re.findall(r"<!-- beside: (\S+) -->\n(.*?)<!-- end -->", README, flags=re.DOTALL)


@pytest.mark.parametrize(("folder", "shown"), REFERENCES, ids=[folder for folder, _ in REFERENCES])
def test_comparisons_are_generated_from_committed_records(folder: str, shown: str) -> None:
    """Of the rendering of such records, the part that puts methods beside their references, or beside what is published."""
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
    assert len(REFERENCES) == 2
    assert CLAIMS
    assert FORECASTS


def test_the_claim_of_the_readme_is_one(tmp_path: Path) -> None:
    """The YAML that shows how to add a claim is read as it stands."""
    (block,) = re.findall(r"```yaml\n(statement:.*?)```", README, flags=re.DOTALL)
    (tmp_path / "mine.yaml").write_text(block)
    (mine,) = load_claims(tmp_path)
    assert len(mine.evidence) == 3


def test_the_library_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python block of the README does what it says, on a small model saved for the purpose."""
    monkeypatch.chdir(tmp_path)
    build("llama").save_pretrained("my-model")
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    ids = torch.randint(3, VOCABULARY, (2, 8), generator=torch.Generator().manual_seed(0))
    names = {"batches": [ids, ids], "fresh_model": build("llama")}
    exec(compile(block, "README.md", "exec"), names)
    assert Path("lora/adapter_model.safetensors").is_file()


def test_the_example_of_a_method_is_the_one_that_is_tested() -> None:
    """The class on the page for authors is the file that `test_outside` sweeps, word for word."""
    page = (ROOT / "COMPARE_YOUR_OWN_METHOD.md").read_text()
    ((name, shown),) = re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```\n<!-- end -->", page, flags=re.DOTALL)
    assert shown == (ROOT / name).read_text()
