"""Cameras recorded in real time, as a robot's loop would feed them: what that costs, and that no frame goes astray.

The frames carry their numbers. After the run every file is decoded: each kept frame must lie at its own capture time,
and frames fed = frames in the file + frames reported dropped. A whole `Recorder` is timed, too, and its episode read
back through `LazyVideo` as soon as it is saved. Then the same frames are encoded by a plain `av` loop and by lazyvid in
turns, as fast as each can, for the processor time of a frame.

    python scripts/bench/record.py --json bench-output/record.json
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, cast

import av
import numpy as np
import numpy.typing as npt
import typer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from common import Spread, measure, ratios, write_json
from rich.console import Console
from rich.table import Table

from lazyvid.recording import Recorder
from lazyvid.recording.codecs import codec_options, encoder_name, hush
from lazyvid.recording.encoder import StreamingVideoEncoder
from lazyvid.recording.scheduling import kept_scheduling
from lazyvid.testing import painted_frame, read_frame_number
from lazyvid.video import LazyVideo

Frames = Sequence[npt.NDArray[np.uint8]]

_DISTINCT = 90  # pictures, shown again and again: three seconds, longer than any queue
_LATENESS_S = 1.0


@dataclass(frozen=True, slots=True)
class Setting:
    """What is recorded, and how."""

    vcodec: str
    preset: str
    g: int = 2
    crf: float = 30
    cameras: int = 4
    width: int = 640
    height: int = 480
    fps: int = 30

    @property
    def keys(self) -> list[str]:
        """The cameras' names."""
        return [f"camera-{number}" for number in range(self.cameras)]

    def encoder(self, **options: Any) -> StreamingVideoEncoder:
        """What is measured."""
        return StreamingVideoEncoder(
            self.fps, self.vcodec, g=self.g, crf=self.crf, preset=self.preset, **options
        )  # fmt: skip

    def frames(self) -> Frames:
        """Moving pictures that carry their numbers, in memory as cameras give them."""
        numbers = range(_DISTINCT)
        return [np.ascontiguousarray(painted_frame(n, width=self.width, height=self.height)) for n in numbers]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What came of one episode in real time."""

    setting: Setting
    seconds: float
    fed: int
    """Frames, of all cameras together, like the next two."""
    in_files: int
    dropped: int
    adds_up: bool
    """Whether for each camera fed = in the file + dropped, each kept frame at its own time, each other one reported."""
    feed_ms_median: float
    feed_ms_p99: float
    feed_ms_max: float
    late_ticks: int
    """Ticks that began more than half a frame late, because of the machine or of feeding."""
    finish_s: float
    cpu_ms_per_frame: float
    """Of the whole process, per frame in a file."""
    wrong: list[str] = field(default_factory=list)
    """What does not add up."""


def record(setting: Setting, frames: Frames, folder: Path, *, seconds: float) -> Recorded:
    """Feed all cameras at their rate, then finish and check every file."""
    ticks = round(seconds * setting.fps)
    costs: list[float] = []
    late = 0
    with setting.encoder() as encoder:
        encoder.start_episode(setting.keys, folder)
        cpu, began = time.process_time(), time.perf_counter() + 0.05
        for tick in range(ticks):
            due = began + tick / setting.fps
            time.sleep(max(0.0, due - time.perf_counter()))
            late += time.perf_counter() - due > 0.5 / setting.fps
            for key in setting.keys:
                start = time.perf_counter()
                encoder.feed_frame(key, frames[tick % _DISTINCT], _LATENESS_S + tick / setting.fps)
                costs.append(time.perf_counter() - start)
        ended = time.perf_counter()
        paths = {key: path for key, (path, _) in encoder.finish_episode().items()}
        finish = time.perf_counter() - ended
        cpu = time.process_time() - cpu
        dropped = encoder.dropped_timestamps
    kept, wrong = 0, []
    for key, path in paths.items():
        ticks_in_file, errors = _contents(path, setting)
        missing = sorted(set(range(ticks)) - set(ticks_in_file))
        if missing != [round((seconds - _LATENESS_S) * setting.fps) for seconds in dropped[key]]:
            errors.append(f"{len(missing)} missing, {len(dropped[key])} reported dropped")
        kept += len(ticks_in_file)
        wrong += [f"{key}: {error}" for error in errors]
    in_ms = np.array(costs) * 1e3
    return Recorded(
        setting=setting,
        seconds=seconds,
        fed=len(costs),
        in_files=kept,
        dropped=sum(map(len, dropped.values())),
        adds_up=not wrong,
        feed_ms_median=float(np.median(in_ms)),
        feed_ms_p99=float(np.quantile(in_ms, 0.99)),
        feed_ms_max=float(in_ms.max()),
        late_ticks=int(late),
        finish_s=finish,
        cpu_ms_per_frame=cpu * 1e3 / max(kept, 1),
        wrong=wrong[:10],
    )


def _contents(path: Path, setting: Setting) -> tuple[list[int], list[str]]:
    """The ticks whose frames a file holds, by their times; and where the picture is another one's."""
    ticks, errors = [], []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for picture in container.decode(stream):
            tick = round((picture.pts or 0) * cast("Fraction", stream.time_base) * setting.fps)
            try:
                number = read_frame_number(picture.to_ndarray(format="rgb24"))
            except ValueError as error:
                errors.append(f"frame at tick {tick}: {error}")
            else:
                if number != tick % _DISTINCT:
                    errors.append(f"frame {number} lies at tick {tick}")
            ticks.append(tick)
    return ticks, errors


