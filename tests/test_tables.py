"""Comparison tables: what stands beside what, what is marked and explained, and the columns that others rely on."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.records.conditions import packages
from bench.records.record import CONTROL, MERGED, UNMERGED, Measurement, Pairs, Record, Status
from bench.report.comparison import KEYS, comparison_tables
from bench.report.frame import frame
from bench.report.records import records_report
from bench.report.table import Table
from tests.fakes import SIZES, make_cell, make_record
from tests.reports import notes, printed, written

PUBLIC = (
    "cell", "study", "method", "implementation", "size", "model", "layers", "hidden_size", "batch_size",
    "prompt_length", "dtype", "runtime", "device", "state", "status", "reason", "trained_parameters",
    "shipped_parameters", "resident_parameters", "total_parameters", "checkpoint_bytes", "train_peak_bytes",
    "train_weights_bytes", "train_gradients_bytes", "train_optimizer_state_bytes", "train_other_bytes",
    "train_tokens_per_second", "prefill_seconds", "prefill_ratio", "prefill_ratio_low", "prefill_ratio_high",
    "decode_seconds", "decode_ratio", "decode_ratio_low", "decode_ratio_high", "processes", "cache_length",
    "cache_bytes", "decode_operations", "decode_matmuls", "decode_critical_path", "decode_critical_path_matmuls",
    "prefill_flops", "decode_flops", "merge_error", "loss_before", "loss_after",
)  # fmt: skip
"""What CSV and Parquet promise; a name that goes from here breaks somebody's notebook."""


def study() -> list[Record]:
    return [make_record(make_cell(method, size)) for method, size in SIZES.items()]


def text(records: list[Record], width: int = 80) -> str:
    return printed(records_report(records), width)


def failed(record: Record, keep: tuple[str, ...]) -> Record:
    """The record as it would be had its cell failed after these states were measured."""
    measurements = tuple(one for one in record.measurements if one.state in keep)
    return dataclasses.replace(
        record, status=Status.FAILED, reason="no more", measurements=measurements, missing=(), pairs=()
    )


@pytest.mark.parametrize(
    ("keep", "state"), [((), "failed"), ((CONTROL,), "failed"), ((CONTROL, UNMERGED), "unmerged, failed")]
)
def test_a_cell_that_failed_has_a_row(keep: tuple[str, ...], state: str) -> None:
    """However far it came: the row says so, shows what was measured of the method, and the reason stands below once."""
    records = [make_record(make_cell("adapter", 16)), failed(make_record(make_cell()), keep)]
    (table,) = comparison_tables(records)
    assert ("lora", "r=8", state) in labels(table)
    assert text(records).count("no more") == 1


def test_what_computed_is_what_the_table_names() -> None:
    """An accelerator where one was used, and not the processor beside it, in the note as in CSV."""
    record = make_record(make_cell())
    on_card = dataclasses.replace(record, machine={"processor": "fake", "accelerator": "a card"})
    assert "measured on a card with" in text([on_card])
    assert set(frame([on_card])["machine"]) == {"a card"}
    assert "measured on fake with" in text([record])


def labels(table: Table) -> list[tuple[str, ...]]:
    return [row[: len(KEYS)] for row in table.rows]


def test_columns_are_a_public_interface() -> None:
    """CSV holds the promised columns, one row a cell, state and workload point, in base units, blank where missing."""
    records = [
        make_record(make_cell("lora", prompt_lengths=(64, 128))),
        make_record(make_cell("adapter", 16), lacking=["train_peak_bytes"]),
    ]
    rows = list(csv.DictReader(io.StringIO(written(records, "csv").decode())))
    assert set(PUBLIC) <= set(rows[0])
    found = [(row["method"], row["prompt_length"], row["state"]) for row in rows]
    assert sorted(found) == sorted(
        [("control", length, "control") for length in ("64", "128", "128")]
        + [("lora", length, state) for length in ("64", "128") for state in ("unmerged", "merged")]
        + [("adapter", "128", "unmerged")]
    )
    adapter = next(row for row in rows if row["method"] == "adapter")
    assert adapter["train_peak_bytes"] == ""
    measurement = next(r.value for r in records[1].measurements if r.metric == "checkpoint_bytes")
    assert float(adapter["checkpoint_bytes"]) == measurement
    assert json.loads(adapter["settings"]) == {"bottleneck": 16}


def test_parquet_holds_what_csv_holds() -> None:
    """Both exports have the same columns and values, and types that do not depend on what is missing."""
    records = study()
    parquet = pd.read_parquet(io.BytesIO(written(records, "parquet")))
    back = pd.read_csv(io.StringIO(written(records, "csv").decode()), dtype=dict(parquet.dtypes))
    pd.testing.assert_frame_equal(parquet, back)
    empty = written([make_record(make_cell(), status=Status.OOM)], "parquet")
    assert dict(pd.read_parquet(io.BytesIO(empty)).dtypes) == dict(parquet.dtypes)
    assert parquet["trained_parameters"].dtype == "Int64"


