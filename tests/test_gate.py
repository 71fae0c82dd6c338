"""The gate: every verdict and exit status on records whose truth is known, and what is written of them."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
import xmlschema
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bench.errors import UsageError
from bench.gate.baseline import Baseline, load_baseline, make_baseline, save_baseline, summarize
from bench.gate.compare import check_cell, partners, worst
from bench.gate.report import checks_report, github_annotations, write_junit
from bench.gate.rerun import check_again, check_against, status_of
from bench.gate.rule import OTHER_MACHINE, SAME_MACHINE, Change, Rule, Verdict, confirmed, judge
from bench.records.cell import OURS, Cell
from bench.records.record import CONTROL, UNMERGED, Measurement, Record, Status
from bench.records.store import Store
from bench.runner.progress import Progress
from tests.fakes import checked_cells, known, make_cell, make_record, pairs_at
from tests.reports import printed

SPREAD = (-0.01, -0.006, -0.002, 0.002, 0.006, 0.01)
"""Six processes around nothing."""
NOISE = st.lists(st.floats(min_value=-0.05, max_value=0.05), min_size=2, max_size=12)
LATER = "2026-02-02T00:00:00+00:00"
SCHEMA = Path(__file__).parent / "data" / "junit.xsd"


def around(center: float, width: float = 1.0) -> list[float]:
    return [center + width * value for value in SPREAD]


def record(
    center: float = 0.0, *, width: float = 1.0, products: int = 49, cell: Cell | None = None, **changes: object
) -> Record:
    """LoRA's record with one latency and two exact metrics."""
    measurements = [
        Measurement("decode_matmuls", products, UNMERGED, 1, 128),
        Measurement("decode_matmuls", 33, CONTROL, 1, 128),
        Measurement("loss", 8.0 + center, UNMERGED),
    ]
    return known(cell or make_cell(), measurements, pairs_at(around(center, width)), **changes)


@pytest.mark.parametrize(
    ("center", "width", "verdict"),
    [
        (0.0, 1.0, Verdict.PASSED),
        (0.02, 1.0, Verdict.PASSED),
        (-0.2, 1.0, Verdict.PASSED),
        (0.06, 1.0, Verdict.REGRESSED),
        (0.10, 3.0, Verdict.REGRESSED),
        (0.0, 8.0, Verdict.AMBIGUOUS),
        (0.06, 8.0, Verdict.AMBIGUOUS),
        (0.029, 4.0, Verdict.AMBIGUOUS),
    ],
)
def test_the_rule(center: float, width: float, verdict: Verdict) -> None:
    """Sure and large is a regression, surely small passes, and what is neither is said to be neither."""
    assert judge(around(0.0), around(center, width), SAME_MACHINE).verdict is verdict


def test_a_small_slowdown_is_no_regression_however_sure() -> None:
    """2% measured to within a thousandth passes; across machines so does 4%."""
    assert judge(around(0.0, 0.01), around(0.02, 0.01), SAME_MACHINE).verdict is Verdict.PASSED
    assert judge(around(0.0, 0.01), around(0.04, 0.01), SAME_MACHINE).verdict is Verdict.REGRESSED
    assert judge(around(0.0, 0.01), around(0.04, 0.01), OTHER_MACHINE).verdict is Verdict.PASSED


@given(before=NOISE, after=NOISE, threshold=st.floats(min_value=0.01, max_value=0.5))
def test_laws_of_the_rule(before: list[float], after: list[float], threshold: float) -> None:
    """The bounds hold the estimate, nothing is faster and slower at once, and a run never regressed from itself."""
    rule = Rule.at(threshold)
    change = judge(before, after, rule)
    assert change.low <= change.estimate <= change.high
    assert not (change.improved and change.verdict is Verdict.REGRESSED)
    assert judge(before, before, rule).verdict is not Verdict.REGRESSED
    if judge(before, after, SAME_MACHINE).verdict is Verdict.PASSED:
        assert judge(before, after, OTHER_MACHINE).verdict is Verdict.PASSED


def test_a_faster_run_is_an_improvement() -> None:
    """It passes, and is marked."""
    assert judge(around(0.0), around(-0.06), SAME_MACHINE).improved
    assert not judge(around(0.0), around(-0.02), SAME_MACHINE).improved


