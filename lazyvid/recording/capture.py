"""How the cameras' pictures of an episode become files: encoded as they come, or kept as images and encoded at its end.

Between `recorder.py`, which says what belongs to which row, and the encoders.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from urllib.parse import quote

from lazyvid.recording.cameras import CameraFile, Cameras
from lazyvid.recording.encoder import StreamingVideoEncoder
from lazyvid.recording.episodes import Episode, EpisodeRows, finish_video, row_statistics
from lazyvid.recording.image_cameras import ImageCameras, ImageEncoding
from lazyvid.recording.lane import OnFull
from lazyvid.recording.manifest import RecordingSpec
from lazyvid.recording.pictures import FrameLike
from lazyvid.recording.rules import FrameRules
from lazyvid.recording.video_statistics import as_feature


class StreamingCameras:
    """Encodes pictures as they come.

    Args:
        cameras: Names of the cameras.
        encoder: What encodes them.
    """

    def __init__(self, cameras: Iterable[str], encoder: StreamingVideoEncoder) -> None:
        self._cameras, self._encoder = list(cameras), encoder
        self._files: dict[str, CameraFile] = {}

    def begin(self, episode: int, folder: Path, *, origin: float | None) -> None:
        """Start an encoder for each camera."""
        del episode
        self._files = {}
        if self._cameras:
            self._encoder.start_episode(self._cameras, folder, origin=origin)

    def feed(self, camera: str, picture: FrameLike, seconds: float | None) -> None:
        """Put a copy of the picture into the camera's queue."""
        self._encoder.feed_frame(camera, picture, seconds)

    def wait_for_room(self, seconds: float | None) -> bool:
        """Wait as `feed` would."""
        return not self._cameras or self._encoder.wait_for_room(seconds)

    def end(self) -> None:
        """Wait for the encoders to finish their files."""
        self._files = {}
        if not self._cameras:
            return
        self._files = {
            camera: CameraFile(Path(path), None if stats is None else as_feature(stats))
            for camera, (path, stats) in self._encoder.finish_episode().items()
        }

    def files(self, episode: int, rows: EpisodeRows) -> dict[str, CameraFile]:
        """The files that `end` finished."""
        del episode, rows
        return self._files

    def cancel(self) -> None:
        """Stop the encoders and remove their files."""
        self._encoder.cancel_episode()

    def clean(self, episode: int) -> None:
        """Nothing is left."""
        del episode

    def close(self) -> None:
        """Stop the encoders."""
        self._encoder.close()

    def queued(self) -> dict[str, int]:
        """Pictures that wait for their encoder, by camera."""
        return self._encoder.queued_frames

    def durable(self) -> dict[str, int]:
        """Pictures of the running episode that a SIGKILL now would leave in a file, by camera."""
        return self._encoder.durable_frames

    def dropped(self) -> dict[str, int]:
        """Pictures that found the queue full, by camera."""
        return dict(self._encoder.dropped_frames)


def streamed_video(folder: Path, camera: str) -> Path:
    """The file into which `StreamingCameras` encodes a camera's pictures, in the folder of an episode."""
    name = f"{quote(camera, safe='')}.mp4"
    return next(folder.glob(f"*/{escape(name)}"), folder / name)


@dataclass(frozen=True, slots=True)
class Tuning:
    """What may differ from one recorder of a recording to the next."""

    queue_maxsize: int
    """Pictures that wait for an encoder, per camera."""
    on_full: OnFull
    """What a full queue does to a picture."""
    durable_s: float
    """Seconds between two fsyncs of each file."""


def cameras_of(spec: RecordingSpec, root: Path, tuning: Tuning, rules: FrameRules) -> Cameras:
    """What makes files of a recording's pictures, by the settings that it was begun with."""
    settings = spec.encoding
    if not settings["streaming_encoding"]:
        encoding = ImageEncoding.from_settings(spec.rate, settings)
        return ImageCameras(spec.features.videos, root, encoding, durable_s=tuning.durable_s)
    encoder = StreamingVideoEncoder(
        spec.rate,
        settings["vcodec"],
        settings["pix_fmt"],
        settings["g"],
        settings["crf"],
        settings["preset"],
        tuning.queue_maxsize,
        settings["encoder_threads"],
        on_full=tuning.on_full,
        repeat_gaps=rules.on_gap == "repeat",
        durable_s=tuning.durable_s,
    )
    return StreamingCameras(spec.features.videos, encoder)


def make_episode(
    spec: RecordingSpec,
    number: int,
    rows: EpisodeRows,
    files: Mapping[str, CameraFile],
    *,
    strict: bool,
    on_grid: bool = False,
    interrupted: bool = False,
) -> Episode:
    """An episode of rows and finished files, each file held against the rows.

    Args:
        spec: What is recorded.
        number: The episode's number.
        rows: Its rows.
        files: Its cameras' files.
        strict: Whether a frame that no row has is an error.
        on_grid: Whether frame k lies at k / fps, whatever capture times the rows have.
        interrupted: Whether its end may be missing.

    Raises:
        EncoderFailedError: if a file holds frames at times that no row has.
    """
    shown = rows.untimed() if on_grid else rows
    videos = tuple(
        finish_video(camera, file.path, shown, spec.rate, strict=strict)
        for camera, file in sorted(files.items())
        if file.path.exists()  # a camera all of whose frames were dropped has none
    )
    stats = row_statistics(rows, spec.features)
    stats |= {camera: file.stats for camera, file in files.items() if file.stats is not None}
    return Episode(number, rows, videos, stats, interrupted)
