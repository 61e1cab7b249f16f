"""The doctor names each damage; what is split, merged, cut or converted is a dataset, frame for frame."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import torch
from lerobot_checker import problems
from lerobot_independent import CAMERAS, V3_VIDEO, Golden, Plan, assert_same_item, write_mp4, write_v3, write_v21
from lerobot_recordings import FAST, FEATURES, FRONT, LENGTHS, WRIST, add, check, create, frame_of, number
from typer.testing import CliRunner

from lazyvid.cli import app
from lazyvid.errors import EpisodeMismatchError, RecordingError
from lazyvid.index.probe import build_index, get_audio_info
from lazyvid.lerobot import LeRobotDataset, LeRobotLayout
from lazyvid.lerobot.assembling import SourceEpisode, assemble, episodes_of
from lazyvid.lerobot.check import check_dataset
from lazyvid.lerobot.converting import convert
from lazyvid.lerobot.metadata import DatasetPlace, LeRobotMetadata
from lazyvid.recording import Recorder
from lazyvid.storage import ObjectStore
from lazyvid.testing import S3Server, flip_bit, painted_frame, read_frame_number, write_video

DATA, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"


def lazyvid(*arguments: object) -> tuple[int, str]:
    """Run a command in this process; its exit code and output."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout + result.stderr


def meta_of(root: Path | str, **options: Any) -> LeRobotMetadata:
    return LeRobotMetadata.open(DatasetPlace.of(root, **options))


# -- the doctor -------------------------------------------------------------------------------------------------------


