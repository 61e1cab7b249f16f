"""The videos that `lazyvid demo` makes when it is given none: a landscape of colours drifting under two discs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lazyvid.recording import VideoWriter

HEIGHT, WIDTH, FPS, GOP = 360, 640, 30, 30

Picture = npt.NDArray[np.uint8]


def write_demo_videos(folder: Path, *, seconds: Sequence[int]) -> Iterator[Path]:
    """Write one H.264 file for each length; each is given when it is done."""
    for number, length in enumerate(seconds):
        path = folder / f"camera-{number}.mp4"
        with VideoWriter(path, FPS, vcodec="h264", g=GOP, preset="veryfast", write_sidecar=False) as writer:
            for picture in _scene(number, frames=length * FPS):
                writer.add_frame(picture)
        yield path


def _scene(seed: int, *, frames: int) -> Iterator[Picture]:
    """RGB uint8 [HEIGHT, WIDTH, 3] pictures, no two alike."""
    landscape = _landscape(seed)
    phase = seed * 1.3
    for number in range(frames):
        t = number / FPS
        top, left = round(90 * np.sin(0.5 * t + phase)) % (2 * HEIGHT), round(60 * t) % (2 * WIDTH)
        picture = landscape[top : top + HEIGHT, left : left + WIDTH].copy()
        for speed, radius, colour in ((1.1, 42, (250, 244, 230)), (-1.7, 24, (28, 30, 44))):
            y = HEIGHT / 2 + 0.33 * HEIGHT * np.sin(speed * t + phase)
            x = WIDTH / 2 + 0.4 * WIDTH * np.cos(0.8 * speed * t + 2 * phase)
            _draw_disc(picture, y, x, radius, colour)
        yield picture


def _landscape(seed: int) -> Picture:
    """Smooth colours that repeat after 2 HEIGHT rows and 2 WIDTH columns, RGB uint8 [3 HEIGHT, 3 WIDTH, 3]."""
    shape = (2 * HEIGHT, 2 * WIDTH)
    noise = np.fft.rfft2(np.random.default_rng(seed).normal(size=shape))
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :])
    frequency[0, 0] = np.inf
    # Falls off like the spectrum of clouds and hills.
    heights = np.fft.irfft2(noise / frequency**1.9, s=shape)
    level = (heights - heights.min()) / (heights.max() - heights.min())
    hues = 2 * np.pi * (0.55 * level[..., None] + 0.17 * seed + np.array([0.0, 0.31, 0.58]))
    colours: Picture = (127 + 92 * np.cos(hues)).astype(np.uint8)
    return np.pad(colours, ((0, HEIGHT), (0, WIDTH), (0, 0)), mode="wrap")


def _draw_disc(picture: Picture, y: float, x: float, radius: int, colour: Any) -> None:
    top, left = max(0, int(y) - radius), max(0, int(x) - radius)
    window = picture[top : int(y) + radius + 1, left : int(x) + radius + 1]
    rows = np.arange(top, top + window.shape[0])[:, None] - y
    columns = np.arange(left, left + window.shape[1])[None, :] - x
    window[rows**2 + columns**2 <= radius**2] = colour
