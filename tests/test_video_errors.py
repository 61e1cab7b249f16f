"""`LazyVideo` on bad input: always a named error that says what was found and where, never a wrong frame or a hang."""

from __future__ import annotations

import itertools
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from laws import check_error, ending_in_time, files_below, need_torchcodec, numbers_of, put_all, with_sidecar

from lazyvid import FrameIndex, LazyVideo, Limits, ObjectStore, SegmentCache, build_index
from lazyvid.errors import (
    AccessDeniedError,
    CorruptIndexError,
    CorruptVideoError,
    FrameIndexError,
    FrameTimestampError,
    IndexStateError,
    LazyVidError,
    LimitExceededError,
    MissingIndexError,
    NotAVideoError,
    NoVideoStreamError,
    ObjectChangedError,
    ObjectNotFoundError,
    ShortReadError,
    StaleIndexError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
    TimeOutOfRangeError,
    VideoError,
)
from lazyvid.index import local
from lazyvid.stats import read_stats
from lazyvid.testing import Fault, FaultServer, S3Server, VideoCorpus, flip_bit, truncate, write_video

pytestmark = pytest.mark.filterwarnings("ignore:No frame index")

FRAMES = 60


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAZYVID_INDEX_DIR", str(tmp_path / "indexes"))
    monkeypatch.setenv("LAZYVID_CACHE_DIR", str(tmp_path / "copies"))
    local.clear()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video with its sidecar, checksums included; not to be changed."""
    path = write_video(tmp_path_factory.mktemp("errors") / "clip.mp4", frames=FRAMES, gop=12, b_frames=2)
    return with_sidecar(path, scan="full")


@pytest.fixture
def clip(original: Path, tmp_path: Path) -> Path:
    """A copy with its sidecar, to be damaged."""
    folder = tmp_path / "videos"
    shutil.copytree(original.parent, folder)
    return folder / "clip.mp4"


@pytest.fixture(scope="module")
def video(original: Path) -> LazyVideo:
    return LazyVideo(original)


@pytest.fixture
def s3_store(s3_server: S3Server) -> ObjectStore:
    return ObjectStore(storage_options=s3_server.storage_options)


def _padded(data: bytes, size: int) -> bytes:
    """An MP4 with a box of nothing at its end, so that it has `size` bytes."""
    assert size - len(data) >= 8
    return data + struct.pack(">I4s", size - len(data), b"free") + bytes(size - len(data) - 8)


def _another_video(path: Path, *, size: int) -> bytes:
    """A video of other frames that has this many bytes."""
    write_video(path, frames=20, gop=5, first_number=700)
    return _padded(path.read_bytes(), size)


# -- objects that are no video ----------------------------------------------------------------------------------------


def _png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(72))) + chunk(b"IEND", b"")
    )


NO_VIDEOS: Mapping[str, bytes] = {
    "zero bytes": b"",
    "one byte": b"\x00",
    "text": b"This is no video at all, and it says so.\n" * 50,
    "html": b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>\n" * 20,
    "xml": b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>',
    "png": _png(),
    "ffconcat": b"ffconcat version 1.0\nfile clip.mp4\n",
    "hls": b"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nclip.mp4\n#EXT-X-ENDLIST\n",
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    "zeros": bytes(100_000),
    "noise": np.random.default_rng(7).integers(0, 256, 100_000, np.uint8).tobytes(),
}


@pytest.mark.parametrize("where", ["local", "s3"])
@pytest.mark.parametrize("name", NO_VIDEOS)
def test_what_is_no_video_is_called_so(name: str, where: str, clip: Path, request: pytest.FixtureRequest) -> None:
    store, folder = ObjectStore(), str(clip.parent)  # a video lies beside it, which playlists name
    if where == "s3":
        store, folder = request.getfixturevalue("s3_store"), request.getfixturevalue("s3_prefix")
    uri = f"{folder}/wrong.mp4"
    store.write(uri, NO_VIDEOS[name])
    with pytest.raises(NotAVideoError) as raised:
        LazyVideo(uri, store=store)
    check_error(raised.value, naming=uri)
    assert isinstance(raised.value, ValueError)


def test_a_file_of_sound_only_has_no_video_stream(corpus: VideoCorpus) -> None:
    with pytest.raises(NoVideoStreamError) as raised:
        LazyVideo(corpus["audio_only"])
    check_error(raised.value, naming=str(corpus["audio_only"]))


@pytest.mark.parametrize("stream", [7, -1, 2])
@pytest.mark.parametrize("indexed", [True, False])
def test_a_stream_that_is_not_there(corpus: VideoCorpus, tmp_path: Path, stream: int, indexed: bool) -> None:
    path = corpus.copy("two_videos", tmp_path)
    if indexed:
        with_sidecar(path)
    with pytest.raises((NoVideoStreamError, ValueError)) as raised:
        LazyVideo(path, stream=stream)
    assert str(stream) in str(raised.value)
    assert numbers_of(LazyVideo(path, stream=1)[:2]) == [1000, 1001]
    assert numbers_of(LazyVideo(path)[:2]) == [0, 1]


# -- cut and damaged files --------------------------------------------------------------------------------------------


def _boxes(data: bytes) -> list[tuple[str, int, int]]:
    """(kind, start, stop) of the boxes of the top level."""
    found, at = [], 0
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        found.append((kind.decode(), at, at + size))
        at += size
    return found


def _cuts(path: Path) -> Iterator[int]:
    """Lengths at which to cut a file: in and around each kind of box, between samples and inside them."""
    data, index = path.read_bytes(), build_index(path)
    seen: set[str] = set()
    for kind, start, stop in _boxes(data):
        if kind not in seen:
            seen.add(kind)
            yield from (start, start + 4, start + 8, (start + stop) // 2, stop - 1)
    starts = np.sort(index.packets.offset)
    for at in (1, len(starts) // 2, len(starts) - 1):
        yield from (int(starts[at]), int(starts[at]) + 1)
    yield len(data) - 1


@pytest.mark.parametrize("name", ["h264_closed", "h264_faststart", "h264_fragmented", "h264_hybrid"])
def test_a_file_that_is_cut_anywhere(corpus: VideoCorpus, tmp_path: Path, name: str) -> None:
    path = corpus.copy(name, tmp_path / "whole")
    with_sidecar(path)
    cuts = sorted({at for at in _cuts(path) if 0 < at < path.stat().st_size})
    assert len(cuts) >= 12
    kinds: set[type[BaseException]] = set()
    for at in cuts:
        cut = truncate(path, tmp_path / "cut.mp4", at=at)
        try:
            frames = LazyVideo(cut)[:]
        except VideoError as error:
            check_error(error, naming=str(cut))
            kinds.add(type(error))
        else:  # a whole number of fragments is a whole video, or only what nobody reads is cut off
            assert numbers_of(frames) == list(range(len(frames))), at
        with pytest.raises(LazyVidError) as raised:  # by the index of the whole file, nothing less is accepted
            _opened_with_the_sidecar_of(path, cut)
        check_error(raised.value, naming=str(cut))
    assert kinds, "no cut was noticed"


def _opened_with_the_sidecar_of(path: Path, cut: Path) -> LazyVideo:
    shutil.rmtree(f"{cut}.lance", ignore_errors=True)
    shutil.copytree(f"{path}.lance", f"{cut}.lance")
    try:
        return LazyVideo(cut)
    finally:
        shutil.rmtree(f"{cut}.lance")


def test_a_really_corrupted_file_gives_its_good_frames_and_names_the_others(shared_videos: Path) -> None:
    path = shared_videos / "corrupted.mp4"
    sequential = _good_frames(path)
    video = LazyVideo(path)
    good = 0
    for number, pts in enumerate(video.frame_index.packets.pts.tolist()):
        try:
            frame = video[number]
        except VideoError as error:
            check_error(error, naming=f"{path}, frame {number}")
        else:
            assert torch.equal(frame.permute(1, 2, 0), sequential[pts])
            good += 1
    assert good >= 29
    assert torch.equal(video[5:20], torch.stack([video[k] for k in range(5, 20)]))
    with pytest.raises(VideoError):
        video[:]


def _good_frames(path: Path) -> dict[int, torch.Tensor]:
    """The pictures that a sequential decode gives and does not call corrupt, by pts."""
    frames = {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        for packet in container.demux(stream):
            try:
                pictures = packet.decode()
            except av.FFmpegError:
                continue
            for picture in pictures:
                if not picture.is_corrupt:
                    frames[picture.pts] = torch.from_numpy(picture.to_ndarray(format="rgb24"))
    return frames


def test_damage_after_indexing_is_found_by_the_checksums(clip: Path) -> None:
    index = build_index(clip, scan="full")
    victim = 30
    offset, size = int(index.packets.offset[victim]), int(index.packets.size[victim])
    data = clip.read_bytes()
    for at in (offset, offset + size // 2, offset + size - 1):
        clip.write_bytes(data)
        flip_bit(clip, clip, offset=at)
        video = LazyVideo(clip, on_missing_index="raise")
        with pytest.raises(CorruptVideoError) as raised:
            video.get_frame_at(victim)
        check_error(raised.value, naming=str(clip))
        assert str(victim) in str(raised.value)
        assert numbers_of(video.get_frames_at([0, 5, 59]).frames) == [0, 5, 59]


# -- objects that are not there, or not ours --------------------------------------------------------------------------


def test_missing_objects_and_buckets(s3_store: ObjectStore, s3_prefix: str, tmp_path: Path) -> None:
    for store, uri in (
        (None, str(tmp_path / "missing.mp4")),
        (None, str(tmp_path / "missing" / "missing.mp4")),
        (None, str(tmp_path)),
        (None, "memory://nowhere/missing.mp4"),
        (s3_store, f"{s3_prefix}/missing.mp4"),
        (s3_store, s3_prefix),
        (s3_store, "s3://there-is-no-such-bucket/clip.mp4"),
    ):
        with pytest.raises(ObjectNotFoundError) as raised:
            LazyVideo(uri, store=store)
        check_error(raised.value, naming=uri)
        assert isinstance(raised.value, FileNotFoundError)


def test_a_missing_object_over_http(fault_server: FaultServer) -> None:
    with pytest.raises(ObjectNotFoundError) as raised:
        LazyVideo(fault_server.url("missing.mp4"))
    check_error(raised.value, naming=fault_server.url("missing.mp4"))


def test_wrong_credentials(original: Path, s3_server: S3Server, s3_store: ObjectStore, s3_prefix: str) -> None:
    uri = f"{s3_prefix}/clip.mp4"
    s3_store.upload(original, uri)
    before = read_stats()
    with pytest.raises(AccessDeniedError) as raised:
        LazyVideo(uri, storage_options=s3_server.wrong_options)
    check_error(raised.value, naming=uri)
    assert isinstance(raised.value, PermissionError)
    assert (read_stats() - before).retries == 0


def test_a_video_that_may_not_be_indexed_in_its_place(
    original: Path, s3_server: S3Server, s3_store: ObjectStore, s3_prefix: str, tmp_path: Path
) -> None:
    uri = f"{s3_prefix}/clip.mp4"
    put_all(s3_store, s3_prefix, files_below(original.parent))
    s3_store.write(uri, _another_video(tmp_path / "other.mp4", size=original.stat().st_size))
    reader = ObjectStore(storage_options=s3_server.read_only_options)
    with pytest.raises(AccessDeniedError) as raised:
        build_index(uri, store=reader).save(uri, store=reader)
    check_error(raised.value, naming=uri)
    with pytest.warns(UserWarning, match="could not be written"):
        video = LazyVideo(uri, store=reader, on_stale_index="rebuild")
    assert numbers_of(video[:3]) == [700, 701, 702]


# -- objects that change ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A video with its sidecar that may be replaced."""

    uri: str
    store: ObjectStore
    data: bytes

    def open(self, **options: Any) -> LazyVideo:
        return LazyVideo(self.uri, store=self.store, **options)

    def replace(self, data: bytes) -> None:
        self.store.write(self.uri, data)


