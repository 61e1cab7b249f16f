"""`VideoDataModule`: the videos of a training run for Lightning, from sidecars to normalised batches on the device.

The one file of this room that knows Lightning; everything it does works without it, through `ClipLoader`.
"""

from __future__ import annotations

import dataclasses
import itertools
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import lightning.pytorch as pl
import pyarrow.compute as pc
import torch
from torch import Tensor

from lazyvid.frames import ClipSpec
from lazyvid.index.catalog import Catalog
from lazyvid.stats import ReadStats, process_name, read_stats_besides
from lazyvid.storage import ObjectStore
from lazyvid.training.clip_dataset import ClipDataset
from lazyvid.training.loader import ClipLoader
from lazyvid.training.preparing import SPLIT, uris_of, write_catalog, write_missing_sidecars
from lazyvid.training.samplers import (
    BlockShuffleSampler,
    ClipSampler,
    DistributedClipSampler,
    RandomClipSampler,
    SequentialClipSampler,
)

Videos = str | list[str] | dict[str, str] | dict[str, list[str]]
"""A folder, a glob, URIs, or one of these for each camera; what YAML can say."""
Order = Literal["random", "blocks", "sequential"]
Stage = Literal["train", "val", "test", "predict"]

_STAGES_OF: Mapping[str, tuple[Stage, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}


class VideoDataModule(pl.LightningDataModule):
    """Clips of videos for `Trainer.fit`, `validate`, `test` and `predict`.

    `prepare_data` writes missing sidecars, or brings the catalog up to date, once a node. Frames cross from the
    workers to the device as uint8 and are normalised there. The place in the training epoch is kept in checkpoints,
    the same for every rank, so that a run resumes with the batches that it would have had, also with another number
    of workers. Evaluation reads every clip once over all ranks, without padding.

    Storage options never enter hyperparameters or checkpoints, and what does is plain values: checkpoints load with
    `weights_only=True`.

    Args:
        clip: How clips are cut.
        train: Videos to train on: a folder, a glob, URIs, or one of these for each camera.
        val: Videos to validate on.
        test: Videos to test on.
        predict: Videos to predict for.
        catalog: Where a `Catalog` lies, or is to be made of the videos above; for thousands of videos, opened by one
            request. Its column `split` says for which stage each is; without videos above it is taken as it is.
        batch_size: Clips of a batch, on each rank.
        num_workers: Processes that read, for each rank and stage.
        num_threads: Threads that read, instead of processes.
        multiprocessing_context: Start method of the processes: "forkserver", "spawn" or "fork".
        order: Of training: "random" (windows re-drawn each epoch), "blocks" (shuffled so that neighbours in bytes stay
            near one another) or "sequential".
        seed: Of the order, and of random transforms.
        resize: (height, width) of the frames.
        transform: Called with each training sample, in the worker; random ones are repeated exactly on resume.
        eval_transform: The same for the other stages.
        pixels: "float" gives float32 in [0, 1], after `mean` and `std`; "uint8" leaves frames as they are.
        mean: Of each channel, in [0, 1]; subtracted.
        std: Of each channel; divided by.
        on_error: "raise", or "skip" for clips that cannot be read.
        storage_options: For the store (credentials, endpoint). Name a profile or set environment variables rather than
            write a secret into a YAML file.
        index_root: Folder of the sidecars, where they do not lie beside their videos.
        write_sidecars: Whether `prepare_data` writes those that are missing, or the catalog.

    Raises:
        ValueError: if an argument has a wrong value, or a catalog is to hold videos by camera.
    """

    def __init__(
        self,
        clip: ClipSpec,
        *,
        train: Videos | None = None,
        val: Videos | None = None,
        test: Videos | None = None,
        predict: Videos | None = None,
        catalog: str | None = None,
        batch_size: int = 4,
        num_workers: int = 2,
        num_threads: int = 0,
        multiprocessing_context: str = "forkserver",
        order: Order = "random",
        seed: int = 0,
        resize: tuple[int, int] | None = None,
        transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        eval_transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        pixels: Literal["float", "uint8"] = "float",
        mean: list[float] | None = None,
        std: list[float] | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        storage_options: dict[str, Any] | None = None,
        index_root: str | None = None,
        write_sidecars: bool = True,
    ) -> None:
        super().__init__()
        _check(order=(order, ("random", "blocks", "sequential")), pixels=(pixels, ("float", "uint8")))
        spec = ClipSpec(**clip) if isinstance(clip, Mapping) else clip
        # Plain values, as this argument then comes back: with `weights_only=True` no class is loaded from a checkpoint.
        # What is saved are the arguments as they are now.
        clip = dataclasses.asdict(spec)  # type: ignore[assignment]
        self.save_hyperparameters(ignore=["storage_options", "transform", "eval_transform"])
        self._clip = spec
        self._videos: dict[Stage, Videos | None] = {"train": train, "val": val, "test": test, "predict": predict}
        self._catalog = catalog
        if catalog is not None and any(isinstance(videos, Mapping) for videos in self._videos.values()):
            raise ValueError("Expected videos without camera names for a catalog: it has one row a video.")
        self._loading: dict[str, Any] = {
            "batch_size": batch_size,
            "num_workers": num_workers,
            "num_threads": num_threads,
            "multiprocessing_context": multiprocessing_context,
        }
        self._order, self._seed = order, seed
        self._transforms = {"train": transform}, eval_transform
        self._pixels, self._mean, self._std = pixels, mean, std
        self._store = ObjectStore(storage_options=storage_options)
        self._index_root, self._write_sidecars = index_root, write_sidecars
        self._dataset_options: dict[str, Any] = {"resize": resize, "on_error": on_error}
        self._datasets: dict[Stage, ClipDataset] = {}
        self._loaders: dict[Stage, ClipLoader] = {}
        self._resumed: dict[str, Any] | None = None

    # -- before training ----------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Write the sidecars that are missing, or the catalog; one process a node does it."""
        if not self._write_sidecars:
            return
        found: dict[str, list[str]] = {
            name: uris_of(videos, self._store) for name, videos in self._videos.items() if videos
        }
        if self._catalog is None:
            uris = list(dict.fromkeys(itertools.chain.from_iterable(found.values())))
            write_missing_sidecars(uris, store=self._store, index_root=self._index_root)
        elif found:
            write_catalog(self._catalog, found, store=self._store, index_root=self._index_root)

    def setup(self, stage: str) -> None:
        """Open the videos of a stage.

        Raises:
            ObjectNotFoundError: if a folder or glob finds no video.
        """
        missing = [name for name in _STAGES_OF[stage] if name not in self._datasets]
        catalog = None if self._catalog is None or not missing else Catalog.open(self._catalog, store=self._store)
        for name in missing:
            by_stage, otherwise = self._transforms
            options = {**self._dataset_options, "transform": by_stage.get(name, otherwise)}
            videos = self._videos[name]
            if catalog is not None:
                part = catalog.filter(pc.field(SPLIT) == name)
                if len(part):
                    self._datasets[name] = ClipDataset(part, self._clip, **options)
            elif videos is not None:
                own: dict[str, Any] = {"store": self._store, "index_root": self._index_root}
                self._datasets[name] = ClipDataset(videos, self._clip, **own, **options)

    # -- loaders ------------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> ClipLoader:
        """Shuffled clips; goes on where a checkpoint left off."""
        dataset = self._needed("train")
        sampler: ClipSampler
        if self._order == "random":
            sampler = RandomClipSampler(dataset, seed=self._seed)
        elif self._order == "blocks":
            sampler = BlockShuffleSampler(dataset, seed=self._seed)
        else:
            sampler = SequentialClipSampler(dataset, seed=self._seed)
        loader = self._loader("train", sampler, uneven="drop")
        if self._resumed is not None:
            # Lightning gives the loader its state too, but not where the optimizer asks for the number of steps first.
            loader.load_state_dict(self._resumed)
        return loader

    def val_dataloader(self) -> ClipLoader | list[Any]:
        """Every clip once, in order; nothing where there are no videos."""
        return self._evaluation("val")

    def test_dataloader(self) -> ClipLoader | list[Any]:
        """Every clip once, in order."""
        return self._evaluation("test")

    def predict_dataloader(self) -> ClipLoader | list[Any]:
        """Every clip once, in order."""
        return self._evaluation("predict")

    def _evaluation(self, stage: Stage) -> ClipLoader | list[Any]:
        if self._dataset(stage) is None:
            return []
        tail: Literal["pad", "drop"] = "pad" if self._clip.pad == "repeat" else "drop"
        sampler = SequentialClipSampler(self._needed(stage), tail=tail)
        return self._loader(stage, sampler, uneven="keep")

    def _loader(self, stage: Stage, sampler: ClipSampler, *, uneven: Literal["drop", "keep"]) -> ClipLoader:
        # Not the process group's ranks: under tensor parallelism several of them train on one batch.
        ranks = getattr(self.trainer, "distributed_sampler_kwargs", None) or {"num_replicas": 1, "rank": 0}
        dealt = DistributedClipSampler(sampler, uneven=uneven, **ranks)
        self._close(stage)
        self._loaders[stage] = ClipLoader(self._datasets[stage], sampler=dealt, **self._loading)
        return self._loaders[stage]

    def _dataset(self, stage: Stage) -> ClipDataset | None:
        """The clips of a stage; None where it has no videos."""
        if stage not in self._datasets:
            self.setup({"train": "fit", "val": "validate"}.get(stage, stage))
        return self._datasets.get(stage)

    def _needed(self, stage: Stage) -> ClipDataset:
        dataset = self._dataset(stage)
        if dataset is None:
            raise ValueError(f"Expected videos for {stage!r}, got none: VideoDataModule({stage}=...).")
        return dataset

    # -- on the device ------------------------------------------------------------------------------------------------

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch as it is, uint8 frames without waiting for them."""
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ARG002 - Lightning's signature
        """Make floats of the uint8 frames, on the device."""
        return batch if self._pixels == "uint8" else _normalised(batch, self._mean, self._std)

    # -- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The place in the training epoch."""
        return {"train": self._loaders["train"].state_dict()} if "train" in self._loaders else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there when the training loader is made."""
        self._resumed = state_dict.get("train")

    def teardown(self, stage: str) -> None:
        """End the workers of a stage; may be called more than once."""
        for name in _STAGES_OF[stage]:
            self._close(name)

    def on_exception(self, exception: BaseException) -> None:  # noqa: ARG002 - Lightning's signature
        """End all workers."""
        for name in list(self._loaders):
            self._close(name)

    def _close(self, stage: Stage) -> None:
        if stage in self._loaders:
            self._loaders[stage].close()


class ReadStatsCallback(pl.Callback):
    """Logs what an epoch cost: the counters of `lazyvid.read_stats`, as `lazyvid/requests`, `lazyvid/retries`, ...

    They count all ranks and all that these started: also workers that are at work for the next epoch already.
    """

    def __init__(self) -> None:
        self._other_ranks: list[str] = []
        self._before = ReadStats()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Find out which processes are the other ranks, as Lightning's "ddp" starts them from the first one."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            here = (socket.gethostname(), process_name())
            ranks = [here] * trainer.world_size
            torch.distributed.all_gather_object(ranks, here)
            self._other_ranks = [name for host, name in ranks if host == here[0] and name != here[1]]
        self._before = read_stats_besides(self._other_ranks)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Log what was counted since the last time."""
        now = read_stats_besides(self._other_ranks)
        spent, self._before = dataclasses.asdict(now - self._before), now
        counts = {f"lazyvid/{name}": float(count) for name, count in spent.items()}
        pl_module.log_dict(counts, sync_dist=True, reduce_fx="sum")


def _normalised(batch: Any, mean: Sequence[float] | None, std: Sequence[float] | None) -> Any:
    """The batch with its `frames`, those of each camera, as float32: ([0, 1] - mean) / std."""
    if not isinstance(batch, Mapping):
        return batch
    done = {key: _normalised(value, mean, std) for key, value in batch.items()}
    frames = batch.get("frames")
    if isinstance(frames, Tensor) and frames.dtype == torch.uint8:
        values = frames.to(torch.float32).div_(255)
        if mean is not None:
            values.sub_(torch.tensor(mean, device=values.device).view(-1, 1, 1))
        if std is not None:
            values.div_(torch.tensor(std, device=values.device).view(-1, 1, 1))
        done["frames"] = values
    return done


def _check(**words: tuple[str, tuple[str, ...]]) -> None:
    for name, (value, allowed) in words.items():
        if value not in allowed:
            raise ValueError(f"Invalid {name}={value!r}: expected one of {', '.join(allowed)}.")
