"""An episode on its way to the disk: its rows, its finished videos and what they have to do with one another.

`recorder.py` collects the rows, `finish_video` holds each camera's file against them, `layout.py` writes the result.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from lazyvid.errors import EncoderFailedError
from lazyvid.index.frame_index import FrameIndex
from lazyvid.index.probe import build_index
from lazyvid.recording.features import CheckedFrame, Features
from lazyvid.recording.mp4 import ORIGIN_TAG
from lazyvid.recording.statistics import RunningQuantileStats
from lazyvid.recording.times import CAPTURE_TIME_BASE

Stats = dict[str, dict[str, npt.NDArray[Any]]]
"""By feature: min, max, mean, std, count and quantiles, each by channel or component."""

NO_FRAME = -1
"""Stands for the frame of a row that a camera's file has no picture of."""


@dataclass(slots=True)
class EpisodeRows:
    """The rows of an episode, one a frame, without the pictures."""

    tasks: list[str] = field(default_factory=list)
    """What was being done."""
    values: dict[str, list[Any]] = field(default_factory=dict)
    """By tabular feature: one array or text a row."""
    times: list[dict[str, float]] = field(default_factory=list)
    """By camera, seconds; empty when the frames have no capture times."""

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def has_times(self) -> bool:
        """Whether the rows have capture times."""
        return bool(self.times)

    def add(self, frame: CheckedFrame) -> None:
        """Append a row."""
        self.tasks.append(frame.task)
        for name, value in frame.values.items():
            self.values.setdefault(name, []).append(value)
        if frame.times is not None:
            self.times.append(frame.times)

    def cut(self, count: int) -> EpisodeRows:
        """The first `count` rows."""
        values = {name: column[:count] for name, column in self.values.items()}
        return EpisodeRows(self.tasks[:count], values, self.times[:count])

    def untimed(self) -> EpisodeRows:
        """The same rows without capture times: row k lies at k / fps."""
        return EpisodeRows(self.tasks, self.values)

    def task_names(self) -> list[str]:
        """Each task once, in the order in which they came."""
        return list(dict.fromkeys(self.tasks))

    def seconds(self, rate: Fraction) -> npt.NDArray[np.float64]:
        """float64 [N], when each row was taken: the earliest of its capture times, else row / rate."""
        if self.has_times:
            return np.array([min(times.values()) for times in self.times])
        return np.array([float(row / rate) for row in range(len(self))])

    def camera_seconds(self, camera: str, rate: Fraction) -> npt.NDArray[np.float64]:
        """float64 [N], when this camera's picture of each row was taken."""
        return np.array([times[camera] for times in self.times]) if self.has_times else self.seconds(rate)


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeVideo:
    """A camera's finished file of an episode."""

    camera: str
    """The feature's name."""
    path: Path
    """The MP4, local."""
    index: FrameIndex
    """Its frames, under the times they were taken at."""
    frame_of_row: npt.NDArray[np.int64]
    """int64 [rows], the number of the file's frame that shows a row; `NO_FRAME` where it was dropped or lost."""

    @property
    def missing(self) -> int:
        """Rows without a frame."""
        return int((self.frame_of_row == NO_FRAME).sum())


@dataclass(frozen=True, slots=True, eq=False)
class Episode:
    """All of an episode, ready to be laid down."""

    number: int
    """From 0."""
    rows: EpisodeRows
    """Without the pictures."""
    videos: tuple[EpisodeVideo, ...]
    """One a camera."""
    stats: Stats
    """Of every feature that has some."""
    interrupted: bool = False
    """Whether the recorder ended before it was saved, so that its end may be missing."""


def whole_rows(videos: Sequence[EpisodeVideo], cameras: Collection[str]) -> int:
    """How many rows from the first one on have a frame of every camera, under the row's own number."""
    whole = [0] if {video.camera for video in videos} < set(cameras) else []
    for video in videos:
        wrong = np.flatnonzero(video.frame_of_row != np.arange(len(video.frame_of_row)))
        whole.append(int(wrong[0]) if len(wrong) else len(video.frame_of_row))
    return min(whole, default=0)


def finish_video(camera: str, path: Path, rows: EpisodeRows, rate: Fraction, *, strict: bool) -> EpisodeVideo:
    """Hold a finished MP4 against the rows it belongs to.

    Args:
        camera: The feature's name.
        path: The MP4, whole.
        rows: The episode's rows, all that its frames can show.
        rate: Frames per second where there are no capture times.
        strict: Whether a frame that no row has is an error; else it keeps the file's time.

    Returns:
        The video with its index: capture times as they were given, else the exact grid.

    Raises:
        EncoderFailedError: if the file has a frame at a time that no row has.
    """
    index = build_index(path, scan="full")
    ticks = np.rint(index.timestamp / float(_tick(rows, rate))).astype(np.int64).tolist()
    row_of_tick = _rows_by_tick(camera, path, rows)
    frame_of_row = np.full(len(rows), NO_FRAME, np.int64)
    seconds = index.timestamp + _origin(camera, path, rows)
    given = rows.camera_seconds(camera, rate)
    for frame, tick in enumerate(ticks):
        row = row_of_tick.get(tick)
        if row is not None:
            frame_of_row[row] = frame
            seconds[frame] = given[row]
        elif strict:
            raise EncoderFailedError(
                f"Expected frame {frame} of {path} at the time of a row of its episode, found it at "
                f"{float(seconds[frame])} s: the encoder moves frames."
            )
    return EpisodeVideo(camera, path, dataclasses.replace(index, timestamp=seconds), frame_of_row)


