"""Statistics of paired samples: laws that hold for any sample, and coverage on samples whose truth is known."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import stats
from bench.records import Pairs

LOGS = st.lists(st.floats(min_value=-1, max_value=1), min_size=2, max_size=12)


def pairs_of(control: list[float], arm: list[float]) -> Pairs:
    return Pairs(
        process=0,
        phase="decode",
        arm="unmerged",
        batch_size=1,
        prompt_length=8,
        steps_per_block=1,
        discarded_steps=3,
        control_seconds=tuple(control),
        arm_seconds=tuple(arm),
        control_first=(True,) * len(control),
        shared_weights=False,
    )


SECONDS = st.lists(
    st.tuples(st.floats(min_value=1e-5, max_value=10), st.floats(min_value=1e-5, max_value=10)), min_size=1, max_size=9
)


@given(logs=LOGS)
def test_the_interval_holds_its_estimate(logs: list[float]) -> None:
    """The estimate lies within its interval, and a higher confidence never narrows it."""
    found = stats.ratio(logs)
    wider = stats.ratio(logs, confidence=0.99)
    assert found.low is not None
    assert found.high is not None
    assert wider.low is not None
    assert wider.high is not None
    assert wider.low <= found.low <= found.estimate <= found.high <= wider.high
    assert found.processes == len(logs)


@given(logs=LOGS)
def test_swapping_arms_inverts_the_ratio(logs: list[float]) -> None:
    """Control over arm is one over arm over control, interval and all."""
    there, back = stats.ratio(logs), stats.ratio([-value for value in logs])
    assert there.low is not None
    assert back.high is not None
    assert math.isclose(there.estimate * back.estimate, 1.0)
    assert math.isclose(there.low * back.high, 1.0)


@given(seconds=SECONDS, factor=st.floats(min_value=1e-3, max_value=1e3))
def test_a_log_ratio_is_of_pairs(seconds: list[tuple[float, float]], factor: float) -> None:
    """Swapping the two negates it, and a machine that is slower for both changes nothing."""
    control, arm = [c for c, _ in seconds], [a for _, a in seconds]
    found = stats.log_ratio(pairs_of(control, arm))
    assert math.isclose(stats.log_ratio(pairs_of(arm, control)), -found, abs_tol=1e-9)
    scaled = pairs_of([c * factor for c in control], [a * factor for a in arm])
    assert math.isclose(stats.log_ratio(scaled), found, abs_tol=1e-9)


def test_one_outlying_pair_does_not_move_a_process() -> None:
    """The median over pairs: a pair beside which something else ran does not count."""
    quiet = pairs_of([1.0] * 5, [1.1] * 5)
    disturbed = pairs_of([1.0] * 5, [1.1, 1.1, 9.0, 1.1, 1.1])
    assert stats.log_ratio(disturbed) == stats.log_ratio(quiet) == math.log(1.1)


def test_one_process_has_no_interval() -> None:
    """There is nothing to take a spread from, and that is said instead of a width of zero."""
    assert stats.ratio([0.1]) == stats.Interval(math.exp(0.1), None, None, 1)
    with pytest.raises(ValueError):
        stats.ratio([])


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Of 2000 samples of six processes the 95% interval holds the true ratio in 93.5 to 96.5%."""
    rng, truth, held = random.Random(0), 0.03, 0
    for _ in range(2000):
        found = stats.ratio([rng.gauss(truth, 0.02) for _ in range(6)])
        assert found.low is not None
        assert found.high is not None
        held += found.low <= math.exp(truth) <= found.high
    assert 0.935 < held / 2000 < 0.965


def test_seconds_are_the_median_of_medians() -> None:
    """One slow block does not move a process, one slow process does not move the figure."""
    assert stats.seconds([[1.0, 1.0, 50.0], [2.0, 2.0, 2.0], [90.0, 90.0, 90.0]]) == 2.0
