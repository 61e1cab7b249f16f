#!/usr/bin/env python
"""Train a small model on clips from an S3 server on this machine, and see it learn; under two minutes on a CPU.

The model predicts a clip's last frame from those before it. Copying the frame before is the score to beat: the discs in
the videos move steadily, so where they will be can be read off two frames.

    python scripts/train_example.py
    python scripts/train_example.py --epochs 20 --workers 4
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from lazyvid import ClipSpec, ObjectStore, VideoWriter
from lazyvid.testing import S3Server
from lazyvid.training.datamodule import VideoDataModule

SIZE = 64
FPS = 10


class NextFrame(pl.LightningModule):
    """Predicts the last frame of a clip as the one before it plus what a few convolutions see coming."""

    def __init__(self, *, context: int = 3, width: int = 16, learning_rate: float = 5e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.context, self.learning_rate = context, learning_rate
        self.layers = nn.Sequential(
            nn.Conv2d(3 * context, width, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, width, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, 3, 5, padding=2),
        )
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]  # begins as the copy that is to be beaten

    def forward(self, frames: Tensor) -> Tensor:
        """[N, context, 3, H, W] in [0, 1] to the next frame, [N, 3, H, W]."""
        predicted: Tensor = frames[:, -1] + self.layers(frames.flatten(1, 2))
        return predicted

    def _errors(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Mean squared error of the prediction, and of a copy of the frame before."""
        frames = batch["frames"]
        past, last = frames[:, -self.context - 1 : -1], frames[:, -1]
        return nn.functional.mse_loss(self(past), last), nn.functional.mse_loss(past[:, -1], last)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:  # noqa: ARG002 - Lightning's signature
        """One step down the prediction's error."""
        loss, _ = self._errors(batch)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:  # noqa: ARG002 - Lightning's signature
        """The error on videos that were not trained on, beside a copy's."""
        loss, copy = self._errors(batch)
        size = len(batch["frames"])
        self.log("val_loss", loss, batch_size=size, sync_dist=True)
        self.log("val_copy_loss", copy, batch_size=size, sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


def write_videos(folder: Path, *, videos: int, frames: int, seed: int) -> None:
    """Videos of two discs of random colours, each on a straight way of its own round the picture."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    for number in range(videos):
        places, speeds = rng.uniform(0, SIZE, (2, 2)), rng.uniform(-4, 4, (2, 2))
        colours = rng.integers(80, 256, (2, 3))
        with VideoWriter(folder / f"{number:02d}.mp4", FPS, vcodec="h264", preset="veryfast", g=10, crf=18) as writer:
            for k in range(frames):
                picture = np.full((SIZE, SIZE, 3), 20, np.uint8)
                for place, speed, colour in zip(places, speeds, colours, strict=True):
                    # The shortest way round: a disc that leaves on one side comes in on the other.
                    dy, dx = ((np.stack([y, x]) - (place + k * speed)[:, None, None] + SIZE / 2) % SIZE) - SIZE / 2
                    picture[dy**2 + dx**2 < 81] = colour
                writer.add_frame(picture)


def train(url: str, storage_options: dict[str, Any] | None, *, epochs: int, workers: int) -> dict[str, float]:
    """Train on `url`/train, validate on `url`/val.

    Returns:
        `before` and `after`: the validation error in mean squared levels of [0, 1]; `copy`: that of copying a frame.
    """
    data = VideoDataModule(
        ClipSpec(num_frames=4),
        train=f"{url}/train",
        val=f"{url}/val",
        batch_size=16,
        num_workers=workers,
        storage_options=storage_options,
    )
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_model_summary=False
    )
    model = NextFrame()
    (before,) = trainer.validate(model, datamodule=data, verbose=False)
    trainer.fit(model, datamodule=data)
    (after,) = trainer.validate(model, datamodule=data, verbose=False)
    return {"before": before["val_loss"], "after": after["val_loss"], "copy": after["val_copy_loss"]}


def main() -> None:
    """Videos, a bucket, a run, and what it learnt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, S3Server() as server:
        store = ObjectStore(storage_options=server.storage_options)
        for split, videos in (("train", 24), ("val", 6)):
            (Path(folder) / split).mkdir()
            write_videos(Path(folder) / split, videos=videos, frames=60, seed=videos)
            for path in sorted((Path(folder) / split).glob("*.mp4")):
                store.upload(path, server.url(f"videos/{split}/{path.name}"))
        errors = train(server.url("videos"), server.storage_options, epochs=args.epochs, workers=args.workers)
    print(f"copying the frame before: {errors['copy']:.5f}   before training: {errors['before']:.5f}")
    print(f"after training:           {errors['after']:.5f}   ({errors['copy'] / errors['after']:.1f} times better)")


if __name__ == "__main__":
    main()