def _tick(rows: EpisodeRows, rate: Fraction) -> Fraction:
    """Seconds between two times that the file can tell apart."""
    return CAPTURE_TIME_BASE if rows.has_times else 1 / rate


def _rows_by_tick(camera: str, path: Path, rows: EpisodeRows) -> dict[int, int]:
    """The row that each tick of the camera's file belongs to."""
    if not rows.has_times:
        return {row: row for row in range(len(rows))}
    seconds = np.array([times[camera] for times in rows.times])
    ticks = capture_ticks(seconds, _origin(camera, path, rows))
    return dict(zip(ticks.tolist(), range(len(rows)), strict=True))


def capture_ticks(seconds: npt.NDArray[np.float64], origin: float) -> npt.NDArray[np.int64]:
    """int64 [N], the ticks at which a file holds capture times: exact, as `CaptureTimes` says them."""
    places = (seconds - origin) / float(CAPTURE_TIME_BASE)
    ticks = np.rint(places)
    # Halfway between two ticks, what floats leave out decides: difference and quotient are each rounded once, and the
    # divisor too.
    doubt = np.abs(np.abs(places - ticks) - 0.5) <= 4 * np.spacing(np.abs(places))
    for row in np.flatnonzero(doubt):
        ticks[row] = round((Fraction(float(seconds[row])) - Fraction(origin)) / CAPTURE_TIME_BASE)
    return ticks.astype(np.int64)


def _origin(camera: str, path: Path, rows: EpisodeRows) -> float:
    """The time that lies at 0 in the file."""
    if not rows.has_times:
        return 0.0
    origin = read_origin(path)
    return rows.times[0][camera] if origin is None else origin


def read_origin(path: Path) -> float | None:
    """The capture time that lies at 0 in an MP4, as its header says; None when it does not."""
    with (
        contextlib.suppress(av.FFmpegError, OSError, KeyError, ValueError),
        path.open("rb") as file,
        av.open(file, format="mp4") as container,
    ):
        return float(container.metadata[ORIGIN_TAG])
    return None


# -- statistics -------------------------------------------------------------------------------------------------------


def combined(old: Stats, new: Stats) -> Stats:
    """Statistics of two sets of frames together: exact but for quantiles, of which the outer ones are taken."""
    merged = dict(old)
    for name, stats in new.items():
        merged[name] = _combined(old[name], stats) if name in old else stats
    return merged


def _combined(a: dict[str, npt.NDArray[Any]], b: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    n, m = float(np.sum(a["count"])), float(np.sum(b["count"]))
    mean = (a["mean"] * n + b["mean"] * m) / (n + m)
    square = ((a["std"] ** 2 + a["mean"] ** 2) * n + (b["std"] ** 2 + b["mean"] ** 2) * m) / (n + m)
    merged = {
        "min": np.minimum(a["min"], b["min"]),
        "max": np.maximum(a["max"], b["max"]),
        "mean": mean,
        "std": np.sqrt(np.maximum(square - mean**2, 0.0)),
        "count": a["count"] + b["count"],
    }
    for key in (a.keys() & b.keys()) - merged.keys():  # q01, q10, ...
        outer = np.minimum if float(key[1:]) <= 50 else np.maximum
        merged[key] = outer(a[key], b[key])
    return merged


def stats_to_json(stats: Stats) -> dict[str, dict[str, Any]]:
    """Arrays as nested lists."""
    return {name: {key: np.asarray(value).tolist() for key, value in of.items()} for name, of in stats.items()}


def stats_from_json(stats: dict[str, dict[str, Any]]) -> Stats:
    """Nested lists as arrays."""
    return {name: {key: np.array(value) for key, value in of.items()} for name, of in stats.items()}


def number_columns(rows: EpisodeRows, features: Features) -> dict[str, npt.NDArray[Any]]:
    """By tabular feature of numbers: [N, *shape]."""
    return {
        name: np.stack(rows.values[name]).astype(feature.dtype, copy=False)
        for name, feature in features.tabular.items()
        if feature.is_number
    }


def row_statistics(rows: EpisodeRows, features: Features) -> Stats:
    """Statistics of the features of numbers over an episode; rows with values that are not finite are left out."""
    found = {}
    for name, values in number_columns(rows, features).items():
        vectors = values.reshape(len(values), -1)
        vectors = vectors[np.isfinite(vectors).all(axis=1)]
        if len(vectors):
            found[name] = vector_statistics(vectors, features.tabular[name].shape)
    return found


def vector_statistics(vectors: npt.NDArray[Any], shape: tuple[int, ...]) -> dict[str, npt.NDArray[Any]]:
    """Statistics of vectors [N, D], one or more, each but the count in this shape."""
    running = RunningQuantileStats()
    running.update(vectors)
    if len(vectors) == 1:
        running.update(vectors)  # one alone has statistics too: its own values, no deviation
    statistics = {
        key: value if key == "count" else value.reshape(shape) for key, value in running.get_statistics().items()
    }
    return statistics | {"count": np.array([len(vectors)], np.int64)}
