"""`VideoDataModule` in real Lightning runs: resumed anywhere, over ranks, from YAML, no secret in what it saves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_program import Seen, Witness, data_of, every_step, trainer_of

from lazyvid.frames import ClipSpec
from lazyvid.storage import ObjectStore
from lazyvid.testing import S3Server, read_frame_number
from lazyvid.training.datamodule import ReadStatsCallback, VideoDataModule

PROGRAM = Path(__file__).with_name("lightning_program.py")
STEPS = 8
"""Of an epoch: 16 windows of four frames in the folder, two a batch."""

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own


def fit(
    videos: str, *, epochs: int, asks: bool = False, checkpoint: Path | None = None, callbacks: Any = None, **data: Any
) -> Seen:
    model = Witness(asks_for_steps=asks)
    trainer = trainer_of(epochs=epochs, callbacks=callbacks)
    module = data_of(videos, **data)
    trainer.fit(model, datamodule=module, ckpt_path=None if checkpoint is None else str(checkpoint), weights_only=True)
    return model.seen


@pytest.fixture(scope="module")
def whole(folder: Path) -> Seen:
    """An uninterrupted run of three epochs."""
    return fit(str(folder), epochs=3, num_workers=0)


def steps_of(seen: Seen) -> int:
    return len(seen) // 3


def test_an_epoch_is_every_window_once_and_redrawn(whole: Seen) -> None:
    assert len(whole) % 3 == 0
    epochs = [[shown for epoch, _, shown, _ in whole if epoch == number] for number in range(3)]
    for batches in epochs:
        windows = [first for shown in batches for first in shown[::4]]
        assert len(windows) == len(set(windows)) == 23 // 4 + 8 // 4 + 40 // 4
    assert epochs[0] != epochs[1] != epochs[2]


RESUMES = [(workers, asks) for workers in (0, 2) for asks in (False, True)]


@pytest.mark.parametrize(
    ("workers", "asks"), [RESUMES[0], *(pytest.param(*r, marks=pytest.mark.slow) for r in RESUMES[1:])]
)
def test_resume_at_every_step_gives_the_rest(
    folder: Path, whole: Seen, tmp_path: Path, workers: int, asks: bool
) -> None:
    data: dict[str, Any] = {"num_workers": workers}
    saved = fit(str(folder), epochs=2, asks=asks, callbacks=every_step(tmp_path), **data)
    steps = steps_of(whole)
    assert saved == whole[: 2 * steps]
    cases = {f"s{done}": done for done in range(1, 2 * steps + 1)} | {"e0": steps, "e1": 2 * steps}
    if workers == 0 and not asks:  # the rest of the matrix is slow
        cases = {name: cases[name] for name in ("s1", f"s{steps - 1}", f"s{steps}", f"s{steps + 1}", "e0", "e1")}
    other = {"num_workers": 4 if workers else 0}
    for name, done in cases.items():
        rest = fit(str(folder), epochs=3, asks=asks, checkpoint=tmp_path / f"{name}.ckpt", **other)
        assert rest == whole[done:], name


def test_resume_from_two_workers_to_threads(folder: Path, whole: Seen, tmp_path: Path) -> None:
    data: dict[str, Any] = {"num_workers": 2, "multiprocessing_context": "fork"}
    fit(str(folder), epochs=1, callbacks=every_step(tmp_path), **data)
    rest = fit(str(folder), epochs=3, checkpoint=tmp_path / "s3.ckpt", num_workers=0, num_threads=2)
    assert rest == whole[3:]


def test_a_checkpoint_holds_plain_values_alone(folder: Path, tmp_path: Path, whole: Seen) -> None:
    """By default, too, nothing but numbers and texts comes out of it, the data module's own arguments among them."""
    clip = ClipSpec(4, frame_stride=2, pad="repeat")
    for module in (
        data_of(str(folder), num_workers=0),
        VideoDataModule(clip, train={"front": str(folder)}, num_workers=0),
    ):
        trainer = trainer_of(epochs=1, callbacks=every_step(tmp_path), limit_train_batches=1)
        trainer.fit(Blind(), datamodule=module)
        path = next(tmp_path.glob("s*.ckpt"))
        assert torch.load(path, weights_only=True)["datamodule_hyper_parameters"] == module.hparams
        again = VideoDataModule.load_from_checkpoint(path, weights_only=True)
        assert again.hparams == module.hparams
        assert again._clip == module._clip
        path.unlink()
    fit(str(folder), epochs=1, callbacks=every_step(tmp_path), num_workers=0)
    rest = Witness()  # as a user resumes, who gives neither True nor False
    data = data_of(str(folder), num_workers=0)
    trainer_of(epochs=1).fit(rest, datamodule=data, ckpt_path=str(tmp_path / "s3.ckpt"))
    assert rest.seen == whole[3 : steps_of(whole)]


