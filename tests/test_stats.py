"""Statistics of paired samples: laws that hold for any sample, and coverage on samples whose truth is known."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.records import stats
from bench.records.record import Pairs

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
    found = pairs_of(control, arm).log_ratio
    assert math.isclose(pairs_of(arm, control).log_ratio, -found, abs_tol=1e-9)
    scaled = pairs_of([c * factor for c in control], [a * factor for a in arm])
    assert math.isclose(scaled.log_ratio, found, abs_tol=1e-9)


def test_one_outlying_pair_does_not_move_a_process() -> None:
    """The median over pairs: a pair beside which something else ran does not count."""
    quiet = pairs_of([1.0] * 5, [1.1] * 5)
    disturbed = pairs_of([1.0] * 5, [1.1, 1.1, 9.0, 1.1, 1.1])
    assert disturbed.log_ratio == quiet.log_ratio == math.log(1.1)


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
    """One slow block does not move a process, one slow process does not move the metric."""
    assert stats.seconds([[1.0, 1.0, 50.0], [2.0, 2.0, 2.0], [90.0, 90.0, 90.0]]) == 2.0


NOISE = st.lists(st.floats(min_value=-0.2, max_value=0.2), min_size=2, max_size=12)


@given(p_values=st.lists(st.floats(min_value=0, max_value=1), min_size=1, max_size=8))
def test_holm_never_makes_a_family_surer(p_values: list[float]) -> None:
    """Adjusted p-values are no smaller than the raw ones, no larger than Bonferroni's, and in the same order."""
    adjusted = stats.holm(p_values)
    for raw, found in zip(p_values, adjusted, strict=True):
        assert raw <= found <= min(1.0, raw * len(p_values) * (1 + 1e-12))
    assert [adjusted[i] for i in sorted(range(len(p_values)), key=lambda i: p_values[i])] == sorted(adjusted)


def test_holm_on_a_worked_example() -> None:
    """Of 0.01, 0.04, 0.03 the smallest counts three times, the next twice, and none falls below one before it."""
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


@given(before=NOISE, after=NOISE)
def test_swapping_sides_negates_a_change(before: list[float], after: list[float]) -> None:
    """The change from one run to another is minus the change back, and a bound of the one is one of the other."""
    there, back = stats.difference(after, before), stats.difference(before, after)
    assert there.value == -back.value
    assert math.isclose(there.bound(0.99), -back.bound(0.01), abs_tol=1e-9)
    assert there.bound(0.01) <= there.value <= there.bound(0.99)


@given(logs=NOISE, margin=st.floats(min_value=0.01, max_value=0.2))
def test_what_is_shown_equivalent_lies_within_the_margin(logs: list[float], margin: float) -> None:
    """Where both one-sided tests succeed, the 90% interval lies inside the margin, and the other way round."""
    found = stats.mean(logs)
    inside = -margin < found.bound(0.05) and found.bound(0.95) < margin
    p = found.p_within(margin)
    if abs(p - 0.05) > 1e-6:
        assert (p < 0.05) == inside


def test_one_process_shows_nothing() -> None:
    """Neither a difference nor an equivalence: without a spread every test keeps its p-value of 1."""
    alone = stats.mean([0.5])
    assert alone.p_above(0.0) == alone.p_below(0.0) == alone.p_within(0.03) == 1.0
    assert not stats.narrow([0.5], 0.03)
    assert stats.difference([0.5], [0.0, 0.1]).p_above(0.0) == 1.0


def test_copies_without_spread_are_the_same() -> None:
    """Identical numbers in every process: the interval is a point, and nothing is divided by zero."""
    found = stats.mean([0.0, 0.0, 0.0])
    assert found.p_within(0.03) == 0.0
    assert found.p_above(0.0) == 1.0
    assert stats.difference([0.1, 0.1], [0.0, 0.0]).p_above(0.05) == 0.0


@pytest.mark.parametrize("margin", [0.009, 0.0, -0.03, 1.0, math.nan, math.inf])
def test_a_margin_under_one_per_cent_is_refused(margin: float) -> None:
    """Identical copies differ by a fifth of that: no equivalence so narrow can be shown."""
    with pytest.raises(ValueError, match="margin"):
        stats.margin_log(margin)


def test_equivalence_is_rarely_claimed_of_what_lies_at_the_margin() -> None:
    """TOST's size: of 4000 samples of 6 processes whose truth is the margin itself, at most 6% come out the same."""
    rng, margin = random.Random(1), stats.margin_log(0.03)
    wrong = sum(stats.mean([rng.gauss(margin, 0.01) for _ in range(6)]).p_within(margin) < 0.05 for _ in range(4000))
    assert 0.035 < wrong / 4000 < 0.06


def test_equivalence_is_shown_of_copies() -> None:
    """TOST's power: of 1000 samples of 8 identical copies that spread by 1%, 95% or more come out the same at 3%."""
    rng, margin = random.Random(2), stats.margin_log(0.03)
    right = sum(stats.mean([rng.gauss(0.0, 0.01) for _ in range(8)]).p_within(margin) < 0.05 for _ in range(1000))
    assert right >= 950


def test_the_bounds_of_a_change_cover_it_as_often_as_they_say() -> None:
    """Welch's 99% lower bound lies above the true change in 0.5 to 1.6% of 4000 pairs of unequal samples."""
    rng, above = random.Random(3), 0
    for _ in range(4000):
        before = [rng.gauss(0.0, 0.01) for _ in range(6)]
        after = [rng.gauss(0.05, 0.02) for _ in range(8)]
        above += stats.difference(after, before).bound(0.01) > 0.05
    assert 0.005 < above / 4000 < 0.016


def test_measuring_until_narrow_keeps_the_interval_honest() -> None:
    """Adding processes until the half-width is half the margin, 12 at most: still 93% of intervals hold the truth."""
    rng, held = random.Random(4), 0
    for _ in range(2000):
        logs = [rng.gauss(0.02, 0.015) for _ in range(6)]
        while len(logs) < 12 and not stats.narrow(logs, 0.03):
            logs.append(rng.gauss(0.02, 0.015))
        found = stats.interval(logs)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.02 <= found.high
    assert held / 2000 > 0.93


@given(slope=st.floats(-1, 1), start=st.floats(-1, 1), processes=st.integers(1, 5))
def test_a_slope_is_found_on_a_line(slope: float, start: float, processes: int) -> None:
    """Of points on a line every process has the line's slope, whatever the levels' distances."""
    levels = [2.0, 4.0, 32.0]
    found = stats.slopes(levels, [[start + slope * level] * processes for level in levels])
    assert found == pytest.approx([slope] * processes, abs=1e-9)


def test_a_slope_needs_two_levels() -> None:
    """One level has none, however many processes."""
    with pytest.raises(ValueError, match="levels"):
        stats.slopes([4.0, 4.0], [[1.0], [2.0]])
