"""Minutes of everything at once: epochs while workers are killed, copies evicted, videos replaced and the store fails.

`LAZYVID_SOAK_S` says how long (60 s; the full soak is 600).
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import wait_until

from lazyvid import (
    ClipDataset,
    ClipLoader,
    ClipSpec,
    LazyVideo,
    ObjectStore,
    RandomClipSampler,
    SegmentCache,
    build_index,
)
from lazyvid.errors import LazyVidError
from lazyvid.recording.encoder import StreamingVideoEncoder
from lazyvid.testing import Fault, FaultServer, painted_frame, read_frame_number, write_video

SECONDS = float(os.environ.get("LAZYVID_SOAK_S", "60"))
CLIP = ClipSpec(4)
VIDEOS, FRAMES = 3, 40
MEMORY_MB = 250

pytestmark = [pytest.mark.chaos, pytest.mark.filterwarnings("ignore:Reading from the store")]


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Mapping[str, bytes]]:
    """The bucket in two versions: frame k of video v shows 1000 v + k, or 500 more."""
    made = []
    for version in range(2):
        root = tmp_path_factory.mktemp(f"version{version}")
        for v in range(VIDEOS):
            first = 1000 * v + 500 * version
            path = write_video(root / f"{v}.mp4", frames=FRAMES, gop=8, width=64, height=48, first_number=first)
            build_index(path, scan="full").save(path)
        made.append({str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()})
    return made


class Nemesis:
    """Does one bad thing after the other, in a thread."""

    def __init__(self, server: FaultServer, versions: list[Mapping[str, bytes]], cache: Path, seed: int) -> None:
        self.rng, self.server, self.versions, self.cache = random.Random(seed), server, versions, cache
        self.over = threading.Event()
        self.done: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, name="nemesis")

    def __enter__(self) -> Nemesis:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._thread.join()
        self.server.script()

    def _run(self) -> None:
        deeds = [self.fail, self.fail, self.kill, self.pause, self.evict, self.replace]
        while not self.over.wait(self.rng.uniform(0.05, 0.5)):
            deed = self.rng.choice(deeds)
            deed()
            self.done[deed.__name__] += 1

    def fail(self) -> None:
        kinds = [Fault.status(503), Fault("reset"), Fault("close_mid_body"), Fault("flip"), Fault("short_body")]
        self.server.script([self.rng.choice(kinds) for _ in range(self.rng.randrange(1, 6))], method="GET", ranged=True)

    def _worker(self) -> int | None:
        found = [process.pid for process in multiprocessing.active_children()]
        return self.rng.choice(found) if found else None

    def kill(self) -> None:
        if (pid := self._worker()) is not None:
            _signal(pid, signal.SIGKILL)

    def pause(self) -> None:
        if (pid := self._worker()) is not None:
            _signal(pid, signal.SIGSTOP)
            time.sleep(self.rng.uniform(0.05, 0.4))
            _signal(pid, signal.SIGCONT)

    def evict(self) -> None:
        shutil.rmtree(self.cache, ignore_errors=True)

    def replace(self) -> None:
        version = self.rng.choice(self.versions)
        gone = set(self.server.objects) - version.keys()
        self.server.objects.update(version)
        for key in gone:
            self.server.objects.pop(key, None)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _check(batch: dict[str, Any]) -> None:
    """Each clip is from one version of its video, whole and in order."""
    places = zip(batch["video_id"].tolist(), batch["frame_indices"].tolist(), strict=True)
    for clip, (video, indices) in zip(batch["frames"], places, strict=True):
        numbers = [read_frame_number(frame) for frame in clip]
        assert numbers in ([1000 * video + k + 500 * version for k in indices] for version in range(2))


def _used() -> tuple[int, int, int]:
    """(descriptors, threads, resident MB) of this process, without garbage: torch's iterators lie in cycles."""
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    return len(os.listdir("/proc/self/fd")), threading.active_count(), resident


def _epochs(server: FaultServer, cache: SegmentCache, seconds: float, way: str) -> Iterator[str]:
    """Read epochs, each with videos opened anew; says how each of them ended."""
    end = time.monotonic() + seconds
    options: dict[str, Any] = {"num_workers": 2, "multiprocessing_context": way}
    if way == "threads":
        options = {"num_threads": 2}
    while time.monotonic() < end:
        store = ObjectStore(storage_options=server.storage_options, deadline_s=20.0, stall_s=1.0)
        loader: ClipLoader | None = None
        seen = 0
        try:
            uris = [server.s3_url(f"{v}.mp4") for v in range(VIDEOS)]
            videos = [LazyVideo(uri, store=store, fetch="file", cache=cache) for uri in uris]
            dataset = ClipDataset(videos, CLIP)
            sampler = RandomClipSampler(dataset, clip=CLIP)
            loader = ClipLoader(dataset, sampler=sampler, batch_size=2, timeout_s=60.0, **options)
            for batch in loader:
                _check(batch)
                seen += 1
            assert seen == len(loader), "an epoch that ends without an error is whole"
            yield "whole"
        except LazyVidError as error:
            yield type(error).__name__
        finally:
            if loader is not None:
                loader.close()


@pytest.mark.parametrize("way", ["threads", "fork"])
def test_epochs_under_attack(
    way: str, fault_server: FaultServer, versions: list[Mapping[str, bytes]], tmp_path: Path, rng: random.Random
) -> None:
    """Every clip is right, every failure has a name, and nothing piles up."""
    fault_server.objects.update(versions[0])
    cache = SegmentCache(tmp_path / "cache")
    ends: Counter[str] = Counter(_epochs(fault_server, cache, 5.0, way))
    before = _used()
    with Nemesis(fault_server, versions, tmp_path / "cache", rng.randrange(1 << 30)) as nemesis:
        ends.update(_epochs(fault_server, cache, SECONDS, way))
    print(way, dict(ends), dict(nemesis.done))  # noqa: T201 - shown by -rP
    assert ends["whole"] > 0
    calm = list(_epochs(fault_server, cache, 0.5, way))
    assert set(calm) == {"whole"}, "afterwards all is well"
    assert wait_until(lambda: not multiprocessing.active_children())
    assert wait_until(lambda: _used()[1] <= before[1] + 2), "threads"
    descriptors, _, resident = _used()
    assert descriptors <= before[0] + 24
    assert resident <= before[2] + MEMORY_MB


def test_recording_takes_no_more_memory_the_longer_it_lasts(tmp_path: Path) -> None:
    frames = [painted_frame(k, width=96, height=64) for k in range(100)]
    encoder = StreamingVideoEncoder(30, "h264", preset="ultrafast", on_full="block")
    encoder.start_episode(["a", "b"], tmp_path)
    sizes = []
    for k in range(round(200 * SECONDS)):
        for key in ("a", "b"):
            encoder.feed_frame(key, frames[k % 100])
        if k % 500 == 499:
            sizes.append(_used()[2])
    encoder.finish_episode()
    encoder.close()
    later = np.array(sizes[len(sizes) // 3 :])
    print(sizes)  # noqa: T201
    assert later.max() - later.min() < 60
