"""The part of the doctor that looks at the videos: whether they are there, and whose their frames are."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from lazyvid.errors import LazyVidError, MissingIndexError
from lazyvid.index.frame_index import FrameIndex
from lazyvid.index.probe import build_index
from lazyvid.lerobot.metadata import LeRobotMetadata
from lazyvid.lerobot.report import Advance, CheckReport
from lazyvid.lerobot.videos import VideoFile, file_seconds
from lazyvid.storage import SegmentCache
from lazyvid.video import LazyVideo

_AT_ONCE = 8
_DECODED_AT_ONCE = 64
_GRID_SLACK_S = 1e-4
"""LeRobot's own tolerance."""


@dataclass(frozen=True, slots=True)
class _Looked:
    """A video as it was found."""

    file: VideoFile
    index: FrameIndex | None
    sidecar: str
    """Why its sidecar is of no use; empty where it is, or there is none."""
    error: str
    """Why it cannot be read; empty where it can."""
    broken: str = ""
    """What decoding it met; empty where that went well."""


def check(meta: LeRobotMetadata, report: CheckReport, advance: Advance, *, decode: bool) -> None:
    """Whether each episode has a frame of every camera for each row, in time."""
    for key in meta.video_keys:
        files = meta.episodes.video_files(key)
        places = np.unique(files, axis=0).tolist() if len(files) else []
        videos: list[VideoFile] = [(key, int(chunk), int(file)) for chunk, file in places]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            looks = pool.map(lambda file: _look(meta, file, decode=decode), videos)
            for done, looked in enumerate(looks):
                advance(f"videos of {key}", done, len(videos))
                _check_video(meta, report, looked)
        advance(f"videos of {key}", len(videos), len(videos))
        _check_unnamed(meta, report, key, {meta.video_uri(*file) for file in videos})


def _look(meta: LeRobotMetadata, file: VideoFile, *, decode: bool) -> _Looked:
    store, uri = meta.place.store, meta.place.store.resolve(meta.video_uri(*file))
    sidecar = ""
    try:
        LazyVideo(uri, store=store, on_missing_index="raise")
    except MissingIndexError:
        pass
    except LazyVidError as error:
        sidecar = str(error)
    try:
        index = build_index(uri, store=store)
    except LazyVidError as error:
        return _Looked(file, None, "", str(error))
    return _Looked(file, index, sidecar, "", _decoded(meta, uri, index) if decode else "")


def _decoded(meta: LeRobotMetadata, uri: str, index: FrameIndex) -> str:
    """What decoding every frame meets; empty where that goes well."""
    fetch_whole = {"fetch": "file", "cache": SegmentCache()}
    video = LazyVideo(uri, store=meta.place.store, frame_index=index, **fetch_whole)  # type: ignore[arg-type]
    for first in range(0, len(video), _DECODED_AT_ONCE):
        try:
            video.get_frames_in_range(first, first + _DECODED_AT_ONCE)
        except LazyVidError as error:
            return f"frames {first} to {min(first + _DECODED_AT_ONCE, len(video)) - 1}: {error}"
    return ""


def _check_video(meta: LeRobotMetadata, report: CheckReport, looked: _Looked) -> None:
    key, chunk, number = looked.file
    name = meta.video_uri(*looked.file)
    own = np.flatnonzero((meta.episodes.video_files(key) == (chunk, number)).all(axis=1))
    if looked.index is None:
        for episode in own.tolist():
            report.episodes[episode].frames[key] = None
            report.error(name, f"cannot be read: {looked.error}", episode=episode)
        return
    if looked.sidecar:
        report.error(name, f"its sidecar is of no use (write it anew: lazyvid index --force): {looked.sidecar}")
    if looked.broken:
        report.error(name, f"cannot be decoded: {looked.broken}")
    seconds = np.sort(file_seconds(looked.index))
    _check_episodes(meta, report, looked.file, own, seconds)
    _check_grid(meta, report, name, seconds)
    _check_size(meta, report, name, key, looked.index)


