"""A decoder that goes on where it stood gives the pictures of one that starts anew, whatever is asked for in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lazyvid import LazyVideo, read_stats
from lazyvid.decoding import reader
from lazyvid.decoding.pool import DecoderPool
from lazyvid.testing import CORPUS, VideoCorpus
from lazyvid.video import begin_clips

pytestmark = pytest.mark.filterwarnings("ignore:No frame index")

VIDEOS = sorted(name for name, video in CORPUS.items() if len(video.numbers) > 8)
IN_ORDER = [
    *("h264_closed", "h264_open_gop", "h264_gop250", "h264_vfr"),
    *("hevc_open_gop", "av1", "vp9", "mpeg2", "mpeg4"),
]
TRAPS = ["h264_no_reorder_depth", "h264_intra_refresh", "h264_inband_parameters", "h264_edit_list", "vp9_layers"]


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> DecoderPool:
    """A fresh pool that the readers of this test use."""
    fresh = DecoderPool()
    monkeypatch.setattr(reader, "default_pool", lambda: fresh)
    return fresh


@st.composite
def walks(draw: st.DrawFn) -> list[tuple[float, int, int]]:
    """Clips: where each begins (-1.0 is behind the last one), its frames and its stride."""
    begins = st.one_of(st.just(-1.0), st.just(-1.0), st.floats(0, 1))
    return draw(
        st.lists(st.tuples(begins, st.integers(1, 7), st.sampled_from([1, 1, 1, 2, 5])), min_size=2, max_size=9)
    )


def clips_of(walk: Sequence[tuple[float, int, int]], frames: int) -> Iterator[list[int]]:
    behind = 0
    for begin, length, stride in walk:
        first = behind if begin < 0 else int(begin * (frames - 1))
        numbers = list(range(first, min(first + length * stride, frames), stride))
        behind = (numbers[-1] + 1) % frames if numbers else 0
        yield numbers


def _check_walks(video: LazyVideo, pool: DecoderPool, *, examples: int) -> None:
    expected = video[:]
    pool.clear()

    @given(walk=walks())
    @settings(max_examples=examples, database=None, deadline=None, suppress_health_check=[HealthCheck.nested_given])
    def check(walk: list[tuple[float, int, int]]) -> None:
        for numbers in clips_of(walk, len(video)):
            assert torch.equal(video.get_frames_at(numbers).frames, expected[numbers]), numbers

    check()


@pytest.mark.parametrize("name", [*IN_ORDER, *TRAPS])
def test_clips_in_any_order(corpus: VideoCorpus, name: str, pool: DecoderPool) -> None:
    _check_walks(LazyVideo(corpus[name]), pool, examples=6)


@pytest.mark.slow
@pytest.mark.parametrize("name", VIDEOS)
def test_clips_in_any_order_at_length(corpus: VideoCorpus, name: str, pool: DecoderPool) -> None:
    _check_walks(LazyVideo(corpus[name]), pool, examples=100)


@pytest.mark.parametrize("length", [1, 4, 7])
@pytest.mark.parametrize("name", IN_ORDER)
def test_a_video_in_order_is_decoded_once(corpus: VideoCorpus, name: str, length: int, pool: DecoderPool) -> None:
    """But for the first two clips, which show that the rest will follow, and the end, where decoders are drained."""
    video = LazyVideo(corpus[name])
    expected = video[:]
    pool.clear()
    before = read_stats()
    for first in range(0, len(video) - 12, length):
        assert torch.equal(video[first : first + length], expected[first : first + length])
    assert (read_stats() - before).packets_fed <= len(video) + 2 * length + 40


def test_clips_that_are_fetched_ahead_go_on_too(corpus: VideoCorpus, pool: DecoderPool) -> None:
    video = LazyVideo(corpus["h264_gop250"])
    expected = video[:]
    pool.clear()
    before = read_stats()
    numbers = [np.arange(first, min(first + 6, len(video))) for first in range(0, len(video), 6)]
    pending = begin_clips([(video, numbers[0])])
    for k, own in enumerate(numbers):
        ahead = begin_clips([(video, numbers[k + 1])]) if k + 1 < len(numbers) else pending
        assert torch.equal(pending.result()[0].frames, expected[own[0] : own[-1] + 1])
        pending = ahead
    assert (read_stats() - before).packets_fed <= len(video) + 150, "the last clip is decoded from the key packet again"


def test_videos_by_turns_each_go_on(corpus: VideoCorpus, pool: DecoderPool) -> None:
    """As the cameras of a recording do: four contexts of one kind stand at the same time."""
    videos = [LazyVideo(corpus[name]) for name in ("h264_closed", "h264_gop2", "h264_faststart", "h264_fragmented")]
    expected = [video[:] for video in videos]
    pool.clear()
    before = read_stats()
    for first in range(0, 30, 5):
        for video, pixels in zip(videos, expected, strict=True):
            assert torch.equal(video[first : first + 5], pixels[first : first + 5])
    assert (read_stats() - before).packets_fed <= 4 * (30 + 10 + 8)


def test_another_file_with_the_same_index_starts_anew(corpus: VideoCorpus, pool: DecoderPool, tmp_path: Path) -> None:
    path = corpus.copy("h264_gop250", tmp_path)
    one, other = LazyVideo(corpus["h264_gop250"]), LazyVideo(path)
    expected = one[:]
    for first in range(0, 60, 6):
        video = (one, other)[first // 6 % 2]
        assert torch.equal(video[first : first + 6], expected[first : first + 6])
    assert len({decoder.standing.stream for _, decoder in pool._own().contexts.values() if decoder.standing}) <= 2
