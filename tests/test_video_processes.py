"""`LazyVideo` in other processes, in threads and in copies: small pickles, equal frames, nothing held open."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from laws import START_METHODS, first_frames, in_process, numbers_of, tiled, with_sidecar

from lazyvid import LazyVideo, ObjectStore, SegmentCache, build_index
from lazyvid.errors import LazyVidError, ObjectChangedError
from lazyvid.index import local
from lazyvid.testing import S3Server, write_video

pytestmark = pytest.mark.filterwarnings("ignore:No frame index")

FRAMES = 50
MANY = 100_000
MOST_PICKLED = 2048


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAZYVID_INDEX_DIR", str(tmp_path / "indexes"))
    monkeypatch.setenv("LAZYVID_CACHE_DIR", str(tmp_path / "copies"))
    local.clear()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video with its sidecar; not to be changed."""
    path = write_video(tmp_path_factory.mktemp("processes") / "clip.mp4", frames=FRAMES, gop=10, b_frames=2)
    return with_sidecar(path)


@pytest.fixture(scope="module")
def long_video(original: Path) -> Path:
    """A video whose sidecar speaks of 100,000 frames."""
    path = original.with_name("long.mp4")
    shutil.copy(original, path)
    tiled(build_index(path), frames=MANY).save(path)
    return path


@pytest.fixture
def s3_video(original: Path, s3_server: S3Server, s3_prefix: str) -> tuple[str, ObjectStore]:
    """The video with its sidecar in a bucket."""
    store = ObjectStore(storage_options=s3_server.storage_options)
    for path in [original, *sorted(original.with_name("clip.mp4.lance").rglob("*"))]:
        if path.is_file():
            store.upload(path, f"{s3_prefix}/{path.relative_to(original.parent)}")
    return f"{s3_prefix}/clip.mp4", store


def _expected(videos: list[LazyVideo]) -> list[str]:
    return first_frames(pickle.dumps(videos))


# -- pickles ----------------------------------------------------------------------------------------------------------


