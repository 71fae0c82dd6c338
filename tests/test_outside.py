"""A method of another package: an entry point is all it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.records.store import read_paths

ROOT = Path(__file__).parent.parent
OUTSIDE = ROOT / "tests" / "data" / "outside"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, with the package installed: its folder holds what an installer would have written."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(OUTSIDE), str(ROOT)])}
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_package_adds_its_method_to_a_sweep(tmp_path: Path) -> None:
    """It is named, set, swept, trained, saved, loaded, timed and recorded as ours are."""
    quick = ("precision.processes=1", "precision.pairs=1", "precision.second_control=off", "workload.train_steps=3")
    sweep = ("method=output_scale,full", "output_scale.skip_layers=0,2", f"results_dir={tmp_path}")
    done = run("multirun", *sweep, *quick)
    assert done.returncode == 0, done.stderr
    records = {(r.cell.method, r.cell.config["method"].get("skip_layers")): r for r in read_paths([tmp_path])}
    assert records.keys() == {("output_scale", 0), ("output_scale", 2), ("full", None)}
    record = records["output_scale", 2]
    assert (record.cell.implementation, record.versions["output_scale"]) == ("output_scale", "1.0")
    found = {(measurement.metric, measurement.state): measurement.value for measurement in record.measurements}
    assert found["trained_parameters", "unmerged"] == found["shipped_parameters", "unmerged"] == 2 * 256
    assert found["attach_error", "unmerged"] == found["reload_error", "unmerged"] == 0.0
    assert {pairs.phase for pairs in record.pairs} == {"prefill", "decode"}
    assert "output_scale (output_scale)" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("method=output_scal",), "did you mean 'output_scale'?"),
        (("method=output_scale", "output_scale.skip=1"), "Key 'skip' not in 'OutputScale'"),
        (("method=output_scale", "output_scale.skip_layers=-1"), "skip_layers must be a whole number"),
        (("method=output_scale", "output_scale.skip_layers=1.5"), "skip_layers"),
        (("method=lora", "output_scale.skip_layers=1"), "no cell has the method output_scale"),
    ],
)
def test_its_settings_are_checked_as_ours_are(arguments: tuple[str, ...], says: str) -> None:
    """A wrong name, key, type or value is one line and status 2."""
    done = run("run", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
