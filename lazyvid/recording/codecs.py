"""Encoders by the names that users give them, and the options that make them do what `g`, `crf` and `preset` ask for.

First step of the write flow; `mp4.py` opens the encoders, nothing here does.
"""

from __future__ import annotations

import numbers

import av
import av.codec
import numpy as np

from lazyvid.errors import EncoderUnavailableError

HW_ENCODERS = (
    "h264_videotoolbox",
    "hevc_videotoolbox",
    "h264_nvenc",
    "hevc_nvenc",
    "h264_vaapi",
    "h264_qsv",
)
"""Hardware encoders, best first."""

_ENCODERS = {"h264": "libx264", "hevc": "libx265"}
_SVTAV1_PRESET = "12"
_HIGHEST_CRF = 63


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
        if vcodec in HW_ENCODERS or vcodec in _ENCODERS:
            raise EncoderUnavailableError(
                f"The encoder {name!r} was asked for (vcodec={vcodec!r}), but PyAV's FFmpeg was built without it. "
                "Choose another vcodec, or install a PyAV whose FFmpeg has it."
            ) from error
        raise ValueError(_invalid(vcodec)) from error
    if codec.type != "video":
        raise ValueError(_invalid(vcodec))
    return name


def _invalid(vcodec: object) -> str:
    known = ", ".join(map(repr, (*_ENCODERS, "libsvtav1", *HW_ENCODERS)))
    return f"Invalid vcodec {vcodec!r}: expected one of {known}, or FFmpeg's name of a video encoder."


def check_pix_fmt(encoder: str, pix_fmt: str) -> None:
    """Raise ValueError unless the encoder takes pictures of this pixel format."""
    formats = [known.name for known in av.Codec(encoder, "w").video_formats or ()]
    if formats and pix_fmt not in formats:
        raise ValueError(f"Invalid pix_fmt {pix_fmt!r} for {encoder}: expected one of {', '.join(formats)}.")


def codec_options(
    vcodec: str, g: int | None = 2, crf: float | None = 30, preset: str | int | None = None
) -> dict[str, str]:
    """The encoder's own options for a key frame distance, a quality and a speed.

    Args:
        vcodec: as `encoder_name` takes it.
        g: largest distance between key frames, in frames; left out for NVENC, VAAPI and QSV. None leaves it out.
        crf: quality as a constant rate factor, the smaller the better; hardware encoders get the nearest thing that
            they have. None leaves it out.
        preset: speed, by the encoder's own name or number; libsvtav1 gets 12 when it is None.

    Returns:
        FFmpeg's names and values.

    Raises:
        ValueError: if `g` or `crf` is no such number.
    """
    _check(g, crf)
    family = vcodec.rpartition("_")[2] if vcodec in HW_ENCODERS else "software"
    options: dict[str, str] = {}
    if g is not None and family in ("software", "videotoolbox"):
        options["g"] = str(g)
    if crf is not None:
        options |= _quality(family, crf)
    if preset is None and vcodec == "libsvtav1":
        preset = _SVTAV1_PRESET
    if preset is not None and family in ("software", "nvenc", "qsv"):
        options["preset"] = str(preset)
    return options


def _quality(family: str, crf: float) -> dict[str, str]:
    match family:
        case "videotoolbox":
            return {"q:v": str(max(1, min(100, round(100 - 2 * crf))))}
        case "nvenc":
            return {"rc": "constqp", "qp": str(crf)}
        case "vaapi":
            return {"qp": str(crf)}
        case "qsv":
            return {"global_quality": str(crf)}
        case _:
            return {"crf": str(crf)}


def _check(g: object, crf: object) -> None:
    if g is not None and (isinstance(g, bool) or not isinstance(g, numbers.Integral) or g < 0):
        raise ValueError(f"Invalid g {g!r}: expected a number of frames, 0 or more, or None.")
    is_number = isinstance(crf, (int, float, np.number)) and not isinstance(crf, bool)
    if crf is not None and not (is_number and 0 <= float(crf) <= _HIGHEST_CRF):  # type: ignore[arg-type]
        raise ValueError(f"Invalid crf {crf!r}: expected a number from 0 to {_HIGHEST_CRF}, or None.")
