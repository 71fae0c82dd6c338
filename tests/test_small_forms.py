"""Small forms of the studies made for a card, for real on a CPU, beside what is published."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.records.record import Status
from bench.records.store import Store
from bench.report.published import published_tables
from tests.command import Done, here
from tests.reports import notes

QUICK = (
    "precision.processes=1",
    "precision.max_processes=0",
    "precision.pairs=1",
    "precision.warmup_steps=1",
    "precision.discarded_steps=0",
    "workload.train_length=16",
)
GPT2 = (
    "model=gpt2-narrow",
    "model.settings.n_embd=224",  # above the widest bottleneck, 223
    "model.settings.n_layer=1",
    "model.settings.n_head=2",
)


def run(folder: Path, *overrides: str) -> Done:
    return here("multirun", "device=cpu", *QUICK, *overrides, f"results_dir={folder}")


@pytest.mark.slow
def test_table_1_of_the_lora_paper(tmp_path: Path) -> None:
    """All nine cells of the table, at its own workloads, on a GPT-2 of one layer."""
    done = run(tmp_path, "study=lora-table1", *GPT2)
    assert done.status == 0, done.stderr
    assert "vs. LoRA (arXiv 2106.09685), table 1" in done.stdout
    records = list(Store(tmp_path).read().values())
    assert len(records) == 9
    assert {record.status for record in records} == {Status.OK}
    (table,) = published_tables(records)
    assert len(table.rows) == 9
    assert {row[2] for row in table.rows} == {"32 × 512", "16 × 256", "1 × 128"}


@pytest.mark.slow
def test_what_training_costs(tmp_path: Path) -> None:
    """Memory and tokens per second of every method of the study beside the published ratios."""
    done = run(tmp_path, "study=training", "model=tiny", "workload.train_steps=3", "workload.held_out_sequences=1")
    assert done.status == 0, done.stderr
    tables = published_tables(list(Store(tmp_path).read().values()))
    assert len(tables) == 2  # torchtune's are of another model
    saved = {row[0]: float(row[3]) for table in tables for row in table.rows if "peak bytes" in notes(table)[0]}
    assert {name.split()[0] for name in saved} == {"lora", "prefix_tuning", "prompt_tuning"}
    assert all(ratio < 1 for ratio in saved.values())


@pytest.mark.longer
def test_the_headline_compiled(tmp_path: Path) -> None:
    """One cell of the headline study in the compiled runtime: both states timed, no graph broken."""
    done = run(
        tmp_path,
        "~study",
        "method=lora",
        "model.settings.num_hidden_layers=1",
        "runtime=compile",
        "workload.phases=[decode]",
    )
    assert done.status == 0, done.stderr
    (record,) = Store(tmp_path).read().values()
    assert record.cell.config["runtime"]["execution"] == "compile"
    breaks = {r.state: r.value for r in record.measurements if r.metric == "decode_graph_breaks"}
    assert breaks == {"control": 0, "unmerged": 0, "merged": 0}
    assert {pairs.arm for pairs in record.pairs} == {"unmerged", "merged", "aa"}
