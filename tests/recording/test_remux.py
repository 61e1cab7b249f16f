"""Joined videos hold every frame of each, at its time after those before it; what cannot be joined is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from lazyvid.errors import RecordingDiskFullError, RecordingError, StaleIndexError, TruncatedVideoError, VideoError
from lazyvid.index.frame_index import FrameIndex
from lazyvid.index.probe import build_index, get_audio_info, get_video_info
from lazyvid.recording import VideoWriter, remux
from lazyvid.recording.remux import concatenate_video_files
from lazyvid.testing import VideoCorpus, VideoSpec, painted_frame, read_frame_number, write_streams, write_video
from lazyvid.testing.videos import add_video_stream, video_frame
from lazyvid.video import LazyVideo


def record(path: Path, first: int, frames: int, *, times: Sequence[float] | None = None, **options: Any) -> Path:
    with VideoWriter(path, options.pop("fps", 30), **{"g": 4, "write_sidecar": False} | options) as writer:
        for k in range(frames):
            picture = painted_frame(first + k, width=options.get("width", 96), height=64)
            writer.add_frame(picture, timestamp=None if times is None else times[k])
    return path


def sequential(path: Path) -> tuple[list[int], list[Fraction]]:
    """Frame numbers and times as PyAV alone finds them."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        pictures = list(container.decode(stream))
        times = [picture.pts * stream.time_base for picture in pictures]
        return [read_frame_number(picture.to_ndarray(format="rgb24")) for picture in pictures], times


