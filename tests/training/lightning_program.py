"""A training run in a process of its own: trains as a JSON file says, and each rank writes down what it was given.

    python lightning_program.py order.json

Also imported by tests, for runs in their own process.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from loader_samples import jitter

from lazyvid import ClipSpec, LazyVideo
from lazyvid.testing import read_frame_number
from lazyvid.training.datamodule import ReadStatsCallback, VideoDataModule

Seen = list[list[Any]]


class Witness(pl.LightningModule):
    """Learns nothing, and writes down every batch: [epoch, batch, frame numbers, noise of the transform]."""

    def __init__(self, *, asks_for_steps: bool = False) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.asks_for_steps = asks_for_steps
        self.seen: Seen = []
        self.validated: list[int] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        shown = [read_frame_number(frame) for frame in batch["frames"].flatten(0, 1)]
        self.seen.append([self.current_epoch, batch_idx, shown, batch["noise"].tolist()])
        return self.layer(torch.ones(1)).sum()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.validated += [read_frame_number(frame) for frame in batch["frames"][:, 0]]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.asks_for_steps:
            assert self.trainer.estimated_stepping_batches > 0  # makes Lightning ask for the loader early
        return torch.optim.SGD(self.parameters(), 0.0)


class Killed(Callback):
    """Kills this process at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def every_step(folder: Path) -> list[Callback]:
    """Checkpoints after each step, and at each epoch's end."""
    names: dict[str, Any] = {"dirpath": folder, "save_top_k": -1, "auto_insert_metric_name": False}
    return [
        ModelCheckpoint(every_n_train_steps=1, filename="s{step}", **names),
        ModelCheckpoint(every_n_epochs=1, filename="e{epoch}", save_on_train_epoch_end=True, **names),
    ]


def trainer_of(*, epochs: int, callbacks: list[Callback] | None = None, **options: Any) -> pl.Trainer:
    """A quiet trainer on the CPU."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks or ()),
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def data_of(videos: str, **options: Any) -> VideoDataModule:
    """Clips of four frames under a random transform."""
    return VideoDataModule(ClipSpec(4), train=videos, transform=jitter, pixels="uint8", **{"batch_size": 2, **options})


def main(order: dict[str, Any]) -> None:
    """Run as ordered."""
    if order.get("open_first"):
        assert len(LazyVideo(order["open_first"])) > 0  # the parent of a fork has used what its children use
    out = Path(order["out"])
    model = Witness()
    callbacks: list[Callback] = every_step(out / "checkpoints") if order.get("checkpoints") else []
    if order.get("kill_at") and int(os.environ.get("LOCAL_RANK", "0")) == order.get("kill_rank", 0):
        callbacks.append(Killed(order["kill_at"]))
    trainer = trainer_of(
        epochs=order["epochs"], callbacks=callbacks or None, devices=order["devices"], strategy=order["strategy"]
    )
    trainer.callbacks += [ReadStatsCallback(), Write(out)]  # type: ignore[attr-defined]
    trainer.fit(
        model,
        datamodule=data_of(order["videos"], **order["data"]),
        ckpt_path=order.get("checkpoint"),
        weights_only=True,
    )


class Write(Callback):
    """Writes down what a rank was given, when it has done its part."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.counted: list[float] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.counted.append(float(trainer.callback_metrics["lazyvid/frames_returned"]))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        text = json.dumps({"seen": pl_module.seen, "validated": pl_module.validated, "counted": self.counted})
        (self.out / f"rank{trainer.global_rank}.json").write_text(text)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main(json.loads(Path(sys.argv[1]).read_text()))
