"""What cannot be sent to workers is named before they start, and what can be is let pass."""

from __future__ import annotations

import functools
import multiprocessing
import pickle
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset_samples import Compose, double_brightness, jitter
from torch.utils.data import DataLoader

from lazyvid.frames import ClipSpec
from lazyvid.training import ClipDataset, FrameDataset, collate_clips
from lazyvid.training.checks import check_picklable
from lazyvid.video import LazyVideo


def local_function() -> Any:
    def local(sample: Any) -> Any:
        return sample

    return local


class Nested:
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, sample: Any) -> Any:
        return sample

    def method(self, sample: Any) -> Any:
        return sample


@pytest.mark.parametrize(
    ("transform", "where"),
    [
        (lambda sample: sample, r"dataset\.transform cannot.*<lambda>"),
        (local_function(), r"dataset\.transform cannot.*local_function"),
        (
            Compose([jitter, Compose([double_brightness, local_function()])]),
            r"\.transforms\[1\]\.transforms\[1\] cannot",
        ),
        (functools.partial(jitter, key=lambda: 0), r"\['key'\] cannot"),
        (Nested({"of": threading.Lock()}), r"\.transform\.inner\['of'\] cannot.*lock"),
        (Nested(local_function()).method, r"\.inner cannot"),
    ],
    ids=["lambda", "local", "composed", "partial", "lock", "method"],
)
def test_the_part_that_cannot_be_sent_is_named(folder: Path, transform: Any, where: str) -> None:
    with pytest.raises(TypeError, match=where) as caught:
        check_picklable(ClipDataset(folder, ClipSpec(4), transform=transform))
    assert "fork" in str(caught.value)
    with pytest.raises(TypeError, match="transform"):
        check_picklable(FrameDataset(folder, transform=transform))


def test_metadata_of_videos_is_part_of_the_dataset(folder: Path) -> None:
    video = LazyVideo(folder / "0.mp4", metadata={"lab": local_function()})
    with pytest.raises(TypeError, match=r"\['lab'\] cannot"):
        check_picklable(ClipDataset([video], ClipSpec(4)))


def test_what_can_be_sent_passes(folder: Path) -> None:
    holder = Nested([multiprocessing.get_context("spawn").Lock(), torch.zeros(3), np.zeros(3), torch.nn.Linear(2, 2)])
    for transform in (None, jitter, Compose([jitter]), functools.partial(jitter), holder):
        check_picklable(ClipDataset(folder, ClipSpec(4), transform=transform))


@pytest.mark.filterwarnings("ignore:Got pickle error")  # torch's own words, which name nothing
@pytest.mark.parametrize("context", ["forkserver", "spawn"])
def test_a_plain_loader_says_it_too(folder: Path, context: str) -> None:
    dataset = ClipDataset(folder, ClipSpec(4), transform=Compose([local_function()]))
    loader = DataLoader(dataset, batch_size=2, num_workers=1, multiprocessing_context=context)
    with pytest.raises(TypeError, match=r"transform\.transforms\[0\] cannot be pickled.*top of a module.*'fork'"):
        iter(loader)
    # What is not sent now is left to whoever pickles: another pickler may be able to.
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(dataset)


def test_with_fork_anything_goes(folder: Path) -> None:
    dataset = ClipDataset(folder, ClipSpec(4), transform=local_function())
    loader = DataLoader(
        dataset, batch_size=4, num_workers=1, multiprocessing_context="fork", collate_fn=collate_clips, timeout=240
    )
    assert sum(len(batch["frames"]) for batch in loader) == len(dataset)


@pytest.mark.slow
def test_a_function_of_an_interactive_session_is_named(folder: Path) -> None:
    code = f"""
        from torch.utils.data import DataLoader
        from lazyvid.training import ClipDataset, ClipSpec
        def brighten(sample): return sample
        dataset = ClipDataset({str(folder)!r}, ClipSpec(4), transform=brighten)
        try: iter(DataLoader(dataset, num_workers=1, multiprocessing_context="spawn"))
        except TypeError as error: print(error)
    """
    # As in a notebook, where `__main__` is no file.
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=240, check=True
    )
    assert "dataset.transform" in done.stdout or "but transform cannot be pickled" in done.stdout
    assert "interactive session" in done.stdout


@pytest.mark.slow
def test_a_missing_main_guard_is_named_in_the_worker(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(
            f"""
            from torch.utils.data import DataLoader
            from lazyvid.training import ClipDataset, ClipSpec
            dataset = ClipDataset({str(folder)!r}, ClipSpec(4))
            next(iter(DataLoader(dataset, num_workers=1, multiprocessing_context="spawn")))
            """
        )
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=240)
    assert done.returncode
    assert "if __name__ == '__main__'" in done.stderr
