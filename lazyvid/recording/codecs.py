"""Encoders by the names that users give them, which of them really work here, and the options that they understand.

First step of the write flow, before `mp4.py` opens an encoder. That FFmpeg knows an encoder's name proves nothing:
NVENC is in PyAV's wheel on machines without a GPU. So an encoder is tried by encoding a frame.
"""

from __future__ import annotations

import numbers
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import av
import av.codec
import av.logging
import numpy as np
from av.video.codeccontext import VideoCodecContext

from lazyvid.errors import EncoderFailedError, EncoderUnavailableError
from lazyvid.recording.scheduling import kept_scheduling

HW_ENCODERS = (
    "h264_videotoolbox",
    "hevc_videotoolbox",
    "h264_nvenc",
    "hevc_nvenc",
    "h264_vaapi",
    "h264_qsv",
)
"""Hardware encoders, best first."""

SOFTWARE_VCODECS = ("h264", "hevc", "libsvtav1")
"""The names of software encoders, cheapest first."""

VALID_VIDEO_CODECS = frozenset({*SOFTWARE_VCODECS, "auto", *HW_ENCODERS})
"""What `resolve_vcodec` takes."""

_ENCODERS = {"h264": "libx264", "hevc": "libx265"}
_SVTAV1_PRESET = "12"
_HIGHEST_CRF = 63
_HIGHEST_QP = 51  # of H.264 and HEVC at 8 bits
_FF_QP2LAMBDA = 118
# SVT-AV1 greets on stderr at each opening, and its wrapper has no option against that; 1 lets errors through.
_QUIET_ENVIRONMENT = {"libsvtav1": ("SVT_LOG", "1")}
# What stands in for a pixel format where an encoder does not take it, with the same samples in another order.
_SAME_SAMPLES = {"yuv420p": "nv12", "nv12": "yuv420p"}

_WIDTH, _HEIGHT = 640, 480  # hardware encoders refuse pictures smaller than about 145x49
_SAFE_VCODEC = "libsvtav1"
# Keyed by process: what a GPU said to the parent of a fork does not hold in the child.
_tried: dict[tuple[int, str], EncoderStatus] = {}


# -- names ------------------------------------------------------------------------------------------------------------


def encoder_name(vcodec: str) -> str:
    """FFmpeg's name of the encoder that a `vcodec` stands for.

    Args:
        vcodec: "h264", "hevc", "libsvtav1", or FFmpeg's own name of a video encoder.

    Raises:
        ValueError: if it is the name of no video encoder.
        EncoderUnavailableError: if it is the name of one that this FFmpeg was built without.
    """
    name = _ENCODERS.get(vcodec, vcodec)
    try:
        codec = av.Codec(name, "w")
    except (av.codec.codec.UnknownCodecError, TypeError) as error:
        if vcodec in HW_ENCODERS or vcodec in SOFTWARE_VCODECS:
            raise EncoderUnavailableError(
                f"The encoder {name!r} was asked for (vcodec={vcodec!r}), but PyAV's FFmpeg was built without it. "
                "Choose another vcodec, or install a PyAV whose FFmpeg has it."
            ) from error
        raise ValueError(_invalid(vcodec)) from error
    if codec.type != "video":
        raise ValueError(_invalid(vcodec))
    return name


def _invalid(vcodec: object, others: str = "or FFmpeg's name of a video encoder") -> str:
    known = ", ".join(map(repr, (*SOFTWARE_VCODECS, *HW_ENCODERS)))
    return f"Invalid vcodec {vcodec!r}: expected one of {known}, {others}."


def check_pix_fmt(encoder: str, pix_fmt: str) -> None:
    """Raise ValueError unless the encoder takes pictures of this pixel format."""
    formats = _formats(encoder)
    if formats and pix_fmt not in formats:
        raise ValueError(f"Invalid pix_fmt {pix_fmt!r} for {encoder}: expected one of {', '.join(formats)}.")


def suited_pix_fmt(encoder: str, pix_fmt: str) -> str:
    """The pixel format, or the one with the same samples in another order where the encoder takes only that.

    Quick Sync takes nv12, the usual encoders yuv420p: the same picture.

    Args:
        encoder: FFmpeg's name.
        pix_fmt: FFmpeg's name of the format asked for.
    """
    formats = _formats(encoder)
    other = _SAME_SAMPLES.get(pix_fmt)
    return other if other in formats and pix_fmt not in formats else pix_fmt


def _formats(encoder: str) -> list[str]:
    return [known.name for known in av.Codec(encoder, "w").video_formats or ()]


# -- options ----------------------------------------------------------------------------------------------------------