def test_a_regression_stands_only_if_found_again() -> None:
    """A repeat that does not find it makes it ambiguous; what passed needs no repeat."""
    slow, fine = (judge(around(0.0), around(c), SAME_MACHINE) for c in (0.06, 0.0))
    assert confirmed(slow, slow).verdict is Verdict.REGRESSED
    assert confirmed(slow, fine).verdict is Verdict.AMBIGUOUS
    assert confirmed(fine, slow) is fine


def test_false_alarms_and_detections_by_simulation() -> None:
    """With processes that spread by 1.2%: of 2000 pairs of copies none is a false alarm after the repeat, at most 1%
    pass for something else, and 98% or more of slowdowns by 6% are found."""
    rng = random.Random(0)

    def sample(center: float) -> list[float]:
        return [rng.gauss(center, 0.012) for _ in range(6)]

    def run(center: float) -> Change:
        before = sample(0.0)
        return confirmed(judge(before, sample(center), SAME_MACHINE), judge(before, sample(center), SAME_MACHINE))

    copies = [run(0.0).verdict for _ in range(2000)]
    slower = [run(0.06).verdict for _ in range(2000)]
    assert copies.count(Verdict.REGRESSED) == 0
    assert copies.count(Verdict.PASSED) >= 1980
    assert slower.count(Verdict.REGRESSED) >= 1960


def verdicts(kept: Record, now: Record | None, **options: object) -> dict[str, Verdict]:
    checks = check_cell(summarize(kept), now, options.pop("threshold", None), **options)  # type: ignore[arg-type]
    return {f"{one.metric} {one.place}": one.verdict for one in checks}


def test_the_same_run_passes_whole() -> None:
    """Every metric, and metrics with noise of their own, such as a loss, are not among them."""
    found = verdicts(record(), record())
    assert found == {
        "decode_matmuls unmerged, 1 × 128": Verdict.PASSED,
        "decode_matmuls control, 1 × 128": Verdict.PASSED,
        "decode_ratio unmerged, 1 × 128": Verdict.PASSED,
        "decode_mean_ratio unmerged, 1 × 128": Verdict.PASSED,
    }


def rarely(extra: float) -> Record:
    """A record in which one pair of ten takes longer by ten times ``extra``: on average ``extra``, in the median 0."""
    pairs = [
        dataclasses.replace(
            own,
            control_seconds=own.control_seconds * 10,
            arm_seconds=(*own.arm_seconds * 9, own.arm_seconds[0] * (1 + 10 * extra)),
            control_first=(True,) * 10,
        )
        for own in record().pairs
    ]
    return dataclasses.replace(record(), pairs=tuple(pairs))


def test_a_cost_of_some_steps_is_a_regression() -> None:
    """10% on average that is all in some steps: the median passes, the mean regressed, and that is said. A slowdown of
    every step is found by both."""
    checks = {one.metric: one for one in check_cell(summarize(record()), rarely(0.10), None)}
    assert checks["decode_ratio"].verdict is Verdict.PASSED
    assert checks["decode_mean_ratio"].verdict is Verdict.REGRESSED
    assert "in some steps" in str(checks["decode_mean_ratio"].reason)
    steady = {one.metric: one for one in check_cell(summarize(record()), record(0.10), None)}
    for metric in ("decode_ratio", "decode_mean_ratio"):
        assert steady[metric].verdict is Verdict.REGRESSED
        assert "in every step" in str(steady[metric].reason)
    assert verdicts(record(), rarely(0.02))["decode_mean_ratio unmerged, 1 × 128"] is Verdict.PASSED


def test_a_baseline_without_means_is_tested_by_medians() -> None:
    """One that was saved before the means were tested passes what it can, and it is said what was not tested."""
    kept = summarize(record())
    old = dataclasses.replace(kept, latencies=tuple(dataclasses.replace(o, mean_log_ratios=()) for o in kept.latencies))
    timed = [one for one in check_cell(old, rarely(0.10), None) if one.timed]
    assert [(one.metric, one.verdict) for one in timed] == [("decode_ratio", Verdict.PASSED)]
    assert "no means" in str(timed[0].reason)


