"""The manifest of a recording: what is recorded, and how much of it is whole; the last thing to be written.

Kept by `layout.py`; whatever lies beside it and is not counted is what a kill left.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from lazyvid.errors import RecordingError
from lazyvid.recording.episodes import Episode, Stats, combined, stats_from_json, stats_to_json
from lazyvid.recording.features import Features
from lazyvid.recording.rows import columns_of
from lazyvid.storage import ObjectStore

MANIFEST = "recording.json"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class RecordingSpec:
    """What is recorded; the same for all of its episodes."""

    rate: Fraction
    """Frames per second; nominal where there are capture times."""
    features: Features
    """What a frame holds."""
    encoding: Mapping[str, Any] = field(default_factory=dict)
    """The encoder's settings, by the names of `Recorder.create`."""


@dataclass(frozen=True, slots=True)
class RecordingState:
    """A recording as its manifest counts it."""

    spec: RecordingSpec
    """What is recorded."""
    total_episodes: int = 0
    """Whole episodes."""
    total_frames: int = 0
    """Their rows."""
    missing_frames: Mapping[str, int] = field(default_factory=dict)
    """By camera: rows without a frame, because it was dropped or lost in a crash."""
    stats: Stats = field(default_factory=dict)
    """Of every feature, over all episodes."""

    def plus(self, episode: Episode) -> RecordingState:
        """The recording with one more episode."""
        missing = {name: self.missing_frames.get(name, 0) for name in self.spec.features.videos}
        videos = {video.camera: video.missing for video in episode.videos}
        return dataclasses.replace(
            self,
            total_episodes=self.total_episodes + 1,
            total_frames=self.total_frames + len(episode.rows),
            missing_frames={name: n + videos.get(name, len(episode.rows)) for name, n in missing.items()},
            stats=combined(self.stats, episode.stats),
        )


@dataclass(frozen=True, slots=True)
class RecordingMeta:
    """How much a recorder has saved, episodes that wait to be encoded included."""

    fps: float
    """Frames per second."""
    features: dict[str, dict[str, Any]]
    """What a frame holds."""
    total_episodes: int
    """Saved episodes."""
    total_frames: int
    """Their frames."""
    missing_frames: dict[str, int]
    """By camera: rows without a frame, because it was dropped or lost in a crash."""
    stats: Stats
    """By feature: min, max, mean, std, count and quantiles, over all episodes that are laid down."""


def read_manifest(root: Path) -> RecordingState:
    """A recording as its manifest counts it.

    Raises:
        RecordingError: if there is none, or it is damaged or of a later format version.
    """
    path = root / MANIFEST
    try:
        return parse_manifest(path.read_bytes())
    except FileNotFoundError as error:
        raise RecordingError(f"Expected a recording in {root}, found no {MANIFEST}. Check the folder.") from error
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise RecordingError(f"Cannot read {path}: expected a recording's manifest, found {error!r}.") from error


def parse_manifest(data: bytes) -> RecordingState:
    """A recording as its manifest's bytes say; ValueError, KeyError or TypeError for other bytes."""
    given = json.loads(data)
    if given["format_version"] > FORMAT_VERSION:
        raise RecordingError(
            f"Expected a recording of format version {FORMAT_VERSION} at most, found {given['format_version']}: update "
            "lazyvid."
        )
    spec = RecordingSpec(Fraction(given["fps"]), Features(given["features"]), given["encoding"])
    return RecordingState(
        spec, given["total_episodes"], given["total_frames"], given["missing_frames"], stats_from_json(given["stats"])
    )


def write_manifest(root: Path, state: RecordingState) -> None:
    """Count what is whole now; on the disk when this returns."""
    text = json.dumps(
        {
            "format_version": FORMAT_VERSION,
            "fps": str(state.spec.rate),
            "features": state.spec.features.to_json(),
            "columns": columns_of(state.spec.features),
            "encoding": dict(state.spec.encoding),
            "total_episodes": state.total_episodes,
            "total_frames": state.total_frames,
            "missing_frames": dict(state.missing_frames),
            "stats": stats_to_json(state.stats),
        },
        indent=1,
    )
    ObjectStore().write(root / MANIFEST, text.encode())  # atomic, and on the disk when it returns