def pictures(path: Path) -> list[Any]:
    """Luma of every frame as PyAV alone decodes it, first video stream."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="gray") for frame in container.decode(container.streams.video[0])]


def payloads(path: Path, kind: str = "video") -> list[bytes]:
    with av.open(str(path)) as container:
        (stream,) = getattr(container.streams, kind)
        return [bytes(packet) for packet in container.demux(stream) if packet.size]


def litter(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- frames and times -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vcodec", "preset"), [("h264", "ultrafast"), ("h264", "medium"), ("hevc", "medium"), ("libsvtav1", 12)]
)
@pytest.mark.parametrize("fps", [30, Fraction(30_000, 1001), 12.5], ids=str)
def test_every_frame_comes_in_order_on_one_grid(tmp_path: Path, vcodec: str, preset: Any, fps: Any) -> None:
    counts = [7, 12, 5]
    paths = [
        record(tmp_path / f"{k}.mp4", 100 * k, count, vcodec=vcodec, preset=preset, fps=fps)
        for k, count in enumerate(counts)
    ]
    joined = tmp_path / "new" / "folder" / "joined.mp4"
    concatenate_video_files(paths, joined)
    numbers, times = sequential(joined)
    assert numbers == [100 * k + i for k, count in enumerate(counts) for i in range(count)]
    assert times == [i / Fraction(fps) for i in range(sum(counts))]
    assert payloads(joined) == [payload for path in paths for payload in payloads(path)]  # nothing was encoded anew
    index = build_index(joined)
    assert index.end_seconds == pytest.approx(sum(counts) / fps, abs=1e-6)
    assert litter(joined.parent) == ["joined.mp4"]
    video = LazyVideo(joined, frame_index=index)
    order = np.random.default_rng(0).permutation(sum(counts))
    assert [read_frame_number(frame) for frame in video.get_frames_at(order).frames] == [numbers[i] for i in order]


def test_the_header_comes_first(tmp_path: Path) -> None:
    paths = [record(tmp_path / f"{k}.mp4", k, 5) for k in range(2)]
    concatenate_video_files(paths, tmp_path / "joined.mp4")
    data = (tmp_path / "joined.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_one_video_is_joined_to_nothing(tmp_path: Path) -> None:
    path = record(tmp_path / "a.mp4", 0, 9)
    concatenate_video_files([str(path)], str(tmp_path / "b.mp4"))
    assert sequential(tmp_path / "b.mp4") == sequential(path)


def test_an_episode_is_appended_to_the_file_itself(tmp_path: Path) -> None:
    growing, episode = tmp_path / "all.mp4", tmp_path / "episode.mp4"
    record(growing, 0, 6)
    for number in range(1, 4):
        record(episode, 100 * number, 6)
        concatenate_video_files([growing, episode], growing)
    assert sequential(growing)[0] == [100 * k + i for k in range(4) for i in range(6)]
    assert litter(tmp_path) == ["all.mp4", "episode.mp4"]


def test_capture_times_keep_their_distances(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    given = [[float(t) for t in start + np.cumsum(rng.uniform(0.004, 0.2, 10))] for start in (1e9, 2e9)]
    paths = [record(tmp_path / f"{k}.mp4", 100 * k, 10, times=given[k], preset="medium") for k in range(2)]
    concatenate_video_files(paths, tmp_path / "joined.mp4")
    numbers, times = sequential(tmp_path / "joined.mp4")
    assert numbers == [*range(10), *range(100, 110)]
    singly = [sequential(path)[1] for path in paths]
    assert times[:10] == singly[0]
    assert [t - times[10] for t in times[10:]] == [t - singly[1][0] for t in singly[1]]
    assert times[10] == pytest.approx(build_index(paths[0]).end_seconds, abs=1e-6)
    with av.open(str(tmp_path / "joined.mp4")) as container:
        assert float(container.metadata["lazyvid_origin"]) == given[0][0]


def test_a_video_that_starts_late_follows_at_once(tmp_path: Path) -> None:
    late = write_video(tmp_path / "late.mp4", frames=12, first_number=100, start=45)
    first = write_video(tmp_path / "first.mp4", frames=12)
    concatenate_video_files([first, late], tmp_path / "a.mp4")
    assert sequential(tmp_path / "a.mp4")[1] == [Fraction(k, 30) for k in range(24)]
    concatenate_video_files([late, first], tmp_path / "b.mp4")
    assert sequential(tmp_path / "b.mp4")[1] == [Fraction(45 + k, 30) for k in range(24)]


def test_reordering_over_unlike_distances_is_no_obstacle(tmp_path: Path) -> None:
    # The second one's first decoding times lie before the first one's last ones.
    plain = {"frames": 12, "gop": 12, "options": {"bf": "0"}}
    paths = [write_video(tmp_path / "a.mp4", **plain), write_video(tmp_path / "b.mp4", frames=12, first_number=50)]
    extradata = {path: build_index(path).sources[0].extradata for path in paths}
    if len(set(extradata.values())) > 1:  # the codec parameters tell them apart: refused before times are looked at
        with pytest.raises(VideoError, match="extradata"):
            concatenate_video_files(paths, tmp_path / "joined.mp4")
    pts = np.concatenate([np.arange(12), 12 + np.array([0, 4, 2, 1, 3, 8, 6, 5, 7, 11, 10, 9])])
    dts = remux.decode_ticks(pts, tmp_path)
    assert (np.diff(dts) > 0).all()
    assert (dts <= pts).all()
    assert dts[0] == -2


def test_time_bases_may_differ_where_one_holds_both(tmp_path: Path) -> None:
    a = write_video(tmp_path / "a.mp4", frames=10)
    b = write_video(tmp_path / "b.mkv", frames=10, first_number=100)
    concatenate_video_files([b, a], tmp_path / "joined.mp4")
    numbers, times = sequential(tmp_path / "joined.mp4")
    assert numbers == [*range(100, 110), *range(10)]
    assert (np.diff([float(t) for t in times]) > 0.03).all()


@pytest.mark.parametrize("name", ["h264_rotated_90", "h264_full_range", "vp9_odd", "mpeg4", "hevc_444", "av1", "mpeg2"])
def test_what_a_video_looks_like_is_kept(tmp_path: Path, corpus: VideoCorpus, name: str) -> None:
    path = corpus[name]
    concatenate_video_files([path, path], tmp_path / "joined.mp4")
    one, two = build_index(path), build_index(tmp_path / "joined.mp4")
    assert len(two) == 2 * len(one)
    kept = "codec width height pix_fmt rotation hflip color_range color_primaries color_trc colorspace extradata"
    for field in [*kept.split(), "sample_aspect_ratio"]:
        assert getattr(two.sources[0], field) == getattr(one.sources[0], field), field
    numbers = sequential(path)[0] if not one.sources[0].rotation else []
    assert not numbers or sequential(tmp_path / "joined.mp4")[0] == 2 * numbers


def test_hevc_has_the_name_that_all_players_know(tmp_path: Path) -> None:
    paths = [record(tmp_path / f"{k}.mp4", k, 5, vcodec="hevc", preset="ultrafast") for k in range(2)]
    concatenate_video_files(paths, tmp_path / "joined.mp4")
    assert build_index(tmp_path / "joined.mp4").sources[0].codec_tag == "hvc1"


# -- sound, text and further pictures ---------------------------------------------------------------------------------


def test_sound_goes_with_its_frames(tmp_path: Path) -> None:
    specs = [VideoSpec(frames=30, first_number=100 * k) for k in range(3)]
    paths = [write_streams(tmp_path / f"{k}.mp4", [spec], audio_seconds=1.3) for k, spec in enumerate(specs)]
    concatenate_video_files(paths, tmp_path / "joined.mp4")
    joined = tmp_path / "joined.mp4"
    assert sequential(joined)[1] == [Fraction(k, 30) for k in range(90)]  # longer sound moves no frame
    assert get_audio_info(joined)["audio.codec"] == "aac"
    with av.open(str(joined)) as container:
        stream = container.streams.audio[0]
        times = [float(packet.pts * stream.time_base) for packet in container.demux(stream) if packet.size]
    step = 1024 / 16_000
    assert (np.diff(times) > 0).all()
    assert np.diff(times).max() < 1.5 * step  # no gap at the joins
    assert times[-1] == pytest.approx(2 + 1.3, abs=2 * step)
    with av.open(str(joined)) as container:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    loud = np.abs(samples).reshape(-1, 8).max(axis=1) > 0.05  # the tone goes on
    assert loud.mean() > 0.97


def test_two_cameras_in_one_file_stay_together(tmp_path: Path) -> None:
    specs = [[VideoSpec(frames=12, first_number=1000 * c + 100 * k) for c in range(2)] for k in range(2)]
    paths = [write_streams(tmp_path / f"{k}.mp4", pair) for k, pair in enumerate(specs)]
    concatenate_video_files(paths, tmp_path / "joined.mp4")
    for stream in range(2):
        index = build_index(tmp_path / "joined.mp4", stream=stream)
        video = LazyVideo(tmp_path / "joined.mp4", stream=stream, frame_index=index)
        numbers = [read_frame_number(frame) for frame in video.get_frames_in_range(0, 24).frames]
        assert numbers == [1000 * stream + 100 * k + i for k in range(2) for i in range(12)]
        np.testing.assert_allclose(video.timestamps, np.arange(24) / 30)


def write_subtitled(path: Path, first: int) -> Path:
    """12 frames with a text from 0.1 s to 0.3 s."""
    context_module = pytest.importorskip("av.subtitles.codeccontext")
    subtitles = pytest.importorskip("av.subtitles.subtitle")
    if not hasattr(context_module.SubtitleCodecContext, "encode_subtitle"):
        pytest.skip("this PyAV encodes no subtitles")
    spec = VideoSpec(frames=12, first_number=first)
    with av.open(str(path), "w") as container:
        video = add_video_stream(container, spec)
        text: Any = container.add_stream("mov_text")
        text.time_base = text.codec_context.time_base = Fraction(1, 1000)
        text.codec_context.subtitle_header = b"[Script Info]\nScriptType: v4.00+\n[V4+ Styles]\n[Events]\n"
        for position in range(12):
            container.mux(video.encode(video_frame(spec, position)))
        container.mux(video.encode(None))
        dialogue = b"0,0,Default,,0,0,0,,number %d" % first
        packet = text.codec_context.encode_subtitle(subtitles.SubtitleSet.create(dialogue, 0, 200))
        packet.pts = packet.dts = 100
        packet.duration, packet.time_base, packet.stream = 200, Fraction(1, 1000), text
        container.mux(packet)
    return path


def test_text_goes_with_its_frames(tmp_path: Path) -> None:
    paths = [write_subtitled(tmp_path / f"{k}.mp4", 100 * k) for k in range(2)]
    concatenate_video_files(paths, tmp_path / "joined.mp4")
    with av.open(str(tmp_path / "joined.mp4")) as container:
        stream = container.streams.subtitles[0]
        shown = {
            bytes(packet)[2:].split(b"\0")[0]: round(float(packet.pts * stream.time_base), 3)
            for packet in container.demux(stream)
            if packet.size > 2
        }
    assert shown == {b"number 0": 0.1, b"number 100": 0.5}
    assert sequential(tmp_path / "joined.mp4")[1] == [Fraction(k, 30) for k in range(24)]


# -- sidecars ---------------------------------------------------------------------------------------------------------


def test_sidecars_are_merged(tmp_path: Path) -> None:
    given = [[5.0 + 0.1 * k**1.1 for k in range(9)], [1e6 + 0.07 * k for k in range(7)]]
    paths = [
        record(tmp_path / f"{k}.mp4", 100 * k, len(times), times=times, write_sidecar=True)
        for k, times in enumerate(given)
    ]
    singly = [FrameIndex.open(path) for path in paths]
    concatenate_video_files(paths, tmp_path / "joined.mp4")
    index = FrameIndex.open(tmp_path / "joined.mp4")
    assert index.segment_frame_counts().tolist() == [9, 7]
    assert index.timestamps()[:9].tolist() == given[0]  # as they were captured
    np.testing.assert_allclose(index.timestamps(), FrameIndex.concat(singly, timestamps="append").timestamps())
    assert len(index.sources) == 1
    assert (index.packets.crc32 >= 0).all()
    video = LazyVideo(tmp_path / "joined.mp4", on_missing_index="raise")
    frames = video.get_frames_at([15, 0, 9]).frames
    assert [read_frame_number(frame) for frame in frames] == [106, 0, 100]


def test_a_growing_file_gets_a_segment_for_each_episode(tmp_path: Path) -> None:
    growing, episode = tmp_path / "all.mp4", tmp_path / "episode.mp4"
    record(growing, 0, 6, write_sidecar=True)
    for number in range(1, 4):
        record(episode, 100 * number, 5, write_sidecar=True)
        concatenate_video_files([growing, episode], growing)
    index = FrameIndex.open(growing)
    assert index.segment_frame_counts().tolist() == [6, 5, 5, 5]
    np.testing.assert_allclose(index.timestamps(), np.arange(21) / 30)


def test_without_all_sidecars_there_is_none_and_no_old_one(tmp_path: Path) -> None:
    a, b = record(tmp_path / "a.mp4", 0, 6, write_sidecar=True), record(tmp_path / "b.mp4", 100, 6)
    concatenate_video_files([a, b], a)
    assert litter(tmp_path) == ["a.mp4", "b.mp4"]


def test_a_sidecar_of_another_file_stops_it(tmp_path: Path) -> None:
    a, b = (record(tmp_path / f"{name}.mp4", 0, 6, write_sidecar=True) for name in "ab")
    b.write_bytes(record(tmp_path / "c.mp4", 0, 9).read_bytes())
    with pytest.raises(StaleIndexError):
        concatenate_video_files([a, b], tmp_path / "joined.mp4")
    assert not (tmp_path / "joined.mp4").exists()


# -- what cannot be ---------------------------------------------------------------------------------------------------


def test_no_inputs_and_missing_inputs_are_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="input_video_paths"):
        concatenate_video_files([], tmp_path / "joined.mp4")
    a = record(tmp_path / "a.mp4", 0, 3)
    with pytest.raises(FileNotFoundError, match=r"missing\.mp4"):
        concatenate_video_files([a, tmp_path / "missing.mp4"], tmp_path / "joined.mp4")
    assert litter(tmp_path) == ["a.mp4"]


def test_an_output_that_is_there_is_left_unless_told_otherwise(tmp_path: Path) -> None:
    a, b = record(tmp_path / "a.mp4", 0, 5), record(tmp_path / "b.mp4", 100, 5)
    before = b.read_bytes()
    with pytest.warns(UserWarning, match="there already"):
        concatenate_video_files([a, a], b, overwrite=False)
    assert b.read_bytes() == before
    concatenate_video_files([a, a], b)
    assert sequential(b)[0] == [*range(5), *range(5)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fps": 25}, "frame rate, 30 per second, found 25 per second"),
        ({"width": 128}, "video size, 96x64, found 128x64"),
        ({"vcodec": "hevc", "preset": "ultrafast"}, "video codec, h264, found hevc"),
        ({"pix_fmt": "yuv444p"}, "video pixel format, yuv420p, found yuv444p"),
        ({"options": {"profile": "baseline"}}, "extradata"),
        ({"times": [0.0, 0.1, 0.15, 0.4, 0.5]}, "frame rate, 30 per second, found a varying one"),
    ],
)
def test_unlike_videos_are_refused_and_say_why(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    width = changes.pop("width", 96)
    a, b = record(tmp_path / "a.mp4", 0, 5), tmp_path / "b.mp4"
    with VideoWriter(
        b, **{"fps": 30, "g": 4, "write_sidecar": False} | {k: v for k, v in changes.items() if k != "times"}
    ) as writer:
        for k in range(5):
            times = changes.get("times")
            writer.add_frame(painted_frame(k, width=width, height=64), timestamp=times[k] if times else None)
    with pytest.raises(VideoError, match=message) as caught:
        concatenate_video_files([a, b], tmp_path / "joined.mp4")
    assert "a.mp4" in str(caught.value)
    assert "b.mp4" in str(caught.value)
    assert litter(tmp_path) == ["a.mp4", "b.mp4"]


def test_files_with_unlike_streams_are_refused(tmp_path: Path, corpus: VideoCorpus) -> None:
    with pytest.raises(VideoError, match="streams, video, found video, audio"):
        concatenate_video_files([corpus["h264_gop2"], corpus["video_audio"]], tmp_path / "joined.mp4")


def test_every_kind_of_video_is_joined_rightly_or_refused(
    tmp_path: Path, corpus: VideoCorpus, corpus_name: str
) -> None:
    path, joined = corpus[corpus_name], tmp_path / "joined.mp4"
    refused = {
        "audio_only": "video stream",
        "edit_list": "edit list",
        "vp8": "MP4 cannot hold vp8",
        "inband": "parameters change",
    }
    reason = next((why for part, why in refused.items() if part in corpus_name), None)
    if reason is not None:
        with pytest.raises(VideoError, match=reason):
            concatenate_video_files([path, path], joined)
        assert litter(tmp_path) == []
        return
    concatenate_video_files([path, path], joined)
    one, two = pictures(path), pictures(joined)
    assert len(two) == 2 * len(one)
    for number, (single, twice) in enumerate(zip(one + one, two, strict=True)):
        np.testing.assert_array_equal(twice, single, err_msg=f"frame {number}")


def test_a_damaged_input_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    a, b = record(tmp_path / "a.mp4", 0, 20), tmp_path / "b.mp4"
    concatenate_video_files([a], b)  # its header comes first, so that a cut leaves it readable
    b.write_bytes(b.read_bytes()[:-500])
    with pytest.raises(TruncatedVideoError, match=r"b\.mp4"):
        concatenate_video_files([a, b], tmp_path / "joined.mp4")
    (tmp_path / "c.mp4").write_bytes(b"no video at all")
    with pytest.raises(VideoError, match=r"c\.mp4"):
        concatenate_video_files([a, tmp_path / "c.mp4"], tmp_path / "joined.mp4")
    assert litter(tmp_path) == ["a.mp4", "b.mp4", "c.mp4"]


def test_other_containers_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.mp4"):
        concatenate_video_files([record(tmp_path / "a.mp4", 0, 3)], tmp_path / "joined.mkv")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_the_inputs_and_the_old_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def always_full(target: Path) -> Iterator[Path]:
        yield Path("/dev/full")

    a, b = record(tmp_path / "a.mp4", 0, 60), record(tmp_path / "b.mp4", 100, 5)
    before = b.read_bytes()
    monkeypatch.setattr(remux, "temporary_beside", always_full)
    with pytest.raises(RecordingDiskFullError, match=r"b\.mp4.*disk is full"):
        concatenate_video_files([a, a], b)
    assert b.read_bytes() == before
    assert litter(tmp_path) == ["a.mp4", "b.mp4"]


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = record(tmp_path / "a.mp4", 0, 5)
    (tmp_path / "b.mp4").mkdir()
    with pytest.raises((RecordingError, OSError), match=r"b\.mp4"):
        concatenate_video_files([path, path], tmp_path / "b.mp4")
    assert litter(tmp_path) == ["a.mp4", "b.mp4"]


def test_info_of_the_joined_video_is_that_of_its_parts(tmp_path: Path) -> None:
    path = record(tmp_path / "a.mp4", 0, 9)
    concatenate_video_files([path, path], tmp_path / "b.mp4")
    assert get_video_info(tmp_path / "b.mp4") == get_video_info(path)
