"""What the README shows is what the repository holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from bench.render import render
from bench.store import read_paths
from tests.families import VOCABULARY, build

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TABLES = re.findall(r"<!-- table: (\S+) -->\n(.*?)<!-- end -->", README, flags=re.DOTALL)


@pytest.mark.parametrize(("folder", "shown"), TABLES, ids=[folder for folder, _ in TABLES])
def test_tables_are_generated_from_committed_records(folder: str, shown: str) -> None:
    """Each table between marks is the rendering of the records in the folder that the mark names."""
    assert shown.strip() == render(read_paths([ROOT / folder]), "md").decode().strip()


def test_the_readme_shows_a_table() -> None:
    """The marks are still there, so that the test above checks something."""
    assert TABLES


def test_the_library_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python block of the README does what it says, on a small model saved for the purpose."""
    monkeypatch.chdir(tmp_path)
    build("llama").save_pretrained("my-model")
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    ids = torch.randint(3, VOCABULARY, (2, 8), generator=torch.Generator().manual_seed(0))
    names = {"batches": [ids, ids], "fresh_model": build("llama")}
    exec(compile(block, "README.md", "exec"), names)
    assert Path("lora.safetensors").exists()
