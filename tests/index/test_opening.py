from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from index_samples import same

from lazyvid.errors import (
    CorruptIndexError,
    LimitExceededError,
    MissingIndexError,
    ObjectNotFoundError,
    StaleIndexError,
)
from lazyvid.frames import Limits
from lazyvid.index import FrameIndex, Segment, build_index, local, node_files, opening
from lazyvid.index.opening import open_index, restore_index
from lazyvid.storage import ObjectStore
from lazyvid.testing import CountingProxy, S3Server, write_streams, write_video
from lazyvid.testing.videos import VideoSpec

pytestmark = pytest.mark.filterwarnings("ignore:No frame index beside")


@pytest.fixture(autouse=True)
def mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(node_files.DIRECTORY_VARIABLE, str(tmp_path / "indexes"))
    local.clear()
    yield
    local.clear()


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """A video of 40 frames with a sidecar."""
    path = write_video(tmp_path / "v.mp4", frames=40)
    build_index(path).save(path)
    return path


def other_video(path: Path, **changes: Any) -> Path:
    return write_video(path, **{"frames": 50, "first_number": 100, **changes})


def write_rows(path: Path, rows: FrameIndex, *, count: int) -> None:
    """A sidecar as another tool writes it: the four columns of the first `count` frames."""
    program = (
        "import sys, json, lance, pyarrow as pa; a = json.load(sys.stdin);"
        "c = {n: pa.array(a[n], pa.int64()) for n in ('segment_idx', 'local_frame_idx', 'pts')};"
        "lance.write_dataset(pa.table({**c, 'timestamp': a['timestamp']}), sys.argv[1])"
    )

    columns = {
        "segment_idx": rows.segment_idx[:count].tolist(),
        "local_frame_idx": rows.local_frame_idx[:count].tolist(),
        "pts": rows.packets.pts[:count].tolist(),
        "timestamp": (rows.timestamp[:count] * 2 + 7).tolist(),
    }
    subprocess.run(
        [sys.executable, "-c", program, f"{path}.lance"],
        input=json.dumps(columns).encode(),
        check=True,
        capture_output=True,
    )


# -- with a sidecar ---------------------------------------------------------------------------------------------------


def test_a_sidecar_is_opened_mapped_and_shared(video: Path) -> None:
    opened = open_index(video)
    assert opened.origin == "sidecar"
    assert same(opened.index, build_index(video))
    assert opened.uris == (str(video),)
    assert [pin.size for pin in opened.pins] == [video.stat().st_size]
    assert opened.content_hash == opened.index.content_hash()
    assert not opened.index.timestamp.flags.owndata
    assert open_index(video).index is opened.index
    assert same(FrameIndex.open(video), opened.index)


def test_a_missing_video_is_said_even_with_a_sidecar(video: Path) -> None:
    video.unlink()
    with pytest.raises(ObjectNotFoundError):
        open_index(video)


@pytest.mark.parametrize("same_size", [False, True])
def test_another_file_is_stale(video: Path, tmp_path: Path, same_size: bool) -> None:
    if same_size:
        # Another track duration in the headers, nothing else.
        data = bytearray(video.read_bytes())
        data[data.index(b"mvhd") + 7] ^= 1
        video.write_bytes(data)
    else:
        shutil.copy(other_video(tmp_path / "w.mp4"), video)
    with pytest.raises(StaleIndexError, match=r"expected .* found .* lazyvid index --force"):
        open_index(video)
    opened = open_index(video, on_stale_index="rebuild")
    assert opened.origin == "built"
    assert same(opened.index, build_index(video))
    assert open_index(video).origin == "sidecar"


def test_a_damaged_sidecar_is_rebuilt_only_when_asked(video: Path) -> None:
    data = next(Path(f"{video}.lance/data").iterdir())
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(CorruptIndexError, match="lazyvid index --force"):
        open_index(video)
    assert open_index(video, on_stale_index="rebuild").origin == "built"
    assert open_index(video).origin == "sidecar"


def test_a_sidecar_that_cannot_be_written_anew_is_a_warning(video: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    open_index(video).index.save(video, index_root=root)
    shutil.copy(other_video(tmp_path / "w.mp4"), video)
    sidecar = next(root.rglob("*.lance"))
    shutil.rmtree(sidecar / "data")
    (sidecar / "data").write_bytes(b"no folder")
    with pytest.warns(UserWarning, match="could not be written"):
        assert len(open_index(video, index_root=root, on_stale_index="rebuild").index) == 50


def test_a_folder_copied_with_its_sidecars_opens(video: Path, tmp_path: Path) -> None:
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=shutil.ignore_patterns("copy", "indexes"))
    opened = open_index(tmp_path / "copy" / "v.mp4", on_missing_index="raise")
    assert opened.uris == (str(tmp_path / "copy" / "v.mp4"),)
    assert opened.content_hash == open_index(video).content_hash


