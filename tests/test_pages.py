"""What the pages show is what the repository holds, and what they tell people to type works."""

from __future__ import annotations

import configparser
import inspect
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_origin

import click
import pytest
import torch

import methods
from bench.claims.load import load_claims
from bench.cli import app
from bench.config.compose import compose_multirun, compose_run
from bench.config.keys import check_overrides
from bench.gate.selftest import read_trials
from bench.gate.trials import Rates, rates
from bench.records import stats
from bench.records.store import read_paths
from methods import validators
from tests.families import VOCABULARY, build
from tests.pages import KINDS, PAGES, ROOT, blocks

README = (ROOT / "README.md").read_text()
METHODS_PAGE = (ROOT / "methods" / "README.md").read_text()
BLOCKS = list(blocks())
REFERENCE = ROOT / "results" / "reference"


@pytest.mark.parametrize(
    ("page", "found"),
    [
        pytest.param(page, found, marks=[pytest.mark.longer] if found["kind"] == "estimate" else [])
        for page, found in BLOCKS
    ],
    ids=[f"{found['kind']}: {found['arguments']}"[:60] for _, found in BLOCKS],
)
def test_generated_blocks_are_what_the_repository_gives(page: str, found: re.Match[str]) -> None:
    """Each block between marks is what its mark says of the records, trials or files in the repository."""
    assert found["shown"].strip() == KINDS[found["kind"]](found["arguments"]).strip(), f"{page}: python -m tests.pages"


def test_every_kind_of_block_is_on_a_page() -> None:
    """The marks are there, so that the test above checks something."""
    assert {found["kind"] for _, found in BLOCKS} == set(KINDS)


def test_the_front_page_is_short() -> None:
    """A newcomer reads it in two minutes."""
    assert len(README.splitlines()) <= 160


def test_the_front_page_reads_its_table_right() -> None:
    """The percentages in its sentences are those of the records that the table shows."""
    (shown,) = [found for page, found in BLOCKS if page == "README.md" and found["kind"] == "table"]
    added = {}
    for record in read_paths([ROOT / path for path in shown["arguments"].split()]):
        for state in ("unmerged", "merged"):
            if logs := record.log_ratios("decode", state):
                added[record.cell.method, state] = stats.ratio(logs).estimate - 1
    assert f"takes {added['adapter', 'unmerged']:.1%} longer" in README
    assert f"not free before it is merged** ({added['lora', 'unmerged']:.1%})" in README
    assert abs(added["lora", "merged"]) < 0.015


def test_the_front_page_counts_its_claims_and_trials_right() -> None:
    """Twenty claims; the checks of an unchanged model, and of one that was slowed by 5% how many were found."""
    assert len(load_claims()) == 20
    assert "Twenty claims" in README
    found = [one for path in sorted((REFERENCE / "selftest").glob("*.json")) for one in rates(read_trials(path))]
    unchanged = [one for one in found if one.slowdown == 0]
    assert sum(one.regressed for one in unchanged) == 0
    front = " ".join(README.split())
    assert f"In {sum(one.checks for one in unchanged)} checks of an unchanged model" in front
    assert f"found {_caught([one for one in found if one.slowdown == 0.05])} slowdowns of 5%" in front
    assert f"and {_caught([one for one in found if one.period == 10])} of a step that takes twice as long" in front


def _caught(slowed: Sequence[Rates]) -> str:
    """How many slowdowns were found of how many: ``all 50``, ``49 of 50``."""
    caught, slow = (sum(getattr(one, name) for one in slowed) for name in ("regressed", "checks"))
    return f"all {slow}" if caught == slow else f"{caught} of {slow}"