def _check_episodes(
    meta: LeRobotMetadata,
    report: CheckReport,
    file: VideoFile,
    own: npt.NDArray[np.int64],
    seconds: npt.NDArray[np.float64],
) -> None:
    """Whether each episode finds its frames, and no two find the same ones."""
    key, name = file[0], meta.video_uri(*file)
    half = 0.5 / meta.fps
    times = meta.episodes.video_times(key)[own]
    lengths = meta.episodes.lengths[own]
    if meta.info.is_v3:
        first, stop = (np.searchsorted(seconds, times[:, side] - half) for side in (0, 1))
    else:
        first, stop = np.zeros(len(own), np.int64), np.full(len(own), len(seconds))
    for place in range(len(own)):
        episode, found = int(own[place]), int(stop[place] - first[place])
        report.episodes[episode].frames[key] = max(found, 0)
        begin, end = times[place].tolist()
        if found != lengths[place]:
            report.error(
                name,
                f"expected {lengths[place]} frames, one a row, from {begin:.6f} s to {end:.6f} s, found "
                f"{max(found, 0)} (the file has {len(seconds)} frames{_until(seconds)})",
                episode=episode,
            )
        elif meta.info.is_v3 and abs((end - begin) - lengths[place] / meta.fps) > half:
            report.warn(
                name,
                f"expected it to last {lengths[place] / meta.fps:.6f} s, found {end - begin:.6f} s",
                episode=episode,
            )
    _check_overlaps(report, name, own, first, stop, len(seconds))


def _until(seconds: npt.NDArray[np.float64]) -> str:
    return f", the last at {seconds[-1]:.6f} s" if len(seconds) else ""


def _check_overlaps(
    report: CheckReport,
    name: str,
    own: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
    stop: npt.NDArray[np.int64],
    frames: int,
) -> None:
    order = np.argsort(first, kind="stable")
    for before, after in pairwise(order):
        if stop[before] > first[after]:
            shared = int(min(stop[before], stop[after]) - first[after])
            report.error(
                name,
                f"expected frames of its own, found {shared} that episode {own[before]} has, too",
                episode=int(own[after]),
            )
    unused = frames - int(np.sum(np.maximum(stop - first, 0)))
    if unused > 0:
        report.warn(name, f"expected an episode for each of its {frames} frames, found {unused} that none has")


def _check_grid(meta: LeRobotMetadata, report: CheckReport, name: str, seconds: npt.NDArray[np.float64]) -> None:
    """Whether frame k lies at k / fps, where LeRobot looks for it."""
    if not len(seconds):
        return
    distances = np.abs(seconds - np.arange(len(seconds)) / meta.fps)
    worst = int(np.argmax(distances))
    if distances[worst] > _GRID_SLACK_S:
        report.warn(
            name,
            f"expected frame {worst} at {worst / meta.fps:.6f} s, found it at {seconds[worst]:.6f} s: LeRobot, which "
            "looks for frames by time, does not find it to within 0.1 ms",
        )


def _check_size(meta: LeRobotMetadata, report: CheckReport, name: str, key: str, index: FrameIndex) -> None:
    feature = meta.info.features[key]
    height, width = index.sources[0].display_size
    sizes = {feature.shape[:2], feature.shape[1:]}
    if (height, width) not in sizes:
        report.warn(name, f"expected pictures of {list(feature.shape)}, as meta/info.json says, found {height}x{width}")
    codec = feature.info.get("video.codec")
    if codec is not None and codec != index.sources[0].codec:
        report.warn(name, f"expected the codec {codec}, as meta/info.json says, found {index.sources[0].codec}")


def _check_unnamed(meta: LeRobotMetadata, report: CheckReport, key: str, named: set[str]) -> None:
    folder = meta.info.video_path.partition("{")[0].rstrip("/")
    for file in meta.place.store.list(folder, glob="**/*.mp4"):
        name = file.uri.removeprefix(meta.root).lstrip("/")
        if f"/{key}/" in name and name not in named:
            report.warn(name, "expected an episode in this video, found none")