@pytest.fixture(params=["local", "memory", "http", "s3"])
def place(request: pytest.FixtureRequest, original: Path, tmp_path: Path) -> Place:
    files = files_below(original.parent)
    store, folder = ObjectStore(), str(tmp_path / "place")
    if request.param == "memory":
        folder = f"memory://{tmp_path.name}"
    elif request.param == "http":
        folder = request.getfixturevalue("fault_server").url("place")
    elif request.param == "s3":
        store, folder = request.getfixturevalue("s3_store"), request.getfixturevalue("s3_prefix")
    put_all(store, folder, files)
    return Place(f"{folder}/clip.mp4", store, files["clip.mp4"])


@pytest.mark.parametrize("size", ["another size", "the same size"])
def test_a_file_that_was_replaced_after_indexing(place: Place, tmp_path: Path, size: str) -> None:
    longer = 100 if size == "another size" else 0
    place.replace(_another_video(tmp_path / "other.mp4", size=len(place.data) + longer))
    with pytest.raises(StaleIndexError) as raised:
        place.open()
    check_error(raised.value, naming=place.uri)
    with pytest.raises(StaleIndexError):
        place.open(on_missing_index="build", on_stale_index="raise")
    rebuilt = place.open(on_stale_index="rebuild")
    assert numbers_of(rebuilt[::5]) == [700, 705, 710, 715]
    assert numbers_of(place.open(on_missing_index="raise")[::5]) == [700, 705, 710, 715], "it was healed"