# -- without ----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("default")
def test_without_a_sidecar_it_is_built_with_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_warned_in", None)
    videos = [write_video(tmp_path / f"{n}.mp4", frames=5) for n in range(3)]
    with pytest.warns(UserWarning, match="No frame index") as heard:
        opened = [open_index(video) for video in videos]
    assert len(heard) == 1
    assert [item.origin for item in opened] == ["built"] * 3
    assert not list(tmp_path.glob("*.lance"))
    with pytest.raises(MissingIndexError, match="lazyvid index"):
        open_index(videos[0], on_missing_index="raise")


@pytest.mark.parametrize("word", ["on_missing_index", "on_stale_index"])
def test_unknown_words_are_said(tmp_path: Path, word: str) -> None:
    with pytest.raises(ValueError, match=rf"{word} 'perhaps'.*'raise'"):
        open_index(tmp_path / "v.mp4", **{word: "perhaps"})  # type: ignore[arg-type]


def test_limits_hold_for_the_pictures_of_a_sidecar(video: Path) -> None:
    with pytest.raises(LimitExceededError, match="pixels"):
        open_index(video, limits=Limits(pixels=1000))


# -- several files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    return [write_video(tmp_path / f"{k}.mp4", frames=10 + k, first_number=100 * k) for k in range(3)]


def test_several_files_without_a_sidecar_follow_one_another(three: list[Path]) -> None:
    opened = open_index(three[0], segment_uris=three[1:])
    assert opened.index.segment_frame_counts().tolist() == [10, 11, 12]
    assert np.all(np.diff(opened.index.timestamp) > 0)
    assert opened.uris == tuple(map(str, three))
    assert [pin.uri for pin in opened.pins] == list(map(str, three))
    with pytest.raises(ValueError, match="twice"):
        open_index(three[0], segment_uris=[three[1], three[0]])


def test_one_sidecar_of_several_files(three: list[Path], tmp_path: Path) -> None:
    built = open_index(three[0], segment_uris=three[1:])
    built.index.save(three[0])
    assert open_index(three[0]).uris == built.uris
    moved = tmp_path / "elsewhere.mp4"
    shutil.copy(three[2], moved)
    opened = open_index(three[0], segment_uris=[three[1], moved])
    assert opened.origin == "sidecar"
    assert opened.uris == (str(three[0]), str(three[1]), str(moved))
    for wrong in ([], [three[1]], [three[1], three[2], three[2]]):
        with pytest.raises(ValueError, match="2 segment_uris"):
            open_index(three[0], segment_uris=wrong)
    with pytest.raises(StaleIndexError):
        open_index(three[0], segment_uris=[three[2], three[1]])
    with pytest.raises(ObjectNotFoundError):
        open_index(three[0], segment_uris=[three[1], tmp_path / "none.mp4"])


def test_segments_of_one_file_cannot_be_given_two(video: Path, three: list[Path]) -> None:
    index = build_index(video)
    half = np.arange(40) // 20
    split = FrameIndex(
        half, np.arange(40) % 20, index.timestamp, index.packets, index.hidden, index.sources,
        (Segment(0, 20), Segment(0, 20)),
    )  # fmt: skip
    split.save(video)
    assert open_index(video, segment_uris=[video]).uris == (str(video),)
    with pytest.raises(ValueError, match="two files for one"):
        open_index(video, segment_uris=[three[0]])


# -- other tools, other streams, given indexes ------------------------------------------------------------------------


