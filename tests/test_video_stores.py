"""`LazyVideo` over every kind of store: the same frames, few requests, no video byte at opening, no secret shown."""

from __future__ import annotations

import logging
import pickle
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from laws import (
    check_error,
    check_silent,
    digest,
    files_below,
    need_torchcodec,
    numbers_of,
    put_all,
    text_of,
    tiled,
    with_sidecar,
)

from lazyvid import Clip, FrameIndex, LazyVideo, ObjectStore, SegmentCache, build_index
from lazyvid.errors import AccessDeniedError, LazyVidError, ObjectNotFoundError
from lazyvid.index import local, opening
from lazyvid.testing import CountingProxy, FaultServer, ProxiedRequest, S3Server, VideoCorpus, write_video

PLACES = ("path", "file", "memory", "http", "s3")
FRAMES = 60
ASKED = [59, 0, 30, 30, 7, 58]
MOST_OPENING_REQUESTS = 4
MOST_LOOKING_REQUESTS = 3
"""To find that there is no sidecar, of any tool: its first manifest, a listing, and that the listing is empty."""
MOST_BYTES = 1.25
"""Times the packets from the key packet to the last one fed."""


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAZYVID_INDEX_DIR", str(tmp_path / "indexes"))
    monkeypatch.setenv("LAZYVID_CACHE_DIR", str(tmp_path / "copies"))
    monkeypatch.setattr(opening, "_warned_in", None)  # so that each test would see the warning of a missing index
    local.clear()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video with its sidecar; not to be changed."""
    path = write_video(tmp_path_factory.mktemp("stores") / "clip.mp4", frames=FRAMES, gop=12, b_frames=2)
    return with_sidecar(path)


@dataclass(frozen=True)
class Place:
    """A video somewhere."""

    uri: str
    store: ObjectStore | None

    def open(self, **options: Any) -> LazyVideo:
        return LazyVideo(self.uri, store=self.store, on_missing_index="raise", **options)


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, original: Path) -> Place:
    """The video and its sidecar in each kind of store."""
    if request.param == "path":
        return Place(str(original), None)
    if request.param == "file":
        return Place(original.as_uri(), None)
    files = files_below(original.parent)
    if request.param == "http":
        server = request.getfixturevalue("fault_server")
        server.objects.update(files)
        return Place(server.url("clip.mp4"), None)
    store, folder = ObjectStore(), f"memory://{uuid.uuid4().hex}"
    if request.param == "s3":
        store = ObjectStore(storage_options=request.getfixturevalue("s3_server").storage_options)
        folder = request.getfixturevalue("s3_prefix")
    put_all(store, folder, files)
    return Place(f"{folder}/clip.mp4", store)


@pytest.fixture
def s3_store(s3_server: S3Server) -> ObjectStore:
    return ObjectStore(storage_options=s3_server.storage_options)


@pytest.fixture
def counted(counting_proxy: CountingProxy, s3_server: S3Server) -> ObjectStore:
    """A store whose requests the proxy sees."""
    return ObjectStore(storage_options=counting_proxy.storage_options_for(s3_server))


# -- the same frames --------------------------------------------------------------------------------------------------

LOOKS: Sequence[Mapping[str, Any]] = (
    {},
    {"colorspace": "G"},
    {"channel_format": "NHWC"},
    {"resize": (96, 128)},
    {"resize": (96, 128), "colorspace": "G", "interpolation": "area"},
)


@pytest.mark.parametrize("fetch", ["ranges", "file"])
def test_frames_do_not_depend_on_the_place(place: Place, original: Path, fetch: Any, tmp_path: Path) -> None:
    for look in LOOKS:
        video = place.open(fetch=fetch, cache=SegmentCache(tmp_path / "cache"), **look)
        clip = video.get_frames_at(ASKED)
        assert torch.equal(clip.frames, LazyVideo(original, **look).get_frames_at(ASKED).frames), look
        assert numbers_of(clip.frames) == ASKED
        assert clip.frame_indices.tolist() == ASKED
    np.testing.assert_array_equal(video.timestamps, np.arange(FRAMES) / 30)


@pytest.mark.parametrize("fetch", ["ranges", "file"])
def test_frames_of_torchcodec_do_not_depend_on_the_place(
    place: Place, original: Path, fetch: Any, tmp_path: Path
) -> None:
    need_torchcodec()
    for look in ({}, {"channel_format": "NHWC"}, {"resize": (96, 128)}):
        video = place.open(fetch=fetch, cache=SegmentCache(tmp_path / "cache"), backend="torchcodec", **look)
        clip = video.get_frames_at(ASKED)
        at_home = LazyVideo(original, backend="torchcodec", **look).get_frames_at(ASKED)
        assert torch.equal(clip.frames, at_home.frames), look
        assert numbers_of(clip.frames) == ASKED
        if "resize" not in look:
            assert torch.equal(clip.frames, LazyVideo(original, **look).get_frames_at(ASKED).frames)


@pytest.mark.parametrize("backend", ["pyav", "torchcodec"])
def test_whole_files_are_copied_once_and_read_there(
    counting_proxy: CountingProxy,
    counted: ObjectStore,
    s3_store: ObjectStore,
    s3_prefix: str,
    original: Path,
    tmp_path: Path,
    backend: Any,
) -> None:
    if backend == "torchcodec":
        need_torchcodec()
    uri = s3_store.upload(original, f"{s3_prefix}/clip.mp4").uri
    build_index(uri, store=s3_store).save(uri, store=s3_store)  # with this store's etag, so that opening reads no byte
    cache = SegmentCache(tmp_path / "cache")
    for _ in range(3):
        video = LazyVideo(uri, store=counted, fetch="file", cache=cache, backend=backend)
        assert numbers_of(video[::9]) == list(range(0, FRAMES, 9))
        assert numbers_of(video[::11]) == list(range(0, FRAMES, 11))
    assert sum(r.bytes_down for r in _video_gets(counting_proxy.requests)) == original.stat().st_size


def test_many_videos_open_at_once_in_their_order(s3_store: ObjectStore, s3_prefix: str, original: Path) -> None:
    files = files_below(original.parent)
    for k in range(5):
        put_all(s3_store, f"{s3_prefix}/{k}", files)
    uris = [f"{s3_prefix}/{k}/clip.mp4" for k in (3, 1, 4, 0, 2)]
    videos = LazyVideo.open_many(uris, store=s3_store, max_workers=3, on_missing_index="raise")
    assert [video.uri for video in videos] == uris
    assert {digest(video[3:5]) for video in videos} == {digest(LazyVideo(original)[3:5])}
    with pytest.raises(ObjectNotFoundError, match="nowhere"):
        LazyVideo.open_many([*uris, f"{s3_prefix}/nowhere.mp4"], store=s3_store, on_missing_index="raise")


# -- what it costs from S3 --------------------------------------------------------------------------------------------


def _video_gets(requests: Sequence[ProxiedRequest]) -> list[ProxiedRequest]:
    return [r for r in requests if r.method == "GET" and r.path.endswith(".mp4")]


@pytest.mark.parametrize("frames", [FRAMES, pytest.param(50_040, id="50040")])
def test_opening_with_a_sidecar_takes_four_requests_and_no_video_byte(
    counting_proxy: CountingProxy,
    counted: ObjectStore,
    s3_store: ObjectStore,
    s3_prefix: str,
    original: Path,
    frames: int,
) -> None:
    uri = f"{s3_prefix}/clip.mp4"
    s3_store.upload(original, uri)
    tiled(build_index(uri, store=s3_store), frames=frames).save(uri, store=s3_store)
    LazyVideo.from_uri(uri, store=counted)  # the connection is there
    counting_proxy.reset()
    video = LazyVideo.from_uri(uri, store=counted, on_missing_index="raise")
    assert len(video) == frames
    assert video.width, video.timestamps[-1]
    assert len(counting_proxy.requests) <= MOST_OPENING_REQUESTS
    assert not _video_gets(counting_proxy.requests)
    assert counting_proxy.bytes_down < 40 * frames + 20_000


def _in_flight_together(proxy: CountingProxy, read: Callable[[], Clip]) -> tuple[Clip, list[ProxiedRequest]]:
    """What a read gives and costs whose requests do not wait for one another: all begin before an answer comes.

    An answer comes late enough for a quick machine first, and then for slower ones.
    """
    for delay_s in (0.1, 1.0, 6.0):
        proxy.reset()
        proxy.delay_s = delay_s
        clip, requests = read(), proxy.requests
        if max(r.started_s for r in requests) <= min(r.last_byte_s for r in requests):
            return clip, requests
    pytest.fail(f"one request waits for another: {requests}")


@pytest.mark.parametrize("first", [0, 17, 44, 104])
@pytest.mark.parametrize("name", ["h264_closed", "h264_gop250"])
def test_a_clip_is_one_batch_of_pinned_ranges_and_few_bytes(
    counting_proxy: CountingProxy,
    counted: ObjectStore,
    s3_store: ObjectStore,
    s3_prefix: str,
    corpus: VideoCorpus,
    name: str,
    first: int,
) -> None:
    uri = f"{s3_prefix}/clip.mp4"
    pin = s3_store.upload(corpus[name], uri)
    build_index(uri, store=s3_store, scan="full").save(uri, store=s3_store)
    video = LazyVideo(uri, store=counted, on_missing_index="raise")
    first = min(first, len(video) - 16)
    clip, requests = _in_flight_together(counting_proxy, lambda: video.get_frames_in_range(first, first + 16))
    assert numbers_of(clip.frames) == list(range(first, first + 16))
    assert _video_gets(requests) == requests, "nothing else is asked for"
    assert len(requests) <= 16
    assert all(r.range and (r.if_match == pin.etag or "versionId" in r.query) for r in requests)
    assert sum(r.bytes_down for r in requests) <= MOST_BYTES * _bytes_fed(video.frame_index, range(first, first + 16))


def _bytes_fed(index: FrameIndex, frames: Sequence[int]) -> int:
    """Bytes of the packets from the key packet to the last one that these frames need, by the index alone."""
    packets = index.packets
    first = min(
        max(
            int(packets.decode_position[k])
            for k in np.flatnonzero(packets.key)
            if packets.decode_position[k] <= packets.decode_position[frame] and packets.pts[k] <= packets.pts[frame]
        )
        for frame in frames
    )
    last = max(int(packets.decode_position[frame]) for frame in frames)
    fed = (packets.decode_position >= first) & (packets.decode_position <= last)
    return int(packets.size[fed].sum())


def test_far_frames_are_fetched_at_the_same_time(
    counting_proxy: CountingProxy, s3_server: S3Server, s3_store: ObjectStore, s3_prefix: str, original: Path
) -> None:
    put_all(s3_store, s3_prefix, files_below(original.parent))
    counted = ObjectStore(storage_options=counting_proxy.storage_options_for(s3_server), max_gap=0)
    video = LazyVideo(f"{s3_prefix}/clip.mp4", store=counted, on_missing_index="raise")
    video.get_frame_at(0)
    clip, requests = _in_flight_together(counting_proxy, lambda: video.get_frames_at([50, 1, 26]))
    assert numbers_of(clip.frames) == [50, 1, 26]
    assert len(requests) >= 3
    assert all(r.if_match for r in requests)


def test_opening_without_a_sidecar_reads_headers_only(
    counting_proxy: CountingProxy, counted: ObjectStore, s3_store: ObjectStore, s3_prefix: str, tmp_path: Path
) -> None:
    for name, muxer_options in (("plain", {}), ("faststart", {"movflags": "faststart"})):
        path = tmp_path / f"{name}.mp4"
        write_video(path, frames=60, gop=2, width=640, height=480, options={"crf": "2"}, muxer_options=muxer_options)
        size = path.stat().st_size
        uri = f"{s3_prefix}/{name}.mp4"
        s3_store.upload(path, uri)
        with pytest.warns(UserWarning, match="No frame index") if name == "plain" else warnings.catch_warnings():
            counting_proxy.reset()
            video = LazyVideo.from_uri(uri, store=counted)
        requests = counting_proxy.requests
        first_packet = int(video.frame_index.packets.size[0])
        looking = [r for r in requests if not r.path.endswith(".mp4")]
        assert len(requests) - len(looking) <= MOST_OPENING_REQUESTS, requests
        assert len(looking) <= MOST_LOOKING_REQUESTS, requests
        assert sum(r.bytes_down for r in requests) < first_packet + 128 * 1024 < size / 4
        assert numbers_of(video.get_frames_at([59, 3]).frames) == [59, 3]


# -- copies and rights ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos with sidecars: two plain ones, one of another container, one of three files."""
    folder = tmp_path_factory.mktemp("collection")
    (folder / "deeper").mkdir()
    for k, name in enumerate(["a.mp4", "deeper/b.mp4", "c.mkv"]):
        with_sidecar(write_video(folder / name, frames=30, gop=10, first_number=100 * k))
    for k, name in enumerate(["parts.mp4", "deeper/part1.mp4", "deeper/part2.mp4"]):
        write_video(folder / name, frames=20, gop=10, first_number=1000 + 20 * k)
    parts = [build_index(folder / n) for n in ("parts.mp4", "deeper/part1.mp4", "deeper/part2.mp4")]
    whole = FrameIndex.concat(
        [i.with_source_uris([n]) for i, n in zip(parts, ("", "deeper/part1.mp4", "deeper/part2.mp4"), strict=True)],
        timestamps="append",
    )
    whole.save(folder / "parts.mp4")
    return folder


