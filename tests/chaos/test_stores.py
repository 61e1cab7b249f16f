"""Stores that fail while loaders read and recorders upload: every sample once and right, or a named error in time."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sizes import counts

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
from lazyvid.errors import (
    AccessDeniedError,
    CorruptVideoError,
    LazyVidError,
    LoaderTimeoutError,
    ObjectChangedError,
    ObjectNotFoundError,
    ShortReadError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from lazyvid.recording import Recorder
from lazyvid.stats import read_stats
from lazyvid.testing import Fault, FaultServer, S3Server, painted_frame, read_frame_number, write_video

CLIP = ClipSpec(4)
VIDEOS, FRAMES, CLIPS = 3, 40, 3
WAYS: Mapping[str, Mapping[str, Any]] = {
    "threads": {"num_threads": 2},
    "fork": {"num_workers": 2, "multiprocessing_context": "fork"},
    "forkserver": {"num_workers": 2},
}
PATIENT_S, STALL_S = 60.0, 0.5
DEADLINE_S = 2.5
"""Of calls that are to fail."""
SPARE_S, TRIES = 5.0, 3
"""How late a call may end, and how often in a row a machine that has other work may let it be later."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    """Videos with their sidecars, checksums included, by key; frame k of video v shows 1000 v + k."""
    root = tmp_path_factory.mktemp("bucket")
    for v in range(VIDEOS):
        path = write_video(root / f"{v}.mp4", frames=FRAMES, gop=8, width=64, height=48, first_number=1000 * v)
        build_index(path, scan="full").save(path)
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def store_of(server: FaultServer, *, deadline_s: float = PATIENT_S, stall_s: float = STALL_S) -> ObjectStore:
    return ObjectStore(storage_options=server.storage_options, deadline_s=deadline_s, stall_s=stall_s)


def loader_of(uris: list[str], store: ObjectStore, *, seed: int = 0, way: str = "threads", **more: Any) -> ClipLoader:
    dataset = ClipDataset(uris, CLIP, store=store, **more)
    sampler = RandomClipSampler(dataset, clip=CLIP, seed=seed)
    return ClipLoader(dataset, sampler=sampler, batch_size=CLIPS, **WAYS[way])


def shown(batch: dict[str, Any]) -> list[list[int]]:
    """The numbers of each clip; each must be what its video and its frame numbers say."""
    found = [[read_frame_number(frame) for frame in clip] for clip in batch["frames"]]
    for numbers, video, indices in zip(found, batch["video_id"].tolist(), batch["frame_indices"].tolist(), strict=True):
        assert numbers == [1000 * video + index for index in indices]
    return found


def read_on(batches: Iterable[Any]) -> list[list[list[int]]]:
    return [shown(batch) for batch in batches]


def an_epoch(loader: ClipLoader) -> list[list[list[int]]]:
    return read_on(loader)


def ends_in_time(once: Callable[[], float], limit_s: float) -> None:
    """It takes no longer than this, with some seconds to spare: one time of three, since the machine may be slow."""
    took: list[float] = []
    while len(took) < TRIES:
        took.append(once())
        if took[-1] < limit_s + SPARE_S:
            return
    pytest.fail(f"expected an end within {limit_s} s, and {SPARE_S} s to spare; got {took}")


def met(server: FaultServer) -> Counter[Fault]:
    """The faults that befell requests."""
    return Counter(request.fault for request in server.requests if request.fault.kind != "ok")


PASSING: Mapping[str, Fault] = {
    "503": Fault.status(503),
    "500": Fault.status(500),
    "429": Fault.status(429, retry_after=0.1),
    "reset": Fault("reset"),
    "reset in the body": Fault("reset_mid_body"),
    "closed in the body": Fault("close_mid_body"),
    "slow": Fault.slow(0.1),
    "stalled": Fault("stall"),
    "stalled in the body": Fault("stall_mid_body"),
    "mute": Fault("mute"),
    "wrong range": Fault("wrong_range"),
    "short body": Fault("short_body"),
    "flipped bit": Fault("flip"),
}
LASTING: Mapping[str, tuple[Fault, tuple[type[LazyVidError], ...]]] = {
    "503 for ever": (Fault.status(503), (StoreUnavailableError,)),
    "429 for ever": (Fault.status(429), (StoreUnavailableError,)),
    "500 for ever": (Fault.status(500), (StoreUnavailableError,)),
    "reset": (Fault("reset"), (StoreUnavailableError,)),
    "reset in the body": (Fault("reset_mid_body"), (StoreUnavailableError, ShortReadError)),
    "closed in the body": (Fault("close_mid_body"), (ShortReadError, StoreUnavailableError)),
    "slow": (Fault.slow(6.0), ()),
    "stalled": (Fault("stall"), ()),
    "stalled in the body": (Fault("stall_mid_body"), ()),
    "mute": (Fault("mute"), ()),
    "wrong range": (Fault("wrong_range"), (ShortReadError,)),
    "short body": (Fault("short_body"), (ShortReadError,)),
    "flipped bit": (Fault("flip"), (CorruptVideoError,)),
    "overwritten": (Fault("wrong_etag"), (ObjectChangedError,)),
    "credentials revoked": (Fault.status(403), (AccessDeniedError,)),
    "credentials unknown": (Fault.status(401), (AccessDeniedError,)),
    "bucket gone": (Fault.status(404), (ObjectNotFoundError,)),
}
"""Faults and the errors that name them; where time ends it, `StoreTimeoutError` does."""


@pytest.fixture
def filled(fault_server: FaultServer, files: Mapping[str, bytes]) -> FaultServer:
    fault_server.objects.update(files)
    return fault_server


def uris_of(server: FaultServer) -> list[str]:
    return [server.s3_url(f"{v}.mp4") for v in range(VIDEOS)]


@counts(1, 3)
@pytest.mark.parametrize("way", WAYS)
def test_an_epoch_goes_through_faults_that_pass(count: int, way: str, filled: FaultServer, rng: random.Random) -> None:
    """Each kind of fault in each epoch: every sample once and right, and few requests more than without."""
    loader = loader_of(uris_of(filled), store_of(filled), way=way)
    expected = an_epoch(loader)
    filled.script()
    loader.set_epoch(0)
    assert an_epoch(loader) == expected
    calm = len(filled.requests)
    faults = list(PASSING.values())  # a flipped bit once: bytes that come wrong each time do not pass
    for _ in range(count):
        plan = [*faults, *[Fault("ok")] * (calm // 2)]  # so few that an epoch needs more: no fault is left over
        rng.shuffle(plan)
        filled.script(plan, method="GET", ranged=True)
        loader.set_epoch(0)
        assert an_epoch(loader) == expected
        assert met(filled) == Counter(faults)
        assert len(filled.requests) <= calm + 2 * len(faults)
    loader.close()


LASTING_WAYS = [
    *((name, way) for name in LASTING for way in ("threads", "fork")),
    *((name, "forkserver") for name in ("mute", "overwritten")),
]


@counts(1, 1)
@pytest.mark.parametrize(("name", "way"), [pytest.param(*case, id="-".join(case)) for case in LASTING_WAYS])
def test_a_fault_that_lasts_ends_the_epoch_in_time_and_the_next_one_works(
    name: str, way: str, count: int, filled: FaultServer
) -> None:
    fault, errors = LASTING[name]
    loader = loader_of(uris_of(filled), store_of(filled, deadline_s=DEADLINE_S), way=way)

    def once() -> float:
        filled.script()
        loader.set_epoch(0)
        batches = iter(loader)
        shown(next(batches))
        filled.script(default=fault, method="GET", ranged=True)
        started = time.monotonic()
        with pytest.raises((StoreTimeoutError, *errors)) as raised:
            read_on(batches)
        took = time.monotonic() - started
        assert any(uri in str(raised.value) for uri in uris_of(filled))
        assert met(filled).keys() == {fault}
        assert len(filled.requests) < 200
        return took

    for _ in range(count):
        # Batches that were on their way are still given; the first of the others ends by its own deadline.
        ends_in_time(once, DEADLINE_S)
    filled.script()
    loader.set_epoch(0)
    assert len(an_epoch(loader)) == len(loader)
    loader.close()


@pytest.mark.parametrize("way", ["threads", "fork"])
def test_the_server_ignores_ranges(way: str, filled: FaultServer, tmp_path: Path) -> None:
    """It is said at once, with the way out; and that way is one."""
    loader = loader_of(uris_of(filled), store_of(filled), way=way)
    expected = an_epoch(loader)

    def once() -> float:
        filled.script(default="ignore_range", ranged=True)
        loader.set_epoch(0)
        started = time.monotonic()
        with pytest.raises(StoreError, match=r'ignores the Range header .*fetch="file"') as raised:
            an_epoch(loader)
        took = time.monotonic() - started
        assert type(raised.value) is StoreError
        assert len(filled.requests) <= len(loader) * CLIPS  # none is sent twice
        return took

    ends_in_time(once, 0.0)
    copies = SegmentCache(tmp_path / "copies")
    copied = loader_of(uris_of(filled), store_of(filled), way=way, fetch="file", cache=copies)
    assert an_epoch(copied) == expected
    for opened in (loader, copied):
        opened.close()


@pytest.mark.parametrize("way", ["threads", "fork"])
def test_a_video_overwritten_between_two_clips(way: str, filled: FaultServer, files: Mapping[str, bytes]) -> None:
    """One version or an error, never a mixture; a new dataset sees the new version."""
    loader = loader_of(uris_of(filled), store_of(filled), way=way)
    batches = iter(loader)
    shown(next(batches))
    for name in [name for name in files if name.startswith("0.mp4")]:
        del filled.objects[name]
    filled.objects.update({f"0{name[1:]}": data for name, data in files.items() if name.startswith("1.mp4")})
    with pytest.raises(ObjectChangedError, match=r"0\.mp4"):
        read_on(batches)
    loader.close()
    anew = loader_of(uris_of(filled)[:1], store_of(filled), way=way)
    for batch in anew:
        for clip, indices in zip(batch["frames"], batch["frame_indices"].tolist(), strict=True):
            assert [read_frame_number(frame) for frame in clip] == [1000 + index for index in indices]
    anew.close()


# -- a dead server ----------------------------------------------------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that takes connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def black_hole() -> Iterator[str]:
    """An address that does not even say no: what asks for a connection is not answered, as behind some firewalls."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(8):  # a queue of connections that is full: Linux drops what comes then
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def dead(silent: str, black_hole: str) -> Mapping[str, Mapping[str, Any]]:
    """Storage options for each kind of dead server."""
    addresses = {"silent": silent, "black hole": black_hole, "refusing": "http://127.0.0.1:9"}
    return {
        kind: {"key": "AKIADEAD", "secret": "a-dead-secret", "client_kwargs": {"endpoint_url": address}}
        for kind, address in addresses.items()
    }


