"""What others have published, beside what was measured."""

from __future__ import annotations

import dataclasses
import math

import pytest

from bench.config.groups import options
from bench.errors import UsageError
from bench.records.cell import Cell
from bench.records.record import MERGED, TRAIN, UNMERGED, Measurement, Record, Status
from bench.report.published import published, published_tables
from bench.report.records import records_report
from tests.fakes import known, make_cell, make_record, pairs_at
from tests.reports import notes, printed, written

STUDY = "lora-table1"


def cell(method: str, point: tuple[int, int], **settings: object) -> Cell:
    made = make_cell(method, 8, prompt_lengths=(point[1],))
    workload = {**made.config["workload"], "batch_sizes": [point[0]]}
    return dataclasses.replace(
        made, config={**made.config, "workload": workload, "method": {**made.config["method"], **settings}}
    )


def measured(method: str, point: tuple[int, int], ratio: float, state: str = UNMERGED, **settings: object) -> Record:
    pairs = pairs_at([math.log(ratio) + d for d in (-0.01, 0.0, 0.01)], phase="prefill", arm=state, point=point)
    return known(cell(method, point, **settings), pairs=pairs, study=STUDY)


@pytest.mark.parametrize("study", options("study"))
def test_every_study_says_what_was_published_in_terms_that_exist(study: str) -> None:
    """Each source is read, has rows, and no row is of a reference of nothing."""
    for source in published(study):
        assert source.rows
        assert all(row.value > 0 and row.reference_value > 0 for row in source.rows)


def test_the_published_table_of_the_lora_paper_is_beside_ours() -> None:
    """Each row stands at its workload point, with our interval and their milliseconds as a ratio."""
    records = [
        measured("adapter", (1, 128), 1.2, placement="houlsby"),
        measured("adapter", (1, 128), 1.1, placement="pfeiffer"),
        measured("lora", (1, 128), 1.0, state=MERGED),
        measured("adapter", (16, 256), 1.05, placement="houlsby"),
    ]
    (table,) = published_tables(records)
    assert [row[:3] for row in table.rows] == [
        ("Adapter^H", UNMERGED, "16 × 256"),
        ("lora", MERGED, "1 × 128"),
        ("Adapter^L", UNMERGED, "1 × 128"),
        ("Adapter^H", UNMERGED, "1 × 128"),
    ]
    ours, theirs = zip(*(row[3:] for row in table.rows), strict=True)
    assert [text.split()[0] for text in ours] == ["1.050", "1.000", "1.100", "1.200"]
    assert all(" ±.0" in text for text in ours)
    assert theirs == ("1.084", "1.000", "1.207", "1.303")  # 366.3 / 338.0, 19.8 / 19.8, 23.9 / 19.8, 25.8 / 19.8
    assert any("Quadro RTX 8000" in note for note in notes(table))
    assert "1 × 128: the published order (lora < Adapter^L < Adapter^H)" in notes(table)
    assert "Adapter^H: the published order (16 × 256 < 1 × 128)" in notes(table)


def test_another_order_than_the_published_one_is_told() -> None:
    """Methods at a point, and points of a method."""
    records = [
        measured("adapter", (1, 128), 1.1, placement="houlsby"),
        measured("adapter", (1, 128), 1.2, placement="pfeiffer"),
        measured("adapter", (16, 256), 1.3, placement="houlsby"),
    ]
    (table,) = published_tables(records)
    assert "1 × 128: not the published order, but Adapter^H < Adapter^L" in notes(table)
    assert "Adapter^H: not the published order, but 1 × 128 < 16 × 256" in notes(table)


def test_an_order_is_told_only_where_intervals_tell_it() -> None:
    """Two ratios a hair apart are not told apart, whichever estimate is the larger."""
    records = [
        measured("adapter", (1, 128), 1.200, placement="houlsby"),
        measured("adapter", (1, 128), 1.201, placement="pfeiffer"),
    ]
    (table,) = published_tables(records)
    assert "1 × 128: not told apart: Adapter^L and Adapter^H" in notes(table)


