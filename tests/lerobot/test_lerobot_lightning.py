"""A Lightning run over a LeRobot dataset sees every frame of an epoch once, in the sampler's order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lerobot_independent import CAMERAS, Plan

from lazyvid import ClipLoader, RandomClipSampler
from lazyvid.lerobot import LeRobotDataset

# Lightning's own, of torch's trees and of how many workers it would like.
pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_lightning_run_sees_each_frame_once_an_epoch(v3: Path, plan: Plan) -> None:
    lightning = pytest.importorskip("lightning.pytorch", reason="needs the extra `lightning`")
    dataset = LeRobotDataset(v3, delta_timestamps={CAMERAS[0]: [-1 / 30, 0.0]})
    seen: list[int] = []

    class Model(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.weights = torch.nn.Linear(3, 1)

        def training_step(self, batch: dict[str, Any]) -> Any:
            seen.extend(batch["index"].tolist())
            return self.weights(batch[CAMERAS[0]].mean(dim=(1, 3, 4))).mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=2,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Model(), ClipLoader(dataset, sampler=RandomClipSampler(dataset, seed=1), batch_size=8))
    first, second = seen[: plan.total], seen[plan.total :]
    assert sorted(first) == sorted(second) == list(range(plan.total))
    assert first != second