@pytest.mark.parametrize("size", ["another size", "the same size"])
def test_a_file_that_is_replaced_between_opening_and_reading(place: Place, tmp_path: Path, size: str) -> None:
    video = place.open()
    assert numbers_of(video[:2]) == [0, 1]
    longer = 100 if size == "another size" else 0
    place.replace(_another_video(tmp_path / "other.mp4", size=len(place.data) + longer))
    for read in (lambda: video[5], lambda: pickle.loads(pickle.dumps(video))[5], lambda: video.lazy_slice(1, 2)[:]):
        with pytest.raises(ObjectChangedError) as raised:
            read()
        check_error(raised.value, naming=place.uri)
    with pytest.raises(StaleIndexError):
        place.open()


def test_a_file_that_is_removed_between_opening_and_reading(place: Place) -> None:
    video = place.open()
    place.store.delete(place.uri)
    with pytest.raises(ObjectNotFoundError) as raised:
        video.get_frame_at(5)
    check_error(raised.value, naming=place.uri)


@pytest.mark.parametrize("size", ["another size", "the same size"])
@pytest.mark.parametrize("fetch", ["ranges", "file"])
@pytest.mark.parametrize("backend", ["pyav", "torchcodec"])
def test_a_replaced_file_is_noticed_by_every_reader(
    place: Place, tmp_path: Path, size: str, fetch: Any, backend: Any
) -> None:
    if backend == "torchcodec":
        need_torchcodec()
    video = place.open(fetch=fetch, backend=backend, cache=SegmentCache(tmp_path / "cache"))
    longer = 100 if size == "another size" else 0
    place.replace(_another_video(tmp_path / "other.mp4", size=len(place.data) + longer))
    with pytest.raises(ObjectChangedError) as raised:
        video.get_frames_at([5, 47])
    check_error(raised.value, naming=place.uri)


def test_a_copy_that_was_made_before_serves_the_version_that_was_opened(place: Place, tmp_path: Path) -> None:
    video = place.open(fetch="file", cache=SegmentCache(tmp_path / "cache"))
    assert numbers_of(video[:2]) == [0, 1]
    place.replace(_another_video(tmp_path / "other.mp4", size=len(place.data)))
    try:
        frames = video[5:7]
    except ObjectChangedError:
        return
    assert numbers_of(frames) == [5, 6]