def test_a_sidecar_of_another_tool_gives_times_and_the_scan_packets(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", frames=40)
    rows = build_index(path)
    write_rows(path, rows, count=30)
    opened = open_index(path, on_missing_index="raise")
    assert opened.origin == "sidecar"
    np.testing.assert_array_equal(opened.index.timestamp, rows.timestamp[:30] * 2 + 7)
    np.testing.assert_array_equal(opened.index.packets.offset, rows.packets.offset[:30])
    assert len(opened.index.hidden) == 10 + len(rows.hidden)
    write_video(path, frames=20)
    with pytest.raises(StaleIndexError, match="10 are missing"):
        open_index(path)
    assert len(open_index(path, on_stale_index="rebuild").index) == 20
    assert open_index(path).origin == "sidecar"


def test_another_stream_is_scanned(tmp_path: Path) -> None:
    path = write_streams(tmp_path / "v.mp4", [VideoSpec(frames=10), VideoSpec(frames=20, width=96)])
    open_index(path).index.save(path)
    assert len(open_index(path, stream=0).index) == 10
    assert open_index(path, stream=0).origin == "sidecar"
    second = open_index(path, stream=1)
    assert (len(second.index), second.origin) == (20, "built")


def test_a_given_index_is_checked_against_its_file(video: Path, tmp_path: Path) -> None:
    index = build_index(video)
    shutil.rmtree(f"{video}.lance")
    copy = tmp_path / "copy.mp4"
    shutil.copy(video, copy)
    opened = open_index(copy, frame_index=index)
    assert (opened.origin, opened.uris) == ("given", (str(copy),))
    with pytest.raises(StaleIndexError):
        open_index(other_video(tmp_path / "w.mp4"), frame_index=index)


# -- in another process -----------------------------------------------------------------------------------------------


def test_restoring_takes_the_mapped_copy_or_opens_anew(video: Path, tmp_path: Path) -> None:
    opened = open_index(video)
    local.clear()
    assert same(restore_index(video, opened.content_hash), opened.index)
    local.clear()
    shutil.rmtree(tmp_path / "indexes")
    assert same(restore_index(video, opened.content_hash), opened.index)
    local.clear()
    shutil.rmtree(tmp_path / "indexes")
    shutil.copy(other_video(tmp_path / "w.mp4"), video)
    with pytest.raises(StaleIndexError):
        restore_index(video, opened.content_hash)
    open_index(video, on_stale_index="rebuild")
    with pytest.raises(StaleIndexError, match="replaced"):
        restore_index(video, opened.content_hash)


# -- S3 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.s3
def test_from_s3_three_requests_and_no_video_byte(
    video: Path, s3_server: S3Server, s3_prefix: str, counting_proxy: CountingProxy
) -> None:
    writer = ObjectStore(storage_options=s3_server.storage_options)
    uri = f"{s3_prefix}/v.mp4"
    writer.upload(video, uri)
    build_index(uri, store=writer).save(uri, store=writer)
    reader = ObjectStore(storage_options=counting_proxy.storage_options_for(s3_server))
    opened = open_index(uri, store=reader)
    requests = counting_proxy.requests
    assert [request.method for request in requests] == ["HEAD", "GET", "GET"]
    assert not any(request.bytes_down for request in requests if request.path.endswith("v.mp4"))
    assert opened.pins[0].etag


@pytest.mark.s3
def test_a_sidecar_travels_with_its_video(video: Path, tmp_path: Path, s3_server: S3Server, s3_prefix: str) -> None:
    store = ObjectStore(storage_options=s3_server.storage_options)
    files = [video, *(path for path in Path(f"{video}.lance").rglob("*") if path.is_file())]
    for path in files:
        store.upload(path, f"{s3_prefix}/{path.relative_to(tmp_path)}")
    there = open_index(f"{s3_prefix}/v.mp4", store=store, on_missing_index="raise")
    assert there.content_hash == open_index(video).content_hash
    for meta in store.list(s3_prefix):
        store.download(meta.uri, tmp_path / "back" / meta.uri.removeprefix(f"{s3_prefix}/"))
    back = open_index(tmp_path / "back" / "v.mp4", on_missing_index="raise")
    assert back.content_hash == there.content_hash


@pytest.mark.s3
def test_an_object_overwritten_on_s3_is_stale(video: Path, tmp_path: Path, s3_server: S3Server, s3_prefix: str) -> None:
    store = ObjectStore(storage_options=s3_server.storage_options)
    uri = f"{s3_prefix}/v.mp4"
    store.upload(video, uri)
    build_index(uri, store=store).save(uri, store=store)
    store.upload(other_video(tmp_path / "w.mp4"), uri)
    with pytest.raises(StaleIndexError):
        open_index(uri, store=store)
    reader = ObjectStore(storage_options=s3_server.read_only_options)
    with pytest.warns(UserWarning, match="could not be written"):
        assert len(open_index(uri, store=reader, on_stale_index="rebuild").index) == 50
    assert len(open_index(uri, store=store, on_stale_index="rebuild").index) == 50
    assert open_index(uri, store=reader).origin == "sidecar"
