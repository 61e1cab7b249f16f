"""The values that travel between the parts: clips through a DataLoader, windows and their bounds, checked specs."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from lazyvid.frames import Clip, ClipSpec, Frame, Limits, Window

METADATA = {"robot": 7}


def make_clip(number: int, *, frames: int = 3, durations: bool = True) -> Clip:
    """A clip whose pixels, times and numbers all say `number`."""
    return Clip(
        frames=torch.full((frames, 3, 4, 5), number, dtype=torch.uint8),
        timestamps=torch.arange(frames, dtype=torch.float64) + number,
        frame_indices=torch.arange(frames) + number,
        start=float(number),
        end=float(number + frames),
        metadata=METADATA,
        durations=torch.ones(frames, dtype=torch.float64) if durations else None,
    )


class Clips(Dataset[Clip]):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, number: int) -> Clip:
        return make_clip(number)


class TestClip:
    def test_it_gives_its_frames_one_by_one_without_a_copy(self) -> None:
        clip = make_clip(9)
        frames = list(clip)
        assert [(f.timestamp, f.frame_index, f.duration) for f in frames] == [
            (9.0, 9, 1.0),
            (10.0, 10, 1.0),
            (11.0, 11, 1.0),
        ]
        frames[1].data.fill_(0)
        assert clip.frames[1].sum() == 0
        assert clip.frames[0].sum() > 0
        assert clip[-1].frame_index == 11
        with pytest.raises(IndexError):
            clip[3]

    def test_unknown_durations_are_zero_in_its_frames(self) -> None:
        assert make_clip(1, durations=False)[0].duration == 0.0

    def test_it_answers_to_torchcodecs_names(self) -> None:
        clip = make_clip(2)
        assert clip.data is clip.frames
        assert clip.pts_seconds is clip.timestamps
        assert clip.duration_seconds is clip.durations
        assert (clip[0].pts_seconds, clip[0].duration_seconds) == (2.0, 1.0)

    def test_to_moves_the_frames_and_keeps_the_rest(self) -> None:
        clip = make_clip(3)
        moved = clip.to("meta")
        assert moved.frames.device.type == "meta"
        assert moved.timestamps is clip.timestamps
        assert moved.metadata is METADATA

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a CUDA device")
    def test_pin_memory_locks_the_frames(self) -> None:
        assert make_clip(3).pin_memory().frames.is_pinned()

    def test_it_survives_a_pickle(self) -> None:
        clip = make_clip(4)
        copy = pickle.loads(pickle.dumps(clip))
        assert torch.equal(copy.frames, clip.frames)
        assert (copy.start, copy.end, copy.metadata) == (clip.start, clip.end, METADATA)

    def test_its_repr_names_shapes_and_no_pixels(self) -> None:
        assert repr(make_clip(5)).startswith("Clip(frames=uint8[3, 3, 4, 5], timestamps=float64[3]")
        assert repr(make_clip(5)[0]) == "Frame(data=uint8[3, 4, 5], timestamp=5.0, frame_index=5)"


@pytest.mark.parametrize(("workers", "start_method"), [(0, None), (2, "fork"), (1, "spawn")])
def test_a_plain_data_loader_batches_clips(workers: int, start_method: str | None) -> None:
    loader: Any = DataLoader(Clips(), batch_size=2, num_workers=workers, multiprocessing_context=start_method)
    batches = list(loader)
    assert [type(batch) for batch in batches] == [Clip] * 3
    for k, batch in enumerate(batches):
        one, two = make_clip(2 * k), make_clip(2 * k + 1)
        assert torch.equal(batch.frames, torch.stack([one.frames, two.frames]))
        assert torch.equal(batch.timestamps, torch.stack([one.timestamps, two.timestamps]))
        assert batch.timestamps.dtype == torch.float64
        assert torch.equal(batch.frame_indices, torch.stack([one.frame_indices, two.frame_indices]))
        assert batch.start.tolist() == [one.start, two.start]
        assert batch.end.tolist() == [one.end, two.end]
        assert batch.metadata == [METADATA, METADATA]
        assert batch.durations is not None
        assert batch.durations.shape == (2, 3)


def test_durations_that_one_clip_lacks_are_left_out_of_the_batch() -> None:
    batch = torch.utils.data.default_collate([make_clip(1), make_clip(2, durations=False)])
    assert batch.durations is None


def test_clips_in_a_sample_are_batched_where_they_lie() -> None:
    batch = torch.utils.data.default_collate([{"clip": make_clip(1), "label": 1}, {"clip": make_clip(2), "label": 2}])
    assert batch["clip"].frames.shape == (2, 3, 3, 4, 5)
    assert batch["label"].tolist() == [1, 2]


def test_clips_of_unlike_shapes_are_not_batched() -> None:
    with pytest.raises(RuntimeError, match="equal size"):
        torch.utils.data.default_collate([make_clip(1), make_clip(2, frames=2)])


class TestWindow:
    def test_its_length_is_its_frames(self) -> None:
        assert len(Window(0, 3, 7)) == 4
        assert len(Window(0, 3, 3)) == 0

    def test_it_does_not_run_backwards(self) -> None:
        with pytest.raises(ValueError, match="start 4 lies after stop 3"):
            Window(0, 4, 3)

    def test_from_seconds_takes_the_frames_that_begin_in_the_range(self) -> None:
        times = np.array([0.0, 0.1, 0.25, 0.3])
        assert Window.from_seconds(2, 0.1, 0.3, timestamps=times) == Window(2, 1, 3)
        assert len(Window.from_seconds(2, 5.0, 6.0, timestamps=times)) == 0
        assert len(Window.from_seconds(2, 0.3, 0.1, timestamps=times)) == 0

    def test_it_is_a_key(self) -> None:
        assert {Window(1, 2, 3): "a"}[pickle.loads(pickle.dumps(Window(1, 2, 3)))] == "a"

    def test_its_seed_travels_with_it_and_is_no_part_of_it(self) -> None:
        seeded = Window(1, 2, 3, seed=4)
        assert seeded == Window(1, 2, 3)
        assert len({seeded, Window(1, 2, 3), Window(1, 2, 3, seed=5)}) == 1
        assert pickle.loads(pickle.dumps(seeded)).seed == 4
        assert Window(1, 2, 3).seed is None


class TestClipSpec:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_frames": 0}, "num_frames"),
            ({"num_frames": 4, "frame_stride": 0}, "frame_stride"),
            ({"num_frames": 4, "step": 0}, "step"),
            ({"num_frames": 4, "fps": 0.0}, "fps"),
            ({"num_frames": 4, "fps": -1.0}, "fps"),
            ({"num_frames": 4, "fps": float("nan")}, "fps"),
            ({"num_frames": 4, "fps": 10.0, "frame_stride": 2}, "not both"),
            ({"num_frames": 4, "pad": "zeros"}, "pad"),
        ],
    )
    def test_wrong_values_are_named(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ClipSpec(**arguments)

    def test_the_span_counts_the_frames_stepped_over(self) -> None:
        assert ClipSpec(1).span == 1
        assert ClipSpec(16).span == 16
        assert ClipSpec(8, frame_stride=8).span == 57


class TestLimits:
    @pytest.mark.parametrize("name", ["pixels", "frames", "index_bytes", "span_bytes"])
    @pytest.mark.parametrize("value", [0, -1, 1.5, None])
    def test_each_is_a_positive_int(self, name: str, value: object) -> None:
        with pytest.raises(ValueError, match=rf"Limits\.{name}"):
            Limits(**{name: value})

    def test_the_defaults_hold(self) -> None:
        assert Limits(pixels=1) == Limits(pixels=1, frames=Limits().frames)


def test_a_frame_is_compared_by_identity() -> None:
    # Tensors have no single truth value: == on frames must not be tried field by field.
    frame = Frame(torch.zeros(1), 0.0, 0)
    assert frame == frame
    assert frame != Frame(torch.zeros(1), 0.0, 0)