def test_every_machine_has_its_own_verdict() -> None:
    """Of two records of a cell, of different versions of Python, neither's finding is dropped for the later one."""
    old, new = "3.11.7", "3.12.1"
    slow = record(0.06, started=LATER, versions={"torch": "2.11.0", "python": old})
    fine = record(0.0, started=LATER.replace("2026", "2027"), versions={"torch": "2.11.0", "python": new})
    checks = check_against(make_baseline("b", [record()]), [slow, fine], None)
    regressed = {one.cell_id for one in checks if one.verdict is Verdict.REGRESSED}
    assert regressed == {f"{make_cell().id} · python {old}"}
    assert status_of(checks, strict=False) == 1


def test_a_baseline_is_of_one_machine() -> None:
    """Two records of one cell that differ in where they were measured make none, and what differs is named."""
    other = record(machine={"processor": "another"})
    with pytest.raises(UsageError, match=r"machine \(fake, another\)"):
        make_baseline("b", [record(), other])


def test_exact_figures_must_be_equal() -> None:
    """One product more is a regression, and so is one fewer: either way it is another computation."""
    for products in (48, 50):
        found = verdicts(record(), record(products=products))
        assert found["decode_matmuls unmerged, 1 × 128"] is Verdict.REGRESSED


def test_an_exact_figure_that_changed_with_transformers_is_incomparable() -> None:
    """Another minor version of transformers may count otherwise; a patch release may not."""
    before = record(versions={"torch": "2.13.0", "transformers": "5.24.0"})
    minor = record(products=50, versions={"torch": "2.13.1", "transformers": "5.25.0"})
    patch = record(products=50, versions={"torch": "2.13.1", "transformers": "5.24.1"})
    assert verdicts(before, minor)["decode_matmuls unmerged, 1 × 128"] is Verdict.INCOMPARABLE
    assert verdicts(before, patch)["decode_matmuls unmerged, 1 × 128"] is Verdict.REGRESSED


@pytest.mark.parametrize(
    ("implementation", "peft", "verdict"),
    [
        (OURS, "0.22.0", Verdict.INCOMPARABLE),
        (OURS, "0.21.9", Verdict.REGRESSED),
        ("peft", "0.22.0", Verdict.REGRESSED),
    ],
)
def test_our_files_grow_with_the_format_of_peft(implementation: str, peft: str, verdict: Verdict) -> None:
    """A new release of peft may write more into a configuration; of its own cells that is to be seen."""
    cell = dataclasses.replace(make_cell(), implementation=implementation)

    def of_size(size: int, version: str) -> Record:
        measurements = [Measurement("checkpoint_bytes", size, UNMERGED)]
        return known(cell, measurements, pairs_at(around(0.0)), versions={"torch": "2.13.0", "peft": version})

    found = verdicts(of_size(1000, "0.21.2"), of_size(1010, peft))
    assert found["checkpoint_bytes unmerged"] is verdict


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (record(cell=make_cell(dtype="bfloat16")), "model.dtype (float32, bfloat16)"),
        (record(cell=make_cell(train_length=64)), "workload.train_length (128, 64)"),
        (record(cell=make_cell(prompt_lengths=(64,))), "workload.prompt_lengths"),
        (record(versions={"torch": "2.12.0"}), "torch (2.11, 2.12)"),
        (None, "no record"),
    ],
)
def test_what_can_not_be_compared_is_named(now: Record | None, told: str) -> None:
    """Another dtype, other shapes or another minor version of torch: one line that names it, whatever the metrics."""
    (one,) = check_cell(summarize(record()), now, None)
    assert one.verdict is Verdict.INCOMPARABLE
    assert told in str(one.reason)


def test_another_device_class_leaves_the_exact_figures() -> None:
    """Ratios of another processor say nothing here, and counts say all they ever did."""
    other = {"processor": "another", "cores": 2}
    found = verdicts(record(), record(machine=other))
    assert found["decode_ratio unmerged, 1 × 128"] is Verdict.INCOMPARABLE
    assert found["decode_matmuls unmerged, 1 × 128"] is Verdict.PASSED


def test_another_machine_of_the_class_gets_more_room() -> None:
    """4% is a regression on the baseline's own machine and none on its twin; a threshold given holds on both."""
    twin = {"processor": "fake", "cores": 64}
    slow, slow_twin = record(0.042, width=0.1), record(0.042, width=0.1, machine=twin)
    key = "decode_ratio unmerged, 1 × 128"
    assert verdicts(record(width=0.1), slow)[key] is Verdict.REGRESSED
    assert verdicts(record(width=0.1), slow_twin)[key] is Verdict.PASSED
    assert verdicts(record(width=0.1), slow_twin, threshold=0.02)[key] is Verdict.REGRESSED
    assert verdicts(record(width=0.1), slow, threshold=0.10)[key] is Verdict.PASSED


