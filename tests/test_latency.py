"""Quantiles are within a bucket of the truth, with a fixed memory."""

from __future__ import annotations

import numpy as np
import pytest

from edge.metrics import HIGH_MS, STEP, Latency, LatencySummary


def test_quantiles_are_within_one_bucket() -> None:
    values = np.random.default_rng(0).lognormal(2, 1, 5000)
    latency = Latency()
    for value in values:
        latency.record(value)
    for q in (0.5, 0.95, 0.99):
        true = float(np.quantile(values, q, method="inverted_cdf"))
        assert true <= latency.quantile(q) <= true * STEP
    summary = latency.summary()
    assert summary.count == 5000 and summary.max == values.max() and summary.total == pytest.approx(values.sum())


def test_nothing_negative_and_beyond_range() -> None:
    assert Latency().summary() == LatencySummary()
    latency = Latency()
    latency.record(-5.0)
    assert latency.summary() == LatencySummary(count=1)
    latency.record(10 * HIGH_MS)
    assert latency.summary().p99 == 10 * HIGH_MS