def test_a_merged_row_shares_what_was_trained_once() -> None:
    """Training's metrics stand in both rows of a method; what serving costs is each row's own."""
    rows = frame([make_record(make_cell("lora"))]).set_index("state")
    for name in ("trained_parameters", "train_peak_bytes", "checkpoint_bytes"):
        assert rows.loc[MERGED, name] == rows.loc[UNMERGED, name]
        assert pd.isna(rows.loc[CONTROL, name])
    assert rows.loc[MERGED, "resident_parameters"] == 0 < rows.loc[UNMERGED, "resident_parameters"]
    assert rows.loc[CONTROL, "decode_ratio"] == 1.0
    assert rows.loc[UNMERGED, "decode_ratio_low"] < rows.loc[UNMERGED, "decode_ratio"]
    assert set(rows["processes"]) == {3}


@given(order=st.permutations(range(len(SIZES))))
@settings(max_examples=20)
def test_the_order_of_records_changes_nothing(order: list[int]) -> None:
    """The same records give the same tables in whatever order they were read."""
    records = study()
    assert comparison_tables([records[index] for index in order]) == comparison_tables(records)


def test_the_control_comes_first_and_once() -> None:
    """It was timed beside every method, is one model, and has one row with its seconds and no parameters."""
    (table,) = comparison_tables(study())
    assert labels(table)[0] == ("control", "", "control")
    assert [label[0] for label in labels(table)].count("control") == 1
    control = dict(zip([column.name for column in table.columns], table.rows[0], strict=True))
    assert control["trained"] == ""
    assert control["decode"].endswith("µs")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"train_length": 64}, "training 4 × 64"),
        ({"prompt_lengths": (512,)}, "batch 1 × 512"),
        ({"threads": 2}, "2 threads"),
        ({"model": "gpt2"}, "gpt2"),
    ],
)
def test_what_can_not_be_compared_stands_apart(change: dict[str, object], told: str) -> None:
    """Rows that differ in more than the method make groups of their own, and the titles say how they differ."""
    both = comparison_tables([make_record(make_cell()), make_record(make_cell("adapter", 16, **change))])  # type: ignore[arg-type]
    assert len(both) == 2
    titled = [table.title for table in both if told in table.title]
    assert len(titled) == 1
    assert both[0].title != both[1].title


@pytest.mark.parametrize(
    ("change", "told"),
    [({"machine": {"processor": "other"}}, "machine other"), ({"versions": {"torch": "2.13.0"}}, "torch 2.13.0")],
)
def test_other_machines_and_versions_stand_apart(change: dict[str, object], told: str) -> None:
    """Records of another processor or torch are not put into one comparison, and the title names the difference."""
    there = dataclasses.replace(make_record(make_cell("adapter", 16)), **change)  # type: ignore[arg-type]
    both = comparison_tables([make_record(make_cell()), there])
    assert len(both) == 2
    assert sum(told in table.title for table in both) == 1


def test_one_cell_on_two_machines_is_two_tables() -> None:
    """Neither record replaces the other, and each title has its machine."""
    one = make_record(make_cell())
    tables = comparison_tables([one, dataclasses.replace(one, machine={"processor": "another"})])
    assert sorted(table.title.rpartition(" · ")[2] for table in tables) == ["machine another", "machine fake"]


def test_rows_are_set_apart_by_the_packages_they_run_on() -> None:
    """Two records of peft's that ran on two versions of it have a table each; ours, which do not run on it, are in
    both. Our rows alone are one table, whatever versions of peft and bitsandbytes were there."""

    def of(method: str, implementation: str, peft: str) -> Record:
        cell = dataclasses.replace(make_cell(method, 8), implementation=implementation)
        record = make_record(cell)
        return dataclasses.replace(record, versions={**record.versions, "peft": peft, "bitsandbytes": peft})

    ours = [of("lora", "peft-verdict", "0.20.0"), of("adalora", "peft-verdict", "0.21.0")]
    assert len(comparison_tables(ours)) == 1
    tables = comparison_tables([*ours, of("lora", "peft", "0.20.0"), of("adalora", "peft", "0.21.0")])
    assert [table.title.rpartition(" · ")[2] for table in tables] == ["peft 0.20.0", "peft 0.21.0"]
    assert [{row[0] for row in table.rows} for table in tables] == [
        {"control", "lora", "adalora", "lora (peft)"},
        {"control", "lora", "adalora", "adalora (peft)"},
    ]


