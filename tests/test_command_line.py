"""What is typed: overrides become cells, and bad input is one line with status 2 before anything runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from bench.config.compose import compose_multirun, compose_run
from bench.config.groups import options
from bench.errors import UsageError
from bench.records.record import SCHEMA_VERSION, Status
from bench.records.results import CheckedCell
from bench.records.store import Store
from bench.runner.sweep import refuse_if_none
from bench.worker.check import check_all
from bench.workload.plan import read_plan
from tests.children import modules_to_read
from tests.command import Done, here, really, refused
from tests.fakes import make_cell, make_record
from tests.families import build

METHODS = {"full", "prompt_tuning", "p_tuning", "p_tuning_v2", "prefix_tuning", "adapter", "lora", "adalora", "qlora"}


def resolve(arguments: Sequence[str], single: bool = False) -> list[CheckedCell]:
    """The cells of a command, checked as the command would.

    Raises:
        UsageError: the first that is refused, or why none can be run.
    """
    (sweep,) = [compose_run(arguments)] if single else compose_multirun(arguments)
    found = check_all(sweep.cells, str)
    for item in found:
        if isinstance(item, str):
            raise UsageError(item)
    cells = [item for item in found if isinstance(item, CheckedCell)]
    refuse_if_none([item.skip for item in cells])
    return cells


def test_the_default_study_has_every_method() -> None:
    """With no arguments ``multirun`` takes all nine methods on the embedded model; each is its own cell."""
    cells = [item.cell for item in resolve([])]
    own = {name for name in options("method") if name.split("_")[0] != "peft"}
    assert {cell.method for cell in cells} == METHODS == own
    assert {cell.model for cell in cells} == {"tiny"}
    assert len({cell.id for cell in cells}) == len(METHODS)
    assert all(item.skip is None for item in resolve([]))


def test_what_a_check_returns_is_read_without_torch() -> None:
    """A setting whose type a method defines would have the parent import the method, and torch with it."""
    named = {name for name in options("method") if not name.startswith("peft")}
    cells = resolve([f"method={','.join(sorted(named))}"])
    cells += resolve(["method=lora,adapter", "method@reference=p_tuning"]) + resolve(["method=peft_lora"])
    assert modules_to_read(cells) <= {"bench.records.cell", "bench.records.results"}


def test_a_grid_crosses_what_applies() -> None:
    """A setting that one method lacks multiplies only the methods that have it, and says so."""
    (sweep,) = compose_multirun(["method=lora,adapter,prefix_tuning", "method.rank=4,16"])
    items = resolve(["method=lora,adapter,prefix_tuning", "method.rank=4,16"])
    unique = {item.cell.id: (item.cell.method, item.cell.size) for item in items}
    assert sorted(unique.values()) == [("adapter", 16), ("lora", 4), ("lora", 16), ("prefix_tuning", 20)]
    assert any("method.rank" in note and "adapter" in note for note in sweep.notes)


def test_several_studies_run_one_after_the_other() -> None:
    """Each has its own grid and name, and the other overrides are every study's."""
    sweeps = compose_multirun(["study=headline,gate", "seed=7"])
    assert [sweep.study for sweep in sweeps] == ["headline", "gate"]
    for sweep in sweeps:
        assert sweep.cells == compose_multirun([f"study={sweep.study}", "seed=7"])[0].cells
    assert {cell["seed"] for sweep in sweeps for cell in sweep.cells} == {7}
    with pytest.raises(UsageError, match="swept"):
        compose_run(["study=headline,gate"])
    with pytest.raises(UsageError, match="unknown study"):
        compose_multirun(["study=headline,gats"])


LONG_STUDIES = ("peft", "headline-llama")


@pytest.mark.parametrize(
    "study", [pytest.param(s, marks=[pytest.mark.longer] if s in LONG_STUDIES else []) for s in options("study")]
)
def test_every_study_is_sound(study: str) -> None:
    """Cells made for a card are checked as if they ran here: what can't is skipped with a reason, none refused."""
    items = resolve([f"study={study}", "device=cpu"])
    assert items
    assert all(item.skip is None or "cudagraph" in item.skip or "peft refuses" in item.skip for item in items)


def test_a_setting_without_a_method_goes_to_the_default_one() -> None:
    """``method.rank=4,8`` alone sweeps the rank of what ``method`` is by default."""
    assert {item.cell.size for item in resolve(["~study", "method.rank=4,8"])} == {4, 8}


