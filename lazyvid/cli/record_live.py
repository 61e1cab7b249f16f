"""What `lazyvid record` shows while it records: by camera, frames per second, how many wait, how many were dropped."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.live import Live
from rich.table import Table

from lazyvid.cli.console import seconds_text, stdout

_WINDOW_S = 2.0
_REFRESHES_PER_SECOND = 4
_LINE_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Counts:
    """Where a recording stands."""

    seconds: float
    """Recorded so far."""
    rows: int
    """Rows so far: frames of each camera, dropped ones included."""
    queued: Mapping[str, int]
    """By camera, frames that wait for its encoder."""
    dropped: Mapping[str, int]
    """By camera, frames that were left out."""


class LiveView:
    """A table that is kept up to date; a line each second where there is no terminal.

    Args:
        cameras: Their names.
    """

    def __init__(self, cameras: Sequence[str]) -> None:
        self._cameras = list(cameras)
        self._console = stdout()
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._every_s = 1 / _REFRESHES_PER_SECOND if self._console.is_terminal else _LINE_EVERY_S
        self._shown = time.monotonic()
        self._marks: deque[tuple[float, int, dict[str, int]]] = deque()

    def update(self, counts: Counts) -> None:
        """Take the counts in, and show them when it is time to."""
        now = time.monotonic()
        if not self._marks or now - self._marks[-1][0] >= _WINDOW_S / 10:
            self._marks.append((now, counts.rows, dict(counts.dropped)))
        while len(self._marks) > 1 and now - self._marks[0][0] > _WINDOW_S:
            self._marks.popleft()
        if now - self._shown < self._every_s:
            return
        self._shown = now
        if self._console.is_terminal:
            self._live.update(self._table(counts, now), refresh=True)
        else:
            self._console.print(self._line(counts, now))

    def __enter__(self) -> Self:
        """Begin to show."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Clear the table."""
        self._live.stop()

    def _fps(self, camera: str, counts: Counts, now: float) -> float:
        """Frames per second that were not dropped, over the last two seconds."""
        since, rows, dropped = self._marks[0]
        kept = counts.rows - rows - (counts.dropped.get(camera, 0) - dropped.get(camera, 0))
        return kept / (now - since) if now > since else 0.0

    def _table(self, counts: Counts, now: float) -> Table:
        table = Table(title=f"recording {seconds_text(counts.seconds)}, Ctrl-C ends it", title_justify="left")
        table.add_column("camera")
        for name in ("fps", "queue", "dropped"):
            table.add_column(name, justify="right")
        for camera in self._cameras:
            dropped = counts.dropped.get(camera, 0)
            cells = f"{self._fps(camera, counts, now):.1f}", f"{counts.queued.get(camera, 0)}", f"{dropped:,}"
            table.add_row(camera, *cells, style="yellow" if dropped else None)
        return table

    def _line(self, counts: Counts, now: float) -> str:
        cameras = (
            f"{camera} {self._fps(camera, counts, now):.1f} fps, queue {counts.queued.get(camera, 0)}, "
            f"dropped {counts.dropped.get(camera, 0)}"
            for camera in self._cameras
        )
        return f"{seconds_text(counts.seconds)}: {'; '.join(cameras)}"
