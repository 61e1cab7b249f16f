"""Ticks, rows and statistics of an episode are what exact arithmetic says they are."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from lazyvid.recording.episodes import capture_ticks, combined
from lazyvid.recording.statistics import RunningQuantileStats


@pytest.mark.parametrize("origin", [0.0, 0.1, 12345.678901, 1_700_000_000.123456])
def test_ticks_are_exact(origin: float) -> None:
    random = np.random.default_rng(5)
    given = [origin + random.uniform(0, 10.0**e, 200) for e in range(-3, 6)]
    halves = [origin + (np.arange(200) + 0.5) * 1e-6]
    seconds = np.sort(np.concatenate(given + halves))
    expected = [round((Fraction(float(t)) - Fraction(origin)) * 10**6) for t in seconds]
    assert capture_ticks(seconds, origin).tolist() == expected


def test_statistics_of_parts_are_those_of_the_whole() -> None:
    random = np.random.default_rng(6)
    parts = [random.normal(k, 1 + k, (20 + 30 * k, 3)) for k in range(4)]
    merged: dict[str, dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]] = {}
    for part in parts:
        running = RunningQuantileStats()
        running.update(part)
        merged = combined(merged, {"a": running.get_statistics()})
    whole = np.concatenate(parts)
    found = merged["a"]
    assert found["count"].tolist() == [len(whole)]
    for name, expected in (
        ("mean", whole.mean(0)),
        ("std", whole.std(0)),
        ("min", whole.min(0)),
        ("max", whole.max(0)),
    ):
        np.testing.assert_allclose(found[name], expected, rtol=1e-9)
    assert (found["q01"] <= np.quantile(whole, 0.01, axis=0) + 1e-2).all()
    assert (found["q99"] >= np.quantile(whole, 0.99, axis=0) - 1e-2).all()