DEAD: Mapping[str, Callable[[ObjectStore, Path], object]] = {
    "open": lambda store, _: LazyVideo("s3://bucket/clip.mp4", store=store),
    "index": lambda store, _: build_index("s3://bucket/clip.mp4", store=store),
    "dataset": lambda store, _: ClipDataset("s3://bucket/videos", CLIP, store=store),
    "write": lambda store, _: store.write("s3://bucket/new", b"x"),
    "upload": lambda store, path: store.upload(path, "s3://bucket/new"),
    "list": lambda store, _: list(store.list("s3://bucket/videos")),
    "delete": lambda store, _: store.delete("s3://bucket/new"),
    "exists": lambda store, _: store.exists("s3://bucket/new"),
}


DEAD_WAYS = [
    *((call, kind) for call in DEAD for kind in ("silent", "refusing")),
    *((call, "black hole") for call in ("open", "upload", "list")),
]


@pytest.mark.parametrize(("call", "kind"), DEAD_WAYS)
def test_a_dead_server_is_given_up_within_the_deadline(
    call: str, kind: str, dead: Mapping[str, Mapping[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(bytes(1000))
    store = ObjectStore(storage_options=dead[kind], deadline_s=DEADLINE_S)

    def once() -> float:
        started = time.monotonic()
        with pytest.raises((StoreTimeoutError, StoreUnavailableError)) as raised:
            DEAD[call](store, tmp_path / "file")
        took = time.monotonic() - started
        assert "a-dead-secret" not in str(raised.value)
        assert took >= (0.5 if kind == "refusing" else DEADLINE_S - 0.1), "given up before its time"
        return took

    ends_in_time(once, DEADLINE_S)


def test_dead_servers_are_given_up_within_the_deadline_of_a_store_that_names_none(
    dead: Mapping[str, Mapping[str, Any]], fault_server: FaultServer
) -> None:
    """Kinds that are tried for the whole minute, side by side."""
    fault_server.script(default=Fault.status(503))

    def once(options: Mapping[str, Any]) -> tuple[float, StoreError]:
        started = time.monotonic()
        with pytest.raises((StoreTimeoutError, StoreUnavailableError)) as raised:
            ObjectStore(storage_options=options).read("s3://bucket/clip.mp4")
        return time.monotonic() - started, raised.value

    kinds = [dead["silent"], dead["black hole"], fault_server.storage_options]
    with ThreadPoolExecutor(len(kinds)) as threads:
        for took, error in threads.map(once, kinds):
            assert 50.0 < took < 70.0, error
            tries = re.search(r"gave up after (\d+) tries .*limit 60 s", str(error))
            assert tries is not None, error
            assert int(tries[1]) > 3
    assert 10 < len(fault_server.requests) < 40


# -- the recorder's upload --------------------------------------------------------------------------------------------

FEATURES = {
    "cam": {"dtype": "video", "shape": [48, 64, 3], "names": ["height", "width", "channels"]},
    "state": {"dtype": "float32", "shape": [1], "names": None},
}


def record(server: FaultServer, spool: Path, *, deadline_s: float, episodes: int = 2) -> Recorder:
    """Episodes of 10 frames; the uploads are not waited for."""
    recorder = Recorder.create(
        server.s3_url("run"), 30, FEATURES, vcodec="h264", preset="ultrafast", on_full="block", spool_dir=str(spool),
        store=store_of(server, deadline_s=deadline_s),
    )  # fmt: skip
    for episode in range(episodes):
        for k in range(10):
            image = painted_frame(100 * episode + k, width=64, height=48)
            recorder.add_frame({"cam": image, "state": np.array([k], np.float32), "task": "x"})
        recorder.save_episode()
    return recorder


def check_run(server: FaultServer, episodes: int = 2) -> None:
    for episode in range(episodes):
        uri = server.s3_url(f"run/videos/cam/episode-{episode:06d}.mp4")
        video = LazyVideo(uri, store=store_of(server), on_missing_index="raise")
        assert [read_frame_number(frame) for frame in video[:]] == [100 * episode + k for k in range(10)]


@counts(1, 3)
def test_uploads_go_through_faults_that_pass(
    count: int, fault_server: FaultServer, tmp_path: Path, rng: random.Random
) -> None:
    """Each kind of fault in each recording, most of them while the bytes are sent: the same files, and few requests."""
    record(fault_server, tmp_path / "calm", deadline_s=PATIENT_S).finalize()
    calm, videos = puts(fault_server), videos_in(fault_server)
    assert len(videos) == 2
    faults = [f for name, f in PASSING.items() if name not in ("wrong range", "short body", "flipped bit")]
    for turn in range(count):
        plan = [*faults, *[Fault("ok")] * (calm // 2)]
        rng.shuffle(plan)
        fault_server.objects.clear()
        fault_server.script(plan, method="PUT")
        record(fault_server, tmp_path / f"spool{turn}", deadline_s=PATIENT_S).finalize()
        assert met(fault_server) == Counter(faults)
        assert puts(fault_server) <= calm + 2 * len(faults)
        fault_server.script()
        assert videos_in(fault_server) == videos
        check_run(fault_server)


def puts(server: FaultServer) -> int:
    return sum(request.method == "PUT" for request in server.requests)


def videos_in(server: FaultServer) -> dict[str, bytes]:
    return {name: data for name, data in server.objects.items() if name.endswith(".mp4")}


UNSENT = (
    *("credentials revoked", "credentials unknown", "bucket gone"),
    *("503 for ever", "429 for ever", "500 for ever", "mute", "reset", "reset in the body"),
)


@counts(1, 1)
@pytest.mark.parametrize("name", UNSENT)
def test_what_cannot_be_uploaded_is_kept_and_sent_when_the_fault_has_passed(
    name: str, count: int, fault_server: FaultServer, tmp_path: Path
) -> None:
    fault, errors = LASTING[name]
    spools = iter(tmp_path / f"spool{number}" for number in itertools.count())

    def once() -> float:
        fault_server.objects.clear()
        fault_server.script()
        spool = next(spools)
        recorder = record(fault_server, spool, deadline_s=DEADLINE_S, episodes=1)
        recorder.video_uri(0, "cam")  # sent
        # A bucket that is gone has nothing to list or to read, either.
        fault_server.script(default=fault, method=None if name == "bucket gone" else "PUT")
        for k in range(10):
            image = painted_frame(100 + k, width=64, height=48)
            recorder.add_frame({"cam": image, "state": np.array([k], np.float32), "task": "x"})
        recorder.save_episode()
        started = time.monotonic()
        with pytest.raises((StoreTimeoutError, *errors)) as raised:
            recorder.finalize()
        took = time.monotonic() - started
        assert any(str(spool) in note for note in raised.value.__notes__)
        assert met(fault_server).keys() == {fault}
        assert len(fault_server.requests) < 60
        fault_server.script()
        recorder.finalize()  # tries again
        assert list(spool.iterdir()) == []
        check_run(fault_server)
        return took

    for _ in range(count):
        ends_in_time(once, 2 * DEADLINE_S)  # of the episode, then of all that there is


# -- a real server ----------------------------------------------------------------------------------------------------


@pytest.mark.chaos
@pytest.mark.parametrize("way", ["threads", "fork"])
def test_seaweedfs_killed_and_started_again_during_an_epoch(way: str, files: Mapping[str, bytes]) -> None:
    with S3Server() as server:
        store = ObjectStore(storage_options=server.storage_options)
        for name, data in files.items():
            store.write(server.url(name), data)
        loader = loader_of([server.url(f"{v}.mp4") for v in range(VIDEOS)], store, way=way)
        expected = an_epoch(loader)
        ends: Counter[str] = Counter()
        for _ in range(2):
            loader.set_epoch(0)
            batches = iter(loader)
            seen = [shown(next(batches))]
            before = read_stats(scope="all")
            server.kill()
            starting = threading.Thread(target=server.restart)
            starting.start()
            try:
                seen += [shown(batch) for batch in batches]
            except (StoreUnavailableError, StoreTimeoutError, LoaderTimeoutError) as error:
                ends[type(error).__name__] += 1  # it took longer than the deadline: said, and the next epoch works
            else:
                assert seen == expected
                assert (read_stats(scope="all") - before).retries > 0, "the server was gone, and nobody felt it"
                ends["whole"] += 1
            starting.join()
        assert ends["whole"], f"a server comes back within the minute that is given to it: {ends}"
        loader.set_epoch(0)
        assert an_epoch(loader) == expected
        loader.close()
    assert not multiprocessing.active_children()


@pytest.mark.chaos
def test_seaweedfs_with_credentials_that_are_wrong(
    files: Mapping[str, bytes], s3_server: S3Server, s3_prefix: str
) -> None:
    store = ObjectStore(storage_options=s3_server.storage_options)
    for name, data in files.items():
        store.write(f"{s3_prefix}/{name}", data)
    for way in ("threads", "fork"):
        loader = loader_of([f"{s3_prefix}/0.mp4"], store, way=way)
        assert an_epoch(loader)
        loader.close()
    with pytest.raises(AccessDeniedError):
        loader_of([f"{s3_prefix}/0.mp4"], ObjectStore(storage_options=s3_server.wrong_options))