def _table(root: Path, name: str, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Change the rows of a parquet file."""
    table = pq.read_table(root / name)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), root / name)


def _set(rows: list[dict[str, Any]], row: int, **values: Any) -> None:
    rows[row].update(values)


def _json(root: Path, name: str, change: Callable[[Any], Any]) -> None:
    value = json.loads((root / name).read_text())
    (root / name).write_text(json.dumps(change(value) or value))


def _shift(rows: list[dict[str, Any]], episode: int, camera: str, seconds: float) -> None:
    for what in ("from", "to"):
        rows[episode][f"videos/{camera}/{what}_timestamp"] += seconds


VIDEO = f"videos/{FRONT}/chunk-000/file-000.mp4"
# On copies of the dataset that LeRobot wrote: 3 episodes of 40, 55 and 33 frames in one file.
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a video is gone": (lambda root: (root / VIDEO).unlink(), rf"{VIDEO}: episode 2: cannot be read"),
    "a video is cut": (
        lambda root: (root / VIDEO).write_bytes((root / VIDEO).read_bytes()[:-200]),
        rf"{VIDEO}: episode 0: cannot be read",
    ),
    "rows are gone": (
        lambda root: _table(root, DATA, lambda rows: rows.__delitem__(slice(90, 95))),
        rf"{DATA}: episode 1: expected 55 rows, found 50",
    ),
    "rows are doubled": (
        lambda root: _table(root, DATA, lambda rows: rows.insert(40, dict(rows[39]))),
        rf"{DATA}: episode 0: expected 40 rows, found 41",
    ),
    "an episode begins too late": (
        lambda root: _table(root, EPISODES, lambda rows: _shift(rows, 2, FRONT, 5 / 30)),
        rf"{VIDEO}: episode 2: expected 33 frames, .* found 28 \(the file has 128 frames, the last at 4\.233333 s\)",
    ),
    "an episode lies in another": (
        lambda root: _table(root, EPISODES, lambda rows: _shift(rows, 2, WRIST, -2 / 30)),
        r"file-000\.mp4: episode 2: expected frames of its own, found 2 that episode 1 has, too",
    ),
    "a length is wrong": (
        lambda root: _table(root, EPISODES, lambda rows: _set(rows, 1, length=54)),
        r"meta/info\.json: expected total_frames 128, found 127",
    ),
    "bounds are wrong": (
        lambda root: _table(root, EPISODES, lambda rows: _set(rows, 1, dataset_to_index=94)),
        r"meta/episodes: episode 1: expected rows 40 to 95, found 40 to 94",
    ),
    "a time is wrong": (
        lambda root: _table(root, DATA, lambda rows: _set(rows, 50, timestamp=0.5)),
        rf"{DATA}: episode 1: expected timestamp 0\.333333 s .* in its row 10, found 0\.500000 s",
    ),
    "an index is wrong": (
        lambda root: _table(root, DATA, lambda rows: _set(rows, 7, index=8)),
        rf"{DATA}: episode 0: expected index 7 in its row 7, found 8",
    ),
    "a task is unknown": (
        lambda root: _table(root, DATA, lambda rows: _set(rows, 100, task_index=5)),
        rf"{DATA}: episode 2: expected task_index below 2, found \[5\]",
    ),
    "statistics are of other rows": (
        lambda root: _json(root, "meta/stats.json", lambda stats: stats["action"]["mean"].__setitem__(2, 3.5)),
        r"meta/stats\.json: expected mean of action to be .* found",
    ),
    "statistics are gone": (lambda root: (root / "meta/stats.json").unlink(), r"stats\.json: expected statistics"),
    "more episodes are counted": (
        lambda root: _json(root, "meta/info.json", lambda info: info.update(total_episodes=4)),
        r"meta/info\.json: expected 4 episodes in the table of episodes, found 3",
    ),
    "rows have no footer": (
        lambda root: (root / DATA).write_bytes((root / DATA).read_bytes()[:-50]),
        rf"{DATA}: episode 0: cannot be read: .*whole parquet file",
    ),
    "the table of episodes has no footer": (
        lambda root: (root / EPISODES).write_bytes((root / EPISODES).read_bytes()[:-50]),
        r"meta: .*whole parquet file",
    ),
    "a file that nobody names": (
        lambda root: shutil.copyfile(root / DATA, root / "data/chunk-000/file-001.parquet"),
        r"data/chunk-000/file-001\.parquet: expected an episode with rows in this file",
    ),
    "a column is gone": (
        lambda root: pq.write_table(pq.read_table(root / DATA).drop_columns(["action"]), root / DATA),
        rf"{DATA}: expected the columns action",
    ),
}
WARNINGS = ("statistics are gone",)


def test_a_sound_dataset_is_called_sound(shared_dataset: Path) -> None:
    report = check_dataset(shared_dataset)
    assert (report.ok, report.findings) == (True, [])
    assert [(line.number, line.length, line.rows, line.frames) for line in report.episodes] == [
        (number, length, length, dict.fromkeys(CAMERAS, length)) for number, length in enumerate((40, 55, 33))
    ]
    code, shown = lazyvid("lerobot", "check", shared_dataset, "--strict", "--all")
    assert code == 0
    assert "0 errors, 0 warnings" in shown
    assert "3 episodes, 128 frames" in shown


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_is_named(shared_dataset: Path, tmp_path: Path, name: str) -> None:
    root = Path(shutil.copytree(shared_dataset, tmp_path / "d"))
    damage, message = DAMAGES[name]
    damage(root)
    code, shown = lazyvid("lerobot", "check", root)
    assert code == (0 if name in WARNINGS else 1)
    lines = " ".join(shown.split())
    assert re.search(message, lines), shown
    if name in WARNINGS:
        assert lazyvid("lerobot", "check", root, "--strict")[0] == 1


def test_a_payload_is_checked_when_asked_for(shared_dataset: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(shared_dataset, tmp_path / "d"))
    index = build_index(root / VIDEO)
    key = int(index.packets.offset[60])
    for offset in range(key, key + 24, 2):
        flip_bit(root / VIDEO, root / VIDEO, offset=offset, bit=1)
    assert check_dataset(root).ok
    report = check_dataset(root, decode=True)
    assert [str(f) for f in report.findings if "cannot be decoded" in f.what and VIDEO in f.where]


def test_a_sidecar_of_another_video_is_named(v3: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(v3, tmp_path / "d"))
    one, other = (root / V3_VIDEO.format(video_key=FRONT, chunk_index=0, file_index=k) for k in (0, 1))
    build_index(other).save(other)
    shutil.move(f"{other}.lance", f"{one}.lance")
    (finding,) = [f for f in check_dataset(root).findings if f.level == "error"]
    assert "sidecar is of no use" in finding.what


def test_the_older_format_is_checked_too(v21: Path, tmp_path: Path) -> None:
    assert check_dataset(v21).ok
    root = Path(shutil.copytree(v21, tmp_path / "d"))
    lines = (root / "meta/episodes.jsonl").read_text().splitlines()
    (root / "meta/episodes.jsonl").write_text("\n".join([lines[0].replace("12", "11"), *lines[1:]]))
    found = "\n".join(map(str, check_dataset(root).findings))
    assert "episode_000000.parquet: episode 0: expected 11 rows, found 12" in found
    assert "episode_000000.mp4: episode 0: expected 11 frames" in found


def test_no_dataset_is_an_error(tmp_path: Path) -> None:
    code, shown = lazyvid("lerobot", "check", tmp_path)
    assert code == 1
    assert "no meta/info.json" in shown


# -- index ------------------------------------------------------------------------------------------------------------


def test_sidecars_of_all_videos(v3: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(v3, tmp_path / "d"))
    code, shown = lazyvid("lerobot", "index", root, "--dry-run")
    assert (code, list(root.rglob("*.lance"))) == (0, [])
    assert "4 videos" in shown
    assert lazyvid("lerobot", "index", root)[0] == 0
    assert len(list(root.rglob("*.mp4.lance"))) == 4
    LeRobotDataset(root, on_missing_index="raise")[20]


# -- split, merge, delete ---------------------------------------------------------------------------------------------


def check_parts(root: Path, parts: Sequence[tuple[Path, int]]) -> None:
    """The dataset holds these episodes of others, bit for bit, and is one."""
    assert [p for p in problems(root) if "stats" not in p and "info.json lacks" not in p] == []
    dataset = LeRobotDataset(root, on_missing_index="raise")
    at = 0
    found_items = dataset.__getitems__(range(len(dataset)))
    for place, (source, episode) in enumerate(parts):
        one = LeRobotDataset(source, episodes=[episode])
        for item in one.__getitems__(range(len(one))):
            found = found_items[at]
            renumbered = {"index": torch.tensor(at), "episode_index": torch.tensor(place)}
            assert_same_item(found, item | renumbered | {"task_index": found["task_index"]})
            at += 1
    assert len(dataset) == at


def test_parts_of_a_dataset(shared_dataset: Path, tmp_path: Path) -> None:
    code, shown = lazyvid(
        "lerobot", "split", shared_dataset, tmp_path / "out", "--part", "train=0,2", "--part", "val=1"
    )
    assert code == 0, shown
    assert "2 episodes, 73 frames" in shown
    check_parts(tmp_path / "out/train", [(shared_dataset, 0), (shared_dataset, 2)])
    check_parts(tmp_path / "out/val", [(shared_dataset, 1)])
    for name in ("train", "val"):
        report = check_dataset(tmp_path / "out" / name, decode=True)
        assert report.ok, report.findings
    assert meta_of(tmp_path / "out/val").tasks == ("task 1",)


def test_a_dataset_without_an_episode(shared_dataset: Path, tmp_path: Path) -> None:
    target = tmp_path / "d"
    code, shown = lazyvid("lerobot", "delete-episodes", shared_dataset, target, "--episodes", "1", "--dry-run")
    assert (code, target.exists()) == (0, False)
    assert "would make" in shown
    assert lazyvid("lerobot", "delete-episodes", shared_dataset, target, "--episodes", "1")[0] == 0
    check_parts(target, [(shared_dataset, 0), (shared_dataset, 2)])
    stats = meta_of(target).stats
    assert stats["index"]["count"].tolist() == [73]
    assert check_dataset(target).findings == []


def test_datasets_of_both_formats_become_one(v3: Path, v21: Path, tmp_path: Path) -> None:
    plan = Plan(lengths=(5, 4), file_of=(0, 1), gop=4)  # other codec parameters
    other = write_v3(tmp_path / "other", plan)
    code, shown = lazyvid("lerobot", "merge", v3, v21, other, "--into", tmp_path / "d")
    assert code == 0, shown
    assert "8 episodes, 85 frames" in shown
    parts = [(v3, 0), (v3, 1), (v3, 2), (v21, 0), (v21, 1), (v21, 2), (other, 0), (other, 1)]
    check_parts(tmp_path / "d", parts)
    assert check_dataset(tmp_path / "d", decode=True).ok


def test_an_episode_that_does_not_begin_at_a_key_frame_is_encoded_anew(tmp_path: Path) -> None:
    plan = Plan(lengths=(7, 9, 6), file_of=(0, 0, 0), cameras=(FRONT,), gop=10)
    root = write_v3(tmp_path / "a", plan)
    meta = meta_of(root)
    made = assemble([SourceEpisode(meta, 1), SourceEpisode(meta, 0)], tmp_path / "b")
    assert made.videos == {FRONT: (1, 1)}
    shown = [read_frame_number(item[FRONT]) for item in LeRobotDataset(tmp_path / "b", return_uint8=True)]
    assert shown == [plan.number(FRONT, e, k) for e in (1, 0) for k in range(plan.lengths[e])]
    assert check_dataset(tmp_path / "b").ok


def test_datasets_that_do_not_fit_together(v3: Path, tmp_path: Path) -> None:
    plan = Plan(lengths=(3,), file_of=(0,), fps=25)
    with pytest.raises(ValueError, match="30 frames per second, found 25"):
        assemble(episodes_of([meta_of(v3), meta_of(write_v3(tmp_path / "a", plan))]), tmp_path / "d")
    plan = Plan(lengths=(3,), file_of=(0,), cameras=(FRONT,))
    with pytest.raises(ValueError, match=f"the same features, found {WRIST}"):
        assemble(episodes_of([meta_of(v3), meta_of(write_v3(tmp_path / "b", plan))]), tmp_path / "d")
    with pytest.raises(RecordingError, match="no files"):
        assemble(episodes_of([meta_of(v3)]), v3)
    with pytest.raises(ValueError, match="0 to 2"):
        episodes_of([meta_of(v3)], without=[3])
    with pytest.raises(ValueError, match="an episode or more"):
        assemble([], tmp_path / "d")
    assert not (tmp_path / "d").exists()
    for wrong in ("3", "x", "1-0", "0,0", ""):
        assert lazyvid("lerobot", "delete-episodes", v3, tmp_path / "d", "--episodes", wrong)[0] == 2
    assert lazyvid("lerobot", "split", v3, tmp_path / "d", "--part", "../x=0")[0] == 2


def test_an_episode_that_lacks_frames_is_not_copied(v3: Path, plan: Plan, tmp_path: Path) -> None:
    root = Path(shutil.copytree(v3, tmp_path / "a"))
    numbers = [plan.number(FRONT, e, k) for e in (0, 1) for k in range(plan.lengths[e])][:27]
    pictures = [painted_frame(n, width=plan.width, height=plan.height) for n in numbers]
    write_mp4(root / V3_VIDEO.format(video_key=FRONT, chunk_index=0, file_index=0), pictures, plan)
    with pytest.raises(EpisodeMismatchError, match="episode 1"):
        assemble(episodes_of([meta_of(root)]), tmp_path / "d")
    assemble(episodes_of([meta_of(root)], without=[1]), tmp_path / "d")


@pytest.mark.s3
def test_from_a_bucket_into_a_bucket(v3: Path, s3_server: S3Server, s3_prefix: str) -> None:
    store = ObjectStore(storage_options=s3_server.storage_options)
    for path in (path for path in v3.rglob("*") if path.is_file()):
        store.upload(path, f"{s3_prefix}/a/{path.relative_to(v3).as_posix()}")
    options = [f"--option={key}={s3_server.storage_options[key]}" for key in ("key", "secret")]
    options += ["--endpoint-url", s3_server.storage_options["client_kwargs"]["endpoint_url"]]
    command = ["lerobot", "delete-episodes", f"{s3_prefix}/a", f"{s3_prefix}/b", "--episodes", "0", *options]
    code, shown = lazyvid(*command)
    assert code == 0, shown
    found = LeRobotDataset(f"{s3_prefix}/b", store=store, on_missing_index="raise")
    golden = Golden(v3)
    for index, item in enumerate(found):
        expected = golden.item(12 + index)
        assert torch.equal(item[FRONT], expected[FRONT])
        assert item["task"] == expected["task"]
    assert lazyvid("lerobot", "check", f"{s3_prefix}/b", *options)[0] == 0
    assert lazyvid(*command)[0] == 1  # there is something now


# -- convert ----------------------------------------------------------------------------------------------------------


def record(root: Path, *, timed: bool, **options: Any) -> None:
    """A recording in lazyvid's own layout."""
    with Recorder.create(root, 30, FEATURES, **FAST | options) as recorder:
        for episode in range(3):
            for frame in range(LENGTHS[episode]):
                seconds = 100.0 + episode * 50 + frame / 29.5 if timed else None
                recorder.add_frame(frame_of(episode, frame, seconds=seconds))
            recorder.save_episode()


@pytest.mark.parametrize("timed", [False, True])
def test_a_recording_becomes_a_dataset(tmp_path: Path, timed: bool) -> None:
    record(tmp_path / "own", timed=timed)
    code, shown = lazyvid("convert", tmp_path / "own", tmp_path / "d", "--robot-type", "toy")
    assert code == 0, shown
    assert "3 episodes, 36 frames" in shown
    dataset = check(tmp_path / "d", LENGTHS[:3])
    if timed:
        stored = LeRobotDataset(tmp_path / "d", dtypes="stored")[14]
        assert float(stored[f"capture_timestamp.{WRIST}"]) == 150.0 + 2 / 29.5
    assert check_dataset(tmp_path / "d").findings == []
    assert dataset.meta.robot_type == "toy"


@pytest.mark.parametrize("on_gap", ["repeat", "drop_row"])
def test_rows_without_a_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_gap: Any) -> None:
    from lazyvid.recording import lane

    put = lane.Lane._put

    def dropping(self: Any, pixels: Any, given: Any) -> bool:
        if self.key == WRIST and self._fed in (0, 4, 5, 11):
            return False
        while not put(self, pixels, given):
            pass
        return True

    with monkeypatch.context() as patch:
        patch.setattr("lazyvid.recording.lane.Lane._put", dropping)
        with Recorder.create(tmp_path / "own", 30, FEATURES, **FAST | {"on_full": "drop"}) as recorder:
            add(recorder, 0)
            recorder.save_episode()
    (episode,) = convert(tmp_path / "own", tmp_path / "d", layout=LeRobotLayout(robot_type="toy", on_gap=on_gap))
    kept = [0, *range(1, 12)] if on_gap == "repeat" else [1, 2, 3, 6, 7, 8, 9, 10]
    assert (episode.rows, episode.left_out) == (len(kept), 12 - len(kept))
    assert episode.encoded == ((WRIST,) if on_gap == "repeat" else (FRONT,))  # the other one's packets are copied
    assert problems(tmp_path / "d") == []
    dataset = LeRobotDataset(tmp_path / "d", return_uint8=True)
    shown = {camera: [read_frame_number(item[camera]) for item in dataset] for camera in CAMERAS}
    assert shown[FRONT] == [number(0, FRONT, k) for k in kept]
    wrist = [1, 1, 2, 3, 3, 3, 6, 7, 8, 9, 10, 10] if on_gap == "repeat" else kept
    assert shown[WRIST] == [number(0, WRIST, k) for k in wrist]


