"""Statistics of pictures that lie in a video, as the encoders give them of pictures that they are fed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from lazyvid.recording.statistics import ImageStatistics, Statistics, image_feature

_SAMPLES = 100
_BYTES = 255.0


def video_statistics(path: Path, frames: int) -> Statistics | None:
    """Statistics of a sample of a video's frames, as an encoder would have given them; None for fewer than two."""
    statistics = ImageStatistics()
    wanted = sampled(frames)
    for number, picture in enumerate(pictures_of(path)):
        if number in wanted:
            statistics.update(picture)
    return feature_of(statistics)


def pictures_of(path: Path) -> Iterator[npt.NDArray[Any]]:
    """The pictures of a local MP4, one after the other: uint8 [H, W, 3], or gray ones as they are."""
    with path.open("rb") as file, av.open(file, "r", format="mp4") as container:
        for frame in container.decode(video=0):
            is_gray = frame.format.name.startswith("gray")
            yield frame.to_ndarray() if is_gray else frame.to_ndarray(format="rgb24")


def sampled(count: int) -> frozenset[int]:
    """Evenly spaced frames: all of a hundred, fewer and fewer of more."""
    wanted = min(count, max(_SAMPLES, int(count**0.75)))
    return frozenset(np.linspace(0, max(count - 1, 0), wanted).astype(int).tolist())


def feature_of(statistics: ImageStatistics) -> Statistics | None:
    """Those of pictures, as of values in [0, 1]; None for fewer than two pictures."""
    return as_feature(statistics.get_statistics()) if statistics.frame_count >= 2 else None


def as_feature(levels: Statistics) -> Statistics:
    """Statistics of levels as those of values in [0, 1]; levels above a byte's are of 16 bits."""
    highest = _BYTES if float(np.max(levels["max"])) <= _BYTES else 65535.0
    return image_feature(levels, highest=highest)
