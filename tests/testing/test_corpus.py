"""Every file of the corpus shows the numbers it promises, and every trap is still one."""

from __future__ import annotations

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
