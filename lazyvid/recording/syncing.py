"""Brings the files of a recording to the disk now and then, beside the threads that write them.

Part of the write flow: an fsync may take a second on a busy disk, which is more than a camera's queue holds.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from lazyvid.recording.camera import CameraEncoderThread

_log = logging.getLogger(__name__)


class SyncingThread(threading.Thread):
    """Calls `sync` on each camera every so many seconds until it is stopped.

    Args:
        cameras: The threads that write.
        every_s: Seconds.
    """

    def __init__(self, cameras: Sequence[CameraEncoderThread], *, every_s: float) -> None:
        super().__init__(name="lazyvid-sync", daemon=True)
        self._cameras = cameras
        self._every_s = every_s
        self._stopped = threading.Event()

    def run(self) -> None:
        """Sync until stopped; belongs to `threading.Thread`."""
        while not self._stopped.wait(self._every_s):
            for camera in self._cameras:
                self._sync(camera)

    def stop(self) -> None:
        """End soon; a sync that is going on is not waited for."""
        self._stopped.set()

    def _sync(self, camera: CameraEncoderThread) -> None:
        try:
            camera.sync()
        except OSError as error:
            # Not the recording's end: the file is written, and finishing it syncs once more and raises.
            _log.warning("%s could not be brought to the disk: %s.", camera.video_path, error)