def codec_options(
    vcodec: str, g: int | None = 2, crf: float | None = 30, preset: str | int | None = None
) -> dict[str, str]:
    """The encoder's own options for a key frame distance, a quality and a speed.

    Args:
        vcodec: as `encoder_name` takes it.
        g: largest distance between key frames, in frames; left out for NVENC, VAAPI and QSV. None leaves it out.
        crf: quality as a constant rate factor, the smaller the better; hardware encoders get the nearest thing that
            they have. None leaves it out.
        preset: speed, by the encoder's own name or number, where it has presets; libsvtav1 gets 12 when it is None.

    Returns:
        Names as FFmpeg's command line has them, and values; `native_options` makes what an encoder context takes.

    Raises:
        ValueError: if `g` or `crf` is no such number.
    """
    _check(g, crf)
    family = _family(vcodec)
    options: dict[str, str] = {}
    if g is not None and family in ("software", "videotoolbox"):
        options["g"] = str(int(g))
    if crf is not None:
        options |= _quality(vcodec, family, float(crf))
    if preset is None and vcodec == "libsvtav1":
        preset = _SVTAV1_PRESET
    if preset is not None and family in ("software", "nvenc", "qsv"):
        options["preset"] = str(preset)
    return options


def _family(vcodec: str) -> str:
    return vcodec.rpartition("_")[2] if vcodec in HW_ENCODERS else "software"


def _quality(vcodec: str, family: str, crf: float) -> dict[str, str]:
    whole = round(crf)
    match family:
        case "videotoolbox":
            return {"q:v": str(max(1, min(100, round(100 - 2 * crf))))}
        case "nvenc":
            return {"rc": "constqp", "qp": str(min(whole, _HIGHEST_QP))}
        case "vaapi":
            return {"qp": str(min(whole, _HIGHEST_QP))}
        case "qsv":
            return {"global_quality": str(min(max(whole, 1), _HIGHEST_QP))}
        case _:
            return {"crf": str(whole) if vcodec == "libsvtav1" else f"{crf:g}"}


def _check(g: object, crf: object) -> None:
    if g is not None and (isinstance(g, bool) or not isinstance(g, numbers.Integral) or g < 0):
        raise ValueError(f"Invalid g {g!r}: expected a number of frames, 0 or more, or None.")
    is_number = isinstance(crf, (int, float, np.number)) and not isinstance(crf, bool)
    if crf is not None and not (is_number and 0 <= float(crf) <= _HIGHEST_CRF):  # type: ignore[arg-type]
        raise ValueError(f"Invalid crf {crf!r}: expected a number from 0 to {_HIGHEST_CRF}, or None.")


def effort_options(vcodec: str, *, fast_decode: int = 0, encoder_threads: int | None = None) -> dict[str, str]:
    """The encoder's own options for streams that are cheap to decode, and for the threads that it may use.

    Args:
        vcodec: as `encoder_name` takes it.
        fast_decode: 0 for an ordinary stream; more for one that is cheaper to decode: libsvtav1's level, the tune
            "fastdecode" of h264 and hevc. Hardware encoders have no such thing, which is warned about.
        encoder_threads: libsvtav1's level of parallelism, the threads of others; None leaves it to the encoder.

    Returns:
        FFmpeg's names and values.

    Raises:
        ValueError: if a number is negative, or there is no thread.
    """
    if fast_decode < 0 or (encoder_threads is not None and encoder_threads < 1):
        raise ValueError(
            f"Invalid fast_decode={fast_decode!r}, encoder_threads={encoder_threads!r}: expected 0 or more, and 1 or "
            "more or None."
        )
    if vcodec == "libsvtav1":
        parameters = [f"fast-decode={fast_decode}"] * bool(fast_decode)
        parameters += [] if encoder_threads is None else [f"lp={encoder_threads}"]
        return {"svtav1-params": ":".join(parameters)} if parameters else {}
    options = {} if encoder_threads is None else {"threads": str(encoder_threads)}
    if fast_decode and _family(vcodec) == "software":
        options["tune"] = "fastdecode"
    elif fast_decode:
        warnings.warn(f"fast_decode={fast_decode} is left out: {vcodec} has no such option.", stacklevel=3)
    return options


def native_options(options: Mapping[str, str]) -> dict[str, str]:
    """Options as an encoder context knows them: `q:v` is a name of FFmpeg's command line, which no context has.

    Args:
        options: as `codec_options` gives them.
    """
    native = dict(options)
    scale = native.pop("q:v", None)
    if scale is not None:
        native["flags"] = native.get("flags", "") + "+qscale"
        native["global_quality"] = str(round(float(scale) * _FF_QP2LAMBDA))
    return native


def hush(encoder: str) -> None:
    """Keep an encoder's library from greeting on stderr, where an environment variable says so and none is set.

    Args:
        encoder: FFmpeg's name; call this before it is opened for the first time in a process.
    """
    if encoder in _QUIET_ENVIRONMENT:
        os.environ.setdefault(*_QUIET_ENVIRONMENT[encoder])


# -- what works -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EncoderStatus:
    """What came of encoding a frame."""

    name: str
    """The `vcodec`."""
    compiled: bool
    """Whether FFmpeg was built with the encoder."""
    works: bool
    """Whether a frame was encoded."""
    reason: str | None = None
    """Why not, in the words of FFmpeg and of the driver; None when it works."""