def test_a_record_says_on_which_packages_its_method_ran() -> None:
    """A new one in words, one from before by a setting that tells of it; two versions are then two tables."""
    quantized = make_cell("qlora")
    settings = {**quantized.config["method"], "double_quantization": True}
    quantized = dataclasses.replace(quantized, config={**quantized.config, "method": settings})
    before = make_record(quantized)
    before = dataclasses.replace(before, versions={**before.versions, "bitsandbytes": "0.50.2"})
    new = dataclasses.replace(before, metadata={**before.metadata, "packages": ["bitsandbytes"]})
    assert packages(before) == packages(new) == {"bitsandbytes": "0.50.2"}
    assert packages(dataclasses.replace(new, metadata={"packages": []})) == {}
    other = dataclasses.replace(new, versions={**new.versions, "bitsandbytes": "0.51.0"})
    assert len(comparison_tables([before, new])) == 1
    assert len(comparison_tables([before, other])) == 2


def test_variants_of_one_method_are_told_apart() -> None:
    """Two cells of the same method and size get a letter each, and a line says in what they differ."""
    records = [make_record(make_cell(learning_rate=rate)) for rate in (1e-3, 1e-2)]
    (table,) = comparison_tables(records)
    assert {label[0] for label in labels(table)} == {"control", "lora a", "lora b"}
    assert notes(table)[:2] == ["lora a r=8: method.learning_rate 0.001", "lora b r=8: method.learning_rate 0.01"]


def test_cells_of_other_points_are_told_apart_where_they_meet() -> None:
    """A cell that was measured at this length alone, and one that was at two, differ in that and the legend says so."""
    records = [make_record(make_cell(prompt_lengths=lengths)) for lengths in ((64,), (64, 128))]
    meeting, alone = comparison_tables(records)
    assert {label[0] for label in labels(meeting)} == {"control", "lora a", "lora b"}
    assert notes(meeting)[:2] == [
        "lora a r=8: workload.prompt_lengths 64",
        "lora b r=8: workload.prompt_lengths 64,128",
    ]
    assert {label[0] for label in labels(alone)} == {"control", "lora"}


def test_a_missing_figure_is_blank_with_its_reason() -> None:
    """A metric that could not be had is an empty cell, and a footnote names cell, metric and reason."""
    records = [make_record(make_cell()), make_record(make_cell("adapter", 16), lacking=["train_peak_bytes"])]
    (table,) = comparison_tables(records)
    column = [column.name for column in table.columns].index("train mem")
    row = next(row for row in table.rows if row[0] == "adapter")
    assert row[column] == ""
    assert "adapter b=16: train_peak_bytes: there is no train_peak_bytes here" in notes(table)


@pytest.mark.parametrize("status", [Status.OOM, Status.TIMEOUT, Status.FAILED, Status.SKIPPED])
def test_a_cell_that_ended_badly_is_a_row_with_its_reason(status: Status) -> None:
    """It shows its status in place of a state, no metric, and the reason below."""
    records = [make_record(make_cell()), make_record(make_cell("adapter", 16), status=status, reason="because")]
    (table,) = comparison_tables(records)
    row = next(row for row in table.rows if row[0] == "adapter")
    assert row[: len(KEYS)] == ("adapter", "b=16", str(status))
    assert set(row[len(KEYS) :]) == {""}
    assert f"adapter b=16: no metrics: {status}: because" in notes(table)


def test_the_best_are_marked() -> None:
    """Of counts the best value alone; of ratios every one whose interval reaches the best one's; never the control."""
    (table,) = comparison_tables(study())
    headers = [column.name for column in table.columns]
    trained = {row for row, column in table.best if headers[column] == "trained"}
    values = [float(row[headers.index("trained")]) if row[headers.index("trained")] else None for row in table.rows]
    assert trained == {row for row, value in enumerate(values) if value == min(v for v in values if v is not None)}
    assert len([row for row, column in table.best if headers[column] == "decode"]) > 1
    assert 0 not in {row for row, _ in table.best}


def test_a_clock_reading_without_an_interval_is_never_best() -> None:
    """Tokens per second were read minutes apart: the fastest row may be the one of a quiet minute."""
    (table,) = comparison_tables(study())
    column = [column.name for column in table.columns].index("train tok/s")
    assert all(row[column] for row in table.rows[1:])
    assert column not in {found for _, found in table.best}


def slower(record: Record, factor: float) -> Record:
    pairs = [dataclasses.replace(p, arm_seconds=tuple(s * factor for s in p.arm_seconds)) for p in record.pairs]
    return dataclasses.replace(record, pairs=tuple(pairs))


def test_a_clearly_slower_method_is_not_best() -> None:
    """Where intervals are far apart, one is marked and the other is not."""
    records = [make_record(make_cell("adapter", 16)), slower(make_record(make_cell("prefix_tuning", 20)), 1.5)]
    (table,) = comparison_tables(records)
    decode = [column.name for column in table.columns].index("decode")
    assert [table.rows[row][0] for row, column in table.best if column == decode] == ["adapter"]