def test_a_plain_folder_becomes_a_dataset(tmp_path: Path) -> None:
    source = tmp_path / "plain"
    lengths = {"pick-01": 8, "pick-02": 11}
    for place, (name, count) in enumerate(lengths.items()):
        for camera in ("left", "right"):
            (source / camera).mkdir(parents=True, exist_ok=True)
            first = 1000 * ("left", "right").index(camera) + 100 * place
            write_video(source / camera / f"{name}.mp4", frames=count, gop=4, first_number=first, width=96, height=64)
        table = pa.table(
            {
                "speed": pa.array(np.linspace(0, 1, count)),
                "done": pa.array([k == count - 1 for k in range(count)]),
                "task": pa.array(["pick"] * count),
                "timestamp": pa.array(5.0 + np.arange(count) / 30),
            }
        )
        if place:
            pq.write_table(table, source / f"{name}.parquet")
        else:
            pa_csv.write_csv(table, source / f"{name}.csv")
    assert lazyvid("convert", source, tmp_path / "d", "--dry-run") == (
        0,
        f"would make {tmp_path / 'd'}: 2 episodes, 19 frames\n",
    )
    assert not (tmp_path / "d").exists()
    assert lazyvid("convert", source, tmp_path / "d")[0] == 0
    assert [p for p in problems(tmp_path / "d") if "robot" not in p] == []
    dataset = LeRobotDataset(tmp_path / "d", return_uint8=True, dtypes="stored")
    assert dataset.frame_counts.tolist() == [8, 11]
    for item in dataset:
        episode, frame = int(item["episode_index"]), int(item["frame_index"])
        assert read_frame_number(item["left"]) == 100 * episode + frame
        assert read_frame_number(item["right"]) == 1000 + 100 * episode + frame
        assert float(item["speed"]) == np.linspace(0, 1, dataset.frame_counts[episode])[frame]
        assert float(item["capture_timestamp.left"]) == 5.0 + frame / 30
        assert item["task"] == "pick"