def commands() -> Iterator[tuple[str, str]]:
    """Every command of ours on the pages, in blocks and in sentences."""
    for page in (*PAGES, "CONTRIBUTING.md"):
        text = re.sub(r"<!-- \w+: .*?<!-- end -->", "", (ROOT / page).read_text(), flags=re.DOTALL)
        for found in re.finditer(r"python -m (bench [^`#\n&]*(?:\n[^`#\n&]+)*)`|python -m (bench [^`#\n&|]+)", text):
            command = " ".join((found[1] or found[2]).replace("\\\n", " ").split())
            yield page, command.rstrip(" .,;:")


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, texts and results, as the pages take them for granted."""
    folder = tmp_path_factory.mktemp("newcomer")
    build("llama").save_pretrained(folder / "my-model")
    (folder / "texts.jsonl").write_text('{"text": "a"}\n')
    (folder / "results").symlink_to(ROOT / "results")
    return folder


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("page", "command"), sorted(set(commands())))
def test_commands_on_pages_are_understood(
    page: str, command: str, newcomer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their options exist, their overrides compose and are found sound, and the records that they name are there."""
    monkeypatch.chdir(newcomer)
    _, verb, *arguments = shlex.split(command)
    try:
        parser, names = app.commands[verb], list(arguments)
        while isinstance(parser, click.Group):
            parser = parser.commands[names.pop(0)]
        parameters = parser.make_context(verb, names).params
    except click.exceptions.Exit:
        return  # --help
    if overrides := parameters.get("overrides"):
        check_overrides(overrides)
        (compose_run if verb in ("run", "selftest") else compose_multirun)(overrides)
    made = re.findall(r"results_dir=([^\s`]+)", (ROOT / page).read_text())
    for path in [*(parameters.get("paths") or ()), *(parameters.get("against") or ())]:
        assert path.exists() or "cuda" in str(path) or str(path) in ("FOLDER", "RECORDS", *made)


def test_the_claim_of_the_page_is_one(tmp_path: Path) -> None:
    """The YAML that shows how to add a claim is read as it stands."""
    (block,) = re.findall(r"```yaml\n(statement:.*?)```", (ROOT / "conf/README.md").read_text(), flags=re.DOTALL)
    (tmp_path / "mine.yaml").write_text(block)
    (mine,) = load_claims(tmp_path)
    assert len(mine.evidence) == 3


def test_the_study_of_the_page_is_one(tmp_path: Path) -> None:
    """The YAML that shows how to add a study composes to its four cells."""
    (block,) = re.findall(r"```yaml\n(# @package.*?)```", (ROOT / "conf/README.md").read_text(), flags=re.DOTALL)
    for package in ("bench", "methods"):
        (tmp_path / package).symlink_to(ROOT / package)
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf" / "study" / "ranks.yaml").write_text(block)
    code = "from bench.config.compose import compose_multirun; print(len(compose_multirun(['study=ranks'])[0].cells))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "4"


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


def test_the_page_of_the_library_names_every_method() -> None:
    """Each file that defines a method is linked in the table."""
    links = set(re.findall(r"\]\(([^)#]+)\)", METHODS_PAGE))
    assert {Path(inspect.getfile(kind)).name for kind in methods.available().values()} <= links


def test_the_page_of_the_library_lists_every_annotation() -> None:
    """The types of `methods.validators` and the table of annotations are the same."""
    (table,) = re.findall(r"\| annotation \| allows \|\n(.*?)\n\n", METHODS_PAGE, flags=re.DOTALL)
    kinds = {name for name, value in vars(validators).items() if name[0].isupper() and get_origin(value) is not None}
    assert kinds == set(re.findall(r"`([A-Z]\w+)`", table)) - {"StrEnum"}


def test_the_entry_point_on_the_page_is_the_one_that_is_tested() -> None:
    """What the page says goes into ``pyproject.toml`` is what the installed example has."""
    (block,) = re.findall(r"```toml\n(.*?)```", METHODS_PAGE, flags=re.DOTALL)
    ((group, points),) = tomllib.loads(block)["project"]["entry-points"].items()
    installed = configparser.ConfigParser()
    installed.read(ROOT / "tests" / "data" / "outside" / "acme_methods-1.0.dist-info" / "entry_points.txt")
    assert dict(installed[group]) == points


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_links_lead_somewhere(page: str) -> None:
    """Every link to a file of the repository names one, and every link to a heading names one of its page."""
    path = ROOT / page
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if target.startswith("http"):
            continue
        name, _, heading = target.partition("#")
        there = (path.parent / name) if name else path
        assert there.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", there.read_text(), flags=re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings}, target