# -- sidecars ---------------------------------------------------------------------------------------------------------


def _removed(path: Path) -> None:
    path.unlink()


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\x00")


def _zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES: Mapping[str, Callable[[Path], None]] = {
    "removed": _removed,
    "emptied": _emptied,
    "halved": _halved,
    "longer": _longer,
    "zeroed": _zeroed,
}


def _needed(clip: Path) -> list[Path]:
    """The files of the sidecar that cannot be done without."""
    folder = Path(f"{clip}.lance")
    found = [path for kind in ("_versions", "data") for path in sorted((folder / kind).iterdir())]
    assert len(found) == 2
    return found


@pytest.mark.parametrize("part", ["manifest", "data"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_sidecar_with_a_damaged_part(clip: Path, part: str, damage: str) -> None:
    DAMAGES[damage](_needed(clip)[("manifest", "data").index(part)])
    with pytest.raises((CorruptIndexError, MissingIndexError)) as raised:
        LazyVideo(clip, on_missing_index="raise")
    check_error(raised.value, naming=str(clip))
    healed = LazyVideo(clip, on_stale_index="rebuild")
    assert numbers_of(healed[::7]) == list(range(0, FRAMES, 7))
    if isinstance(raised.value, CorruptIndexError):
        again = LazyVideo(clip, on_missing_index="raise")
        assert numbers_of(again[::7]) == list(range(0, FRAMES, 7))


@pytest.mark.parametrize("part", ["manifest", "data"])
def test_a_flipped_bit_of_a_sidecar_is_never_believed(clip: Path, part: str) -> None:
    path = _needed(clip)[("manifest", "data").index(part)]
    data, right = path.read_bytes(), LazyVideo(clip).frame_index.content_hash()
    offsets = np.unique(np.linspace(0, len(data) - 1, 24).astype(int))
    noticed = 0
    for offset, bit in zip(offsets.tolist(), itertools.cycle(range(8))):
        path.write_bytes(data)
        flip_bit(path, path, offset=offset, bit=bit)
        try:
            assert LazyVideo(clip, on_missing_index="raise").frame_index.content_hash() == right
        except IndexStateError as error:
            check_error(error, naming=str(clip))
            noticed += 1
    assert noticed >= len(offsets) * 3 // 4


def test_other_files_in_a_sidecar_do_no_harm(clip: Path) -> None:
    needed = _needed(clip)
    for path in Path(f"{clip}.lance").rglob("*"):
        if path.is_file() and path not in needed:
            path.unlink()
    (Path(f"{clip}.lance") / ".DS_Store").write_bytes(b"\x00")
    assert numbers_of(LazyVideo(clip, on_missing_index="raise")[:2]) == [0, 1]


def test_no_sidecar(clip: Path) -> None:
    shutil.rmtree(f"{clip}.lance")
    with pytest.raises(MissingIndexError) as raised:
        LazyVideo(clip, on_missing_index="raise")
    check_error(raised.value, naming=str(clip))
    assert isinstance(raised.value, FileNotFoundError)
    with pytest.raises(MissingIndexError):
        FrameIndex.open(clip)
    assert numbers_of(LazyVideo(clip)[::7]) == list(range(0, FRAMES, 7))
    assert not Path(f"{clip}.lance").exists(), "nothing is written unless asked for"


def test_a_file_where_the_sidecar_should_be(clip: Path) -> None:
    shutil.rmtree(f"{clip}.lance")
    Path(f"{clip}.lance").write_text("no folder")
    with pytest.raises(IndexStateError) as raised:
        LazyVideo(clip, on_missing_index="raise")
    check_error(raised.value, naming=str(clip))


def test_the_sidecar_of_another_video(clip: Path, tmp_path: Path) -> None:
    other = with_sidecar(write_video(tmp_path / "other.mp4", frames=20, first_number=300))
    shutil.rmtree(f"{clip}.lance")
    shutil.copytree(f"{other}.lance", f"{clip}.lance")
    with pytest.raises(StaleIndexError) as raised:
        LazyVideo(clip)
    check_error(raised.value, naming=str(clip))
    assert numbers_of(LazyVideo(clip, on_stale_index="rebuild")[::7]) == list(range(0, FRAMES, 7))
    assert numbers_of(LazyVideo(clip, on_missing_index="raise")[::7]) == list(range(0, FRAMES, 7))


def test_the_index_of_another_video_at_hand(clip: Path, tmp_path: Path) -> None:
    other = build_index(write_video(tmp_path / "other.mp4", frames=20, first_number=300))
    with pytest.raises(StaleIndexError) as raised:
        LazyVideo(clip, frame_index=other)
    check_error(raised.value, naming=str(clip))


def test_segment_uris_that_do_not_fit_the_index(clip: Path) -> None:
    more = shutil.copy(clip, clip.with_name("more.mp4"))
    with pytest.raises(ValueError, match="segment_uris"):
        LazyVideo(clip, segment_uris=[more])
    with pytest.raises(ObjectNotFoundError):
        LazyVideo(clip, segment_uris=[clip.with_name("missing.mp4")])
    LazyVideo(clip, segment_uris=[])


# -- wrong arguments --------------------------------------------------------------------------------------------------

OUT_OF_RANGE: Mapping[str, Callable[[LazyVideo], Any]] = {
    "v[60]": lambda v: v[60],
    "v[-61]": lambda v: v[-61],
    "v[np.int64(60)]": lambda v: v[np.int64(60)],
    "v[10**30]": lambda v: v[10**30],
    "get_frame_at(60)": lambda v: v.get_frame_at(60),
    "get_frame_at(-61)": lambda v: v.get_frame_at(-61),
    "get_frames_at([0, 60])": lambda v: v.get_frames_at([0, 60]),
    "get_frames_at(np [-61])": lambda v: v.get_frames_at(np.array([-61])),
    "get_frames_at(uint8 [200])": lambda v: v.get_frames_at(np.array([200], np.uint8)),
    "get_frames_at(tensor [99])": lambda v: v.get_frames_at(torch.tensor([99])),
    "window[15]": lambda v: v.lazy_slice(1.0, 1.5)[15],
    "window[-16]": lambda v: v.lazy_slice(1.0, 1.5)[-16],
    "empty window[0]": lambda v: v.lazy_slice(1.0, 1.0)[0],
}


@pytest.mark.parametrize("call", OUT_OF_RANGE)
def test_frame_numbers_out_of_range(video: LazyVideo, call: str) -> None:
    with pytest.raises(FrameIndexError) as raised:
        OUT_OF_RANGE[call](video)
    check_error(raised.value, naming=video.uri)
    assert isinstance(raised.value, IndexError)
    assert isinstance(raised.value, ValueError)


NO_NUMBERS: Mapping[str, Callable[[LazyVideo], Any]] = {
    "v[1.0]": lambda v: v[1.0],  # type: ignore[index]
    "v[None]": lambda v: v[None],  # type: ignore[index]
    "v['1']": lambda v: v["1"],  # type: ignore[index]
    "v[True]": lambda v: v[True],
    "v[np.bool_]": lambda v: v[np.True_],  # type: ignore[index]
    "v[0, 1]": lambda v: v[0, 1],  # type: ignore[index]
    "v[0.0:2.0]": lambda v: v[0.0:2.0],  # type: ignore[misc]
    "get_frame_at(1.5)": lambda v: v.get_frame_at(1.5),
    "get_frame_at(nan)": lambda v: v.get_frame_at(float("nan")),
    "get_frames_at([1.0])": lambda v: v.get_frames_at([1.0]),
    "get_frames_at([True])": lambda v: v.get_frames_at([True]),
    "get_frames_at(mask)": lambda v: v.get_frames_at(torch.ones(60, dtype=torch.bool)),
    "get_frames_at(float tensor)": lambda v: v.get_frames_at(torch.tensor([1.0])),
    "get_frames_at(7)": lambda v: v.get_frames_at(7),
    "get_frames_at(None)": lambda v: v.get_frames_at(None),
    "get_frames_in_range(0.0, 2)": lambda v: v.get_frames_in_range(0.0, 2),
    "get_frame_played_at(None)": lambda v: v.get_frame_played_at(None),
    "get_frames_played_at(None)": lambda v: v.get_frames_played_at(None),
    "get_frames_played_in_range(None, 1)": lambda v: v.get_frames_played_in_range(None, 1),
    "get_nearest_frames([None])": lambda v: v.get_nearest_frames([None], tolerance_s=1),
    "slice(None, 1)": lambda v: v.slice(None, 1),
    "slice('a', 1)": lambda v: v.slice("a", 1),
    "lazy_slice(0, None)": lambda v: v.lazy_slice(0, None),
}


@pytest.mark.parametrize("call", NO_NUMBERS)
def test_what_is_no_number_is_a_type_error(video: LazyVideo, call: str) -> None:
    with pytest.raises(TypeError):
        NO_NUMBERS[call](video)


NAN, INF = float("nan"), float("inf")
WRONG_TIMES: Mapping[str, Callable[[LazyVideo], Any]] = {
    "played at -0.001": lambda v: v.get_frame_played_at(-0.001),
    "played at the end": lambda v: v.get_frame_played_at(v.end_seconds),
    "played at 1e9": lambda v: v.get_frame_played_at(1e9),
    "played at nan": lambda v: v.get_frame_played_at(NAN),
    "played at inf": lambda v: v.get_frame_played_at(INF),
    "all played at [0, 2.5]": lambda v: v.get_frames_played_at([0, 2.5]),
    "all played at [-1]": lambda v: v.get_frames_played_at(torch.tensor([-1.0])),
    "all played at [nan]": lambda v: v.get_frames_played_at(np.array([0.0, NAN])),
    "range from -1": lambda v: v.get_frames_played_in_range(-1, 1),
    "range to 3": lambda v: v.get_frames_played_in_range(0, 3),
    "range from nan": lambda v: v.get_frames_played_in_range(NAN, 1),
    "range to inf": lambda v: v.get_frames_played_in_range(0, INF),
    "nearest to nan": lambda v: v.get_nearest_frames([NAN], tolerance_s=1),
    "nearest to inf": lambda v: v.get_nearest_frames([INF], tolerance_s=INF),
    "nearest to 5": lambda v: v.get_nearest_frames([0.1, 5.0], tolerance_s=0.1),
    "nearest in an empty window": lambda v: v.lazy_slice(1, 1).get_nearest_frames([1.0], tolerance_s=9),
    "played in an empty window": lambda v: v.lazy_slice(1, 1).get_frame_played_at(1.0),
    "played before a window": lambda v: v.lazy_slice(1, 1.5).get_frame_played_at(0.9),
}


@pytest.mark.parametrize("call", WRONG_TIMES)
def test_times_out_of_range(video: LazyVideo, call: str) -> None:
    with pytest.raises(FrameTimestampError) as raised:
        WRONG_TIMES[call](video)
    check_error(raised.value)
    assert isinstance(raised.value, ValueError)
    if "nan" not in call and "inf" not in call and "nearest" not in call:
        assert isinstance(raised.value, TimeOutOfRangeError)
        assert isinstance(raised.value, IndexError)
        assert video.uri in str(raised.value)


WRONG_VALUES: Mapping[str, Callable[[LazyVideo], Any]] = {
    "range backwards": lambda v: v.get_frames_played_in_range(1.0, 0.5),
    "fps 0": lambda v: v.get_frames_played_in_range(0, 1, fps=0),
    "fps -1": lambda v: v.get_frames_played_in_range(0, 1, fps=-1),
    "fps nan": lambda v: v.get_frames_played_in_range(0, 1, fps=NAN),
    "fps inf": lambda v: v.get_frames_played_in_range(0, 1, fps=INF),
    "step 0": lambda v: v.get_frames_in_range(0, 9, 0),
    "step -1": lambda v: v.get_frames_in_range(9, 0, -1),
    "v[::0]": lambda v: v[::0],
    "tolerance -1": lambda v: v.get_nearest_frames([0], tolerance_s=-1),
    "tolerance nan": lambda v: v.get_nearest_frames([0], tolerance_s=NAN),
    "slice(nan, 1)": lambda v: v.slice(NAN, 1),
    "slice(0, nan)": lambda v: v.slice(0, NAN),
    "lazy_slice(nan, 1)": lambda v: v.lazy_slice(NAN, 1),
}


@pytest.mark.parametrize("call", WRONG_VALUES)
def test_values_that_make_no_sense(video: LazyVideo, call: str) -> None:
    with pytest.raises(ValueError, match=r"\w+"):
        WRONG_VALUES[call](video)


def test_slices_clamp(video: LazyVideo) -> None:
    assert len(video.slice(-INF, INF)) == FRAMES
    assert len(video.lazy_slice(-5, 99)) == FRAMES
    for start, end in ((1, 1), (1.5, 1), (5, 9), (-9, -5), (INF, INF), (-INF, -INF)):
        clip, window = video.slice(start, end), video.lazy_slice(start, end)
        assert tuple(clip.frames.shape) == (0, 3, 120, 160)
        assert len(window) == 0
        assert tuple(window[:].shape) == (0, 3, 120, 160)


WRONG_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "colorspace": {"colorspace": "BGR"},
    "colorspace in lower case": {"colorspace": "rgb"},
    "colorspace None": {"colorspace": None},
    "channel_format": {"channel_format": "HWC"},
    "interpolation": {"interpolation": "fancy"},
    "fetch": {"fetch": "magic"},
    "backend": {"backend": "opencv"},
    "gray by torchcodec": {"colorspace": "G", "backend": "torchcodec"},
    "on_missing_index": {"on_missing_index": "ignore"},
    "on_stale_index": {"on_stale_index": "ignore"},
    "resize (0, 5)": {"resize": (0, 5)},
    "resize (5, 0)": {"resize": (5, 0)},
    "resize (-1, 5)": {"resize": (-1, 5)},
    "resize (5,)": {"resize": (5,)},
    "resize 5": {"resize": 5},
    "resize text": {"resize": "x"},
    "resize (1, 2, 3)": {"resize": (1, 2, 3)},
    "resize (1.5, 2)": {"resize": (1.5, 2)},
    "resize ('4', '5')": {"resize": ("4", "5")},
    "store and storage_options": {"store": ObjectStore(), "storage_options": {}},
    "empty uri": {"uri": ""},
    "uri with a NUL": {"uri": "a\0b.mp4"},
}


@pytest.mark.parametrize("name", WRONG_OPTIONS)
def test_wrong_options_are_value_errors(original: Path, name: str) -> None:
    options = {"uri": original, **WRONG_OPTIONS[name]}
    given = list(WRONG_OPTIONS[name])[-1]
    with pytest.raises(ValueError, match=rf"(?i){given}") as raised:
        LazyVideo(**options)
    assert "xpected" in str(raised.value) or "use " in str(raised.value)


@pytest.mark.parametrize("name", [n for n in WRONG_OPTIONS if "uri" not in n and n != "store and storage_options"])
def test_wrong_options_are_found_before_anything_is_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (any, but that of the missing object)
        LazyVideo(tmp_path / "missing.mp4", **WRONG_OPTIONS[name])
    assert not isinstance(raised.value, ObjectNotFoundError)


@pytest.mark.parametrize(
    "options",
    [
        {"segment_uris": "clip.mp4"},
        {"segment_uris": Path("clip.mp4")},
        {"stream": 1.5},
        {"stream": True},
        {"uri": b"x"},
    ],
    ids=repr,
)
def test_options_of_a_wrong_type_are_type_errors(original: Path, options: Mapping[str, Any]) -> None:
    with pytest.raises(TypeError):
        LazyVideo(**{"uri": original, **options})


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("limits", [Limits(pixels=100), Limits(frames=5), Limits(index_bytes=100)], ids=repr)
def test_limits(clip: Path, limits: Limits, indexed: bool) -> None:
    if not indexed:
        shutil.rmtree(f"{clip}.lance")
    with pytest.raises(LimitExceededError) as raised:
        LazyVideo(clip, limits=limits)
    check_error(raised.value, naming=str(clip))
    assert "imits." in str(raised.value)


def test_concat_wants_videos_that_are_alike(original: Path, video: LazyVideo) -> None:
    for videos, error in (
        ([], ValueError),
        ([video, original], TypeError),
        ([None], TypeError),
        ([video, video], ValueError),  # times do not increase
        ([video, LazyVideo(original, resize=(60, 80))], ValueError),
        ([video, LazyVideo(original, colorspace="G")], ValueError),
        ([video, LazyVideo(original, channel_format="NHWC")], ValueError),
        ([video, LazyVideo(original, metadata=1)], ValueError),
    ):
        with pytest.raises(error):
            LazyVideo.concat(videos)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timestamps"):
        LazyVideo.concat([video], timestamps="shuffle")  # type: ignore[arg-type]


# -- stores that fail -------------------------------------------------------------------------------------------------

S3_FIRST = pytest.mark.parametrize("failing", ["s3", pytest.param("http", marks=pytest.mark.slow)], indirect=True)
PATIENT_S = 60.0
"""A limit that no slow machine reaches: of a whole call, and of a silence in it, where the server never is silent."""
STALL_S = 0.5
"""The limit of a silence where the server may be silent; a slow machine then asks once more, and that is all."""
ASKED = [29, *range(24, 36)]
"""A whole group of pictures, so that no byte that is fetched is one that nobody looks at."""


@dataclass(frozen=True)
class Failing:
    """A video with its sidecar on a server that fails as scripted."""

    server: FaultServer
    uri: str
    storage_options: dict[str, Any] | None

    def open(self, *, deadline_s: float = PATIENT_S, stall_s: float = PATIENT_S, **options: Any) -> LazyVideo:
        store = ObjectStore(storage_options=self.storage_options, deadline_s=deadline_s, stall_s=stall_s)
        return LazyVideo(self.uri, store=store, on_missing_index="raise", **options)


@pytest.fixture(params=["s3", "http"])
def failing(request: pytest.FixtureRequest, fault_server: FaultServer, original: Path) -> Failing:
    fault_server.objects.update(files_below(original.parent))
    if request.param == "http":
        return Failing(fault_server, fault_server.url("clip.mp4"), None)
    return Failing(fault_server, fault_server.s3_url("clip.mp4"), fault_server.storage_options)


PASSING: Mapping[str, list[Any]] = {
    "503 twice": [Fault.status(503), Fault.status(503)],
    "429": [Fault.status(429, retry_after=0.1)],
    "reset": ["reset"],
    "reset in mid-body": ["reset_mid_body"],
    "closed in mid-body": ["close_mid_body"],
    "stalled before the body": ["stall"],
    "stalled in mid-body": ["stall_mid_body"],
    "mute": ["mute"],
    "short body": ["short_body"],
    "wrong range": ["wrong_range"],
    "flipped bit": ["flip"],
}
FINAL: Mapping[str, tuple[Any, type[LazyVidError]]] = {
    "401": (Fault.status(401), AccessDeniedError),
    "403": (Fault.status(403), AccessDeniedError),
    "404": (Fault.status(404), ObjectNotFoundError),
    "replaced": ("wrong_etag", ObjectChangedError),
    "flipped bit": ("flip", CorruptVideoError),
}
"""Faults that are not waited out: time plays no part in them."""
LASTING: Mapping[str, tuple[Any, type[LazyVidError]]] = {
    "503": (Fault.status(503), StoreUnavailableError),
    "reset": ("reset", StoreUnavailableError),
    "stalled before the body": ("stall", StoreTimeoutError),
    "stalled in mid-body": ("stall_mid_body", StoreTimeoutError),
    "mute": ("mute", StoreTimeoutError),
    "closed in mid-body": ("close_mid_body", ShortReadError),
    "short body": ("short_body", ShortReadError),
    "wrong range": ("wrong_range", ShortReadError),
    "429": (Fault.status(429), StoreUnavailableError),
    "500": (Fault.status(500), StoreUnavailableError),
    "reset in mid-body": ("reset_mid_body", ShortReadError),
    "slow": (Fault.slow(4.0), StoreTimeoutError),
}
"""Faults that might pass, and do not: tried again until the time is over."""
ALSO_LASTING = ("429", "500", "reset in mid-body", "slow")
"""Of these, those that cost more than they say beside the others."""


@pytest.mark.parametrize("name", PASSING)
def test_reading_survives_faults_that_pass(failing: Failing, name: str) -> None:
    video = failing.open(stall_s=STALL_S)
    failing.server.script(PASSING[name], method="GET", ranged=True)
    assert numbers_of(video.get_frames_at(ASKED).frames) == ASKED
    assert sum(request.fault.kind != "ok" for request in failing.server.requests) == len(PASSING[name])


@pytest.mark.parametrize("name", FINAL)
def test_what_will_not_pass_is_said_at_once(failing: Failing, name: str) -> None:
    fault, error = FINAL[name]
    video = failing.open()
    failing.server.script(default=fault, method="GET", ranged=True)
    with pytest.raises(error) as raised:
        video.get_frames_at(ASKED)
    check_error(raised.value, naming=failing.uri)
    assert len([request for request in failing.server.requests if request.method == "GET"]) <= 2
    check_as_good_as_before(failing)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.chaos) if n in ALSO_LASTING else n for n in LASTING]
)
def test_reading_ends_in_time_with_a_named_error(failing: Failing, name: str) -> None:
    fault, error = LASTING[name]

    def opened(deadline_s: float) -> LazyVideo:
        failing.server.script()
        video = failing.open(deadline_s=deadline_s, stall_s=STALL_S)
        failing.server.script(default=fault, method="GET", ranged=True)
        return video

    raised = ending_in_time(lambda video: video.get_frames_at(ASKED), error, prepare=opened)
    check_error(raised, naming=failing.uri)
    check_as_good_as_before(failing, stall_s=STALL_S)