def test_the_pickle_of_a_long_video_is_small_and_gives_its_frames(long_video: Path) -> None:
    video = LazyVideo(long_video, on_missing_index="raise")
    assert len(video) == MANY
    pickled = pickle.dumps(video)
    assert len(pickled) < MOST_PICKLED
    local.clear()
    again = pickle.loads(pickled)
    assert len(again) == MANY
    assert numbers_of(again[-3:]) == [FRAMES - 3, FRAMES - 2, FRAMES - 1]
    assert numbers_of(again.get_frames_at([0, MANY // 2 + 7, 0]).frames) == [0, (MANY // 2 + 7) % FRAMES, 0]


def test_pickles_are_small_whatever_the_video(
    long_video: Path, s3_video: tuple[str, ObjectStore], tmp_path: Path
) -> None:
    uri, store = s3_video
    build_index(uri, store=store).save(uri, store=store, index_root=tmp_path)
    whole = LazyVideo(long_video, resize=(60, 80), colorspace="G", channel_format="NHWC", metadata={"subject": 7})
    videos = {
        "on S3": LazyVideo(uri, store=store),
        "on S3, copied": LazyVideo(uri, store=store, fetch="file", cache=SegmentCache(tmp_path / "cache")),
        "indexed elsewhere": LazyVideo(uri, store=store, index_root=tmp_path),
        "with options": whole,
        "a window": whole.lazy_slice(1.0, 3000.0),
        "a window of a window": whole.lazy_slice(1.0, 3000.0).lazy_slice(5.0, 5.5),
        "an empty window": whole.lazy_slice(5.0, 5.0),
    }
    sizes = {name: len(pickle.dumps(video)) for name, video in videos.items()}
    assert max(sizes.values()) < MOST_PICKLED, sizes


def test_a_pickle_keeps_everything_that_was_said_of_the_video(original: Path) -> None:
    video = LazyVideo(original, resize=(60, 80), colorspace="G", channel_format="NHWC", metadata={"a": 1}).lazy_slice(
        0.5, 1
    )
    again = pickle.loads(pickle.dumps(video))
    for name in ("uri", "resize", "colorspace", "channel_format", "metadata", "begin_seconds", "end_seconds", "width"):
        assert getattr(again, name) == getattr(video, name), name
    assert repr(again) == repr(video)
    np.testing.assert_array_equal(again.frame_indices, video.frame_indices)
    np.testing.assert_array_equal(again.timestamps, video.timestamps)
    assert torch.equal(again[:], video[:])


def test_a_pickle_holds_no_path_of_the_senders_index_folder(original: Path, tmp_path: Path) -> None:
    video = LazyVideo(original)
    video.get_frame_at(0)
    assert str(tmp_path).encode() not in pickle.dumps(video)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_copies_are_videos_of_their_own(original: Path, copied: object) -> None:
    assert callable(copied)
    video = LazyVideo(original, metadata={"subject": 7}).lazy_slice(0.2, 1.0)
    twin = copied(video)
    assert twin is not video
    assert twin.metadata == video.metadata
    assert torch.equal(twin[:], video[:])
    twin.metadata = None
    assert video.metadata == {"subject": 7}


def test_a_pickled_video_does_not_take_another_file_for_its_own(original: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(original, tmp_path))
    pickled = pickle.dumps(LazyVideo(path))
    path.unlink()
    write_video(path, frames=FRAMES, first_number=500)
    with pytest.raises(ObjectChangedError):
        pickle.loads(pickled).get_frame_at(0)
    os.environ["LAZYVID_INDEX_DIR"] = str(tmp_path / "another")  # set back by `own_folders`
    local.clear()
    with pytest.raises(LazyVidError):
        pickle.loads(pickled).get_frame_at(0)


# -- processes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", START_METHODS)
def test_videos_travel_to_processes_of_every_start_method(
    long_video: Path, original: Path, s3_video: tuple[str, ObjectStore], method: str
) -> None:
    uri, store = s3_video
    on_s3 = LazyVideo(uri, store=store)
    videos = [
        LazyVideo(long_video),
        on_s3,
        on_s3.lazy_slice(0.5, 1.0),
        LazyVideo(original, resize=(60, 80), colorspace="G"),
        LazyVideo.concat([LazyVideo(original), LazyVideo(original)], timestamps="append"),
        LazyVideo(original).lazy_slice(0.5, 0.7),
    ]
    expected = _expected(videos)
    pickled = pickle.dumps(videos)
    assert in_process(method, first_frames, pickled) == expected
    assert _expected(videos) == expected  # the parent goes on as before
    if method == "fork":
        assert in_process(method, first_frames, pickled) == expected


@pytest.mark.parametrize("method", START_METHODS)
def test_a_receiver_with_another_index_folder_reads_the_sidecars_anew(
    long_video: Path, s3_video: tuple[str, ObjectStore], tmp_path: Path, method: str
) -> None:
    uri, store = s3_video
    videos = [LazyVideo(long_video), LazyVideo(uri, store=store).lazy_slice(0.5, 1.0)]
    elsewhere = {"LAZYVID_INDEX_DIR": str(tmp_path / "another machine")}
    assert in_process(method, _first_frames_anew, pickle.dumps(videos), elsewhere) == _expected(videos)
    assert len(list((tmp_path / "another machine").iterdir())) == len(videos)


def _first_frames_anew(pickled: bytes, environment: dict[str, str]) -> list[str]:
    return first_frames(pickled, forget=True, environment=environment)


def test_a_forked_process_uses_the_parents_very_objects(original: Path, s3_video: tuple[str, ObjectStore]) -> None:
    uri, store = s3_video
    for video in (LazyVideo(original), LazyVideo(uri, store=store)):
        expected = numbers_of(video[::7])
        assert in_process("fork", _numbers, video) == expected
        assert in_process("fork", _numbers_in_two_generations, video) == expected
        assert numbers_of(video[::7]) == expected


def _numbers(video: LazyVideo) -> list[int]:
    return numbers_of(video[::7])


def _numbers_in_two_generations(video: LazyVideo) -> list[int]:
    mine = _numbers(video)
    theirs: list[int] = in_process("fork", _numbers, video)
    assert theirs == mine
    return theirs


def test_a_process_may_be_forked_while_threads_read(original: Path) -> None:
    video = LazyVideo(original)
    expected = numbers_of(video[::7])
    stop = threading.Event()

    def read_on() -> None:
        while not stop.is_set():
            video.get_frames_at([3, 40])

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read_on) for _ in range(2)]
        try:
            for _ in range(4):
                assert in_process("fork", _numbers, video) == expected
        finally:
            stop.set()
        for reader in readers:
            reader.result()


# -- threads and handles ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["local", "s3"])
def test_threads_share_one_video(original: Path, where: str, request: pytest.FixtureRequest) -> None:
    uri, store = (str(original), None) if where == "local" else request.getfixturevalue("s3_video")
    video = pickle.loads(pickle.dumps(LazyVideo(uri, store=store)))  # one that has to find its index first
    start = threading.Barrier(8)

    def read(thread: int) -> list[int]:
        start.wait(240)
        found = []
        for k in range(4):
            found += numbers_of(video.get_frames_at([thread, (7 * thread + 11 * k) % FRAMES, 49]).frames)
        return found

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(read, range(8)))
    for thread, found in enumerate(results):
        assert found == [n for k in range(4) for n in (thread, (7 * thread + 11 * k) % FRAMES, 49)]


@pytest.mark.parametrize("where", ["local", "s3"])
def test_many_videos_leave_nothing_open(original: Path, where: str, request: pytest.FixtureRequest) -> None:
    uri, store = (str(original), None) if where == "local" else request.getfixturevalue("s3_video")

    def use() -> LazyVideo:
        video = LazyVideo(uri, store=store)
        video.get_frame_at(20)
        return video

    use()
    before = _held()
    videos = [use() for _ in range(25)]
    assert _held() <= before
    del videos


def _held() -> tuple[int, int]:
    gc.collect()
    return len(os.listdir("/proc/self/fd")), threading.active_count()


def test_videos_of_many_files_hold_a_bounded_number_of_descriptors(original: Path, tmp_path: Path) -> None:
    """An index is kept mapped for the next opening; the video itself holds no file."""
    before = _held()
    index = build_index(original)
    videos = [LazyVideo(original, frame_index=index.shifted(k)) for k in range(1, 41)]
    assert all(len(video) == FRAMES for video in videos)
    del videos, index
    local.clear()
    assert _held() <= before
