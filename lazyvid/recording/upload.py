"""Recordings on their way into a bucket, behind the recorder: one thread that sends what a layout's plans name.

An MP4 goes first, its sidecar second, then the tables, then the manifest; so whatever a reader finds named is there.
Whatever does not go stays in the local folder, for the next plan or for `recover.py`.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from lazyvid.errors import ObjectNotFoundError, RecordingError, StoreError
from lazyvid.index.frame_index import FrameIndex
from lazyvid.recording.layout import UploadPlan
from lazyvid.storage import ObjectStore, display_uri, join_uri, sidecar_uri
from lazyvid.waiting import LOOK_UP_S

_log = logging.getLogger(__name__)


class Uploader:
    """Sends a local recording to a store while it grows.

    Args:
        root: The local folder.
        target: URI of the recording in the store.
        store: The store.
    """

    def __init__(self, root: Path, target: str, *, store: ObjectStore) -> None:
        self._root, self._target, self._store = root, target, store
        # What is to be sent is counted nowhere else: a Ctrl-C does not cut the one step in two that adds a plan, and no
        # signal reaches the thread, which alone changes the other. So waiting has an end.
        self._plans: deque[tuple[UploadPlan, bool]] = deque()
        self._is_sending = False
        self._closed = False
        self._sent: set[str] = set()
        self._written: set[str] = set()  # with a manifest: names that may get another content
        # Held by itself: a `with` of a lock is not cut in two by a Ctrl-C, one of a condition, written in Python, is.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._error: StoreError | None = None
        self._thread = threading.Thread(target=self._run, name="lazyvid-upload", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self._closed = True  # a Ctrl-C does not keep the thread from running, and nobody will close it
            raise

    def submit(self, plan: UploadPlan, *, prune: bool = False) -> None:
        """Send this, after what was submitted before; returns at once.

        Args:
            plan: What there is.
            prune: Whether to remove from the store's tables what the plan does not name.
        """
        with self._lock:
            self._error = None  # a plan names all that an earlier one failed to send
            self._plans.append((plan, prune))
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait until all that was submitted is sent, or failed.

        Raises:
            StoreError: what kept the last plan from being sent; a note names the local folder that keeps it.
        """
        with self._lock:
            self._wait_until(lambda: not self._is_busy())
            error, self._error = self._error, None
        if error is not None:
            raise error

    def wait_for(self, video: str) -> None:
        """Wait until a video, relative to the root, and its sidecar are in the store.

        Raises:
            StoreError: what kept them from being sent.
            RecordingError: if no plan named them.
        """
        with self._lock:
            self._wait_until(lambda: video in self._sent or not self._is_busy())
            if video in self._sent or (video in self._written and self._error is None):
                return
            if self._error is not None:
                raise self._error
        raise RecordingError(f"Expected the video {video} among those that were saved, found it in no plan.")

    def close(self) -> None:
        """End the thread after what was submitted. Closing twice does nothing."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _is_busy(self) -> bool:
        return bool(self._plans) or self._is_sending

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        # A Ctrl-C that comes just before a thread blocks does not wake it: it is seen when the thread looks up.
        while not self._changed.wait_for(condition, timeout=LOOK_UP_S):
            pass

    def _run(self) -> None:
        while (submitted := self._next()) is not None:
            error: StoreError | None = None
            try:
                self._send(*submitted)
            except StoreError as failed:
                error = failed
            except Exception as failed:
                error = StoreError(f"Cannot upload to {display_uri(self._target)}: {failed!r}.")
                error.__cause__ = failed
            if error is not None:
                error.add_note(f"What was not sent is kept in {self._root}; lazyvid.recording.recover sends it.")
                _log.warning("Cannot upload to %s for now: %s", display_uri(self._target), error)
            with self._lock:
                self._is_sending = False
                self._error = error
                self._changed.notify_all()

    def _next(self) -> tuple[UploadPlan, bool] | None:
        """The next plan; None once there is none and none comes any more."""
        with self._lock:
            while not self._plans:
                if self._closed:
                    return None
                self._changed.wait(LOOK_UP_S)  # a Ctrl-C may have kept whoever had news from telling
            self._is_sending = True
            return self._plans.popleft()

    def _send(self, plan: UploadPlan, prune: bool) -> None:  # noqa: FBT001 - as queued
        for video in plan.videos:
            if video not in self._sent:
                self._send_video(video)
        for name in plan.files:
            if name not in self._sent and not self._send_file(name):
                return  # compacted away since: a later plan names what took its place
        for name, content in plan.manifest:
            self._store.write(join_uri(self._target, name), content)
        self._written.update(name for name, _ in plan.manifest)
        if prune:
            self._prune(plan)

    def _send_video(self, video: str) -> None:
        path, uri = self._root / video, join_uri(self._target, video)
        if path.exists():  # else an earlier plan sent it, in this process or in one before
            index = FrameIndex.open(path)
            meta = self._store.upload(path, uri)
            sources = tuple(dataclasses.replace(source, etag=meta.etag) for source in index.sources)
            dataclasses.replace(index, sources=sources).save(uri, store=self._store)
            path.unlink()  # before its sidecar: a kill in between must not leave a video that lacks one
        shutil.rmtree(sidecar_uri(path), ignore_errors=True)
        with self._lock:
            self._sent.add(video)
            self._changed.notify_all()

    def _send_file(self, name: str) -> bool:
        """Whether there was such a file to send."""
        try:
            self._store.upload(self._root / name, join_uri(self._target, name))
        except ObjectNotFoundError:
            if (self._root / name).exists():
                raise
            return False
        self._sent.add(name)
        return True

    def _prune(self, plan: UploadPlan) -> None:
        """Remove the files of older versions of the tables."""
        for table in plan.tables:
            wanted = {join_uri(self._target, name) for name in plan.files}
            for meta in self._store.list(join_uri(self._target, table)):
                if meta.uri not in wanted:
                    self._store.delete(meta.uri)
