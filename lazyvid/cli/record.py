"""`lazyvid record`: an episode of cameras that are painted, played from a video, or real, into a recording."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from lazyvid.cli.console import count_text, seconds_text, stdout
from lazyvid.cli.encoders import Crf, Gop, PixFmt, Preset, Threads, Vcodec
from lazyvid.cli.options import Debug, EndpointUrl, Profile, StoreOption, make_store
from lazyvid.cli.record_live import Counts, LiveView
from lazyvid.cli.record_sources import Source, painted, played, real
from lazyvid.errors import RecordingError
from lazyvid.recording import Recorder
from lazyvid.storage import ObjectStore, display_uri

_SIZE = re.compile(r"(\d+)x(\d+)")
_SMALLEST = 16
_DEFAULT_SIZE = "640x480"
_FAST_PRESETS = {"h264": "ultrafast", "hevc": "ultrafast"}


def record_command(
    root: Annotated[str, typer.Argument(help="Where the recording goes: a folder, or a URL.", show_default=False)],
    *,
    source: Annotated[str | None, typer.Option(help="A video to play as a camera.", metavar="URI")] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="A camera, such as /dev/video0; give several for several.", metavar="PATH")
    ] = None,
    cameras: Annotated[int | None, typer.Option(min=1, max=64, help="So many painted cameras [1].")] = None,
    size: Annotated[
        str | None, typer.Option(help=f"Size of a camera's pictures [{_DEFAULT_SIZE}].", metavar="WIDTHxHEIGHT")
    ] = None,
    fps: Annotated[float | None, typer.Option(min=0.1, help="Frames per second [30].")] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="End after so long; by default at Ctrl-C, or with the video.")
    ] = None,
    task: Annotated[str, typer.Option(help="What is done in the episode, in words.")] = "lazyvid record",
    append: Annotated[
        bool, typer.Option("--append", help="Add an episode to the recording there, encoded as its others.")
    ] = False,
    on_full: Annotated[
        Literal["drop", "block", "raise"],
        typer.Option(help="What happens to a frame for which an encoder has no room."),
    ] = "drop",
    vcodec: Vcodec = "h264",
    pix_fmt: PixFmt = "yuv420p",
    gop: Gop = 30,
    crf: Crf = 23,
    preset: Preset = None,
    threads: Threads = None,
    driver: Annotated[str, typer.Option(help="FFmpeg's kind of device for --device.", metavar="NAME")] = "v4l2",
    option: StoreOption = None,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    debug: Debug = False,  # noqa: ARG001 - its callback has done the work
) -> None:
    """Record an episode: from painted cameras, a video played again, or real cameras.

    Ctrl-C ends the episode and saves it. What a kill leaves, lazyvid recover finishes.

    h264 and hevc are encoded with the preset ultrafast unless another one is given.
    """
    _check_choices(source, device, cameras, size, fps)
    store = make_store(option, endpoint_url, profile)
    wanted_size = None if device and size is None else _parsed_size(size or _DEFAULT_SIZE)
    encoding = {
        "vcodec": vcodec,
        "pix_fmt": pix_fmt,
        "g": gop,
        "crf": crf,
        "preset": preset or _FAST_PRESETS.get(vcodec),
        "encoder_threads": threads,
    }
    with _stopped_by_signals() as stopped, contextlib.ExitStack() as held:
        if device:
            found = held.enter_context(real(device, wanted_size, fps or 30.0, driver, stopped))
        elif source is not None:
            found = played(source, store, stopped)
        else:
            found = painted(cameras or 1, wanted_size or (0, 0), fps or 30.0, stopped)
        recorder = _recorder(root, found, store, encoding, append=append, on_full=on_full)
        with recorder:
            length = _record(recorder, found, task, seconds)
    _show(recorder, length)


def _check_choices(
    source: str | None, devices: list[str] | None, cameras: int | None, size: str | None, fps: float | None
) -> None:
    if source is not None and devices:
        raise typer.BadParameter("give one of --source and --device.")
    if cameras is not None and (source or devices):
        raise typer.BadParameter("--cameras is for painted cameras: leave it out with --source and --device.")
    if source is not None and (size is not None or fps is not None):
        raise typer.BadParameter("--size and --fps are those of the video: leave them out with --source.")


def _parsed_size(text: str) -> tuple[int, int]:
    """(height, width)."""
    match = _SIZE.fullmatch(text)
    if match is None or min(int(match[1]), int(match[2])) < _SMALLEST:
        raise typer.BadParameter(
            f"expected WIDTHxHEIGHT of {_SMALLEST} pixels or more, such as 640x480; got {text!r}.", param_hint="--size"
        )
    return int(match[2]), int(match[1])


def _recorder(
    root: str, source: Source, store: ObjectStore, encoding: dict[str, Any], *, append: bool, on_full: Any
) -> Recorder:
    if append:
        return Recorder.resume(root, store=store, on_full=on_full)
    features = {
        name: {"dtype": "video", "shape": [*size, 3], "names": ["height", "width", "channels"]}
        for name, size in source.sizes.items()
    }
    return Recorder.create(root, source.fps, features, store=store, on_full=on_full, **encoding)


def _record(recorder: Recorder, source: Source, task: str, seconds: float | None) -> float:
    """Record an episode until the source or the time ends; its length."""
    origin, length = time.time(), 0.0
    with LiveView(list(source.sizes)) as view:
        for pictures, at in source.rows:
            if seconds is not None and min(at.values()) >= seconds:
                break
            times = {camera: origin + since for camera, since in at.items()}
            recorder.add_frame({**pictures, "task": task, "timestamp": times})
            length = max(at.values()) + 1 / source.fps
            view.update(Counts(length, recorder.episode_frames, recorder.queued_frames, recorder.dropped_frames))
    if not recorder.episode_frames:
        raise RecordingError(f"Expected a frame or more for the episode in {display_uri(recorder.root)}, got none.")
    recorder.save_episode()
    return length


def _show(recorder: Recorder, length: float) -> None:
    console = stdout()
    episode, meta = recorder.meta.total_episodes - 1, recorder.meta
    dropped = {camera: count for camera, count in recorder.dropped_frames.items() if count}
    lost = ", ".join(f"{camera} {count:,}" for camera, count in dropped.items())
    console.print(
        f"episode {episode} of {seconds_text(length)} in [bold]{escape(display_uri(recorder.root))}[/], which has "
        f"{count_text(meta.total_frames, 'row')} in {count_text(meta.total_episodes, 'episode')}; "
        + (f"[yellow]dropped: {escape(lost)}[/]" if lost else "no frame dropped"),
        soft_wrap=True,
    )
    for name, feature in meta.features.items():
        if feature["dtype"] == "video":
            console.print(f"  {escape(display_uri(recorder.video_uri(episode, name)))}", soft_wrap=True)


class _Stopped:
    """A flag for signal handlers: an Event has a lock, which the thread that the handler interrupts may hold."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[_Stopped]:
    """A flag that the first Ctrl-C sets, so that no frame is cut in two; a second one interrupts as always."""
    stopped = _Stopped()

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    if threading.current_thread() is not threading.main_thread():
        yield stopped  # only the main thread may say what a signal does
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
