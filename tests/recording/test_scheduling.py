"""Opening an encoder leaves the process as ordinary as it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lazyvid.recording import VideoWriter
from lazyvid.recording.scheduling import kept_scheduling
from lazyvid.testing import painted_frame

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="no scheduling policies here")


def _policies() -> set[int]:
    return {os.sched_getscheduler(int(thread.name)) for thread in Path("/proc/self/task").iterdir()}


@pytest.mark.parametrize("vcodec", ["libsvtav1", "h264", "hevc"])
def test_recording_leaves_every_thread_as_it_was(tmp_path: Path, vcodec: str) -> None:
    with VideoWriter(tmp_path / "v.mp4", 30, vcodec=vcodec) as writer:
        for number in range(3):
            writer.add_frame(painted_frame(number, width=160, height=120))
            assert _policies() == {os.SCHED_OTHER}
    assert _policies() == {os.SCHED_OTHER}


@pytest.mark.skipif(os.getuid() != 0, reason="only root may ask for real time")
def test_what_a_block_does_to_scheduling_is_undone_also_after_an_error() -> None:
    def ask_for_real_time_and_fail() -> None:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
        raise KeyError

    with pytest.raises(KeyError), kept_scheduling():
        ask_for_real_time_and_fail()
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
