"""The benchmark runs, and refuses to time a contender that gives other frames."""

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

from lazyvid import build_index
from lazyvid.decoding.torchcodec import load_torchcodec
from lazyvid.errors import BackendUnavailableError
from lazyvid.testing import VideoCorpus

FOLDER = Path(__file__).resolve().parent.parent / "scripts" / "bench"


@pytest.fixture
def _on_the_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The scripts import one another by name, as they do when run."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in (set(sys.modules) - before) & {"common", "content", "decode", "peers"}:
        del sys.modules[name]


@pytest.mark.slow
def test_it_compares_and_measures(tmp_path: Path) -> None:
    pytest.importorskip("decord")
    try:
        load_torchcodec()
    except BackendUnavailableError as error:
        pytest.skip(str(error))
    out = tmp_path / "decode.json"
    arguments = ["--repeats", "1", "--share", "0.05", "--size", "160", "120", "--frames", "60", "--shape", "GOP 2, 16"]
    done = subprocess.run(
        [sys.executable, str(FOLDER / "decode.py"), *arguments, "--json", str(out), "--markdown"],
        capture_output=True, text=True, timeout=240, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
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
        assert set(shape["passes"]) == {"lazyvid", "torchcodec", "decord2", "limit", "limit-converted"}
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
