"""How a recording is begun, or taken up again: its settings checked, its place found and held, its cameras ready.

The first step of the write flow; `recorder.py` records into what comes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lazyvid.errors import RecordingError
from lazyvid.recording.cameras import Cameras
from lazyvid.recording.capture import Tuning, cameras_of
from lazyvid.recording.codecs import check_pix_fmt, encoder_name, resolve_vcodec
from lazyvid.recording.features import Features
from lazyvid.recording.layout import Layout
from lazyvid.recording.manifest import RecordingSpec, RecordingState
from lazyvid.recording.spool import RootLock, Spool
from lazyvid.recording.times import exact_rate
from lazyvid.storage import display_uri


@dataclass(frozen=True, slots=True)
class OpenRecording:
    """A recording that a recorder may go on with."""

    place: Spool
    """Where it lies."""
    layout: Layout
    """What lies on disk."""
    state: RecordingState
    """What it holds already."""
    lock: RootLock
    """Keeps others out."""
    cameras: Cameras
    """What makes files of its pictures."""
    durable_s: float
    """Seconds between two fsyncs of each file."""


def spec_of(fps: float | Fraction, features: Any, encoding: dict[str, Any]) -> RecordingSpec:
    """What is recorded, checked.

    Args:
        fps: Frames per second.
        features: What a frame holds, as `Recorder.create` takes it.
        encoding: The settings that a recording keeps, by the names of `Recorder.create`.

    Raises:
        ValueError: if one of them is invalid; the message names it.
        EncoderUnavailableError: if the encoder does not work here.
    """
    batch = encoding["batch_encoding_size"]
    if not isinstance(batch, int) or batch < 1:
        raise ValueError(f"Invalid batch_encoding_size {batch!r}: expected 1 or more.")
    vcodec = resolve_vcodec(encoding["vcodec"])
    check_pix_fmt(encoder_name(vcodec), encoding["pix_fmt"])
    streaming = bool(encoding["streaming_encoding"])
    settled = {"streaming_encoding": streaming, "batch_encoding_size": 1 if streaming else batch, "vcodec": vcodec}
    return RecordingSpec(exact_rate(fps), Features(features), encoding | settled)


def begin(spec: RecordingSpec, place: Spool, layout: Layout, tuning: Tuning) -> OpenRecording:
    """Begin a recording where there is none.

    Raises:
        ValueError: if an argument is invalid; the message names it.
        RecordingError: if there is a recording already, or the folder cannot be made.
    """
    _check(tuning)
    cameras = cameras_of(spec, place.root, tuning, layout.rules)
    try:
        place.check_new()
        state = layout.create(place.root, spec)
        place.remember()
        lock = RootLock(place.root)
    except BaseException:
        cameras.close()
        raise
    return OpenRecording(place, layout, state, lock, cameras, tuning.durable_s)


def take_up(place: Spool, layout: Layout, tuning: Tuning) -> OpenRecording:
    """Go on with a recording; what a killed recorder left is recovered first.

    Raises:
        RecordingError: if there is none, or it is damaged.
    """
    from lazyvid.recording.recover import recover_root  # it knows what recorders leave, and so imports most of the room

    _check(tuning)
    place.fetch()
    if not place.root.is_dir():
        raise RecordingError(f"Expected a recording at {display_uri(place.uri)}, found none. Check the path.")
    lock = RootLock(place.root)
    try:
        recover_root(place, layout)
        state = layout.open(place.root)
        cameras = cameras_of(state.spec, place.root, tuning, layout.rules)
    except BaseException:
        lock.release()
        raise
    return OpenRecording(place, layout, state, lock, cameras, tuning.durable_s)


def _check(tuning: Tuning) -> None:
    if not tuning.durable_s > 0:
        raise ValueError(f"Invalid durable_s {tuning.durable_s!r}: expected seconds above 0.")