WITH_SIDECARS = {"a.mp4": 0, "deeper/b.mp4": 100, "c.mkv": 200, "parts.mp4": 1000}


def _check_collection(where: str, store: ObjectStore) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, number in WITH_SIDECARS.items():
            video = LazyVideo(f"{where}/{name}", store=store, on_missing_index="raise", on_stale_index="raise")
            assert numbers_of(video[::7]) == [number + k for k in range(0, len(video), 7)]


def test_folders_travel_with_their_sidecars(
    folder: Path, s3_store: ObjectStore, s3_prefix: str, tmp_path: Path
) -> None:
    here, memory = ObjectStore(), f"memory://{uuid.uuid4().hex}"
    _check_collection(str(folder), here)
    put_all(s3_store, s3_prefix, files_below(folder))
    _check_collection(s3_prefix, s3_store)
    for meta in s3_store.list(s3_prefix):
        target = tmp_path / "back" / meta.uri.removeprefix(s3_prefix + "/")
        s3_store.download(meta.uri, target)
    _check_collection(str(tmp_path / "back"), here)
    put_all(here, memory, files_below(tmp_path / "back"))
    _check_collection(memory, here)


def test_the_right_to_read_is_enough(
    original: Path, s3_server: S3Server, s3_store: ObjectStore, s3_prefix: str
) -> None:
    put_all(s3_store, s3_prefix, files_below(original.parent))
    reader = ObjectStore(storage_options=s3_server.read_only_options)
    video = LazyVideo(f"{s3_prefix}/clip.mp4", store=reader, on_missing_index="raise")
    assert numbers_of(video[5:8]) == [5, 6, 7]


