"""Every file of the corpus shows the numbers it promises, and every trap is still one."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from lazyvid.testing import CORPUS, VideoCorpus, read_frame_number


def shown_numbers(path: Path, *, stream: int = 0, rotation: int = 0) -> list[int]:
    """The numbers of a sequential decode, turned upright."""
    with av.open(str(path)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=stream)]
    return [read_frame_number(np.rot90(frame, k=-rotation // 90)) for frame in frames]


@pytest.mark.parametrize("name", sorted(name for name, video in CORPUS.items() if video.numbers))
def test_a_sequential_decode_shows_the_promised_numbers(corpus: VideoCorpus, name: str) -> None:
    video = CORPUS[name]
    assert shown_numbers(corpus[name], rotation=video.rotation) == list(video.numbers)


class TestVideoCorpus:
    def test_a_file_is_written_once(self, tmp_path: Path) -> None:
        corpus = VideoCorpus(tmp_path)
        written = corpus["h264_intra"].stat()
        again = VideoCorpus(tmp_path)["h264_intra"].stat()
        assert (again.st_ino, again.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
        assert [path.name for path in tmp_path.iterdir()] == ["h264_intra.mp4"]

    def test_a_copy_is_the_callers(self, corpus: VideoCorpus, tmp_path: Path) -> None:
        copy = corpus.copy("h264_intra", tmp_path / "new")
        assert copy.parent == tmp_path / "new"
        assert copy.read_bytes() == corpus["h264_intra"].read_bytes()

    def test_an_unknown_name_is_a_key_error(self, corpus: VideoCorpus) -> None:
        with pytest.raises(KeyError, match="nonsense"):
            corpus["nonsense"]

    def test_files_are_small(self, corpus: VideoCorpus) -> None:
        assert max(corpus[name].stat().st_size for name in corpus) < 400_000


class TestWhatTheNamesPromise:
    """The ordinary files; `test_traps.py` does the same for the others."""

    def test_key_distances(self, corpus: VideoCorpus) -> None:
        distances = {"h264_gop2": 2, "h264_gop250": 120, "h264_intra": 1, "h264_closed": 30}
        for name, distance in distances.items():
            keys = [i for i, packet in enumerate(packets(corpus[name])) if packet.is_keyframe]
            assert keys[:2] == [0, distance][: len(keys)], name
            assert len(keys) == CORPUS[name].numbers[-1] // distance + 1, name

    @pytest.mark.parametrize("name", ["h264_closed", "hevc", "mpeg4", "mpeg2", "h264_ts"])
    def test_b_frames(self, corpus: VideoCorpus, name: str) -> None:
        assert any(packet.pts != packet.dts for packet in packets(corpus[name]))
        times = [packet.pts for packet in packets(corpus[name])]
        assert times != sorted(times)

    def test_ultrafast_has_none(self, corpus: VideoCorpus) -> None:
        times = [packet.pts for packet in packets(corpus["h264_ultrafast"])]
        assert times == sorted(times)

    def test_where_the_boxes_lie(self, corpus: VideoCorpus) -> None:
        assert boxes(corpus["h264_closed"])[-1] == b"moov"
        assert boxes(corpus["h264_faststart"])[:2] == [b"ftyp", b"moov"]
        assert boxes(corpus["h264_fragmented"]).count(b"moof") == 5
        # A finished hybrid file ends in an ordinary moov; its fragments have become part of one mdat.
        assert boxes(corpus["h264_hybrid"])[-1] == b"moov"
        assert corpus["h264_hybrid"].read_bytes().count(b"moof") >= 4

    def test_times(self, corpus: VideoCorpus) -> None:
        assert times_of(corpus["h264_start"])[0] == pytest.approx(1.5)
        steps = {round(b - a, 3) for a, b in pairwise(times_of(corpus["h264_vfr"]))}
        assert steps == {0.007, 0.033, 0.034, 0.09, 0.012, 0.051}

    def test_avi_has_no_presentation_times(self, corpus: VideoCorpus) -> None:
        # These flags replace PyAV's, with which FFmpeg makes times up.
        with av.open(str(corpus["mpeg4_avi"]), options={"fflags": "nofillin"}) as container:
            assert {packet.pts for packet in container.demux(video=0) if packet.size} == {None}

    @pytest.mark.parametrize("degrees", [90, 180, 270])
    def test_rotation(self, corpus: VideoCorpus, degrees: int) -> None:
        with av.open(str(corpus[f"h264_rotated_{degrees}"])) as container:
            assert -next(container.decode(video=0)).rotation % 360 == degrees

    def test_pixels(self, corpus: VideoCorpus) -> None:
        formats = {
            "h264_10bit": ("yuv420p10le", 160, 120),
            "h264_444_odd": ("yuv444p", 161, 121),
            "hevc_444": ("yuv444p", 160, 120),
            "vp9_odd": ("yuv420p", 161, 121),
            "h264_full_range": ("yuvj420p", 160, 120),
        }
        for name, expected in formats.items():
            with av.open(str(corpus[name])) as container:
                frame = next(container.decode(video=0))
                assert (frame.format.name, frame.width, frame.height) == expected, name
                if name == "h264_full_range":
                    assert (frame.colorspace, frame.color_range) == (1, 2)

    def test_streams(self, corpus: VideoCorpus) -> None:
        def kinds(name: str) -> list[str]:
            with av.open(str(corpus[name])) as container:
                return [stream.type for stream in container.streams]

        assert kinds("two_videos") == ["video", "video"]
        assert shown_numbers(corpus["two_videos"], stream=1) == list(range(1000, 1060))
        assert kinds("video_audio") == ["video", "audio"]
        assert kinds("audio_only") == ["audio"]


def packets(path: Path) -> list[av.Packet]:
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(container.streams.video[0]) if packet.size]


def times_of(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.time) for frame in container.decode(video=0)]


def boxes(path: Path) -> list[bytes]:
    """The names of a file's outermost boxes."""
    data, position, names = path.read_bytes(), 0, []
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        names.append(data[position + 4 : position + 8])
        position += size if size != 1 else int.from_bytes(data[position + 8 : position + 16], "big")
    return names


def test_what_another_process_wrote_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"ours")
        (tmp_path / "raced.mp4").write_bytes(b"theirs")

    raced = dataclasses.replace(CORPUS["h264_closed"], write=write)
    monkeypatch.setattr("lazyvid.testing.corpus.CORPUS", {"raced": raced})
    assert VideoCorpus(tmp_path)["raced"].read_bytes() == b"theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["raced.mp4"]