def _add_audio(path: Path) -> None:
    """A second of silence as a further stream, as cameras with a microphone leave it."""
    heard = path.with_suffix(".heard.mp4")
    with av.open(path) as source, av.open(heard, "w") as target:
        pictures = target.add_stream_from_template(source.streams.video[0])
        sound = target.add_stream("aac", rate=8000, layout="mono")
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = pictures
                target.mux(packet)
        for k in range(8):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, 1000 * k, Fraction(1, 8000)
            target.mux(sound.encode(frame))
        target.mux(sound.encode(None))
    heard.replace(path)
    build_index(path).save(path)
    assert get_audio_info(path)["has_audio"]


def _audio(root: Path) -> tuple[set[Any], set[Any]]:
    """What `info.json` says of audio, and what the video files hold."""
    info = json.loads((root / "meta/info.json").read_text())
    cameras = [given["info"] for given in info["features"].values() if given["dtype"] == "video"]
    assert not any(name.startswith("audio.") for camera in cameras if not camera["has_audio"] for name in camera)
    held = {get_audio_info(path)["has_audio"] for path in root.glob("videos/*/*/*.mp4")}
    return {camera["has_audio"] for camera in cameras}, held


def test_converted_videos_leave_their_audio_behind(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "plain").mkdir(exist_ok=True)
        _add_audio(write_video(tmp_path / "plain" / f"{name}.mp4", frames=6, width=96, height=64))
    assert lazyvid("convert", tmp_path / "plain", tmp_path / "d", "--task", "look")[0] == 0
    assert _audio(tmp_path / "d") == ({False}, {False})
    items = LeRobotDataset(tmp_path / "d", return_uint8=True)
    assert [read_frame_number(item["video"]) for item in items] == [*range(6)] * 2