@pytest.mark.parametrize("text", ["method=choice(lora,adapter)", "method='lora',adapter", "method=glob([lo*,adapter])"])
def test_hydra_sweeps_as_its_users_know_them(text: str) -> None:
    """Commas, choice() and glob() name the same cells."""
    assert {item.cell.method for item in resolve([text])} == {"lora", "adapter"}


def test_a_range_sweeps_a_size() -> None:
    """``range`` works on numbers."""
    assert {item.cell.size for item in resolve(["method=lora", "method.rank=range(4,13,4)"])} == {4, 8, 12}


def test_what_does_not_change_a_figure_does_not_change_the_cell() -> None:
    """Folders, the time limit and a default spelt out leave the id, so that a sweep is taken up where it was."""
    (plain,) = resolve(["method=lora"], single=True)
    same = ["results_dir=/elsewhere", "time_limit=9", "profile=on", "method.rank=8", "method.targets=[q,v]"]
    for override in same:
        assert resolve(["method=lora", override], single=True)[0].cell.id == plain.cell.id
    for override in ["method.rank=4", "seed=1", "model=gpt2", "precision=standard", "device.threads=2"]:
        assert resolve(["method=lora", override], single=True)[0].cell.id != plain.cell.id


@pytest.mark.parametrize(
    ("method", "name"),
    [
        pytest.param(method, name, marks=[] if method == "lora" or name == "tiny" else [pytest.mark.longer])
        for method in sorted(METHODS)
        for name in options("model")
        if name != "smollm2-135m"  # is of a package that need not be here
    ],
)
def test_every_configuration_builds(method: str, name: str) -> None:
    """Each method on each model of ``conf/`` composes into a plan, and all but a checkpoint's are found good."""
    if name not in ("pretrained", "gguf"):
        (item,) = resolve([f"method={method}", f"model={name}"], single=True)
        assert item.skip is None
    else:
        assert read_plan(compose_run([f"method={method}", f"model={name}"]).cells[0]).model.path is None


