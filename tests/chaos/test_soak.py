"""Minutes of everything at once: epochs while workers are killed, copies evicted, videos replaced and the store fails.

`LAZYVID_SOAK_S` says how long each lasts (45 s; `make soak` takes 600).
"""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

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

SECONDS = float(os.environ.get("LAZYVID_SOAK_S", "45"))
CLIP = ClipSpec(4)
VIDEOS, FRAMES = 3, 40
MEMORY_MB = 100
"""How much more may be held after an epoch than before all: what the allocator keeps, and what libraries learnt."""

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


@pytest.fixture(autouse=True)
def dropped(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was raised in finalizers: torch raises the news of a worker's death wherever the main thread stands.

    pytest would keep the frames that it passed through, with the pipes to the workers and all else that they hold.
    """
    texts: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: texts.append(str(raised.exc_value)))
    return texts


class Nemesis:
    """Does one bad thing after the other, in a thread."""

    def __init__(
        self, server: FaultServer, versions: list[Mapping[str, bytes]], cache: Path, seed: int, *, workers: bool
    ) -> None:
        self.rng, self.server, self.versions, self.cache = random.Random(seed), server, versions, cache
        self.deeds = [self.fail, self.fail, self.evict, self.replace, *([self.kill, self.pause] if workers else [])]
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
        while not self.over.wait(self.rng.uniform(0.05, 0.5)):
            deed = self.rng.choice(self.deeds)
            if deed():
                self.done[deed.__name__] += 1

    def fail(self) -> bool:
        kinds = [Fault.status(503), Fault("reset"), Fault("close_mid_body"), Fault("flip"), Fault("short_body")]
        self.server.script([self.rng.choice(kinds) for _ in range(self.rng.randrange(1, 6))], method="GET", ranged=True)
        return True

    def _worker(self) -> int | None:
        found = [process.pid for process in multiprocessing.active_children()]
        return self.rng.choice(found) if found else None

    def kill(self) -> bool:
        pid = self._worker()
        return pid is not None and _signal(pid, signal.SIGKILL)

    def pause(self) -> bool:
        pid = self._worker()
        if pid is None or not _signal(pid, signal.SIGSTOP):
            return False
        time.sleep(self.rng.uniform(0.05, 0.4))
        return _signal(pid, signal.SIGCONT)

    def evict(self) -> bool:
        shutil.rmtree(self.cache, ignore_errors=True)
        return True

    def replace(self) -> bool:
        version = self.rng.choice(self.versions)
        gone = set(self.server.objects) - version.keys()
        self.server.objects.update(version)
        for key in gone:
            self.server.objects.pop(key, None)
        return True


def _signal(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _checked(batch: dict[str, Any]) -> list[tuple[int, int]]:
    """(video, first frame) of each clip; each is from one version of its video, whole and in order."""
    places = list(zip(batch["video_id"].tolist(), batch["frame_indices"].tolist(), strict=True))
    for clip, (video, indices) in zip(batch["frames"], places, strict=True):
        numbers = [read_frame_number(frame) for frame in clip]
        assert numbers in ([1000 * video + k + 500 * version for k in indices] for version in range(2))
    return [(video, indices[0]) for video, indices in places]


@dataclass(frozen=True)
class Used:
    """What this process holds, garbage apart: torch's iterators lie in cycles."""

    descriptors: int
    threads: int
    resident_mb: int

    @classmethod
    def now(cls) -> Self:
        """Look."""
        gc.collect()
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
        return cls(len(os.listdir("/proc/self/fd")), threading.active_count(), resident)


def _shared_by(workers: set[int]) -> list[str]:
    """The shared memory of processes that has a name still."""
    return [path.name for path in Path("/dev/shm").glob("torch_*") if int(path.name.split("_")[1]) in workers]


def _epochs(server: FaultServer, cache: SegmentCache, seconds: float, way: str, workers: set[int]) -> Iterator[str]:
    """Read epochs, each with videos opened anew; says how each of them ended, and adds the workers that it had."""
    end = time.monotonic() + seconds
    options: dict[str, Any] = {"num_workers": 2, "multiprocessing_context": way}
    if way == "threads":
        options = {"num_threads": 2}
    for seed in itertools.count():
        if time.monotonic() > end:
            return
        store = ObjectStore(storage_options=server.storage_options, deadline_s=20.0, stall_s=1.0)
        loader: ClipLoader | None = None
        seen: list[tuple[int, int]] = []
        try:
            uris = [server.s3_url(f"{v}.mp4") for v in range(VIDEOS)]
            videos = [LazyVideo(uri, store=store, fetch="file", cache=cache) for uri in uris]
            dataset = ClipDataset(videos, CLIP)
            sampler = RandomClipSampler(dataset, clip=CLIP, seed=seed)
            asked = [(window.video, window.start) for window in RandomClipSampler(dataset, clip=CLIP, seed=seed)]
            loader = ClipLoader(dataset, sampler=sampler, batch_size=2, timeout_s=60.0, **options)
            for batch in loader:
                workers |= {process.pid or 0 for process in multiprocessing.active_children()}
                seen += _checked(batch)
                assert seen == asked[: len(seen)], "each clip once, in the order asked for"
            assert seen == asked, "an epoch that ends without an error is whole"
            yield "whole"
        except LazyVidError as error:
            yield type(error).__name__
        finally:
            if loader is not None:
                loader.close()


@pytest.mark.parametrize("way", ["threads", "fork", *(["forkserver"] if SECONDS > 60 else [])])
def test_epochs_under_attack(
    way: str,
    fault_server: FaultServer,
    versions: list[Mapping[str, bytes]],
    tmp_path: Path,
    rng: random.Random,
    dropped: list[str],
) -> None:
    """Every clip is right, every failure has a name, and nothing piles up."""
    fault_server.objects.update(versions[0])
    cache = SegmentCache(tmp_path / "cache")
    workers: set[int] = set()
    ends: Counter[str] = Counter(_epochs(fault_server, cache, 5.0, way, workers))
    before = Used.now()
    seed = rng.randrange(1 << 30)
    with Nemesis(fault_server, versions, tmp_path / "cache", seed, workers=way != "threads") as nemesis:
        ends.update(_epochs(fault_server, cache, SECONDS, way, workers))
    assert ends["whole"] > 0
    calm = list(_epochs(fault_server, cache, 0.5, way, workers))
    assert set(calm) == {"whole"}, "afterwards all is well"
    assert wait_until(lambda: not multiprocessing.active_children())
    assert wait_until(lambda: Used.now().threads <= before.threads + 2), "threads"
    assert wait_until(lambda: not _shared_by(workers)), "shared memory"
    after = Used.now()
    print(way, dict(ends), dict(nemesis.done), len(workers), before, after)  # noqa: T201 - shown by -rP
    assert not [text for text in dropped if "DataLoader worker" not in text]
    assert after.descriptors <= before.descriptors + 12
    assert after.resident_mb <= before.resident_mb + MEMORY_MB


def test_recording_takes_no_more_memory_the_longer_it_lasts(tmp_path: Path) -> None:
    """Each second of the clock is more than one of video: it never waits for a camera."""
    frames = [painted_frame(k, width=320, height=240) for k in range(100)]
    encoder = StreamingVideoEncoder(30, "h264", preset="ultrafast", on_full="block")
    encoder.start_episode(["a", "b"], tmp_path)
    sizes: list[int] = []
    begin, fed = time.monotonic(), 0
    while (elapsed := time.monotonic() - begin) < SECONDS:
        for key in ("a", "b"):
            encoder.feed_frame(key, frames[fed % 100])
        fed += 1
        if elapsed > SECONDS * len(sizes) / 60:
            sizes.append(Used.now().resident_mb)
    results = encoder.finish_episode()
    encoder.close()
    print(fed, sizes)  # noqa: T201
    assert [len(build_index(path)) for path, _ in results.values()] == [fed, fed]
    # FFmpeg keeps a row of the table of samples for each frame, and so does the index: some 100 bytes together.
    rows_mb = 2 * fed * 150 / 1e6
    later = np.array(sizes[len(sizes) // 3 :])
    assert later.max() - later.min() < 20 + rows_mb
