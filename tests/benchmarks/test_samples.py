"""Percentiles, intervals and loops, on samples whose answer is known and a clock that is ours."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.loops import closed_loop, interleaved, open_loop
from benchmarks.samples import (
    distribution,
    histogram,
    interval_ranks,
    percentile,
    ratio_of_medians,
    samples_needed,
    slope,
)


class Clock:
    """Nanoseconds; calls and sleeps move it."""

    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns

    def sleep(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)


def test_percentiles_are_the_nearest_ranks() -> None:
    found = distribution(np.random.default_rng(0).permutation(np.arange(1.0, 101.0)))
    assert {name: p.value for name, p in found.percentiles.items()} == {"p50": 50, "p90": 90, "p95": 95, "p99": 99}
    assert (found.n, found.min, found.max, found.mean) == (100, 1, 100, 50.5)


def test_mlperf_asks_for_24576_samples_of_a_p90() -> None:
    assert [samples_needed(q) for q in (0.9, 0.95, 0.99)] == [24_576, 57_344, 270_336]


@pytest.mark.parametrize(("n", "q", "ranks"), [(10, 0.5, (2, 9)), (100, 0.5, (40, 61)), (1000, 0.9, (881, 919))])
def test_interval_ranks_are_those_of_the_binomial(n: int, q: float, ranks: tuple[int, int]) -> None:
    low, high = ranks

    def below(k: int) -> float:
        return sum(math.comb(n, i) * q**i * (1 - q) ** (n - i) for i in range(k + 1))

    assert below(low - 1) <= 0.025 < below(low) and below(high - 2) < 0.975 <= below(high - 1)
    assert interval_ranks(n, q) == (low, high)


def test_intervals_hold_the_true_quantile_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        p = percentile(np.sort(rng.exponential(size=400)), 0.9)
        held += (p.low or 0) <= -math.log(0.1) <= (p.high or math.inf)
    assert 0.92 <= held / 400 <= 0.99


def test_a_percentile_that_the_samples_do_not_support_is_marked() -> None:
    few = distribution(np.arange(1.0, 101.0)).percentiles
    assert few["p99"].mark == "?" and few["p99"].high is None and few["p50"].mark == "*"
    assert distribution(np.arange(1.0, 368.0)).percentiles["p99"].mark == "?"
    assert distribution(np.arange(1.0, 369.0)).percentiles["p99"].mark == "*"
    assert distribution(np.arange(24_576.0)).percentiles["p90"].mark == ""


@pytest.mark.parametrize("bad", [np.array([]), np.array([1.0, np.nan])])
def test_no_samples_and_odd_ones_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="samples: found"):
        distribution(bad)


def test_the_histogram_loses_no_sample() -> None:
    values = np.sort(np.random.default_rng(2).lognormal(size=1000))
    found = histogram(values)
    assert sum(found.counts) == 1000 and len(found.edges) == len(found.counts) + 1
    assert histogram(np.array([3.0, 3.0])).counts == [2]
    assert sum(histogram(np.array([0.0, 0.0, 5.0])).counts) == 3


def test_jitter_tells_a_steady_series_from_a_jumping_one() -> None:
    assert distribution(np.array([1.0, 2.0, 3.0, 4.0])).jitter == 1
    assert distribution(np.array([1.0, 4.0, 1.0, 4.0])).jitter == 3


def test_a_closed_loop_times_each_call_and_stops_when_its_time_is_up() -> None:
    clock = Clock()
    assert closed_loop(lambda: clock.sleep(0.002), 50, clock_ns=clock) == pytest.approx(2.0)
    assert len(closed_loop(lambda: clock.sleep(1.0), 1000, limit_s=3.0, clock_ns=clock)) == 10  # never fewer than ten


def test_an_open_loop_counts_the_waiting_that_a_closed_one_hides() -> None:
    clock, calls = Clock(), iter(range(1000))

    def work() -> None:  # 1 ms, but for one call of 100
        clock.sleep(0.1 if next(calls) == 10 else 0.001)

    found = open_loop(work, 100.0, 100, warm_up=0, clock_ns=clock, sleep_s=clock.sleep)
    assert found.service[10] == pytest.approx(100) and np.delete(found.service, 10) == pytest.approx(1.0)
    assert found.latency[10:13] == pytest.approx([100, 91, 82])  # those behind it waited too
    assert (found.latency > 1.5).sum() == 11 and (found.service > 1.5).sum() == 1
    assert found.utilisation == pytest.approx(0.199) and found.queued == pytest.approx(10 / 99)


def test_a_server_that_is_too_slow_shows_as_a_queue_that_grows() -> None:
    clock = Clock()
    found = open_loop(lambda: clock.sleep(0.02), 100.0, 50, clock_ns=clock, sleep_s=clock.sleep)
    assert found.utilisation == pytest.approx(2.0) and np.all(np.diff(found.latency) > 9)


def test_what_slows_the_machine_meets_every_system_of_an_interleaved_run() -> None:
    clock = Clock()

    def slower_with_time(ms: float) -> None:
        clock.ns += round(ms * 1e6 * (2 if clock.ns > 2e9 else 1))

    works = {"a": lambda: slower_with_time(4.0), "b": lambda: slower_with_time(2.0)}
    found = interleaved(works, rounds=50, calls=10, clock_ns=clock)
    assert found["a"].shape == (50, 10) and found["a"].max() > found["a"].min()
    ratio, low, high = ratio_of_medians(found["a"], found["b"])
    assert ratio == pytest.approx(2.0, rel=0.05) and low <= ratio <= high


def test_a_slope_and_its_interval() -> None:
    x = np.arange(40.0)
    noise = np.random.default_rng(3).normal(size=40)
    value, low, high = slope(x, 3 * x + noise)
    assert low < 3 < high and value == pytest.approx(3, abs=0.1)
    _, low, high = slope(x, noise)
    assert low < 0 < high