REFUSED: dict[str, tuple[list[str], list[str]]] = {
    "unknown method": (["method=lorra"], ["method=lorra", "lora"]),
    "unknown method in a sweep": (["method=lora,adaptor"], ["adaptor", "adapter"]),
    "unknown model": (["model=gpt3"], ["model=gpt3", "gpt2"]),
    "unknown study": (["study=nothing"], ["study=nothing", "default"]),
    "null for a group": (["method=null"], ["method", "lora"]),
    "endless range": (["method.rank=range(1,5,0)"], ["range"]),
    "interval": (["method.rank=interval(1,4)"], ["INTERVAL"]),
    "glob that matches nothing": (["method.rank=glob(*)"], ["no cell"]),
    "unknown key": (["method.rnk=4"], ["method.rnk"]),
    "unknown key of a group": (["workload.batch=4"], ["workload.batch"]),
    "unknown top key": (["sede=1"], ["sede"]),
    "unknown added key": (["+method.colour=red"], ["colour"]),
    "setting of another method": (["method=adapter", "method.rank=4"], ["method.rank"]),
    "rank 0": (["method=lora", "method.rank=0"], ["rank", "0"]),
    "rank -1": (["method=lora", "method.rank=-1"], ["rank", "-1"]),
    "rank 4.5": (["method=lora", "method.rank=4.5"], ["rank", "4.5"]),
    "rank of a word": (["method=lora", "method.rank=four"], ["rank", "four"]),
    "no rank": (["method=lora", "method.rank=null"], ["rank"]),
    "rank larger than the layer": (["method=lora", "method.rank=1000"], ["rank 1000", "128"]),
    "one bad cell of many": (["method=lora", "method.rank=4,8,-1"], ["rank", "-1"]),
    "bottleneck 0": (["method=adapter", "method.bottleneck=0"], ["bottleneck", "0"]),
    "bottleneck too large": (["method=adapter", "method.bottleneck=300"], ["bottleneck 300", "256"]),
    "no virtual tokens": (["method=prefix_tuning", "method.num_virtual_tokens=0"], ["num_virtual_tokens", "0"]),
    "unknown target": (["method=lora", "method.targets=[query]"], ["query", "all-linear"]),
    "unknown placement": (["method=adapter", "method.placement=both"], ["placement", "both"]),
    "schedule that does not fit": (["method=adalora", "method.final_steps=99"], ["final_steps"]),
    "learning rate 0": (["method=lora", "method.learning_rate=0"], ["learning_rate"]),
    "unknown key of a dictionary": (["model.settings={n_layer: 2}"], ["model.settings.n_layer"]),
    "unknown architecture": (["model.architecture=lama"], ["lama", "llama"]),
    "misspelt setting of a model": (["+model.settings.hiden_size=64"], ["hiden_size"]),
    "unknown dtype": (["model.dtype=float33"], ["float33"]),
    "folder without a model": (["model=pretrained", "model.path=./tests"], ["tests", "config.json"]),
    "folder that is not there": (["model=pretrained", "model.path=./nowhere"], ["nowhere"]),
    "no path": (["model=pretrained"], ["model.path"]),
    "no data path": (["data=dataset"], ["data.path"]),
    "data that is not there": (["data=dataset", "data.path=./nowhere.jsonl"], ["nowhere.jsonl"]),
    "too little text": (["workload.train_steps=100000"], ["fewer"]),
    "sequence longer than the positions": (["workload.prompt_lengths=[4000]"], ["workload.prompt_lengths", "2048"]),
    "no batch size": (["workload.batch_sizes=[]"], ["workload.batch_sizes"]),
    "batch size 0": (["workload.batch_sizes=[0]"], ["workload.batch_sizes"]),
    "more processes than help": (["precision.max_processes=13"], ["precision.max_processes", "12"]),
    "margin under 1%": (["precision.margin=0.005"], ["precision.margin", "0.01"]),
    "no phase": (["workload.phases=[]"], ["workload.phases", "prefill"]),
    "a phase twice": (["workload.phases=[decode,decode]"], ["workload.phases"]),
    "unknown phase": (["workload.phases=[training]"], ["phases", "training"]),
    "no processes": (["precision.processes=0"], ["precision.processes"]),
    "negative block": (["precision.block_seconds=-1"], ["precision.block_seconds"]),
    "no threads": (["device.threads=0"], ["device.threads"]),
    "no time": (["time_limit=0"], ["time_limit"]),
    "seed of a word": (["seed=one"], ["seed", "one"]),
    "no CUDA": (["device=cuda"], ["device=cuda", "device=cpu"]),
    "half a list": (["method.targets=[q"], ["[q"]),
    "no equals sign": (["method"], ["method"]),
    "swept folder": (["results_dir=a,b"], ["results_dir"]),
    "swept name of a study": (["study.name=a,b"], ["study.name"]),
    "swept profile": (["profile=on,off"], ["profile"]),
    "no folder": (["results_dir="], ["results_dir"]),
    "endless time": (["time_limit=inf"], ["time_limit"]),
    "rate that is no number": (["method.learning_rate=nan"], ["method.learning_rate", "nan"]),
    "endless rate": (["method.learning_rate=inf"], ["method.learning_rate", "inf"]),
    "switch for a rate": (["method.learning_rate=true"], ["method.learning_rate"]),
    "alpha that is no number": (["method.alpha=nan"], ["method.alpha", "nan"]),
    "no targets": (["method.targets=[]"], ["targets"]),
    "block that is no number": (["precision.block_seconds=nan"], ["precision.block_seconds"]),
    "more warm-up than a cache may grow": (["precision.warmup_steps=400"], ["precision.warmup_steps", "64"]),
    "the same point twice": (["workload.batch_sizes=[1,1]"], ["workload.batch_sizes"]),
    "list in a list": (["workload.batch_sizes=[[1]]"], ["workload.batch_sizes"]),
    "seed beyond 64 bits": (["seed=99999999999999999999"], ["seed"]),
    "heads that do not share": (["model.settings.num_key_value_heads=3"], ["num_key_value_heads"]),
    "no heads": (["model.settings.num_attention_heads=0"], ["model"]),
    "half precision": (["model.dtype=float16"], ["float16", "bfloat16"]),
    "hydra's own": (["hydra.launcher.n_jobs=2"], ["hydra"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_that_names_it(case: str) -> None:
    """Whatever is wrong is said in one line, with the key or value at fault and, where there is one, a way out."""
    arguments, words = REFUSED[case]
    with pytest.raises(UsageError) as caught:
        resolve(["~study", *arguments] if "study" not in arguments[0] else arguments)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 500
    for word in words:
        assert word in line


def test_an_unsupported_family_is_refused_with_the_names_looked_for(tmp_path: Path) -> None:
    """The line says which class it is, where layers were looked for, and where a family is added."""
    settings = {"vocab_size": 4096, "hidden_size": 32, "n_layer": 2, "n_head": 4}
    AutoModelForCausalLM.from_config(AutoConfig.for_model("bloom", **settings)).save_pretrained(tmp_path)
    arguments = ["model=pretrained", f"model.path={tmp_path}", "model.tokenizer=builtin", "model.attention=eager"]
    with pytest.raises(UsageError) as caught:
        resolve(arguments, single=True)
    for word in ("BloomForCausalLM", "transformer.h", "attn.c_attn", "methods/families.py"):
        assert word in str(caught.value)


@pytest.mark.parametrize("how", ["gone", "torn"])
def test_a_checkpoint_without_whole_weights_is_refused(tmp_path: Path, how: str) -> None:
    """A folder with a configuration, but no weights or half of them, is named before anything runs."""
    build("llama").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    if how == "torn":
        weights.write_bytes(weights.read_bytes()[:100])
    else:
        weights.unlink()
    arguments = ["model=pretrained", f"model.path={tmp_path}", "model.tokenizer=builtin"]
    with pytest.raises(UsageError, match=r"model\.safetensors"):
        resolve(arguments, single=True)


def test_a_sweep_is_no_single_cell() -> None:
    """``run`` refuses a comma and names ``multirun``."""
    with pytest.raises(UsageError, match="multirun"):
        compose_run(["method=lora,adapter"])


def test_virtual_tokens_that_do_not_fit_skip_their_cell() -> None:
    """A prompt that fills the positions leaves no room for a prefix: a skipped cell with a reason, not a refusal."""
    items = resolve(["method=lora,prefix_tuning", "workload.prompt_lengths=[1984]"])
    skips = {item.cell.method: item.skip for item in items}
    assert skips["lora"] is None
    assert "20 virtual tokens" in str(skips["prefix_tuning"])


def test_a_setting_may_speak_of_one_method() -> None:
    """``lora.rank`` sweeps LoRA alone, whatever else the sweep has and whatever else has a rank."""
    items = resolve(["method=lora,adalora", "lora.rank=4,16"])
    unique = {item.cell.id: (item.cell.method, item.cell.size) for item in items}
    assert sorted(unique.values()) == [("adalora", 8), ("lora", 4), ("lora", 16)]


def test_a_setting_of_a_method_that_no_cell_has_is_refused() -> None:
    """Otherwise it would be silently without effect."""
    with pytest.raises(UsageError, match="no cell has the method adapter"):
        compose_multirun(["method=lora", "adapter.bottleneck=4"])


def test_any_type_of_peft_is_named_on_the_command_line() -> None:
    """Type and configuration are peft's own words; what it is called, and how large it is, follow from them."""
    (item,) = resolve(["method=peft", "peft.type=VERA", "peft.config.r=16"], single=True)
    assert (item.cell.method, item.cell.implementation, item.cell.size) == ("vera", "peft", 16)
    assert item.cell.id.startswith("tiny-peft-vera-16-")
    (named,) = resolve(["method=peft_vera", "method.config.r=16"], single=True)
    assert (named.cell.name, named.cell.size) == ("vera (peft)", 16)


def test_what_peft_has_not_is_a_skipped_cell_of_a_sweep() -> None:
    """A type or key that this release of peft lacks leaves the other cells alone."""
    items = resolve(["method=peft", "peft.type=VERA,VERO,IA3", "peft.config.r=16"])
    skips = {item.cell.method: item.skip for item in items}
    assert skips["vera"] is None
    assert "has no type VERO; did you mean VERA?" in str(skips["vero"])
    assert "IA3Config of peft has no key r" in str(skips["ia3"])


def test_a_rival_is_a_second_method() -> None:
    """It is composed from the same files, has settings of its own, and makes another cell."""
    alone, beside = (
        resolve(["method=lora", *more], single=True)[0].cell
        for more in ((), ("method@reference=peft_lora", "reference.config.lora_dropout=0.1"))
    )
    assert alone.reference is None
    assert "reference" not in alone.config
    assert beside.reference is not None
    assert beside.reference.name == "lora (peft)"
    assert beside.config["reference"]["config"] == {"r": 8, "lora_alpha": 16, "lora_dropout": 0.1}
    assert beside.id != alone.id


@pytest.mark.parametrize("run", [here, really])
def test_a_refused_command_ends_with_status_2_and_leaves_nothing(run: Callable[..., Done], tmp_path: Path) -> None:
    """One line on stderr, status 2, no folder made: for the parent's own checks and for those that need a child; in the
    process of these tests as in a real one."""
    refused(run("multirun", "method=lorra", folder=tmp_path), "lorra")
    refused(run("multirun", "method=lora", "method.rank=1000", folder=tmp_path), "rank 1000")
    assert list(tmp_path.iterdir()) == []


def test_a_single_cell_that_can_not_run_is_refused_with_its_reason(tmp_path: Path) -> None:
    """What only attaching shows is still one line and status 2, where nothing else was asked for."""
    arguments = ("run", "method=peft", "peft.type=LORA", "peft.config.target_modules=[nothing]")
    done = here(*arguments, f"results_dir={tmp_path}", folder=tmp_path)
    refused(done, "peft refuses LORA", "Target modules {'nothing'} not found")


def test_a_folder_with_a_newer_record_is_refused_and_not_touched(tmp_path: Path) -> None:
    """A results folder that a newer version wrote is named with its schema before any cell is checked."""
    record = dataclasses.replace(make_record(make_cell()), schema_version=SCHEMA_VERSION + 1)
    path = Store(tmp_path).write(record)
    before = path.read_bytes()
    refused(here("multirun", f"results_dir={tmp_path}", folder=tmp_path), path.name, "schema")
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (before, [path])


def test_a_results_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """A file in the way is named before any cell is checked, and stays."""
    (tmp_path / "results").write_text("mine")
    refused(here("multirun", folder=tmp_path), "results_dir=results")
    assert (tmp_path / "results").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["table", "nowhere"], ["nowhere"]),
        (["table", "empty"], ["empty", "no records"]),
        (["table", "records", "--format", "html"], ["html", "latex"]),
        (["table", "records", "--format", "csv", "--output", "no/such/folder.csv"], ["no/such/folder.csv"]),
        (["table", "records", "--format", "parquet", "--output", "no/such/folder.pq"], ["no/such/folder.pq"]),
        (["table", "records", "--format", "parquet"], ["--output"]),
        (["table", "records", "--output", "x.txt"], ["--format"]),
        (["table", "records/torn.json"], ["torn.json"]),
    ],
)
def test_a_table_that_can_not_be_made_is_refused(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    """Paths, formats and files that will not do are named in one line, status 2."""
    (tmp_path / "empty").mkdir()
    store = Store(tmp_path / "records")
    store.open()
    store.write(make_record(make_cell()))
    if "torn" in arguments[1]:
        (tmp_path / "records" / "torn.json").write_text("{")
    refused(here(*arguments, folder=tmp_path), *words)


@pytest.mark.parametrize("arguments", [["nonsense"], ["table", "--colour"], ["run", "--rank", "4"]])
def test_unknown_verbs_and_options_end_with_status_2(tmp_path: Path, arguments: list[str]) -> None:
    """The parser's own refusals have the same status and no traceback."""
    done = here(*arguments, folder=tmp_path)
    assert done.status == 2
    assert "Traceback" not in done.stderr


def test_a_table_needs_no_results_of_this_version_alone(tmp_path: Path) -> None:
    """The table of a folder with a failed cell is printed, status 0: showing what was recorded is no verdict."""
    store = Store(tmp_path / "results")
    store.open()
    store.write(make_record(make_cell()))
    store.write(make_record(make_cell("adapter", 16), status=Status.OOM, reason="too large"))
    done = here("table", folder=tmp_path)
    assert (done.status, done.stderr) == (0, "")
    assert "too large" in done.stdout
    csv = here("table", "--format", "csv", "--output", "t.csv", folder=tmp_path)
    assert (csv.status, csv.stdout) == (0, "")
    assert (tmp_path / "t.csv").read_text().startswith("cell,study,method")


def test_records_hold_their_schema_version(tmp_path: Path) -> None:
    """Whoever reads the JSON elsewhere finds the version at the top level."""
    path = Store(tmp_path).write(make_record(make_cell()))
    assert json.loads(path.read_text())["schema_version"] == SCHEMA_VERSION


def gate(folder: Path) -> None:
    """A record with a baseline, a later record of the same cell, a torn baseline and an empty folder."""
    store = Store(folder / "results")
    store.open()
    store.write(make_record(make_cell()))
    assert here("baseline", "save", "main", folder=folder).status == 0
    (folder / "results" / "baselines" / "torn.json").write_text('{"schema_version": 1')
    newer = json.loads((folder / "results" / "baselines" / "main.json").read_text())
    (folder / "results" / "baselines" / "newer.json").write_text(json.dumps({**newer, "schema_version": 99}))
    (folder / "empty").mkdir()
    again = Store(folder / "again")
    again.open()
    again.write(make_record(make_cell(), started="2026-02-02T00:00:00+00:00"))
    claims = folder / "claims"
    claims.mkdir()
    (claims / "odd.yaml").write_text("statement: s\nsource: s\nabout: {method: lora}\nreproduce: x\nevidence: []\n")


def test_what_the_gate_and_the_claims_can_not_use_is_refused(tmp_path: Path) -> None:
    """A missing, torn or newer baseline, a folder without records, a wrong claim file, a margin too small: one line
    that names the file or the key, status 2, and nothing written."""
    gate(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    cases: list[tuple[list[str], list[str]]] = [
        (["check", "none", "--against", "results"], ["none.json", "main", "baseline save none"]),
        (["check", "torn", "--against", "results"], ["torn.json"]),
        (["check", "newer", "--against", "results"], ["newer.json", "schema 99"]),
        (["check", "../main", "--against", "results"], ["../main", "name"]),
        (["check", "main", "--against", "empty"], ["empty", "no records"]),
        (["check", "main", "--against", "nowhere"], ["nowhere"]),
        (["check", "main", "--against", "results", "--threshold", "0.005"], ["--threshold", "0.005"]),
        (["check", "main", "--against", "results", "--junit", "no/such/gate.xml"], ["--junit", "no/such"]),
        (["baseline", "save", "main"], ["main.json", "--replace"]),
        (["baseline", "save", "other", "empty"], ["empty", "no records"]),
        (["claims", "empty"], ["empty", "no records"]),
        (["claims", "results", "--claims", "claims"], ["odd.yaml", "evidence"]),
        (["claims", "results", "--claims", "empty"], ["--claims", "empty"]),
        (["claims", "results", "--format", "html"], ["html", "json"]),
        (["claims", "results", "--output", "x"], ["--format"]),
        (["claims", "results", "--format", "md", "--output", "no/such/file.md"], ["no/such/file.md"]),
    ]
    for arguments, words in cases:
        refused(here(*arguments, folder=tmp_path), *words)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_check_of_records_ends_with_its_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """0, 1 and 3 as documented; JUnit is written, and a runner of GitHub's gets annotations."""
    gate(tmp_path)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    done = here("check", "main", "--against", "again", "--junit", "gate.xml", folder=tmp_path)
    assert done.status == 0, done
    own = here("check", "main", "--against", "results", folder=tmp_path)
    assert own.status == 3
    assert "the baseline's own" in " ".join(own.stdout.split())
    assert "PASSED" in done.stdout
    assert "<testcase" in (tmp_path / "gate.xml").read_text()
    other = Store(tmp_path / "other")
    other.open()
    changed = make_record(make_cell(), started="2026-02-02T00:00:00+00:00")
    measurements = [
        dataclasses.replace(r, value=r.value + 1) if r.metric == "decode_matmuls" else r for r in changed.measurements
    ]
    other.write(dataclasses.replace(changed, measurements=tuple(measurements)))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    done = here("check", "main", "--against", "other", folder=tmp_path)
    assert done.status == 1
    assert "::error title=REGRESSED" in done.stdout
    assert "baseline save main other --replace" in done.stdout
    unlike = Store(tmp_path / "unlike")
    unlike.open()
    unlike.write(make_record(make_cell(dtype="bfloat16")))
    assert here("check", "main", "--against", "unlike", folder=tmp_path).status == 3
    assert here("check", "main", "--against", "unlike", "--strict", folder=tmp_path).status == 1


def test_claims_end_with_1_only_against_what_is_expected(tmp_path: Path) -> None:
    """A verdict is a finding; the contrary of what a claim's file expects is a failure."""
    store = Store(tmp_path / "results")
    store.open()
    store.write(make_record(make_cell()))  # unmerged 10% slower, and so is merged: the fake has no structure either
    done = here("claims", folder=tmp_path)
    assert done.status == 1, done
    assert "lora-merged-zero" in done.stdout
    assert "supported was expected" in done.stdout
    done = here("claims", "--format", "json", "--output", "c.json", folder=tmp_path)
    assert len(json.loads((tmp_path / "c.json").read_text())["claims"]) == 20