def test_sidecars_may_lie_elsewhere(
    original: Path, s3_server: S3Server, s3_store: ObjectStore, s3_prefix: str, tmp_path: Path
) -> None:
    uri = s3_store.upload(original, f"{s3_prefix}/some folder/clip.mp4").uri
    reader = ObjectStore(storage_options=s3_server.read_only_options)
    index = build_index(uri, store=reader)
    with pytest.raises(AccessDeniedError) as denied:
        index.save(uri, store=reader)
    check_error(denied.value, naming=s3_prefix)
    index.save(uri, store=reader, index_root=tmp_path / "sidecars")
    video = LazyVideo(uri, store=reader, index_root=tmp_path / "sidecars", on_missing_index="raise")
    assert numbers_of(video[5:8]) == [5, 6, 7]
    assert numbers_of(pickle.loads(pickle.dumps(video))[5:8]) == [5, 6, 7]
    assert not [meta for meta in s3_store.list(s3_prefix) if ".lance" in meta.uri]


def test_further_files_may_be_named(folder: Path, s3_store: ObjectStore, s3_prefix: str) -> None:
    files = files_below(folder)
    put_all(s3_store, s3_prefix, {"x.mp4": files["parts.mp4"], "y/z.mp4": files["deeper/part1.mp4"]})
    uri, further = f"{s3_prefix}/x.mp4", f"{s3_prefix}/y/z.mp4"
    with pytest.warns(UserWarning, match="No frame index"):
        video = LazyVideo(uri, store=s3_store, segment_uris=[further])
    assert video.segment_frame_counts.tolist() == [20, 20]
    video.frame_index.save(uri, store=s3_store)
    for again in (LazyVideo(uri, store=s3_store, on_missing_index="raise"),
                  LazyVideo(uri, store=s3_store, on_missing_index="raise", segment_uris=[further])):  # fmt: skip
        assert numbers_of(again[::3]) == [1000 + k for k in range(0, 40, 3)]