def check_as_good_as_before(failing: Failing, *, stall_s: float = PATIENT_S) -> None:
    """A fault that has passed leaves this process able to read."""
    failing.server.script()
    assert numbers_of(failing.open(stall_s=stall_s).get_frames_at(ASKED).frames) == ASKED


def test_a_server_that_ignores_ranges_gives_right_frames_or_an_error(failing: Failing) -> None:
    video = failing.open()
    failing.server.script(default="ignore_range", ranged=True)
    try:
        frames = video.get_frames_at(ASKED).frames
    except StoreError as error:
        check_error(error, naming=failing.uri)
    else:
        assert numbers_of(frames) == ASKED


def test_a_flipped_bit_is_fetched_once_more_and_no_more(failing: Failing, caplog: pytest.LogCaptureFixture) -> None:
    video = failing.open()
    failing.server.script(["flip"], ranged=True)
    before = read_stats()
    assert numbers_of(video.get_frames_at([3]).frames) == [3]
    assert len(failing.server.requests) == 2
    assert (read_stats() - before).refetches == 1
    (warned,) = [record for record in caplog.records if record.name == "lazyvid.decoding.packets"]
    assert "came damaged" in warned.message
    assert failing.uri in warned.message
    failing.server.script(default="flip", ranged=True)
    with pytest.raises(CorruptVideoError):
        video.get_frames_at([3])
    assert len(failing.server.requests) == 2


