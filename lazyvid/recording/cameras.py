"""What a recorder asks of its cameras, whichever way their pictures become files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lazyvid.recording.episodes import EpisodeRows
from lazyvid.recording.pictures import FrameLike
from lazyvid.recording.statistics import Statistics


@dataclass(frozen=True, slots=True)
class CameraFile:
    """What a camera left of an episode."""

    path: Path
    """The finished MP4."""
    stats: Statistics | None
    """Of its pictures; None when there are too few."""


class Cameras(Protocol):
    """The cameras of a recorder."""

    def begin(self, episode: int, folder: Path, *, origin: float | None) -> None:
        """Get ready for the first frame of an episode, whose files go into the folder; its earliest capture time."""

    def feed(self, camera: str, picture: FrameLike, seconds: float | None) -> None:
        """Take the next picture of a camera."""

    def wait_for_room(self, seconds: float | None) -> bool:
        """Whether none of the cameras would drop its next picture; where one would, it is left out for all."""

    def end(self) -> None:
        """Bring all that was fed to the disk: from here on, the episode's files can be made."""

    def files(self, episode: int, rows: EpisodeRows) -> dict[str, CameraFile]:
        """The finished files of an episode that has ended, by camera."""

    def cancel(self) -> None:
        """Forget the running episode and remove what there is of it."""

    def clean(self, episode: int) -> None:
        """Remove what is no longer needed of an episode whose files are in place."""

    def close(self) -> None:
        """End what runs in the background. Closing twice does nothing."""

    def queued(self) -> dict[str, int]:
        """Pictures that wait for their encoder, by camera; empty where none encodes as they come."""

    def durable(self) -> dict[str, int]:
        """Pictures of the running episode that a SIGKILL now would leave in a file, by camera."""

    def dropped(self) -> dict[str, int]:
        """Pictures of the running or the last episode that were dropped, by camera."""