def test_audio_of_a_dataset_is_kept_where_it_is_recorded_on_and_left_out_of_new_ones(tmp_path: Path) -> None:
    with create(tmp_path / "d") as recorder:
        add(recorder, 0)
        recorder.save_episode()
    before = {}
    for camera in CAMERAS:
        path = tmp_path / "d" / V3_VIDEO.format(video_key=camera, chunk_index=0, file_index=0)
        _add_audio(path)
        before[path] = path.read_bytes()

    def say_so(info: Any) -> None:
        for camera in CAMERAS:
            info["features"][camera]["info"] |= {"has_audio": True, "audio.codec": "aac"}

    _json(tmp_path / "d", "meta/info.json", say_so)
    with Recorder.resume(tmp_path / "d", layout=LeRobotLayout(), on_full="block") as recorder:
        add(recorder, 1)
        recorder.save_episode()
    assert {path: path.read_bytes() for path in before} == before
    assert _audio(tmp_path / "d") == ({True}, {True, False})
    assemble(episodes_of([meta_of(tmp_path / "d")]), tmp_path / "new")
    assert _audio(tmp_path / "new") == ({False}, {False})
    check(tmp_path / "new", LENGTHS[:2])


def test_videos_alone_become_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    write_video(tmp_path / "plain" / "a.mp4", frames=6, fps=25, width=96, height=64)
    assert "task=..." in lazyvid("convert", tmp_path / "plain", tmp_path / "d")[1]
    assert lazyvid("convert", tmp_path / "plain", tmp_path / "d", "--task", "look")[0] == 0
    dataset = LeRobotDataset(tmp_path / "d", return_uint8=True)
    assert (dataset.fps, [read_frame_number(item["video"]) for item in dataset]) == (25, list(range(6)))


