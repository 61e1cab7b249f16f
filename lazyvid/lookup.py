"""`decode_video_frames`: the one call that users of LeRobot know, over `LazyVideo`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lazyvid.clips import Backend
from lazyvid.errors import ObjectChangedError
from lazyvid.lru import ProcessLRU
from lazyvid.video import LazyVideo

_BACKENDS: dict[str | None, Backend] = {None: "pyav", "pyav": "pyav", "torchcodec": "torchcodec"}


def decode_video_frames(
    video_path: str | os.PathLike[str],
    timestamps: Sequence[float],
    tolerance_s: float,
    backend: Literal["torchcodec", "pyav"] | None = None,
) -> Tensor:
    """Decode the frames nearest to these times.

    Args:
        video_path: The video: a local path, or a URL of any scheme that fsspec knows.
        timestamps: Seconds, in any order.
        tolerance_s: How far, in seconds, the nearest frame may be from its time.
        backend: "torchcodec" or "pyav"; None feeds packets from the index, as "pyav" does.

    Returns:
        float32 [N, C, H, W] in [0, 1], RGB, in the order of `timestamps`.

    Raises:
        FrameTimestampError: (a ValueError) if no frame is within the tolerance of a time.
        ValueError: if the backend is another word.
        LazyVidError: if the video cannot be opened or read.
    """
    if backend not in _BACKENDS:
        raise ValueError(f"Unsupported video backend: {backend}. Expected 'torchcodec', 'pyav' or None.")
    key = (os.fspath(video_path), _BACKENDS[backend])
    try:
        clip = _open(key).get_nearest_frames(timestamps, tolerance_s=tolerance_s)
    except ObjectChangedError:  # replaced since the last call: this call has no version to hold on to
        _opened.forget(key)
        clip = _open(key).get_nearest_frames(timestamps, tolerance_s=tolerance_s)
    return clip.frames.to(torch.float32) / 255


def _open(key: tuple[str, Backend]) -> LazyVideo:
    return _opened.get(key, lambda: LazyVideo(key[0], backend=key[1]))


# Handles without files or decoders, so that a forked child may keep them.
_opened: ProcessLRU[tuple[str, Backend], LazyVideo] = ProcessLRU(capacity=256)
