"""Stores that fail while loaders read and recorders upload: every sample once and right, or a named error in time."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sizes import counts

from lazyvid import ClipDataset, ClipLoader, ClipSpec, LazyVideo, ObjectStore, RandomClipSampler, build_index
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
from lazyvid.testing import Fault, FaultServer, S3Server, painted_frame, read_frame_number, write_video

CLIP = ClipSpec(4)
VIDEOS, FRAMES = 3, 40
WAYS: Mapping[str, Mapping[str, Any]] = {
    "threads": {"num_threads": 2},
    "fork": {"num_workers": 2, "multiprocessing_context": "fork"},
    "forkserver": {"num_workers": 2},
}
PATIENT_S, STALL_S, SLACK_S = 60.0, 0.5, 45.0


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
    return ClipLoader(dataset, sampler=RandomClipSampler(dataset, clip=CLIP, seed=seed), batch_size=3, **WAYS[way])


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


PASSING: Mapping[str, Fault] = {
    "503": Fault.status(503),
    "500": Fault.status(500),
    "429": Fault.status(429, retry_after=0.1),
    "reset": Fault("reset"),
    "reset in the body": Fault("reset_mid_body"),
    "closed in the body": Fault("close_mid_body"),
    "slow": Fault("slow", seconds=0.02),
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
    """Each kind of fault at random requests: every sample once and right, and few requests more than without."""
    expected = an_epoch(loader_of(uris_of(filled), store_of(filled)))
    filled.script()
    loader = loader_of(uris_of(filled), store_of(filled), way=way)
    an_epoch(loader)
    calm = len(filled.requests)
    kinds = [fault for name, fault in PASSING.items() if name != "flipped bit"]
    for _ in range(count):
        plan = [rng.choice(kinds) if rng.random() < 0.4 else Fault("ok") for _ in range(40)]
        plan[rng.randrange(40)] = PASSING["flipped bit"]  # once: bytes that come wrong each time do not pass
        filled.script(plan, method="GET", ranged=True)
        loader.set_epoch(0)
        assert an_epoch(loader) == expected
        assert len(filled.requests) <= calm + 3 * len(plan)
    loader.close()


@counts(1, 1)
@pytest.mark.parametrize("way", ["threads", "fork"])
@pytest.mark.parametrize("name", LASTING)
def test_a_fault_that_lasts_ends_the_epoch_in_time_and_the_next_one_works(
    name: str, way: str, count: int, filled: FaultServer
) -> None:
    fault, errors = LASTING[name]
    deadline_s = 4.0
    loader = loader_of(uris_of(filled), store_of(filled, deadline_s=deadline_s), way=way)
    for _ in range(count):
        filled.script()
        loader.set_epoch(0)
        batches = iter(loader)
        shown(next(batches))
        filled.script(default=fault, method="GET", ranged=True)
        started = time.monotonic()
        with pytest.raises((StoreTimeoutError, *errors)) as raised:
            read_on(batches)
        # Batches that were on their way are still given; each of the others ends by its own deadline.
        assert time.monotonic() - started < 3 * deadline_s + SLACK_S
        assert any(uri in str(raised.value) for uri in uris_of(filled))
        assert len(filled.requests) < 400
    filled.script()
    loader.set_epoch(0)
    assert len(an_epoch(loader)) == len(loader)
    loader.close()


@pytest.mark.chaos
def test_the_server_ignores_ranges(filled: FaultServer) -> None:
    loader = loader_of(uris_of(filled), store_of(filled))
    expected = an_epoch(loader)
    filled.script(default="ignore_range", ranged=True)
    loader.set_epoch(0)
    with contextlib.suppress(StoreError):
        assert an_epoch(loader) == expected
    loader.close()


def test_a_video_overwritten_between_two_clips(filled: FaultServer, files: Mapping[str, bytes]) -> None:
    """One version or an error, never a mixture; a new dataset sees the new version."""
    loader = loader_of(uris_of(filled), store_of(filled))
    batches = iter(loader)
    shown(next(batches))
    filled.objects["0.mp4"] = files["1.mp4"]
    with pytest.raises(ObjectChangedError, match=r"0\.mp4"):
        read_on(batches)
    loader.close()


# -- a dead server ----------------------------------------------------------------------------------------------------


@pytest.fixture
def black_hole() -> Iterator[str]:
    """An address that takes connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


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


@pytest.mark.parametrize("call", DEAD)
@pytest.mark.parametrize("kind", ["silent", "refusing"])
def test_a_dead_server_is_given_up_within_the_deadline(call: str, kind: str, black_hole: str, tmp_path: Path) -> None:
    address = black_hole if kind == "silent" else "http://127.0.0.1:9"
    options = {"key": "AKIADEAD", "secret": "a-dead-secret", "client_kwargs": {"endpoint_url": address}}
    store = ObjectStore(storage_options=options, deadline_s=3.0)
    (tmp_path / "file").write_bytes(bytes(1000))
    started = time.monotonic()
    with pytest.raises((StoreTimeoutError, StoreUnavailableError)) as raised:
        DEAD[call](store, tmp_path / "file")
    assert time.monotonic() - started < 3.0 + SLACK_S
    assert "a-dead-secret" not in str(raised.value)


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


@counts(1, 4)
def test_uploads_go_through_faults_that_pass(
    count: int, fault_server: FaultServer, tmp_path: Path, rng: random.Random
) -> None:
    kinds = [fault for name, fault in PASSING.items() if name not in ("wrong range", "short body", "flipped bit")]
    for turn in range(count):
        fault_server.objects.clear()
        fault_server.script([rng.choice(kinds) if rng.random() < 0.5 else Fault("ok") for _ in range(20)], method="PUT")
        recorder = record(fault_server, tmp_path / f"spool{turn}", deadline_s=PATIENT_S)
        recorder.finalize()
        fault_server.script()
        check_run(fault_server)


@counts(1, 1)
@pytest.mark.parametrize(
    "name",
    ["credentials revoked", "503 for ever", "mute", "reset"],
)
def test_what_cannot_be_uploaded_is_kept_and_sent_when_the_fault_has_passed(
    name: str, count: int, fault_server: FaultServer, tmp_path: Path
) -> None:
    fault, errors = LASTING[name]
    for turn in range(count):
        fault_server.objects.clear()
        fault_server.script()
        spool = tmp_path / f"spool{turn}"
        recorder = record(fault_server, spool, deadline_s=4.0, episodes=1)
        fault_server.script(default=fault, method="PUT")
        for k in range(10):
            image = painted_frame(100 + k, width=64, height=48)
            recorder.add_frame({"cam": image, "state": np.array([k], np.float32), "task": "x"})
        recorder.save_episode()
        started = time.monotonic()
        with pytest.raises((StoreTimeoutError, *errors)):
            recorder.finalize()
        assert time.monotonic() - started < 60 + SLACK_S
        fault_server.script()
        recorder.finalize()  # tries again
        assert list(spool.iterdir()) == []
        check_run(fault_server)


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
        for _ in range(2):
            loader.set_epoch(0)
            batches = iter(loader)
            seen = [shown(next(batches))]
            server.kill()
            starting = threading.Thread(target=server.restart)
            starting.start()
            try:
                seen += [shown(batch) for batch in batches]
            except (StoreUnavailableError, StoreTimeoutError, LoaderTimeoutError):
                seen = []  # it took longer than the deadline: said, and the next epoch works
            starting.join()
            assert seen in ([], expected)
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