def test_sharing_weights_is_another_experiment() -> None:
    """Arms that share one set of weights warm the cache for one another: such a run is not held against a plain one."""
    shared = dataclasses.replace(
        record(), pairs=tuple(dataclasses.replace(pairs, shared_weights=True) for pairs in record().pairs)
    )
    assert verdicts(record(), shared)["decode_ratio unmerged, 1 × 128"] is Verdict.INCOMPARABLE


def test_ranks_that_training_decides_may_differ_elsewhere() -> None:
    """Where a budget of ranks is spread depends on rounding and text: on another processor it is no regression."""

    def ranked(most: int, **changes: object) -> Record:
        one = record(cell=make_cell("adalora"), **changes)
        return dataclasses.replace(one, measurements=(*one.measurements, Measurement("rank_max", most, UNMERGED)))

    here, there = ranked(12), ranked(12, machine={"processor": "another"})
    key = "rank_max unmerged"
    assert verdicts(here, ranked(11))[key] is Verdict.REGRESSED
    assert verdicts(there, ranked(11))[key] is Verdict.INCOMPARABLE


def test_nothing_checked_is_not_known() -> None:
    """A baseline of cells without metrics passes nothing."""
    assert status_of([], strict=False) == 3


def test_a_cell_that_failed_is_a_regression() -> None:
    """It ran when the baseline was made."""
    (one,) = check_cell(summarize(record()), make_record(make_cell(), status=Status.OOM), None)
    assert one.verdict is Verdict.REGRESSED
    assert "oom" in str(one.reason)


def test_one_process_can_not_be_judged() -> None:
    """There is no spread."""
    single = dataclasses.replace(record(), pairs=tuple(pairs_at([0.0])))
    assert verdicts(record(), single)["decode_ratio unmerged, 1 × 128"] is Verdict.INCOMPARABLE


def test_what_is_no_longer_measured_is_a_regression() -> None:
    """A gate must not pass because a metric went away."""
    found = verdicts(record(), dataclasses.replace(record(), measurements=(), pairs=()))
    assert set(found.values()) == {Verdict.REGRESSED}


def test_adding_a_copy_changes_no_verdict() -> None:
    """The same record given twice, or a further cell that the baseline does not know, is as good as once."""
    baseline = make_baseline("b", [record()])
    new = record(started=LATER)
    once = check_against(baseline, [new], None)
    assert once[0].verdict is Verdict.PASSED
    assert check_against(baseline, [new, new, make_record(make_cell("adapter", 16))], None) == once


def test_partner_is_the_latest_that_is_comparable() -> None:
    """Never the baseline's own record, which would always pass; measured with more or fewer pairs it is still it."""
    kept = summarize(record())
    closer = make_cell()
    work = {**closer.config["workload"], "phases": ["prefill", "decode"]}
    more = {"precision": {"name": "strict", "processes": 8}, "workload": work}
    closer = dataclasses.replace(closer, config={**closer.config, **more})
    old, new = record(started=LATER), record(0.2, cell=closer, started=LATER.replace("2026", "2027"))
    assert partners(kept, [record(), old, new]) == [new]
    assert partners(kept, [record(), old]) == [old]
    assert partners(kept, [record()]) == []


def test_partner_is_the_nearest_of_the_method() -> None:
    """Where none is comparable the one most like it is named; one of another method never."""
    kept = summarize(record())
    near, far = record(cell=make_cell(train_length=64)), record(cell=make_cell(train_length=64, dtype="bfloat16"))
    assert partners(kept, [far, near]) == [near]
    assert partners(kept, [make_record(make_cell("adapter", 16))]) == []


@pytest.mark.parametrize(
    ("center", "products", "threshold", "strict", "status"),
    [
        (0.0, 49, None, False, 0),
        (0.06, 49, None, False, 1),
        (0.0, 50, None, False, 1),
        (0.0, 49, None, True, 0),
    ],
)
def test_exit_status(center: float, products: int, threshold: float | None, strict: bool, status: int) -> None:
    """0 where all passed and 1 where anything regressed, strict or not."""
    baseline = make_baseline("b", [record()])
    now = record(center, products=products, started=LATER)
    assert status_of(check_against(baseline, [now], threshold), strict) == status


