"""The videos of a dataset that is assembled: planned into files, copied by packets, encoded anew where they must be.

Part of `assembling.py`. What was copied is decoded at its seams and compared, since a packet's word that decoding can
start there is only a word.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lazyvid.errors import VideoError
from lazyvid.index.frame_index import FrameIndex
from lazyvid.lerobot.layout import video_settings
from lazyvid.lerobot.local_dataset import LocalDataset, Place
from lazyvid.lerobot.metadata import LeRobotMetadata
from lazyvid.lerobot.schema import next_file
from lazyvid.lerobot.videos import DatasetVideos, OpenVideo
from lazyvid.recording.splice import Piece, splice
from lazyvid.recording.statistics import ImageStatistics
from lazyvid.recording.video_statistics import as_feature
from lazyvid.recording.writer import VideoWriter
from lazyvid.storage import is_local
from lazyvid.video import LazyVideo

_log = logging.getLogger(__name__)

_COMPARED = 3
_SAMPLES = 100
_ENCODED_AT_ONCE = 32


@dataclass(frozen=True, slots=True, eq=False)
class SourceVideo:
    """An episode's frames in a video of a source."""

    meta: LeRobotMetadata
    key: str
    opened: OpenVideo
    first: int
    """Position of its first frame."""
    count: int
    """Its frames."""

    @classmethod
    def find(cls, videos: DatasetVideos, meta: LeRobotMetadata, key: str, episode: int) -> SourceVideo:
        """Where an episode lies.

        Raises:
            EpisodeMismatchError: if it has another number of frames than rows.
            LazyVidError: if the video cannot be opened.
        """
        opened = videos.open(key, episode)
        first = videos.first_frame(key, episode, opened.seconds)
        return cls(meta, key, opened, first, int(meta.episodes.lengths[episode]))

    @property
    def stop(self) -> int:
        """One past its last frame."""
        return self.first + self.count

    @property
    def index(self) -> FrameIndex:
        """Of the whole video."""
        return self.opened.video.frame_index

    @property
    def nbytes(self) -> int:
        """Encoded bytes."""
        return int(self.index.packets.size[self.first : self.stop].sum())

    @property
    def kind(self) -> tuple[Any, ...]:
        """What two videos must have in common to lie in one file."""
        source = self.index.sources[0]
        return source.codec, source.width, source.height, source.pix_fmt, source.extradata

    @property
    def can_be_copied(self) -> bool:
        """Whether its packets are those of its frames alone, and begin with a key packet."""
        if len(self.index.sources) != 1:
            return False
        positions = self.index.packets.decode_position[self.first : self.stop]
        begin = int(positions.argmin())
        span = int(positions.max()) - int(positions.min()) + 1
        return span == self.count and bool(self.index.packets.key[self.first + begin])

    def frames(self, first: int, stop: int) -> torch.Tensor:
        """Pictures, counted in the episode, uint8 [N, H, W, C]."""
        return self.opened.video.get_frames_in_range(self.first + first, self.first + stop).frames

    def statistics(self) -> dict[str, Any]:
        """Of a sample of its pictures, evenly spread."""
        statistics = ImageStatistics()
        places = np.unique(np.linspace(0, self.count - 1, _SAMPLES).astype(int)).tolist()
        for place in places if len(places) > 1 else places * 2:
            statistics.update(self.frames(place, place + 1)[0].numpy())
        return as_feature(statistics.get_statistics())


@dataclass(frozen=True, slots=True)
class VideoGroup:
    """Episodes, one after the other, that go into one file."""

    place: Place
    episodes: tuple[int, ...]
    """Their numbers in the new dataset."""
    is_copied: bool
    """Whether packets are copied; else they are encoded anew."""


def plan_groups(videos: Sequence[SourceVideo], *, limit: float, chunks_size: int) -> list[VideoGroup]:
    """Which episodes share a file: neighbours of one kind, up to `limit` bytes; those to be encoded anew lie alone."""
    groups: list[VideoGroup] = []
    place: Place = (0, 0)
    run: list[int] = []
    size = 0

    def close(*, is_copied: bool) -> None:
        nonlocal place, run, size
        if run:
            groups.append(VideoGroup(place, tuple(run), is_copied))
            place, run, size = next_file(*place, chunks_size), [], 0

    for number, video in enumerate(videos):
        if not video.can_be_copied:
            close(is_copied=True)
            run = [number]
            close(is_copied=False)
            continue
        if run and (size + video.nbytes > limit or videos[run[-1]].kind != video.kind):
            close(is_copied=True)
        run.append(number)
        size += video.nbytes
    close(is_copied=True)
    return groups


def write_group(
    group: VideoGroup, videos: Sequence[SourceVideo], dataset: LocalDataset, key: str, *, scratch: Path
) -> None:
    """Write a file and its sidecar.

    Args:
        group: What goes into it.
        videos: Those of all episodes.
        dataset: The new dataset.
        key: The camera.
        scratch: A folder for what is encoded anew.

    Raises:
        VideoError: if a source is damaged.
        EncoderUnavailableError: if frames must be encoded anew and the encoder does not work here.
    """
    target, rate = dataset.video_path(key, group.place), Fraction(dataset.info.fps)
    own = [videos[number] for number in group.episodes]
    if group.is_copied:
        try:
            index = splice([_piece(video) for video in own], target, rate)
            if _is_same(index, target, own):
                index.save(target)
                return
            _log.warning("Copying packets changed pictures in %s: its episodes are encoded anew.", target)
        except VideoError as error:
            _log.warning("Packets cannot be copied into %s, so that its episodes are encoded anew: %s", target, error)
    pieces = [Piece(_encoded(video, scratch / f"{number}.mp4", rate)) for number, video in enumerate(own)]
    splice(pieces, target, rate).save(target)
    for piece in pieces:
        piece.path.unlink()


def _piece(video: SourceVideo) -> Piece:
    """The frames in a local file, which is a copy of a remote one."""
    uri, store = video.opened.video.uri, video.meta.place.store
    path = Path(uri) if is_local(uri) else video.meta.place.cache.fetch(store, uri)
    return Piece(path, video.first, video.stop)


def _is_same(index: FrameIndex, path: Path, own: Sequence[SourceVideo]) -> bool:
    """Whether the first and last frames of each episode are what they were."""
    copied = LazyVideo(path, frame_index=index, channel_format="NHWC", colorspace=own[0].opened.video.colorspace)
    at = 0
    for video in own:
        for first, stop in {(0, min(_COMPARED, video.count)), (video.count - 1, video.count)}:
            found = copied.get_frames_in_range(at + first, at + stop).frames
            if not torch.equal(found, video.frames(first, stop)):
                return False
        at += video.count
    return True


def _encoded(video: SourceVideo, path: Path, rate: Fraction) -> Path:
    """The frames, encoded anew with the settings that the source notes."""
    if video.opened.video.colorspace != "RGB":
        raise VideoError(
            f"Cannot encode the depth video {video.opened.video.uri} anew without loss: its packets cannot be copied. "
            "Convert the dataset with LeRobot itself."
        )
    settings: Mapping[str, Any] = video_settings(video.meta.info.features[video.key].info)
    names = ("vcodec", "pix_fmt", "g", "crf", "preset")
    with VideoWriter(path, rate, write_sidecar=False, **{name: settings[name] for name in names}) as writer:
        for first in range(0, video.count, _ENCODED_AT_ONCE):
            for picture in video.frames(first, min(first + _ENCODED_AT_ONCE, video.count)):
                writer.add_frame(picture)
    return path