def encoder_status(vcodec: str) -> EncoderStatus:
    """Whether an encoder works here; tried once a process.

    Args:
        vcodec: a name of `VALID_VIDEO_CODECS` other than "auto".

    Raises:
        ValueError: if it is another name.
    """
    if vcodec not in VALID_VIDEO_CODECS - {"auto"}:
        raise ValueError(_invalid(vcodec, "no other name"))
    key = (os.getpid(), vcodec)
    if key not in _tried:
        _tried[key] = _try(vcodec)
    return _tried[key]


def encoder_report() -> list[EncoderStatus]:
    """The status of every encoder, software first, then hardware by preference."""
    return [encoder_status(vcodec) for vcodec in (*SOFTWARE_VCODECS, *HW_ENCODERS)]


def detect_available_hw_encoders() -> list[str]:
    """The hardware encoders that work here, best first; each is tried once a process."""
    return [vcodec for vcodec in HW_ENCODERS if encoder_status(vcodec).works]


def resolve_vcodec(vcodec: str, *, fallback: str | Sequence[str] | None = None) -> str:
    """The encoder to record with.

    Args:
        vcodec: a name of `VALID_VIDEO_CODECS`; "auto" takes the first hardware encoder that works here, else libsvtav1.
        fallback: name or names to be tried in order when `vcodec` does not work.

    Returns:
        A name that `codec_options` and `encoder_name` take, never "auto".

    Raises:
        ValueError: if a name is not in `VALID_VIDEO_CODECS`.
        EncoderUnavailableError: if none of the encoders asked for works here; the message says why.
    """
    alternatives = [fallback] if isinstance(fallback, str) else list(fallback or ())
    for name in (vcodec, *alternatives):
        if name not in VALID_VIDEO_CODECS:
            raise ValueError(_invalid(name, "or 'auto'"))
    failures = []
    for name in (vcodec, *alternatives):
        # "auto" ends with a software encoder, which may be missing like any other.
        chosen = next(iter(detect_available_hw_encoders()), _SAFE_VCODEC) if name == "auto" else name
        status = encoder_status(chosen)
        if status.works:
            return chosen
        failures.append(f"{chosen}: {status.reason}")
    working = ", ".join(status.name for status in encoder_report() if status.works) or "none"
    raise EncoderUnavailableError(
        f"Expected an encoder that works here, tried {'; '.join(failures)}. Those that work: {working}. Choose one of "
        "them, or name it as fallback=."
    )


def _try(vcodec: str) -> EncoderStatus:
    try:
        encoder = encoder_name(vcodec)
    except EncoderUnavailableError:
        return EncoderStatus(vcodec, compiled=False, works=False, reason="PyAV's FFmpeg was built without it")
    hush(encoder)
    try:
        _encode_a_frame(vcodec, encoder)
    except (av.FFmpegError, OSError, ValueError, RuntimeError) as error:
        reason = _log_of_failure(vcodec, encoder) or f"{type(error).__name__}: {error}"
        return EncoderStatus(vcodec, compiled=True, works=False, reason=reason)
    return EncoderStatus(vcodec, compiled=True, works=True)


def _encode_a_frame(vcodec: str, encoder: str) -> None:
    """Encode one picture with the options that a recording has by default; raises whatever goes wrong."""
    context = cast("VideoCodecContext", av.CodecContext.create(encoder, "w"))
    context.width, context.height = _WIDTH, _HEIGHT
    context.pix_fmt = suited_pix_fmt(encoder, "yuv420p")
    context.time_base, context.framerate = Fraction(1, 30), Fraction(30)
    options = native_options(codec_options(vcodec))
    context.options = options | ({"x265-params": "log-level=error"} if encoder == "libx265" else {})
    gray = np.full((_HEIGHT, _WIDTH), 128, np.uint8)
    picture = av.VideoFrame.from_ndarray(gray, format="gray").reformat(format=context.pix_fmt, threads=1)
    picture.pts = 0
    with kept_scheduling():
        packets = [*context.encode(picture), *context.encode(None)]
    unknown = sorted(set(context.options) & set(options))  # PyAV leaves here what the encoder did not take
    if unknown:
        raise EncoderFailedError(f"it knows no option {', '.join(unknown)}")
    if not any(packet.size for packet in packets):
        raise EncoderFailedError("it took a frame and gave no packet")


def _log_of_failure(vcodec: str, encoder: str) -> str:
    """What FFmpeg writes into its log when the encoder fails, which says more than the number that it returns."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as messages:
            _encode_a_frame(vcodec, encoder)
    except (av.FFmpegError, OSError, ValueError, RuntimeError):
        lines = [" ".join(text.split()) for _, _, text in messages]
        return "; ".join(dict.fromkeys(filter(None, lines)))
    finally:
        av.logging.set_level(level)
    return ""
