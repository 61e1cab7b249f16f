"""Runs Lightning from a YAML file: `LightningCLI` with `VideoDataModule`, and no secret in what it saves."""

from __future__ import annotations

import os
import sys

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI, SaveConfigCallback

from lazyvid.storage.masking import mask_options
from lazyvid.training.datamodule import VideoDataModule


class SaveMaskedConfig(SaveConfigCallback):
    """Saves the configuration beside the run's logs, its storage options masked."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Mask before anything is written or handed to a logger."""
        data = self.config.get("data")
        options = None if data is None else data.get("init_args", data)
        if options is not None and options.get("storage_options"):
            options["storage_options"] = mask_options(dict(options["storage_options"]))
        super().setup(trainer, pl_module, stage)


def run() -> None:
    """Run `fit`, `validate`, `test` or `predict` as this process's command line says.

    Models are named by `class_path`; those in the current directory are found, as with `python -m`.

    The command line is LightningCLI's: a subcommand, `--config FILE`, overrides such as `--trainer.max_epochs 3`. It is
    read from `sys.argv`, which Lightning hands on to the other ranks.
    """
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    LightningCLI(
        LightningModule,
        VideoDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        save_config_callback=SaveMaskedConfig,
        save_config_kwargs={"overwrite": True},
    )