def test_exit_status_of_what_is_not_known() -> None:
    """Ambiguous and incomparable end with 3, with ``strict`` 1; beside a regression they do not matter."""
    baseline = make_baseline("b", [record()])
    ambiguous = check_against(baseline, [record(0.0, width=9.0, started=LATER)], None)
    incomparable = check_against(baseline, [record(versions={"torch": "2.12.0"}, started=LATER)], None)
    for unknown in (ambiguous, incomparable):
        assert status_of(unknown, strict=False) == 3
        assert status_of(unknown, strict=True) == 1
    assert (
        status_of([*ambiguous, *check_against(baseline, [record(products=50, started=LATER)], None)], strict=False) == 1
    )
    assert worst([*ambiguous, *incomparable]) is Verdict.INCOMPARABLE


class Runs:
    """Hands out one record after the other for the same cell."""

    def __init__(self, centers: Iterable[float], cell: Cell) -> None:
        self.records = [record(center, cell=cell) for center in centers]
        self.count = 0

    def measure(self, cell: Cell, study: str, listen: object) -> Record:
        self.count += 1
        return self.records[self.count - 1]


@pytest.mark.parametrize(
    ("centers", "runs", "verdict"),
    [
        ([0.0], 1, Verdict.PASSED),
        ([0.06, 0.06], 2, Verdict.REGRESSED),
        ([0.06, 0.0], 2, Verdict.AMBIGUOUS),
        ([-0.06], 1, Verdict.PASSED),
    ],
)
def test_a_slower_cell_is_run_once_more(tmp_path: Path, centers: list[float], runs: int, verdict: Verdict) -> None:
    """And nothing else is; both runs leave their records."""
    (item,) = checked_cells("lora")
    engine = Runs(centers, item.cell)
    baseline = make_baseline("b", [record(cell=item.cell)])
    progress = Progress(Console(file=io.StringIO()))
    checks = check_again(baseline, [item], Store(tmp_path / "c"), engine, None, progress)
    assert engine.count == runs
    assert {one.verdict for one in checks if one.timed} == {verdict}
    assert len(list(tmp_path.rglob("*.json"))) == runs


def saved(tmp_path: Path) -> Path:
    return save_baseline(tmp_path, make_baseline("main", [record()]), replace=False)


def test_a_baseline_comes_back_as_it_was(tmp_path: Path) -> None:
    """Written and read, it is equal; it keeps each process's log-ratio and every exact metric."""
    baseline = make_baseline("main", [record()])
    save_baseline(tmp_path, baseline, replace=False)
    found = load_baseline(tmp_path, "main")
    assert found == baseline
    (latency,) = found.cells[0].latencies
    assert latency.log_ratios == latency.mean_log_ratios == pytest.approx(SPREAD)
    assert {measurement.metric for measurement in found.cells[0].exact} == {"decode_matmuls"}


def test_a_baseline_is_not_overwritten(tmp_path: Path) -> None:
    """Unless that is asked for."""
    path = saved(tmp_path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="--replace"):
        saved(tmp_path)
    assert path.read_bytes() == before
    save_baseline(tmp_path, Baseline("main", "later", make_baseline("main", [record()]).cells), replace=True)
    assert path.read_bytes() != before


def tear(raw: dict[str, object]) -> str:
    return json.dumps(raw)[:-40]


def newer(raw: dict[str, object]) -> str:
    return json.dumps({**raw, "schema_version": 99})


def unversioned(raw: dict[str, object]) -> str:
    return json.dumps({key: value for key, value in raw.items() if key != "schema_version"})


def edited(raw: dict[str, object]) -> str:
    return json.dumps(raw).replace("float32", "float64")


def unknown_key(raw: dict[str, object]) -> str:
    return json.dumps({**raw, "extra": 1})


def not_a_number(raw: dict[str, object]) -> str:
    return json.dumps(raw).replace("[-0.01", "[NaN")