@dataclass(frozen=True, slots=True)
class Saved:
    """What came of one episode of a `Recorder` in real time."""

    setting: Setting
    seconds: float
    rows: int
    dropped: int
    """Frames of all cameras together."""
    adds_up: bool
    """Whether each camera's video, read as soon as it is saved, holds every frame that was not dropped at its time."""
    add_frame_ms_median: float
    """Of a row: all cameras and the journal."""
    add_frame_ms_p99: float
    save_episode_s: float


def save(setting: Setting, frames: Frames, root: Path, *, seconds: float) -> Saved:
    """Record an episode at the cameras' rate, save it, and read it back."""
    rows = round(seconds * setting.fps)
    shape = [setting.height, setting.width, 3]
    features: dict[str, dict[str, Any]] = {key: {"dtype": "video", "shape": shape} for key in setting.keys}
    costs = []
    options: dict[str, Any] = {"vcodec": setting.vcodec, "preset": setting.preset, "g": setting.g, "crf": setting.crf}
    with Recorder.create(root, setting.fps, features, **options) as recorder:
        began = time.perf_counter() + 0.05
        for row in range(rows):
            time.sleep(max(0.0, began + row / setting.fps - time.perf_counter()))
            start = time.perf_counter()
            pictures = dict.fromkeys(setting.keys, frames[row % _DISTINCT])
            recorder.add_frame({**pictures, "task": "measure", "timestamp": row / setting.fps})
            costs.append(time.perf_counter() - start)
        start = time.perf_counter()
        recorder.save_episode()
        saving = time.perf_counter() - start
        dropped = recorder.dropped_frames
        adds_up = all(_reads_back(recorder.video_uri(0, key), setting, rows - dropped[key]) for key in setting.keys)
    in_ms = np.array(costs) * 1e3
    return Saved(
        setting=setting,
        seconds=seconds,
        rows=rows,
        dropped=sum(dropped.values()),
        adds_up=adds_up,
        add_frame_ms_median=float(np.median(in_ms)),
        add_frame_ms_p99=float(np.quantile(in_ms, 0.99)),
        save_episode_s=saving,
    )


def _reads_back(uri: str, setting: Setting, count: int) -> bool:
    video = LazyVideo(uri, on_missing_index="raise")
    ticks = np.rint(video.timestamps * setting.fps).astype(int)
    numbers = [read_frame_number(video[k]) for k in range(len(video))]
    return len(video) == count and numbers == (ticks % _DISTINCT).tolist()


def by_av(setting: Setting, frames: Frames, folder: Path, *, count: int) -> None:
    """The least that recording can be: frame after frame into PyAV, an ordinary MP4 for each camera."""
    files = []
    options = codec_options(setting.vcodec, setting.g, setting.crf, setting.preset)
    for key in setting.keys:
        container = av.open(str(folder / f"{key}.mp4"), "w")
        stream = cast(
            "VideoStream", container.add_stream(encoder_name(setting.vcodec), rate=setting.fps, options=options)
        )
        stream.width, stream.height, stream.pix_fmt = setting.width, setting.height, "yuv420p"
        with kept_scheduling():
            stream.codec_context.open(strict=False)
        files.append((container, stream))
    for number in range(count):
        for container, stream in files:
            picture = VideoFrame.from_ndarray(frames[number % _DISTINCT], format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, setting.fps)
            container.mux(stream.encode(picture))
    for container, stream in files:
        container.mux(stream.encode(None))
        container.close()


def by_lazyvid(setting: Setting, frames: Frames, folder: Path, *, count: int) -> None:
    """The same frames through `StreamingVideoEncoder`, which waits instead of dropping."""
    with setting.encoder(on_full="block") as encoder:
        encoder.start_episode(setting.keys, folder)
        for number in range(count):
            for key in setting.keys:
                encoder.feed_frame(key, frames[number % _DISTINCT])
        encoder.finish_episode()


