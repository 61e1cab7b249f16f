"""Benchmarks run, refuse to time a contender that gives other frames, and say what got slower."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from torch import Tensor

from lazyvid import LazyVideo, build_index
from lazyvid.decoding.torchcodec import load_torchcodec
from lazyvid.errors import BackendUnavailableError
from lazyvid.testing import VideoCorpus, read_frame_number, write_video

FOLDER = Path(__file__).resolve().parent.parent / "scripts" / "bench"


@pytest.fixture
def _on_the_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The scripts import one another by name, as they do when run."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in (set(sys.modules) - before) & {path.stem for path in FOLDER.glob("*.py")}:
        del sys.modules[name]


def _run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(FOLDER / script), *arguments],
        capture_output=True, text=True, timeout=240, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


def _needs_torchcodec() -> None:
    try:
        load_torchcodec()
    except BackendUnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_it_compares_and_measures(tmp_path: Path) -> None:
    pytest.importorskip("decord")
    pytest.importorskip("spdl.io")
    _needs_torchcodec()
    out = tmp_path / "decode.json"
    arguments = ["--repeats", "1", "--share", "0.05", "--size", "160", "120", "--frames", "60", "--shape", "GOP 2, 16"]
    done = _run("decode.py", *arguments, "--json", str(out), "--markdown")
    assert done.returncode == 0, done.stderr
    heads, _, *lines = done.stdout.splitlines()
    assert heads.startswith("| clips | lazyvid ms (wall) | torchcodec ms (wall) | decord2 ms (wall) |")
    assert [line.split("|")[1].strip() for line in lines] == [
        "H.264 GOP 2, 16 dense, to 224x224",
        "AV1 GOP 2, 16 dense, full size",
        "geometric mean",
    ]
    results = json.loads(out.read_text())
    assert {"torch", "torchcodec", "av", "decord2", "python", "libavcodec"} <= set(results["versions"])
    for shape in results["shapes"]:
        others = {"torchcodec", "torchcodec-approximate", "torchcodec-mappings", "decord2", "spdl", "pyav"}
        assert set(shape["passes"]) == {"lazyvid", "limit", "limit-converted", *others}
        assert all(len(passes) == 1 and passes[0]["cpu"] > 0 for passes in shape["passes"].values())
        assert shape["differences"]["limit-converted"] == {"worst_mean": 0.0, "largest": 0}


@pytest.mark.usefixtures("_on_the_path")
def test_a_contender_with_other_frames_is_not_timed(corpus: VideoCorpus, tmp_path: Path) -> None:
    import decode
    import peers

    path = corpus.copy("h264_gop2", tmp_path)
    build_index(path).save(path)

    class OneLate(peers.LazyVid):
        def clip(self, numbers: Sequence[int]) -> Tensor:
            return super().clip([number + 1 for number in numbers])

    truth, shape = decode.digests(path), decode.SHAPES[0]
    ours = peers.LazyVid(path, None)
    decode.compare(path, shape, [[3, 4]], {"lazyvid": ours, "torchcodec": ours}, truth)
    with pytest.raises(decode.WrongFrames, match="torchcodec differs from lazyvid"):
        decode.compare(path, shape, [[3, 4]], {"lazyvid": ours, "torchcodec": OneLate(path, None)}, truth)
    with pytest.raises(decode.WrongFrames, match="sequential decode"):
        decode.compare(path, shape, [[3, 4]], {"lazyvid": ours}, truth[1:])


@pytest.mark.slow
@pytest.mark.usefixtures("_on_the_path")
def test_contenders_take_turns_and_pay_for_their_own_threads() -> None:
    import common

    order: list[str] = []

    def burn(seconds: float) -> None:
        until = time.process_time() + seconds
        while time.process_time() < until:
            pass

    def ahead() -> None:
        import threading

        order.append("ahead")
        threading.Thread(target=burn, args=(0.3,)).start()

    timings = common.measure({"ahead": ahead, "quiet": lambda: order.append("quiet")}, repeats=2)
    assert order == ["quiet", "ahead", "ahead", "quiet", "quiet", "ahead"]
    assert all(timing.cpu > 0.25 for timing in timings["ahead"])
    assert all(timing.cpu < 0.1 for timing in timings["quiet"])


@pytest.mark.usefixtures("_on_the_path")
def test_figures() -> None:
    import common

    assert common.Spread.of([3.0, 1.0, 8.0]) == common.Spread(median=3.0, low=1.0, high=8.0)
    assert common.Spread(4.0, 2.0, 8.0) / 2 == common.Spread(2.0, 1.0, 4.0)
    assert common.geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    one, two = common.Timing(cpu=2.0, wall=9.0), common.Timing(cpu=1.0, wall=9.0)
    assert common.ratios([one, one], [two, one]).high == 2.0


@pytest.mark.slow
def test_torchcodecs_workloads_run(tmp_path: Path) -> None:
    _needs_torchcodec()
    out = tmp_path / "workloads.json"
    small = ["--repeats", "1", "--size", "160", "120", "--frames", "120", "--encoding", "h264-gop30"]
    done = _run("workloads.py", *small, "--json", str(out))
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())
    assert {row["workload"][:2] for row in results["rows"]} == {f"W{n}" for n in range(1, 8)}
    assert all(ratio > 0 for ratio in results["ratios"].values())


@pytest.mark.slow
def test_clips_from_a_bucket_are_compared_measured_and_counted(tmp_path: Path) -> None:
    _needs_torchcodec()
    out = tmp_path / "remote.json"
    small = ["--repeats", "1", "--size", "160", "120", "--frames", "120", "--encoding", "h264-gop30"]
    small += ["--videos", "2", "--clips", "4", "--delay-ms", "0", "--delay-ms", "20"]
    done = _run("remote.py", *small, "--json", str(out))
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())
    assert {(one["name"], one["delay_ms"]) for one in results["results"]} >= {("lazyvid", 20), ("PyAV over s3fs", 0)}
    for one in results["results"]:
        assert all(each["requests"] > 0 and each["bytes"] > 0 and each["clips"] == 4 for each in one["passes"])
    reached = {target["what"]: target["found"] for target in results["targets"]}
    assert reached["h264-gop30: bytes a clip / packets needed"] < 1.1
    assert _run("plots.py", str(tmp_path), str(tmp_path)).returncode == 0
    assert (tmp_path / "remote.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_indexing_is_counted(tmp_path: Path) -> None:
    out = tmp_path / "index.json"
    done = _run("index.py", "--files", "8", "--frames", "30", "--delay-ms", "1", "--json", str(out))
    assert done.returncode == 0, done.stderr
    runs = json.loads(out.read_text())["runs"]
    assert [run["where"] for run in runs] == ["folder"] * 4 + ["s3"] * 4
    assert all(run["files_per_s"] > 0 for run in runs)


@pytest.mark.usefixtures("_on_the_path")
@pytest.mark.parametrize("share_bytes", [True, False])
def test_a_video_shown_over_and_over_is_one_video(tmp_path: Path, share_bytes: bool) -> None:
    import repeated

    one = write_video(tmp_path / "one.mp4", frames=9, fps=30, gop=4, width=96, height=64)
    many = tmp_path / "many.mp4"
    many.write_bytes(repeated.repeated(one.read_bytes(), 5, share_bytes=share_bytes))
    video = LazyVideo(many, frame_index=build_index(many, scan="full"))
    assert [read_frame_number(frame) for frame in video] == list(range(9)) * 5
    assert video.timestamps == pytest.approx([k / 30 for k in range(45)])
    assert len(set(video.frame_index.packets.offset.tolist())) == (9 if share_bytes else 45)


@pytest.mark.slow
def test_a_lerobot_dataset_is_read_by_both(tmp_path: Path) -> None:
    _needs_torchcodec()
    out = tmp_path / "lerobot.json"
    small = ["--files", "2", "--files", "12", "--frames", "600", "--delay-ms", "1", "--many", "20", "--passes", "1"]
    done = _run("lerobot.py", *small, "--items", "64", "--folder", str(tmp_path), "--json", str(out))
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())
    shown = [(one["place"], one["shape"]["files"], one["shape"]["frames"]) for one in results["results"]]
    assert shown == [("local", 2, 600), ("local", 12, 600), ("s3", 1, 600)]
    assert all(ratio > 0 for ratio in results["ratios"].values())
    assert set(results["memory"]) == {"lazyvid", "torchcodec"}
    assert all(list(one["mib"]) == ["2", "20", "40"] for one in results["memory"].values())
    assert _run("plots.py", str(tmp_path), str(tmp_path)).returncode == 0
    assert (tmp_path / "lerobot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("_on_the_path")
def test_what_got_slower_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import compare
    import typer

    then, now = tmp_path / "then.json", tmp_path / "now.json"
    then.write_text(json.dumps({"ratios": {"dense": 1.5, "sparse": 1.0, "gone": 2.0}}))
    for sparse, code in ((0.95, 0), (0.9, 1)):
        now.write_text(json.dumps({"ratios": {"dense": 1.6, "sparse": sparse}}))
        with pytest.raises(typer.Exit) as ended:
            compare.main(now, then, tolerance=0.08)
        assert ended.value.exit_code == code
    said = capsys.readouterr().out
    assert "1 of 2 ratios fell by more than 8%" in said
    assert "Not measured now: gone" in said
    now.write_text("{}")
    with pytest.raises(typer.BadParameter, match="no ratios"):
        compare.main(now, then)


@pytest.mark.usefixtures("_on_the_path")
def test_plots_show_the_figures_in_the_files(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import plots

    passed = [{"seconds": 2.0, "clips": 4}, {"seconds": 1.0, "clips": 4}, {"seconds": 4.0, "clips": 4}]
    remote = {"results": [{"encoding": "h264", "name": "lazyvid", "delay_ms": ms, "passes": passed} for ms in (0, 20)]}
    (bars,) = plots.remote_bars(remote)
    assert (bars.labels, dict(bars.heights)) == (["0 ms", "20 ms"], {"lazyvid": [2.0, 2.0]})
    decode = {"ratios": {"a: pyav / lazyvid": 1.5}, "shapes": [{"shape": {"name": "a"}}, {"shape": {"name": "b"}}]}
    (tmp_path / "decode.json").write_text(json.dumps(decode))
    plots.main(tmp_path, tmp_path / "docs")
    assert [path.name for path in (tmp_path / "docs").iterdir()] == ["decode.png"]