@S3_FIRST
@pytest.mark.parametrize("name", [n for n in PASSING if n not in ("flipped bit", "short body", "wrong range")])
def test_opening_survives_faults_that_pass(failing: Failing, name: str) -> None:
    failing.server.script(PASSING[name])
    assert len(failing.open(stall_s=STALL_S)) == FRAMES


@S3_FIRST
def test_opening_says_at_once_what_will_not_pass(failing: Failing) -> None:
    failing.server.script(default=Fault.status(403))
    with pytest.raises(AccessDeniedError) as raised:
        failing.open()
    check_error(raised.value, naming=failing.uri)
    assert len(failing.server.requests) <= 3  # over HTTP, a HEAD that is refused is asked again as a GET


@S3_FIRST
@pytest.mark.parametrize(
    "name",
    [
        *("503", "reset", "mute", "stalled in mid-body", "closed in mid-body"),
        *(pytest.param(n, marks=pytest.mark.chaos) for n in ALSO_LASTING),
    ],
)
def test_opening_ends_in_time_with_a_named_error(failing: Failing, name: str) -> None:
    fault, error = LASTING[name]
    failing.server.script(default=fault)
    raised = ending_in_time(
        lambda deadline_s: failing.open(deadline_s=deadline_s, stall_s=STALL_S), error, prepare=lambda given: given
    )
    check_error(raised, naming=failing.uri)


