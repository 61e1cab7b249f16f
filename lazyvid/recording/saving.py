"""Episodes that were saved, on their way into the recording: encoded where they wait for it, laid down, sent off.

Between `recorder.py`, whose user saves an episode, and `layout.py` and `upload.py`, which bring it where it belongs.
"""

from __future__ import annotations

import shutil

from lazyvid.recording.cameras import Cameras
from lazyvid.recording.capture import make_episode
from lazyvid.recording.disk import disk_failures
from lazyvid.recording.layout import Layout
from lazyvid.recording.manifest import RecordingMeta, RecordingState
from lazyvid.recording.running import RunningEpisode
from lazyvid.recording.spool import Spool
from lazyvid.recording.upload import Uploader
from lazyvid.storage import join_uri


class SavedEpisodes:
    """The episodes of a recording that were saved. Belongs to one thread.

    Args:
        place: Where the recording lies.
        layout: What lies on disk.
        state: The recording as it was begun or resumed.
        cameras: What makes files of an episode's pictures.
    """

    def __init__(self, place: Spool, layout: Layout, state: RecordingState, cameras: Cameras) -> None:
        self._place, self._layout, self._cameras = place, layout, cameras
        self.state = state
        """The recording, without the episodes that wait."""
        self._batch = int(state.spec.encoding["batch_encoding_size"])
        self._waiting: list[RunningEpisode] = []
        self._uploader = None
        if place.target is not None:
            self._uploader = Uploader(place.root, place.target, store=place.store)

    @property
    def count(self) -> int:
        """Episodes, those that wait included: the number of the next one."""
        return self.state.total_episodes + len(self._waiting)

    @property
    def meta(self) -> RecordingMeta:
        """How much was saved so far."""
        spec = self.state.spec
        return RecordingMeta(
            fps=float(spec.rate),
            features=spec.features.to_json(),
            total_episodes=self.count,
            total_frames=self.state.total_frames + sum(len(episode.rows) for episode in self._waiting),
            missing_frames=dict(self.state.missing_frames),
            stats=dict(self.state.stats),
        )

    @property
    def is_due(self) -> bool:
        """Whether as many episodes wait as are encoded at once."""
        return len(self._waiting) >= self._batch

    def take(self, episode: RunningEpisode) -> None:
        """Have an episode wait that was saved."""
        self._waiting.append(episode)

    def lay_down(self) -> None:
        """Encode the episodes that wait, and lay them down one after the other."""
        while self._waiting:
            saved, on_grid = self._waiting[0], self._layout.rules.on_grid
            files = self._cameras.files(saved.number, saved.rows.untimed() if on_grid else saved.rows)
            strict = not saved.has_strays
            episode = make_episode(self.state.spec, saved.number, saved.rows, files, strict=strict, on_grid=on_grid)
            with disk_failures(f"lay episode {saved.number} down in {self._place.root}"):
                self.state = self._layout.add(self._place.root, self.state, episode)
            del self._waiting[0]
            shutil.rmtree(self._place.unfinished(saved.number), ignore_errors=True)
            self._cameras.clean(saved.number)
            if self._uploader is not None:
                self._uploader.submit(self._layout.upload_plan(self._place.root))

    def video_uri(self, episode: int, camera: str, *, wait: bool) -> str:
        """Where a saved episode's video lies; see `Recorder.video_uri`."""
        if camera not in self.state.spec.features.videos or not 0 <= episode < self.state.total_episodes:
            raise ValueError(
                f"Expected one of the cameras {', '.join(map(repr, self.state.spec.features.videos))} and an encoded "
                f"episode below {self.state.total_episodes}, got {camera!r} and {episode}."
            )
        path = self._layout.video_path(self._place.root, episode, camera)
        if self._uploader is None or self._place.target is None:
            return str(path)
        name = path.relative_to(self._place.root).as_posix()
        if wait:
            self._uploader.wait_for(name)
        return join_uri(self._place.target, name)

    def finish(self, *, keep: bool) -> None:
        """Tidy up and wait for all uploads; doing it again sends what could not be sent.

        Args:
            keep: Whether the local folder of a recording in a store holds something more, so that it stays.

        Raises:
            StoreError: if something could not be uploaded; its note names the folder that keeps it.
        """
        self._layout.finish(self._place.root, self.state)
        self._place.tidy()
        if self._uploader is None:
            return
        self._uploader.submit(self._layout.upload_plan(self._place.root), prune=True)
        self._uploader.wait()
        self._uploader.close()
        if not keep:
            self._place.remove()