def test_the_aa_line_is_of_its_own_workload_point() -> None:
    """What a second control showed at one prompt length is not told of another."""
    record = make_record(make_cell(prompt_lengths=(64, 128)))

    def spoilt(pairs: Pairs) -> Pairs:
        if (pairs.arm, pairs.prompt_length) != ("aa", 64):
            return pairs
        return dataclasses.replace(pairs, arm_seconds=tuple(2 * s for s in pairs.control_seconds))

    found = comparison_tables([dataclasses.replace(record, pairs=tuple(map(spoilt, record.pairs)))])
    assert ["2.000" in " ".join(notes(table)) for table in found] == [True, False]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_terminal_table_fits(width: int) -> None:
    """No line of the table is wider than the terminal, the core metrics are all there, and more where there is room."""
    shown = text(study(), width)
    assert max(map(len, shown.splitlines())) <= width
    head = " ".join(shown.split("─")[0].split())
    for word in ("trained", "mem", "tok/s", "prefill", "decode"):
        assert word in head
    assert ("shipped" in shown) == (width == 160)


def test_markdown_and_latex_escape_what_would_be_markup() -> None:
    """Every row is there, the best are bold, and an underscore in a name does not become a subscript."""
    markdown, latex = written(study(), "md").decode(), written(study(), "latex").decode()
    assert "| prefix_tuning" in markdown
    assert "**" in markdown
    assert r"prefix\_tuning" in latex
    assert r"\textbf{" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 1


def test_markdown_holds_the_core_alone() -> None:
    """A page may be narrow: columns that a narrow terminal leaves out are not in Markdown."""
    markdown = written(study(), "md").decode()
    assert "decode (× control)" in markdown
    assert "shipped" not in markdown


def test_a_cell_that_ended_half_way_keeps_its_states_apart() -> None:
    """Metrics that were had before a time-out are shown, and the rows say of which state they are."""
    record = dataclasses.replace(make_record(make_cell()), status=Status.TIMEOUT, reason="too long", pairs=())
    (table,) = comparison_tables([record, make_record(make_cell("adapter", 16))])
    assert [label[2] for label in labels(table)] == ["control", "unmerged", "unmerged, timeout", "merged, timeout"]
    assert "lora r=8: incomplete: timeout: too long" in notes(table)


def test_one_process_claims_no_interval() -> None:
    """With a single process there is no ±, and no line that explains one."""
    (table,) = comparison_tables([make_record(make_cell(), processes=1)])
    assert "±" not in "".join("".join(row) for row in table.rows) + "".join(notes(table))


def test_shared_weights_are_told() -> None:
    """A reader of the table learns that the arms shared storage, without opening a record."""
    record = make_record(make_cell())
    pairs = tuple(dataclasses.replace(pair, shared_weights=True) for pair in record.pairs)
    (table,) = comparison_tables([dataclasses.replace(record, pairs=pairs)])
    assert any("shared one set of weights" in note for note in notes(table))


def on_a_card(busy: dict[str, float]) -> Record:
    """LoRA's record with the seconds of a decode step in which the device was busy, as parts of the step's own."""
    record = make_record(make_cell(), lacking=())
    steps = frame([record]).set_index("state")["decode_seconds"]
    measurements = [
        Measurement("decode_busy_seconds", part * steps[state], state, 1, 128) for state, part in busy.items()
    ]
    return dataclasses.replace(record, measurements=(*record.measurements, *measurements))


def test_each_row_says_whether_the_host_or_the_device_was_timed() -> None:
    """Below nine tenths of a step on the device it is the host; a row of which nothing is known is in neither line."""
    record = on_a_card({"control": 0.95, "unmerged": 0.3})
    (table,) = comparison_tables([record])
    bounds = [note for note in notes(table) if "-bound" in note]
    assert bounds == [
        "decode is host-bound (the device computes 30% to 30% of it): lora unmerged; "
        "runtime=cudagraph times the device",
        "decode is device-bound (the device computes 95% to 95% of it): control",
    ]
    busy = frame([record]).set_index("state")["decode_busy"]
    assert busy["unmerged"] == pytest.approx(0.3)
    assert math.isnan(busy["merged"])
    assert "decode busy" in [column.name for column in table.columns]


def test_a_step_is_never_busier_than_it_is_long() -> None:
    """Profiled and timed in different runs, the two may disagree by their noise."""
    assert frame([on_a_card({"unmerged": 1.02})]).set_index("state")["decode_busy"]["unmerged"] == 1.0


def test_without_a_card_nothing_is_said_of_it() -> None:
    """On a CPU the host is the device."""
    (table,) = comparison_tables([make_record(make_cell())])
    assert not any("-bound" in note for note in notes(table))
