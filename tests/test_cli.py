"""The command line, in this process and as a real one: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from lazyvid import Catalog, FrameIndex, LazyVideo, ObjectStore
from lazyvid.cli import app
from lazyvid.cli.index import Indexer
from lazyvid.cli.options import make_store
from lazyvid.cli.sheet import save_sheet, thumbnail_size
from lazyvid.index import build_index
from lazyvid.index.finding import list_videos
from lazyvid.index.frame_index import UNKNOWN
from lazyvid.index.jobs import each_as_done
from lazyvid.recording import VideoWriter
from lazyvid.testing import (
    CountingProxy,
    Fault,
    FaultServer,
    S3Server,
    VideoCorpus,
    flip_bit,
    read_frame_number,
    truncate,
    write_video,
)

REPOSITORY = Path(__file__).resolve().parent.parent
DEADLINE_S = 240.0


@dataclasses.dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


def lazyvid(*arguments: object) -> Ended:
    """Run a command in this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError("".join(traceback.format_exception(result.exception)))
    return Ended(result.exit_code, result.stdout, result.stderr)


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "100"}


def lazyvid_process(*arguments: object, cwd: Path) -> Ended:
    """Run a command as a user does."""
    command = [sys.executable, "-m", "lazyvid", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def folder(corpus: VideoCorpus, tmp_path: Path) -> Path:
    """Two videos in a folder, one in a folder below, and something that is no video."""
    corpus.copy("h264_closed", tmp_path / "videos")
    corpus.copy("vp9", tmp_path / "videos")
    corpus.copy("h264_rotated_90", tmp_path / "videos" / "below")
    (tmp_path / "videos" / "readme.txt").write_text("no video")
    return tmp_path / "videos"


def row(text: str, name: str) -> list[str]:
    """The cells of a table's row."""
    (line,) = [line for line in text.splitlines() if line.startswith("│") and line.strip("│ ").startswith(name)]
    return [cell.strip() for cell in line.strip("│").split("│")]


# -- index ------------------------------------------------------------------------------------------------------------


def test_index_writes_what_is_missing_and_skips_what_is_fresh(folder: Path) -> None:
    first = lazyvid("index", folder)
    assert (first.code, row(first.out, "indexed")[1], row(first.out, "failed")[1]) == (0, "3", "0")
    assert len(FrameIndex.open(folder / "below" / "h264_rotated_90.mp4")) == 30
    second = lazyvid("index", folder)
    assert (second.code, row(second.out, "indexed")[1], row(second.out, "fresh")[1]) == (0, "0", "3")
    forced = lazyvid("index", folder, "--force")
    assert (forced.code, row(forced.out, "indexed")[1]) == (0, "3")


def test_index_takes_globs_videos_and_folders_and_each_video_once(folder: Path) -> None:
    ended = lazyvid("index", folder / "*.mp4", folder / "h264_closed.mp4", folder / "below")
    assert (ended.code, row(ended.out, "indexed")[1]) == (0, "2")
    # Also what a shell's `*` gives, sidecars included; and a `**` that finds their files.
    again = lazyvid("index", *sorted(folder.glob("*.mp4*")))
    assert (again.code, row(again.out, "fresh")[1]) == (0, "1")
    crossing = lazyvid("index", folder / "**.mp4*", "--jobs", 1)
    assert (crossing.code, row(crossing.out, "fresh")[1]) == (0, "2")


def test_a_dry_run_writes_nothing(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    ended = lazyvid("index", folder, "--dry-run")
    assert (ended.code, row(ended.out, "to index")[1]) == (0, "3")
    assert f"to index {folder / 'vp9.webm'}: missing" in ended.out
    assert sorted(folder.rglob("*")) == before


def test_what_cannot_be_indexed_is_named_and_the_rest_is_indexed(folder: Path) -> None:
    truncate(folder / "h264_closed.mp4", folder / "cut.mp4", at=-200)
    (folder / "empty.mp4").touch()
    ended = lazyvid("index", folder, folder / "none.mp4")
    assert (ended.code, row(ended.out, "indexed")[1], row(ended.out, "failed")[1]) == (1, "3", "3")
    failures = [line for line in ended.out.splitlines() if line.startswith("failed ")]
    assert [line.split(":")[0].removeprefix("failed ") for line in failures] == [
        str(folder / name) for name in ("cut.mp4", "empty.mp4", "none.mp4")
    ]


def test_a_full_scan_fills_in_checksums_and_keeps_the_times_of_a_recording(tmp_path: Path) -> None:
    path = tmp_path / "recorded.mp4"
    times = 100.0 + np.cumsum(np.tile([0.03, 0.05], 10))
    with VideoWriter(path, 25) as writer:
        for number, seconds in enumerate(times):
            writer.add_frame(np.full((48, 64, 3), 10 * number, np.uint8), timestamp=seconds)
    for flags in (("--force",), ("--scan", "full"), ("--force", "--scan", "full")):
        assert lazyvid("index", path, *flags).code == 0
        np.testing.assert_array_equal(FrameIndex.open(path).timestamp, times)
    assert np.all(FrameIndex.open(path).packets.crc32 != UNKNOWN)


def test_a_full_scan_follows_a_header_scan_once(folder: Path) -> None:
    path = folder / "h264_closed.mp4"
    assert row(lazyvid("index", path).out, "indexed")[1] == "1"
    assert np.all(FrameIndex.open(path).packets.crc32 == UNKNOWN)
    assert row(lazyvid("index", path, "--scan", "full").out, "indexed")[1] == "1"
    assert np.all(FrameIndex.open(path).packets.crc32 != UNKNOWN)
    assert row(lazyvid("index", path, "--scan", "full").out, "fresh")[1] == "1"


def test_stale_and_damaged_sidecars_are_written_anew(corpus: VideoCorpus, folder: Path) -> None:
    assert lazyvid("index", folder).code == 0
    shutil.copy(corpus["h264_gop2"], folder / "h264_closed.mp4")
    (data,) = (folder / "vp9.webm.lance" / "data").iterdir()
    flip_bit(data, data, offset=data.stat().st_size // 2)
    ended = lazyvid("index", folder)
    assert (ended.code, row(ended.out, "indexed")[1:]) == (0, ["2", "stale: 1, corrupt: 1, 120 frames"])
    assert len(FrameIndex.open(folder / "h264_closed.mp4")) == 60


def test_sidecars_in_a_folder_of_their_own(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "sidecars"
    assert lazyvid("index", folder, "--index-root", root).code == 0
    assert not list(folder.rglob("*.lance"))
    assert len(FrameIndex.open(folder / "vp9.webm", index_root=root)) == 60
    assert "fresh" in lazyvid("info", folder / "vp9.webm", "--index-root", root).out
    assert lazyvid("verify", folder, "--index-root", root).code == 0
    assert lazyvid("verify", folder).code == 1


def test_all_commands_on_s3_without_showing_a_secret(
    folder: Path, s3_server: S3Server, s3_prefix: str, tmp_path: Path
) -> None:
    store = ObjectStore(storage_options=s3_server.storage_options)
    for name in ("h264_closed.mp4", "vp9.webm"):
        store.upload(folder / name, f"{s3_prefix}/{name}")
    key, secret = store.storage_options["key"], store.storage_options["secret"]
    options = ["--endpoint-url", s3_server.endpoint_url, "--option", f"key={key}", "--option", f"secret={secret}"]
    options += ["--option", "client_kwargs.region_name=us-east-1"]
    sheet = tmp_path / "sheet.png"
    for command in (
        ["index", s3_prefix],
        ["index", f"{s3_prefix}/*.mp4", "--scan", "full"],
        ["info", f"{s3_prefix}/vp9.webm"],
        ["frames", f"{s3_prefix}/vp9.webm", "--count", 2, "--out", sheet],
        ["verify", f"{s3_prefix}/", "--decode"],
    ):
        ended = lazyvid(*command, *options)
        assert ended.code == 0, ended
        assert secret not in ended.out + ended.err
    wrong = lazyvid("info", f"{s3_prefix}/vp9.webm", *options[:-4], "--option", "secret=a-wrong-secret", "--debug")
    assert wrong.code == 1
    assert "a-wrong-secret" not in wrong.out + wrong.err
    assert len(FrameIndex.open(f"{s3_prefix}/h264_closed.mp4", store=store)) == 90


@pytest.mark.s3
def test_indexing_on_s3_takes_few_requests(
    folder: Path, s3_server: S3Server, s3_prefix: str, counting_proxy: CountingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a folder's listing told is not asked again: one to three ranges of a file, and the sidecar's two files."""
    store = ObjectStore(storage_options=s3_server.storage_options)
    write_video(folder / "tail.mp4", frames=300, width=320, height=240, bit_rate=2_000_000)  # its headers come last
    names = ("h264_closed.mp4", "below/h264_rotated_90.mp4", "tail.mp4")
    for name in names:
        store.upload(folder / name, f"{s3_prefix}/{name}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", store.storage_options["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store.storage_options["secret"])

    def index(*arguments: object) -> Counter[tuple[str, str]]:
        """How often each object was asked for, by method and the end of its name."""
        counting_proxy.reset()
        ended = lazyvid("index", s3_prefix, "--endpoint-url", counting_proxy.endpoint_url, *arguments)
        assert (ended.code, row(ended.out, "failed")[1]) == (0, "0")
        return Counter((request.method, request.path.rpartition(".")[2]) for request in counting_proxy.requests)

    asked = index()
    assert 3 <= asked["GET", "mp4"] <= 3 * 3
    for name in names:
        size = (folder / name).stat().st_size
        got = [request for request in counting_proxy.requests if request.path.endswith(name)]
        assert len(got) <= 3
        assert sum(request.bytes_down for request in got) <= max(300_000, size // 100)
    written = {key: count for key, count in asked.items() if key[0] == "PUT"}
    assert written == {("PUT", "lance"): 3, ("PUT", "manifest"): 3}
    assert sum(asked.values()) == asked["GET", "mp4"] + 6 + 1  # and the listing
    fresh = index()
    assert {key: count for key, count in fresh.items() if key[1] in ("mp4", "lance", "manifest")} == {
        ("GET", "lance"): 3,
        ("GET", "manifest"): 3,
    }
    assert index("--force")["PUT", "manifest"] == 3
    assert len(store.list(f"{s3_prefix}/tail.mp4.lance")) == 2


@pytest.mark.s3
def test_a_video_that_is_replaced_after_it_was_listed(folder: Path, s3_server: S3Server, s3_prefix: str) -> None:
    """The listing's facts are old then; what lies there now is indexed."""
    store = ObjectStore(storage_options=s3_server.storage_options)
    store.upload(folder / "h264_closed.mp4", f"{s3_prefix}/v.mp4")
    (listed,) = list_videos(s3_prefix, store)
    assert listed.bare
    store.upload(folder / "below" / "h264_rotated_90.mp4", f"{s3_prefix}/v.mp4")
    outcome = Indexer(store, index_root=None, scan="header", force=False, dry_run=False)(listed)
    assert (outcome.status, outcome.frames) == ("indexed", 30)
    assert Catalog.build([listed], f"{s3_prefix}/c.lance", store=store).frame_counts.tolist() == [30]


# -- info -------------------------------------------------------------------------------------------------------------


def test_info_says_what_the_video_is(folder: Path) -> None:
    path = folder / "h264_closed.mp4"
    assert lazyvid("index", path, "--scan", "full").code == 0
    out = lazyvid("info", path).out
    index = FrameIndex.open(path)
    disposable = np.mean(index.packets.disposable == 1)
    for expected in ("h264 yuv420p", "160x120", "90 at 30 per second", "3.000 s", "3, of 30 / 30 / 30 packets"):
        assert expected in out
    assert f"{disposable:.0%}, left out" in out
    assert "fresh: describes the video" in out


def test_info_knows_every_state_of_a_sidecar(corpus: VideoCorpus, folder: Path) -> None:
    path = folder / "h264_closed.mp4"
    assert "missing:" in lazyvid("info", path).out
    lazyvid("index", path)
    (data,) = (folder / "h264_closed.mp4.lance" / "data").iterdir()
    whole = data.read_bytes()
    flip_bit(data, data, offset=len(whole) // 2)
    assert "corrupt:" in lazyvid("info", path).out
    data.write_bytes(whole)
    assert "fresh:" in lazyvid("info", path).out
    shutil.copy(corpus["h264_gop2"], path)
    stale = lazyvid("info", path)
    assert "stale:" in stale.out
    assert "60 at 30" in stale.out  # the file's own facts, not the sidecar's
    shutil.rmtree(folder / "h264_closed.mp4.lance")
    write_foreign_sidecar(path)
    assert "foreign:" in lazyvid("info", path).out


def write_foreign_sidecar(path: Path, *, frames: int | None = None) -> None:
    """What another tool writes: four columns, by Lance itself, in another process since Lance and forks do not mix."""
    code = (
        "import sys, lance, pyarrow as pa\n"
        "from lazyvid.index import build_index\n"
        "path, frames = sys.argv[1], int(sys.argv[2])\n"
        "index = build_index(path)\n"
        "n = frames or len(index)\n"
        "columns = dict(segment_idx=index.segment_idx[:n], local_frame_idx=index.local_frame_idx[:n],\n"
        "               pts=index.packets.pts[:n], timestamp=index.timestamp[:n])\n"
        "lance.write_dataset(pa.table({k: pa.array(v) for k, v in columns.items()}), path + '.lance')\n"
    )
    command = [sys.executable, "-c", code, str(path), str(frames or 0)]
    subprocess.run(command, env=environment(), check=True, timeout=DEADLINE_S, capture_output=True)


def test_other_tools_sidecars_are_left_alone_and_may_list_fewer_frames(folder: Path) -> None:
    path = folder / "h264_closed.mp4"
    write_foreign_sidecar(path, frames=70)
    before = sorted((p, p.stat().st_mtime_ns) for p in (folder / "h264_closed.mp4.lance").rglob("*"))
    assert row(lazyvid("index", path, "--scan", "full").out, "fresh")[1] == "1"
    assert sorted((p, p.stat().st_mtime_ns) for p in (folder / "h264_closed.mp4.lance").rglob("*")) == before
    ended = lazyvid("verify", path, "--decode")
    assert (ended.code, row(ended.out, str(path))[1]) == (0, "70")


# -- frames -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "numbers"),
    [
        (("--at", 0.5, "--at", 2.0), [15, 60]),
        (("--every", 1.0), [0, 30, 60]),
        (("--count", 3), [0, 44, 89]),
    ],
)
def test_a_contact_sheet_shows_the_frames_asked_for(
    folder: Path, tmp_path: Path, choice: tuple[object, ...], numbers: list[int]
) -> None:
    from PIL import Image

    sheet = tmp_path / "sheet.png"
    ended = lazyvid("frames", folder / "h264_closed.mp4", *choice, "--columns", 1, "--out", sheet)
    assert ended.code == 0, ended.err
    assert f"{len(numbers)} frames in {sheet}" in ended.out
    with Image.open(sheet) as image:
        pixels = np.asarray(image)
    # The pictures are as wide as the sheet but for its margins: cut them out and read what they say.
    wide = np.flatnonzero((pixels != pixels[0, 0]).any(axis=2).mean(axis=1) > 0.8)
    starts = [int(y) for y in wide if y - 1 not in set(wide.tolist())]
    assert [read_frame_number(pixels[y : y + 120, 12:172]) for y in starts] == numbers


def test_a_contact_sheet_stands_upright(folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    sheet = tmp_path / "sheet.png"
    assert lazyvid("frames", folder / "below" / "h264_rotated_90.mp4", "--count", 1, "--out", sheet).code == 0
    with Image.open(sheet) as image:
        width, height = image.size
    assert height > width


@pytest.mark.parametrize(
    "choice", [("--at", 1, "--every", 1), ("--every", 0), ("--every", 1e-6), ("--count", 0)], ids=str
)
def test_wrong_choices_of_frames_are_refused(folder: Path, tmp_path: Path, choice: tuple[object, ...]) -> None:
    ended = lazyvid("frames", folder / "h264_closed.mp4", *choice, "--out", tmp_path / "sheet.png")
    assert ended.code == 2
    assert not (tmp_path / "sheet.png").exists()


def test_errors_are_one_line_and_a_traceback_only_when_asked_for(folder: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    for arguments in (
        ("frames", folder / "h264_closed.mp4", "--at", 99, "--out", sheet),
        ("frames", folder / "h264_closed.mp4", "--out", tmp_path / "none" / "sheet.png"),
        ("frames", folder / "h264_closed.mp4", "--out", tmp_path / "sheet.what"),
        ("info", folder / "none.mp4"),
        ("info", folder / "readme.txt"),
    ):
        ended = lazyvid(*arguments)
        assert ended.code == 1
        (line,) = [line for line in ended.err.splitlines() if not line.startswith("no sidecar")]
        assert line.startswith("error: ")
        assert "Traceback" in lazyvid(*arguments, "--debug").err
    assert "Traceback" in lazyvid("--debug", *arguments).err


# -- verify -----------------------------------------------------------------------------------------------------------


def test_verify_passes_what_is_right(folder: Path) -> None:
    lazyvid("index", folder, "--scan", "full")
    for flags in ((), ("--decode",)):
        ended = lazyvid("verify", folder, *flags)
        assert ended.code == 0, ended
        assert "3 sidecars right" in ended.out


def test_verify_finds_damage_and_what_is_missing(folder: Path) -> None:
    path = folder / "h264_closed.mp4"
    index = build_index(path, scan="full")
    lazyvid("index", path, "--scan", "full")
    flip_bit(path, path, offset=int(index.packets.offset[33] + index.packets.size[33] // 2))
    ended = lazyvid("verify", folder)
    assert ended.code == 1
    assert row(ended.out, str(path))[3:] == ["1", "0", "differs"]
    assert "3 of 3 sidecars wrong" in ended.out
    assert f"{folder / 'vp9.webm'}: missing: " in ended.out


# -- options ----------------------------------------------------------------------------------------------------------


def test_store_options_are_read_as_what_they_are() -> None:
    store = make_store(
        ["anon=true", "key=0123", "max_concurrency=4", "client_kwargs.region_name=eu", "note=a=b", "token=true"],
        "http://127.0.0.1:1",
        "me",
    )
    assert store.storage_options == {
        "anon": True,
        "key": "0123",
        "max_concurrency": 4,
        "client_kwargs": {"region_name": "eu", "endpoint_url": "http://127.0.0.1:1"},
        "note": "a=b",
        "token": "true",
        "profile": "me",
    }
    assert make_store(None, None, None) == ObjectStore()


@pytest.mark.parametrize("option", ["no-equals-sign", "=value", "a..b=1"])
def test_an_option_that_is_none_is_refused_without_repeating_it(option: str) -> None:
    with pytest.raises(typer.BadParameter) as caught:
        make_store([option], None, None)
    assert option not in str(caught.value)


@pytest.mark.parametrize("options", [["a=1", "a=2"], ["a=1", "a.b=2"], ["a.b=1", "a=2"]])
def test_an_option_given_twice_is_refused(options: list[str]) -> None:
    with pytest.raises(typer.BadParameter):
        make_store(options, None, None)


# -- parts ------------------------------------------------------------------------------------------------------------


def test_work_ends_with_its_first_error_and_gives_every_result_otherwise() -> None:
    assert dict(each_as_done(lambda n: n * n, range(50), jobs=4)) == {n: n * n for n in range(50)}
    begun: list[int] = []

    def work(n: int) -> int:
        begun.append(n)
        time.sleep(0.001)
        if n == 3:
            raise KeyError("three")
        return n

    with pytest.raises(KeyError, match="three"):
        list(each_as_done(work, range(100_000), jobs=1))
    time.sleep(0.2)
    assert len(begun) < 100_000


def test_thumbnails_keep_their_shape_and_never_grow() -> None:
    assert thumbnail_size(1080, 1920, longest=320) == (180, 320)
    assert thumbnail_size(1920, 1080, longest=320) == (320, 180)
    assert thumbnail_size(40, 60, longest=320) == (40, 60)
    assert thumbnail_size(1, 4000, longest=320) == (1, 320)


def test_a_sheet_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none"):
        save_sheet(tmp_path / "sheet.png", [], [], title="")


# -- as a process -----------------------------------------------------------------------------------------------------


def test_python_dash_m_lazyvid(folder: Path) -> None:
    ended = lazyvid_process("--help", cwd=folder)
    assert ended.code == 0
    for command in ("index", "info", "frames", "verify", "demo"):
        assert f" {command} " in ended.out
    ended = lazyvid_process("index", "h264_closed.mp4", "--jobs", 2, cwd=folder)
    assert (ended.code, ended.err) == (0, "")
    assert len(LazyVideo(folder / "h264_closed.mp4", on_missing_index="raise")) == 90


@pytest.fixture
def stalling_server(fault_server: FaultServer, folder: Path) -> FaultServer:
    """Says that its videos are there, and never sends a byte of them."""
    for name in ("h264_closed.mp4", "vp9.webm"):
        fault_server.objects[name] = (folder / name).read_bytes()
    fault_server.script(default=Fault("stall"), method="GET")
    return fault_server


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_ctrl_c_ends_quickly(stalling_server: FaultServer, tmp_path: Path) -> None:
    urls = [stalling_server.url(name) for name in ("h264_closed.mp4", "vp9.webm")]
    process = subprocess.Popen(
        [sys.executable, "-m", "lazyvid", "index", *urls, "--index-root", tmp_path / "sidecars"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: any(r.method == "GET" for r in stalling_server.requests) or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=DEADLINE_S)
        seconds = time.monotonic() - started
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.strip() == "interrupted"
    # The store would have tried again for a minute.
    assert seconds < 40


# -- the demo ---------------------------------------------------------------------------------------------------------


@pytest.mark.s3
@pytest.mark.slow  # `make demo` is the same
def test_the_demo_on_s3(s3_server: S3Server, folder: Path, tmp_path: Path) -> None:
    videos = [folder / "h264_closed.mp4", folder / "vp9.webm"]
    ended = lazyvid_process("demo", "--video", videos[0], "--video", videos[1], "--out", "demo", cwd=tmp_path)
    assert ended.code == 0, ended
    # 90 + 60 frames in clips of 16, the last one of each filled up; at two sizes.
    assert "0 wrong frames of 320" in ended.out
    assert "S3 server" in ended.out
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == ["contact-sheet.png"]


def test_the_demo_without_a_server_says_so_and_keeps_what_it_is_told_to(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(S3Server, "available", staticmethod(lambda: False))
    out = tmp_path / "demo"
    ended = lazyvid("demo", "--video", folder / "h264_closed.mp4", "--out", out, "--keep")
    assert ended.code == 0, ended
    assert "no S3 server is installed" in ended.out
    assert "0 wrong frames of 192" in ended.out
    assert (out / "bucket" / "00-h264_closed.mp4.lance").is_dir()


def test_the_demo_makes_its_own_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(S3Server, "available", staticmethod(lambda: False))
    monkeypatch.setattr("lazyvid.cli.demo._SECONDS", (1, 2))
    ended = lazyvid("demo", "--out", tmp_path / "demo")
    assert ended.code == 0, ended
    assert "0 wrong frames of 192" in ended.out  # 30 + 60 frames in 2 + 4 clips of 16, at two sizes
    assert (tmp_path / "demo" / "contact-sheet.png").stat().st_size > 10_000


def test_the_demo_fails_when_a_frame_is_wrong(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index that the demo is given exchanges two frames: it must notice by their pixels."""
    monkeypatch.setattr(S3Server, "available", staticmethod(lambda: False))

    def exchanged(uri: str, **options: object) -> FrameIndex:
        index = build_index(uri, **options)  # type: ignore[arg-type]
        offset, size = index.packets.offset.copy(), index.packets.size.copy()
        offset[[10, 20]], size[[10, 20]] = offset[[20, 10]], size[[20, 10]]
        return dataclasses.replace(index, packets=dataclasses.replace(index.packets, offset=offset, size=size))

    monkeypatch.setattr("lazyvid.cli.demo.build_index", exchanged)
    intra = VideoCorpus(tmp_path / "corpus")["h264_intra"]
    ended = lazyvid("demo", "--video", intra, "--out", tmp_path / "demo")
    assert ended.code == 1
    assert "4 wrong frames of 64" in ended.out