def test_what_cannot_be_converted(tmp_path: Path) -> None:
    source = tmp_path / "plain"
    source.mkdir()
    assert "neither" in lazyvid("convert", source, tmp_path / "d")[1]
    write_video(source / "a.mp4", frames=6, width=96, height=64)
    pq.write_table(pa.table({"task": ["x"] * 5}), source / "a.parquet")
    with pytest.raises(EpisodeMismatchError, match=r"5 frames of video in episode 'a'.* found 6"):
        convert(source, tmp_path / "d")
    pq.write_table(pa.table({"task": ["x"] * 6}), source / "a.parquet")
    write_video(source / "b.mp4", frames=4, width=96, height=64)
    pq.write_table(pa.table({"task": ["x"] * 4, "more": [1] * 4}), source / "b.parquet")
    with pytest.raises(ValueError, match="only one of them to have 'more'"):
        convert(source, tmp_path / "e")
    (source / "b.parquet").unlink()
    (source / "b.mp4").unlink()
    write_video(
        source / "a.mp4", frames=6, fps=pytest.importorskip("fractions").Fraction(30000, 1001), width=96, height=64
    )
    with pytest.raises(ValueError, match=r"whole number .* 29\.97"):
        convert(source, tmp_path / "f")
    assert convert(source, tmp_path / "f", fps=30)[0].rows == 6


# -- recover ----------------------------------------------------------------------------------------------------------


def test_the_command_recovers_a_lerobot_recording(tmp_path: Path) -> None:
    recorder = create(tmp_path / "d")
    add(recorder, 0)
    recorder.save_episode()
    add(recorder, 1)
    recorder._episode.save()
    shutil.copytree(tmp_path / "d", tmp_path / "killed")
    recorder.clear_episode_buffer()
    recorder.finalize()
    code, shown = lazyvid("recover", tmp_path / "killed")
    assert code == 0
    assert f"{LENGTHS[1]} rows kept, 0 lost" in shown
    check(tmp_path / "killed", LENGTHS[:2])


def test_a_merge_may_be_of_one_dataset_of_the_older_format(tmp_path: Path) -> None:
    plan = replace(Plan(), lengths=(4, 5), file_of=(0, 0))
    old = write_v21(tmp_path / "old", plan)
    assert lazyvid("lerobot", "merge", old, "--into", tmp_path / "new")[0] == 0
    assert meta_of(tmp_path / "new").info.version == (3, 0)
    check_parts(tmp_path / "new", [(old, 0), (old, 1)])
