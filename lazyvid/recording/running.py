"""The episode that is being recorded: each frame checked as a whole, then given to the cameras and written down.

`recorder.py` begins one after the other and has `layout.py` lay the saved ones down.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lazyvid.errors import EncoderFailedError, EncoderStalledError, RecordingDiskFullError, RecordingError
from lazyvid.recording.cameras import Cameras
from lazyvid.recording.episodes import EpisodeRows
from lazyvid.recording.features import TIMESTAMP, CheckedFrame
from lazyvid.recording.journal import Journal
from lazyvid.recording.manifest import RecordingSpec
from lazyvid.recording.pictures import PictureMaker
from lazyvid.recording.rules import FrameRules
from lazyvid.recording.spool import JOURNAL
from lazyvid.recording.times import CaptureTimes, GridTimes


class RunningEpisode:
    """An episode from its first frame, with which its files are made, until it is saved or given up.

    Args:
        number: Its number.
        folder: Where its files go; made anew.
        spec: What is recorded.
        cameras: What takes its pictures.
        rules: How its videos' frames and its rows go together.
        durable_s: What of its rows a loss of power may cost, in seconds.
    """

    def __init__(
        self,
        number: int,
        folder: Path,
        spec: RecordingSpec,
        cameras: Cameras,
        *,
        rules: FrameRules,
        durable_s: float,
    ) -> None:
        self.number = number
        self.rows = EpisodeRows()
        """The frames so far, without the pictures."""
        self._folder, self._spec, self._cameras, self._durable_s = folder, spec, cameras, durable_s
        self._rules = rules
        self._journal: Journal | None = None
        self._pictures = {camera: PictureMaker(spec.encoding["pix_fmt"]) for camera in spec.features.videos}
        self._times: dict[str, CaptureTimes | GridTimes] = {}
        self._fed: dict[str, tuple[int, float | None]] = {}  # by camera: the last row that it got, and its time
        self._fed_twice = False

    @property
    def is_begun(self) -> bool:
        """Whether there are files of it."""
        return self._journal is not None

    @property
    def has_strays(self) -> bool:
        """Whether a camera has a picture that belongs to no row, because another one refused the frame."""
        return self._fed_twice or any(row >= len(self.rows) for row, _seconds in self._fed.values())

    def add(self, frame: Mapping[str, Any]) -> None:
        """Add a frame; see `Recorder.add_frame`. Where the rules say so it is left out, and counted.

        An error of an encoder or the disk apart, one changes nothing.
        """
        checked = self._spec.features.check(frame)
        for name, known in (self._times or self._new_times(checked)).items():
            known.tick(None if checked.times is None else checked.times.get(name))
        for camera, picture in checked.pictures.items():
            self._pictures[camera].check(picture)
        if self._journal is None:
            self._journal = self._begin(checked)
        if self._rules.on_gap == "drop_row" and not self._cameras.wait_for_room(_earliest(checked)):
            return  # counted there
        try:
            self._feed(checked)
            self._journal.add_frame(checked)
        except (EncoderFailedError, EncoderStalledError, RecordingDiskFullError):
            # Other cameras may have taken theirs: the row belongs to what `recover` finds.
            with contextlib.suppress(RecordingError):
                self._journal.add_frame(checked)
            raise
        self.rows.add(checked)
        self._times = self._times or self._new_times(checked)
        for name, known in self._times.items():
            known.add(None if checked.times is None else checked.times[name])

    def save(self) -> None:
        """End the episode: from here on its rows are not lost, and its cameras' files can be had."""
        if self._journal is not None:
            self._journal.mark_saved()
            self._cameras.end()
            self._journal.close()

    def cancel(self) -> None:
        """Give the episode up and remove what there is of it."""
        if self._journal is None:
            return
        self._journal.close()
        with contextlib.suppress(RecordingError):  # of an encoder that failed, which was reported where it did
            self._cameras.cancel()
        shutil.rmtree(self._folder, ignore_errors=True)

    def leave(self) -> None:
        """Leave what there is of the episode, the files of its cameras finished as far as they can be, to `recover`."""
        if self._journal is not None:
            with contextlib.suppress(RuntimeError, RecordingError):  # the error that is known, or they ended before
                self._cameras.end()
            self._journal.close()

    def _new_times(self, frame: CheckedFrame) -> dict[str, CaptureTimes | GridTimes]:
        """By camera, the times of an episode that begins with this frame."""
        if frame.times is None:
            return {name: GridTimes(self._spec.rate) for name in frame.pictures or (TIMESTAMP,)}
        origin = min(frame.times.values())
        return {name: CaptureTimes(origin) for name in frame.times}

    def _begin(self, frame: CheckedFrame) -> Journal:
        """Make the files."""
        shutil.rmtree(self._folder, ignore_errors=True)
        try:
            self._folder.mkdir(parents=True)
        except OSError as error:
            raise RecordingError(f"Cannot make the folder {self._folder} of the episode: {error}.") from error
        above = [self._folder.parent, self._folder.parent.parent]  # to the recording's own, which is on the disk
        journal = Journal(self._folder / JOURNAL, durable_s=self._durable_s, names_in=above)
        try:
            self._cameras.begin(self.number, self._folder, origin=None if self._rules.on_grid else _earliest(frame))
        except BaseException:
            journal.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        return journal

    def _feed(self, frame: CheckedFrame) -> None:
        """Give the cameras their pictures; one that got this row's before another refused its own is left out."""
        row = len(self.rows)
        times: Mapping[str, float | None] = frame.times or dict.fromkeys(frame.pictures)
        for camera, picture in frame.pictures.items():
            last = self._fed.get(camera)
            if last != (row, times[camera]):
                self._fed_twice = self._fed_twice or (last is not None and last[0] == row)
                self._cameras.feed(camera, picture, None if self._rules.on_grid else times[camera])
                self._fed[camera] = (row, times[camera])


def _earliest(frame: CheckedFrame) -> float | None:
    """When the first camera took its picture; None without capture times."""
    return min(frame.times.values()) if frame.times else None