def cost(setting: Setting, frames: Frames, folder: Path, *, count: int, repeats: int) -> dict[str, Any]:
    """Processor time of a frame, in milliseconds, and how lazyvid's compares."""
    runs: dict[str, Callable[[], object]] = {
        "av": lambda: by_av(setting, frames, folder, count=count),
        "lazyvid": lambda: by_lazyvid(setting, frames, folder, count=count),
    }
    timings = measure(runs, repeats=repeats)
    per_frame = count * setting.cameras
    spreads = {name: Spread.of([one.cpu * 1e3 for one in found]) / per_frame for name, found in timings.items()}
    return {"cpu_ms_per_frame": spreads, "ratio": ratios(timings["lazyvid"], timings["av"])}


def table(results: dict[str, Any]) -> Table:
    """The figures beside what they must reach."""
    shown = Table("figure", "must reach", "here")
    for one in results["recorded"]:
        name = f"{one.setting.vcodec} {one.setting.preset}, {one.setting.cameras} cameras, {one.seconds:g} s"
        shown.add_row(f"{name}: fed = in files + dropped", "exact", f"{one.fed:,} = {one.in_files:,} + {one.dropped:,}")
        shown.add_row("    feeding a frame, ms, median", "1", f"{one.feed_ms_median:.2f}")
        shown.add_row("    feeding a frame, ms, 99 of 100 below", "15", f"{one.feed_ms_p99:.2f}")
    saved = results.get("saved")
    if saved is not None:
        name = f"Recorder, {saved.setting.vcodec} {saved.setting.preset}, {saved.seconds:g} s"
        shown.add_row(f"{name}: dropped frames", "0", f"{saved.dropped}")
        shown.add_row("    save_episode, s", "0.5", f"{saved.save_episode_s:.2f}")
        shown.add_row("    add_frame of all cameras, ms, median", "", f"{saved.add_frame_ms_median:.2f}")
        shown.add_row("    every frame read back at its time", "yes", "yes" if saved.adds_up else "no")
    shown.add_row("processor time a frame, of a plain av loop's", "1.10", f"{results['cost']['ratio'].median:.2f}")
    return shown


def main(
    seconds: Annotated[float, typer.Option(help="Length of the episode in H.264.")] = 60.0,
    saved_seconds: Annotated[float, typer.Option(help="Length of a Recorder's episode; 0 leaves it out.")] = 60.0,
    svt_seconds: Annotated[float, typer.Option(help="Length of the episode in AV1; 0 leaves it out.")] = 60.0,
    svt_preset: Annotated[str, typer.Option(help="At 12 SVT-AV1 smears these pictures: some cannot be read.")] = "10",
    slow_preset: Annotated[str, typer.Option(help="Preset of AV1 that is too slow here, so that frames drop.")] = "4",
    slow_seconds: Annotated[float, typer.Option(help="Length of the episode with it; 0 leaves it out.")] = 10.0,
    cost_frames: Annotated[int, typer.Option(help="Frames per camera of each pass of the CPU comparison.")] = 150,
    repeats: Annotated[int, typer.Option(help="Passes of the CPU comparison.")] = 5,
    json: Annotated[Path | None, typer.Option(help="Where the figures go.")] = None,
) -> None:
    """Record, check every frame, compare the cost; ends with 1 when a frame is missing or misplaced."""
    console = Console()
    settings = [
        (Setting("h264", "ultrafast"), seconds),
        (Setting("libsvtav1", svt_preset), svt_seconds),
        (Setting("libsvtav1", slow_preset), slow_seconds),
    ]
    results: dict[str, Any] = {"load_before": list(os.getloadavg()), "recorded": [], "cost": {}}
    hush("libsvtav1")
    with tempfile.TemporaryDirectory() as temporary:
        for setting, length in settings:
            if length <= 0:
                continue
            recorded = record(setting, setting.frames(), Path(temporary), seconds=length)
            results["recorded"].append(recorded)
            console.print(recorded)
        h264 = settings[0][0]
        if saved_seconds > 0:
            results["saved"] = save(h264, h264.frames(), Path(temporary) / "run", seconds=saved_seconds)
            console.print(results["saved"])
        results["cost"] = cost(h264, h264.frames(), Path(temporary), count=cost_frames, repeats=repeats)
        console.print(results["cost"])
    console.print(table(results))
    if json is not None:
        faster = {"processor time: av / lazyvid": 1 / results["cost"]["ratio"].median}
        write_json(json, {"ratios": faster, **results})
    if not all(one.adds_up for one in [*results["recorded"], *filter(None, [results.get("saved")])]):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