def test_a_sidecar_that_arrives_damaged_is_not_believed(failing: Failing) -> None:
    failing.server.script(default="flip")
    with pytest.raises(IndexStateError) as raised:
        failing.open()
    check_error(raised.value, naming=failing.uri)


def test_whole_copies_survive_faults_too(failing: Failing, tmp_path: Path) -> None:
    for name in ("503 twice", "reset in mid-body", "stalled in mid-body", "closed in mid-body"):
        video = failing.open(fetch="file", cache=SegmentCache(tmp_path / name), stall_s=STALL_S)
        failing.server.script(PASSING[name], method="GET")
        assert numbers_of(video.get_frames_at(ASKED).frames) == ASKED
        assert sum(request.fault.kind != "ok" for request in failing.server.requests) == len(PASSING[name])


def test_a_copy_that_was_damaged_is_fetched_anew(failing: Failing, tmp_path: Path) -> None:
    video = failing.open(fetch="file", cache=SegmentCache(tmp_path / "copies"))
    assert numbers_of(video.get_frames_at(ASKED).frames) == ASKED
    (copy,) = (tmp_path / "copies").glob("*.copy")
    data = copy.read_bytes()
    copy.write_bytes(bytes(len(data)))
    assert numbers_of(video.get_frames_at(ASKED).frames) == ASKED
    (copy,) = (tmp_path / "copies").glob("*.copy")
    assert copy.read_bytes() == data
