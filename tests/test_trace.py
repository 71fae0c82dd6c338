"""``profile=on``: traces of one training and one decode step, in the form that TensorBoard's plugin reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.config.compose import compose_run
from bench.worker.trace import trace
from tests.test_sweep import SMALL


def events(path: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(Path(path).read_text())["traceEvents"]
    return found


@pytest.mark.slow
def test_a_cell_leaves_a_trace_of_each_step(tmp_path: Path) -> None:
    """One file a step: the training step has a backward pass and an optimiser, the decode step neither."""
    (config,) = compose_run(["method=lora", "method.rank=2", *SMALL]).cells
    for _ in range(2):  # a second time replaces the first
        paths = trace(config, str(tmp_path), lambda text: None)
        assert [Path(path).name.partition(".")[0] for path in paths] == ["decode", "train"]
        assert sorted(map(str, tmp_path.iterdir())) == paths
    names = {Path(path).name.partition(".")[0]: {str(event.get("name")) for event in events(path)} for path in paths}
    assert any("Backward" in name for name in names["train"])
    assert any("Optimizer.step" in name for name in names["train"])
    assert not any("Backward" in name for name in names["decode"])
    for phase in names.values():
        assert "aten::mm" in phase or "aten::addmm" in phase
        assert any(name.startswith("ProfilerStep") for name in phase)