class Blind(Witness):
    """Takes whatever it is given."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        return self.layer(torch.ones(1)).sum()


# -- ranks ------------------------------------------------------------------------------------------------------------


def run(out: Path, videos: str, *, code: int = 0, **order: Any) -> list[dict[str, Any]]:
    """A run in a process of its own; what each rank was given."""
    out.mkdir(parents=True, exist_ok=True)
    given = {
        "out": str(out),
        "videos": videos,
        "epochs": 3,
        "devices": 2,
        "strategy": "ddp",
        "data": {"num_workers": 2},
    }
    (out / "order.json").write_text(json.dumps({**given, **order}))
    environment = {**os.environ, "PL_DISABLE_FORK": "0", "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(out / "order.json")],
        capture_output=True,
        text=True,
        timeout=500,
        env=environment,
        check=False,
    )
    assert (done.returncode == 0) == (code == 0), done.stderr[-3000:]
    return [json.loads(path.read_text()) for path in sorted(out.glob("rank*.json"))]


def shown_of(rank: dict[str, Any], epoch: int) -> list[int]:
    return [n for e, _, shown, _ in rank["seen"] if e == epoch for n in shown]


def check_ranks(ranks: list[dict[str, Any]], whole: Seen) -> None:
    """Every window of the plan once over all ranks, in equal numbers of batches."""
    assert len({len(rank["seen"]) for rank in ranks}) == 1
    for epoch in range(3):
        together = Counter(n for rank in ranks for n in shown_of(rank, epoch)[::4])
        alone = Counter(n for e, _, shown, _ in whole if e == epoch for n in shown[::4])
        assert not together - alone
        assert (alone - together).total() < len(ranks), "fewer windows than ranks are left out"


def check_counts(ranks: list[dict[str, Any]]) -> None:
    """Every rank logs the same, and all that all of them read, once."""
    first, second = (rank["counted"] for rank in ranks)
    assert first == second
    assert sum(first) == sum(len(shown_of(rank, epoch)) for rank in ranks for epoch in range(3))


STRATEGIES = ("ddp", "ddp_spawn", "ddp_fork", "ddp_notebook")


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "workers"), [("ddp", 0), *((strategy, 1) for strategy in STRATEGIES)])
def test_two_ranks_share_each_epoch(folder: Path, whole: Seen, tmp_path: Path, strategy: str, workers: int) -> None:
    first = str(folder / "0.mp4")
    ranks = run(tmp_path, str(folder), strategy=strategy, open_first=first, data={"num_workers": workers})
    assert len(ranks) == 2
    check_ranks(ranks, whole)
    check_counts(ranks)


@pytest.fixture(scope="module")
def ranks_whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """An uninterrupted run of three epochs on two ranks: four steps an epoch on each."""
    return run(tmp_path_factory.mktemp("whole"), str(folder), data={"num_workers": 0})


@pytest.mark.slow
@pytest.mark.parametrize("killed_after", range(1, 9))
@pytest.mark.parametrize("workers", [0, 2])
def test_two_ranks_resume_after_a_kill(
    folder: Path, tmp_path: Path, ranks_whole: list[dict[str, Any]], workers: int, killed_after: int
) -> None:
    assert steps_of(ranks_whole[0]["seen"]) == 4
    order = {"checkpoints": True, "data": {"num_workers": workers}, "kill_at": killed_after + 1}
    run(tmp_path / "killed", str(folder), code=1, **order)
    checkpoint = tmp_path / "killed" / "checkpoints" / f"s{killed_after}.ckpt"
    more = {"num_workers": 4 if workers else 0}
    rest = run(tmp_path / "rest", str(folder), checkpoint=str(checkpoint), data=more)
    for ours, theirs in zip(rest, ranks_whole, strict=True):
        assert ours["seen"] == theirs["seen"][killed_after:]


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_evaluation_reads_every_clip_once_and_pixels_are_normalised(folder: Path) -> None:
    data = VideoDataModule(
        ClipSpec(4), val=str(folder), predict=str(folder), batch_size=3, num_workers=0, mean=[0.5] * 3, std=[0.25] * 3
    )

    class Look(Witness):
        def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
            assert batch["frames"].dtype == torch.float32
            back = (batch["frames"] * 0.25 + 0.5).mul(255).round().to(torch.uint8)
            super().validation_step({"frames": back}, batch_idx)

    model = Look()
    trainer_of(epochs=1).validate(model, datamodule=data, verbose=False)
    expected = [v * 1000 + start for v, count in enumerate((23, 8, 40)) for start in range(0, count - 3, 4)]
    assert model.validated == expected


@pytest.mark.parametrize("order", ["random", "blocks", "sequential"])
@pytest.mark.parametrize(
    "clip", [ClipSpec(4, frame_stride=2, pad="repeat"), ClipSpec(3, fps=10)], ids=["stride", "fps"]
)
def test_orders_and_clips(folder: Path, order: Any, clip: ClipSpec) -> None:
    data = VideoDataModule(clip, train=str(folder), val=str(folder), num_workers=0, order=order, batch_size=1)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        batches = list(loader)
        assert len(batches) == len(loader) > 0
        for batch in batches:
            numbers = batch["video_id"] * 1000 + batch["frame_indices"][0]
            assert [read_frame_number(frame) for frame in batch["frames"][0]] == numbers.tolist()


def test_prepare_data_writes_the_sidecars_that_are_missing(folder: Path, tmp_path: Path) -> None:
    for path in folder.glob("*.mp4"):
        shutil.copy(path, tmp_path)
    data = VideoDataModule(ClipSpec(4), train=str(tmp_path), val={"front": str(tmp_path)}, num_workers=0)
    data.prepare_data()
    assert sorted(p.name for p in tmp_path.glob("*.lance")) == ["0.mp4.lance", "1.mp4.lance", "2.mp4.lance"]
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    data.prepare_data()
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_a_catalog_is_made_kept_up_to_date_and_read(folder: Path, tmp_path: Path, whole: Seen) -> None:
    for path in folder.glob("*.mp4"):
        shutil.copy(path, tmp_path)
    first, second, third = sorted(str(path) for path in tmp_path.glob("*.mp4"))
    catalog = str(tmp_path / "catalog.lance")

    def seen(**videos: Any) -> tuple[int, int]:
        data = VideoDataModule(ClipSpec(4), catalog=catalog, num_workers=0, batch_size=1, **videos)
        data.prepare_data()
        data.setup("fit")
        return len(data.train_dataloader()), len(data.val_dataloader())

    assert seen(train=[first], val=[second]) == (23 // 4, 8 // 4)
    assert seen(train=[first, third], val=[second]) == (23 // 4 + 40 // 4, 8 // 4), "what is new is added"
    assert seen() == (23 // 4 + 40 // 4, 8 // 4), "the catalog alone says it all"
    shutil.copy(second, first)
    assert seen(train=[first, third]) == (8 // 4 + 40 // 4, 8 // 4), "what changed is indexed anew"
    with pytest.raises(ValueError, match="split"):
        seen(train=[second])
    with pytest.raises(ValueError, match="one split"):
        seen(train=[first], val=[first])
    with pytest.raises(ValueError, match="camera"):
        VideoDataModule(ClipSpec(4), train={"front": first}, catalog=catalog)


def test_from_s3_and_no_secret_in_a_checkpoint(
    folder: Path, s3_server: S3Server, s3_prefix: str, tmp_path: Path, whole: Seen
) -> None:
    store = ObjectStore(storage_options=s3_server.storage_options)
    for path in folder.glob("*.mp4"):
        store.upload(path, f"{s3_prefix}/{path.name}")
    options: dict[str, Any] = {"num_workers": 0, "storage_options": s3_server.storage_options}
    assert fit(s3_prefix, epochs=1, callbacks=every_step(tmp_path), **options) == whole[: steps_of(whole)]
    secrets = [s3_server.storage_options["key"], s3_server.storage_options["secret"]]
    for path in tmp_path.rglob("*.ckpt"):
        assert not [secret for secret in secrets if secret.encode() in path.read_bytes()]
    assert not [secret for secret in secrets if secret in repr(data_of(s3_prefix, **options).hparams)]


def test_wrong_arguments_are_named(folder: Path) -> None:
    for options in ({"order": "shuffled"}, {"pixels": "half"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            VideoDataModule(ClipSpec(4), train=str(folder), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="train"):
        VideoDataModule(ClipSpec(4)).train_dataloader()


# -- from YAML --------------------------------------------------------------------------------------------------------

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def run_config(
    name: str, *args: str, command: tuple[str, ...] = ("-m", "lazyvid.training", "fit")
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(CONFIGS.parent), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [sys.executable, *command, "--config", str(CONFIGS / name), *args],
        capture_output=True,
        text=True,
        cwd=CONFIGS.parent,
        env=environment,
        timeout=500,
        check=False,
    )


QUICK = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1")
CONFIG_RUNS = [("folder.yaml", ()), ("ddp.yaml", ("--data.init_args.num_workers", "0"))]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "more"), CONFIG_RUNS)
def test_configs_run(folder: Path, tmp_path: Path, name: str, more: tuple[str, ...]) -> None:
    videos = (f"--data.init_args.train={folder}", f"--data.init_args.val={folder}", "--data.init_args.batch_size=2")
    done = run_config(name, *QUICK, *videos, f"--trainer.default_root_dir={tmp_path}", *more)
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(tmp_path.rglob("config.yaml"))
    for path in tmp_path.rglob("*.ckpt"):
        assert torch.load(path, weights_only=True)["datamodule_hyper_parameters"]


@pytest.mark.slow
def test_the_s3_config_runs_and_saves_no_secret(
    folder: Path, s3_server: S3Server, s3_prefix: str, tmp_path: Path
) -> None:
    store = ObjectStore(storage_options=s3_server.storage_options)
    for path in folder.glob("*.mp4"):
        store.upload(path, f"{s3_prefix}/{path.name}")
    videos = (
        f"--data.init_args.train={s3_prefix}",
        f"--data.init_args.val={s3_prefix}",
        "--data.init_args.num_workers=1",
    )
    options = f"--data.init_args.storage_options={json.dumps(s3_server.storage_options)}"
    where = (f"--trainer.default_root_dir={tmp_path}", "--data.init_args.batch_size=2")
    done = run_config("s3.yaml", *QUICK, *videos, options, *where)
    assert done.returncode == 0, done.stderr[-3000:]
    secret = s3_server.storage_options["secret"]
    assert secret not in done.stdout + done.stderr
    saved = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert saved
    assert not [path for path in saved if secret.encode() in path.read_bytes()]


def test_what_an_epoch_cost_is_logged(folder: Path) -> None:
    trainer = trainer_of(epochs=2, callbacks=[ReadStatsCallback()])
    module = data_of(str(folder), num_workers=0)
    trainer.fit(Witness(), datamodule=module)
    logged = {name.removeprefix("lazyvid/"): float(value) for name, value in trainer.logged_metrics.items()}
    assert {"requests", "retries", "refetches", "samples_skipped", "frames_dropped", "cache_hits"} <= logged.keys()
    assert logged["frames_returned"] >= STEPS * 2 * 4
    assert logged["retries"] == logged["refetches"] == logged["samples_skipped"] == 0