def test_a_study_whose_published_table_is_wrong_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line that names the file and the key, before anything runs; so is a file that does not exist."""
    wrong = [{"source": "a", "measured": "b", "metric": "c", "reference": "control", "rows": [{"method": "lora"}]}]
    content: list[object] = [{"study": {"published": ["torchtune"]}}, wrong]
    monkeypatch.setattr("bench.report.published.yaml.safe_load", lambda _: content.pop(0))
    with pytest.raises(UsageError, match=r"conf/published/torchtune\.yaml: 0\.rows\.0\.value"):
        published("training")
    content.append({"study": {"published": ["nothing"]}})
    with pytest.raises(UsageError, match=r"there is no conf/published/nothing\.yaml"):
        published("training")


def test_a_figure_over_that_of_another_method() -> None:
    """Memory of LoRA over that of full fine-tuning, where both were measured; a failed cell is not compared."""

    def trained(method: str, peak: int, **changes: object) -> Record:
        made = make_cell(method, None, model="llama-3.1-8b")
        return known(made, [Measurement("train_peak_bytes", peak, UNMERGED)], study="training", **changes)

    both = [trained("full", 2000), trained("lora", 1500)]
    found = {table.title: table.rows for table in published_tables(both)}
    rows = [row for rows in found.values() for row in rows]
    assert {row[3] for row in rows} == {"0.750"}
    assert {row[4] for row in rows} == {"0.575", "0.810"}  # 20.8 / 36.2 and 30.3 / 37.4
    elsewhere = [dataclasses.replace(r, cell=dataclasses.replace(r.cell, model="tiny")) for r in both]
    assert not any("torchtune" in table.title for table in published_tables(elsewhere))  # whose rows are of that model
    assert published_tables([trained("lora", 1500)]) == []
    assert published_tables([trained("full", 2000, status=Status.FAILED), trained("lora", 1500)]) == []


def trained_in_turn(method: str, *logs: float) -> Record:
    """A record whose training steps were so many logs faster than full fine-tuning's, and whose single reading lies."""
    made = make_cell(method, None, model="llama-3.1-8b")
    made = dataclasses.replace(
        made, config={**made.config, "workload": {**made.config["workload"], "train_reference": "full"}}
    )
    single = [Measurement("train_tokens_per_second", 12345 if logs else 1, UNMERGED)]
    own = [] if logs else [Measurement("train_ratio", 1, UNMERGED)]
    pairs = pairs_at([-log for log in logs], phase=TRAIN)
    return known(made, [*single, *own], pairs, study="training")


def test_training_speeds_are_those_that_were_timed_in_turn() -> None:
    """With an interval, over the training reference and over another method that was timed with it."""
    full = trained_in_turn("full")
    lora = trained_in_turn("lora", *(math.log(1.5) + d for d in (-0.01, 0.0, 0.01)))
    qlora = trained_in_turn("qlora", *(math.log(0.75) + d for d in (-0.01, 0.0, 0.01)))
    tables = published_tables([full, lora, qlora])
    speeds = [table for table in tables if any("train tokens per second" in note for note in notes(table))]
    ours = {(row[0], table.columns[3].unit): row[3] for table in speeds for row in table.rows}
    assert ours["lora", "× full"].startswith("1.500 ±.0")
    assert ours["qlora", "× lora"].startswith("0.500 ±.0")
    assert not any(text.startswith("12345") for text in ours.values())


def test_records_of_other_studies_have_nothing_beside_them() -> None:
    """A folder of the default study prints what it printed before."""
    assert published_tables([make_record(make_cell())]) == []


def test_what_differs_in_more_than_the_method_is_no_reference() -> None:
    """LoRA in bfloat16 is not put over full fine-tuning in float32."""

    def trained(method: str, dtype: str) -> Record:
        made = make_cell(method, None, dtype=dtype)
        return known(made, [Measurement("train_peak_bytes", 1000, UNMERGED)], study="training")

    assert published_tables([trained("full", "float32"), trained("lora", "bfloat16")]) == []


def test_both_ways_of_printing_have_it() -> None:
    """On an 80-column terminal and in Markdown."""
    records = [measured("adapter", (1, 128), 1.2, placement="houlsby")]
    shown = printed(records_report(records))
    assert "vs. LoRA (arXiv 2106.09685), table 1" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "| Adapter^H |" in written(records, "md").decode().replace("  ", " ").replace("  ", " ")
