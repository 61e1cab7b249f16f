"""A loss of power between any two fsyncs: what was acknowledged is whole, and the running episode lacks little."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
from episode_samples import frame, make
from moments import Moment
from power import NAMES, Lateness, Names, PowerLosses
from promises import Promise, check_moment

from lazyvid.recording.manifest import MANIFEST
from lazyvid.recording.recorder import Recorder

CHAOS = [pytest.mark.slow, pytest.mark.chaos]
LENGTHS = (5, 50, 4, 2)
DURABLE_S = 0.2


class Recording:
    """A recording of some episodes, one of them in real time, and what is promised of it at each moment."""

    def __init__(self) -> None:
        self.saved: int | None = None  # None until there is a recording
        self._rows: list[tuple[float, int, int]] = []  # (when, episode, rows that a kill would have left)

    def record(self, root: Path, **options: Any) -> None:
        """Record `LENGTHS`, the last episode after a beginning anew."""
        recorder = make(root, **{"g": 2, "durable_s": DURABLE_S} | options)
        self.saved = 0
        for _ in LENGTHS[:-1]:
            self._episode(recorder)
        recorder.finalize()
        with Recorder.resume(root, on_full="block", durable_s=DURABLE_S) as recorder:
            self._episode(recorder)

    def _episode(self, recorder: Recorder) -> None:
        episode = recorder.meta.total_episodes
        for row in range(LENGTHS[episode]):
            recorder.add_frame(frame(episode, row))
            self._rows.append((time.monotonic(), episode, min(recorder.durable_frames.values(), default=0)))
            time.sleep(0.03 if LENGTHS[episode] == max(LENGTHS) else 0.0)
        recorder.save_episode()
        self.saved = episode + 1

    def now(self) -> tuple[float, int | None]:
        """The time, and what was acknowledged until then."""
        return time.monotonic(), self.saved

    def promise(self, at: float, saved: int, *, most_s: float) -> Promise:
        """What a loss of power at a time must leave: all that is acknowledged, and what was durable so long before."""
        rows = [rows for when, episode, rows in self._rows if episode == saved and when <= at - most_s]
        return saved, max(rows, default=0)


def losses_of(folder: Path, **options: Any) -> dict[Names, list[Moment[Promise]]]:
    """Every state that a loss of power in mid recording leaves, the recording's folder at its top."""
    folder.mkdir()
    recording, lateness = Recording(), Lateness(DURABLE_S / 10)
    losses = PowerLosses(folder, recording.now)
    with lateness.watched(), losses.watched():
        recording.record(folder / "deep" / "run", **options)
    most_s = DURABLE_S + lateness.slack_s + 2 * losses.slowest_s
    found: dict[Names, list[Moment[Promise]]] = {}
    for names in NAMES:
        found[names] = []
        for moment in losses.moments(names):
            at, saved = moment.promise
            tree = {name.removeprefix("deep/run/"): data for name, data in moment.tree.items() if "deep/run/" in name}
            if saved is not None:
                assert MANIFEST in tree, moment.step
            promise = recording.promise(at, saved or 0, most_s=most_s)
            found[names].append(Moment(tree, promise, f"{moment.step}; {most_s:.2f} s before"))
    if options.get("streaming_encoding", True):
        assert max(durable for moment in found["dropped"] for _, durable in [moment.promise]) >= 8, f"{most_s} s"
    return found


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({}, 4),
        pytest.param({"preset": "medium"}, 12, marks=CHAOS),
        pytest.param({"streaming_encoding": False}, 8, marks=CHAOS),
        pytest.param({"streaming_encoding": False, "batch_encoding_size": 2}, 8, marks=CHAOS),
    ],
    ids=["encoding", "with B-frames", "images first", "images of two episodes"],
)
def test_a_loss_of_power_between_any_two_fsyncs(
    tmp_path: Path, options: dict[str, Any], most: int, rng: random.Random
) -> None:
    for moments in losses_of(tmp_path / "disk", **options).values():
        assert len(moments) > 40
        for moment in [*rng.sample(moments[:-1], most - 1), moments[-1]]:
            check_moment(moment, tmp_path / "left", lengths=LENGTHS, rows_lost=True)