# -- secrets ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG, logger="lazyvid"):
        yield caplog


def test_no_error_shows_the_keys_of_a_store(
    original: Path,
    s3_server: S3Server,
    s3_store: ObjectStore,
    s3_prefix: str,
    logged: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    put_all(s3_store, s3_prefix, files_below(original.parent))
    right, wrong, reader = s3_server.storage_options, s3_server.wrong_options, s3_server.read_only_options
    secrets = {options[name] for options in (right, wrong, reader) for name in ("key", "secret")}
    uri = f"{s3_prefix}/clip.mp4"
    unreachable = {**right, "client_kwargs": {"endpoint_url": "http://127.0.0.1:9", "region_name": "us-east-1"}}
    texts = []
    for options, address, error in (
        (wrong, uri, AccessDeniedError),
        (right, f"{s3_prefix}/missing.mp4", ObjectNotFoundError),
        (right, "s3://no-such-bucket/clip.mp4", ObjectNotFoundError),
        (unreachable, uri, LazyVidError),
    ):
        store = ObjectStore(storage_options=options)
        with pytest.raises(error) as raised:
            LazyVideo(address, store=store)
        check_error(raised.value, naming=address)
        texts += [text_of(raised.value), repr(store), str(store)]
    with pytest.raises(AccessDeniedError) as refused:
        LazyVideo(uri, storage_options=wrong)
    texts.append(text_of(refused.value))
    video = LazyVideo(uri, storage_options=right)
    texts += [repr(video), str(video), f"{video.frame_index!r}", repr(video[:2].shape), repr(video.get_frames_at([0]))]
    with pytest.raises(IndexError) as out_of_range:
        video.get_frame_at(1000)
    with pytest.raises(AccessDeniedError) as denied:
        video.frame_index.save(uri, store=ObjectStore(storage_options=reader))
    texts += [text_of(out_of_range.value), text_of(denied.value), logged.text]
    texts += [str(warning.message) for warning in recwarn]
    check_silent(secrets, *texts)


def test_no_text_shows_the_secrets_of_a_url(original: Path, fault_server: FaultServer) -> None:
    fault_server.objects["clip.mp4"] = original.read_bytes()
    host = fault_server.endpoint_url.removeprefix("http://")
    secrets = ["correct-horse-battery", "0123456789abcdef0123456789abcdef"]
    query = f"?X-Amz-Expires=60&X-Amz-Signature={secrets[1]}"
    uri = f"http://someone:{secrets[0]}@{host}/bucket/clip.mp4{query}"
    with pytest.warns(UserWarning, match="No frame index") as caught:
        video = LazyVideo(uri)
    texts = [repr(video), str(video), *(str(warning.message) for warning in caught)]
    for call in (
        lambda: LazyVideo(uri.replace("clip", "missing")),
        lambda: LazyVideo(uri, on_missing_index="raise"),
        lambda: video.get_frame_at(1000),
        lambda: video.get_frame_played_at(1000.0),
        lambda: LazyVideo(uri, segment_uris=[uri, uri]),
    ):
        with pytest.raises((LazyVidError, ValueError)) as raised:
            call()
        texts.append(text_of(raised.value))
    check_silent(secrets, *texts)
    video.frame_index.save(uri)
    sidecar = {name: data for name, data in fault_server.objects.items() if ".lance/" in name}
    assert sidecar
    for data in sidecar.values():
        assert not [secret for secret in secrets if secret.encode() in data]
    assert numbers_of(LazyVideo(uri, on_missing_index="raise")[:2]) == [0, 1]


def test_pickles_hold_keys_only_where_they_were_given(
    original: Path, s3_server: S3Server, s3_store: ObjectStore, s3_prefix: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    put_all(s3_store, s3_prefix, files_below(original.parent))
    uri, literal = f"{s3_prefix}/clip.mp4", s3_server.storage_options
    secrets = [literal["key"].encode(), literal["secret"].encode()]
    assert all(secret in pickle.dumps(LazyVideo(uri, storage_options=literal)) for secret in secrets)

    named = {"client_kwargs": literal["client_kwargs"]}
    settings = tmp_path / "credentials"
    settings.write_text(f"[lab]\naws_access_key_id={literal['key']}\naws_secret_access_key={literal['secret']}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(settings))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    profile = LazyVideo(uri, storage_options={"profile": "lab", **named})
    monkeypatch.delenv("AWS_SHARED_CREDENTIALS_FILE")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", literal["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", literal["secret"])
    environment = LazyVideo(uri, storage_options=named)
    for video in (profile, environment):
        before = pickle.dumps(video)
        again = pickle.loads(before)
        assert numbers_of(again[:2]) == [0, 1]
        for pickled in (before, pickle.dumps(video), pickle.dumps(again), pickle.dumps(video.lazy_slice(0, 1))):
            assert not [secret for secret in secrets if secret in pickled]
