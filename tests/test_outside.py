"""A method of another package: an entry point is all it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.records.store import read_paths
from tests.command import SMALL, here, really, refused
from tests.conftest import OUTSIDE


def test_a_package_adds_its_method_to_a_sweep(tmp_path: Path) -> None:
    """It is named, set, swept, trained, saved, loaded, timed and recorded as ours are."""
    quick = (*SMALL, "model.settings.num_hidden_layers=4", "precision.second_control=off")
    sweep = ("method=output_scale,full", "output_scale.skip_layers=0,2", f"results_dir={tmp_path}")
    done = really("multirun", *sweep, *quick, path=(OUTSIDE,))
    assert done.status == 0, done.stderr
    records = {(r.cell.method, r.cell.config["method"].get("skip_layers")): r for r in read_paths([tmp_path])}
    assert records.keys() == {("output_scale", 0), ("output_scale", 2), ("full", None)}
    record = records["output_scale", 2]
    assert (record.cell.implementation, record.versions["output_scale"]) == ("output_scale", "1.0")
    found = {(measurement.metric, measurement.state): measurement.value for measurement in record.measurements}
    assert found["trained_parameters", "unmerged"] == found["shipped_parameters", "unmerged"] == 2 * 32
    assert found["attach_error", "unmerged"] == found["reload_error", "unmerged"] == 0.0
    assert {pairs.phase for pairs in record.pairs} == {"prefill", "decode", "train"}
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
@pytest.mark.usefixtures("installed")
def test_its_settings_are_checked_as_ours_are(arguments: tuple[str, ...], says: str) -> None:
    """A wrong name, key, type or value is one line and status 2."""
    refused(here("run", *arguments), says)