@pytest.mark.parametrize("damage", [tear, newer, unversioned, edited, unknown_key])
def test_a_damaged_baseline_is_refused(tmp_path: Path, damage: object) -> None:
    """In one line that names the file."""
    path = saved(tmp_path)
    path.write_text(damage(json.loads(path.read_text())))  # type: ignore[operator]
    with pytest.raises(UsageError) as refused:
        load_baseline(tmp_path, "main")
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["../main", "", "a/b", ".hidden", "a b"])
def test_a_name_that_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    """A baseline's name can't lead out of its folder."""
    with pytest.raises(UsageError, match="name"):
        load_baseline(tmp_path, name)


def test_a_missing_baseline_names_those_there_are(tmp_path: Path) -> None:
    """And how to make one."""
    saved(tmp_path)
    with pytest.raises(UsageError, match=r"choose from main.*baseline save other"):
        load_baseline(tmp_path, "other")


def test_records_that_failed_make_no_baseline() -> None:
    """There is nothing to keep."""
    with pytest.raises(UsageError, match="is ok"):
        make_baseline("main", [make_record(make_cell(), status=Status.FAILED)])


def everything() -> list[Record]:
    """Records of which a check against `base` has every verdict."""
    return [
        record(0.07, started=LATER),
        record(0.0, width=9.0, cell=make_cell("adapter", 16), started=LATER),
        record(cell=make_cell("prefix_tuning", 20), versions={"torch": "2.12.0"}, started=LATER),
        record(-0.07, cell=make_cell("full", None), started=LATER),
    ]


def base() -> Baseline:
    return make_baseline("main", [dataclasses.replace(r, **_calm(r.cell)) for r in everything()])


def _calm(cell: Cell) -> dict[str, object]:
    calm = record(cell=cell)
    return {"pairs": calm.pairs, "versions": calm.versions, "started": calm.started}


@pytest.mark.parametrize("strict", [False, True])
def test_junit_is_valid(tmp_path: Path, strict: bool) -> None:
    """By the schema, with a case a metric; what regressed failed, what is not known is skipped or, strictly, failed."""
    path = tmp_path / "gate.xml"
    checks = check_against(base(), everything(), None)
    write_junit(checks, "main", strict, path)
    xmlschema.validate(str(path), str(SCHEMA))
    text = path.read_text()
    assert text.count("<testcase") == len(checks)
    unknown = sum(one.verdict in (Verdict.AMBIGUOUS, Verdict.INCOMPARABLE) for one in checks)
    assert text.count("<failure") == 2 + unknown * strict
    assert text.count("<skipped") == unknown * (not strict)


def test_the_schema_refuses_what_is_no_junit(tmp_path: Path) -> None:
    """So that the test above can fail."""
    path = tmp_path / "gate.xml"
    write_junit(check_against(base(), everything(), None), "main", False, path)
    for wrong in (("<testcase", "<case"), ('name="', 'label="'), ("<skipped", "<omitted")):
        path.with_name("wrong.xml").write_text(path.read_text().replace(wrong[0], wrong[1], 1))
        with pytest.raises(xmlschema.XMLSchemaException):
            xmlschema.validate(str(path.with_name("wrong.xml")), str(SCHEMA))


def test_annotations_of_github() -> None:
    """An error for what regressed, warnings for what is not known, a notice for what became faster, a line each."""
    lines = list(github_annotations(check_against(base(), everything(), None)))
    kinds = Counter(line.split(" ")[0] for line in lines)
    assert kinds == {"::error": 2, "::notice": 2, "::warning": 2}  # a latency has a median and a mean
    assert all("\n" not in line and line.count("::") == 2 for line in lines)
    assert "%25" in lines[0] or "%25" in lines[1]


def test_what_people_see() -> None:
    """Every verdict with its change, the improvement, and the command that moves the baseline, in 80 columns."""
    checks = check_against(base(), everything(), None)
    text = printed(checks_report(checks, "python -m bench baseline save main results --replace"))
    for word in (*Verdict, "faster: ", "baseline save main results --replace"):
        assert str(word) in text
    assert max(map(len, text.splitlines())) <= 80 + len("to keep the gain, move the baseline: ")


def test_the_environment_of_tests_is_no_runner() -> None:
    """Annotations are for GitHub's runners; see `tests/test_command_line.py` for when they are printed."""
    assert os.environ.get("GITHUB_ACTIONS") in (None, "true", "false")
