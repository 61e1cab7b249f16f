"""Options are those that FFmpeg's encoders state in their own tables; an encoder works when it encodes a frame here."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest

from lazyvid.errors import EncoderUnavailableError
from lazyvid.recording import codecs
from lazyvid.recording.codecs import (
    HW_ENCODERS,
    VALID_VIDEO_CODECS,
    codec_options,
    detect_available_hw_encoders,
    effort_options,
    encoder_name,
    encoder_report,
    encoder_status,
    native_options,
    resolve_vcodec,
    suited_pix_fmt,
)
from lazyvid.recording.scheduling import kept_scheduling

NAMED = sorted(VALID_VIDEO_CODECS - {"auto"})
CRFS = (0, 1, 23.5, 30, 51, 63)
PRESETS = {"h264": "ultrafast", "hevc": "medium", "libsvtav1": 8, "h264_nvenc": "p4", "h264_qsv": "veryfast"}


def is_compiled(vcodec: str) -> bool:
    try:
        encoder_name(vcodec)
    except EncoderUnavailableError:
        return False
    return True


def option_table(vcodec: str) -> dict[str, Any]:
    """FFmpeg's AVOptions of an encoder, by name; the encoder's own before those that all encoders have."""
    context = av.CodecContext.create(encoder_name(vcodec), "w")
    supported = getattr(context, "supported_options", None)
    if supported is None:
        pytest.skip("this PyAV does not show option tables")
    return {option.name: option for option in (*supported.generic, *supported.private)}


def check_against_table(option: Any, value: str) -> None:
    choices = {choice.name for choice in option.choices}
    if choices and not value.lstrip("-").isdigit():
        assert set(filter(None, value.split("+"))) <= choices, f"{option.name}={value}"
    elif option.type.name in ("INT", "INT64", "FLOAT", "DOUBLE"):
        assert option.min <= float(value) <= option.max, f"{option.name}={value}"
        assert option.type.name in ("FLOAT", "DOUBLE") or value == str(int(value)), f"{option.name}={value}"


# -- names ------------------------------------------------------------------------------------------------------------


def test_the_names_are_those_promised() -> None:
    assert list(HW_ENCODERS) == [
        "h264_videotoolbox", "hevc_videotoolbox", "h264_nvenc", "hevc_nvenc", "h264_vaapi", "h264_qsv",
    ]  # fmt: skip
    assert {"h264", "hevc", "libsvtav1", "auto", *HW_ENCODERS} == VALID_VIDEO_CODECS


# -- options ----------------------------------------------------------------------------------------------------------


def test_each_encoder_is_told_in_its_own_words() -> None:
    assert codec_options("libsvtav1") == {"g": "2", "crf": "30", "preset": "12"}
    assert codec_options("h264") == {"g": "2", "crf": "30"}
    assert codec_options("hevc", g=30, crf=18, preset="slow") == {"g": "30", "crf": "18", "preset": "slow"}
    assert codec_options("h264_videotoolbox", crf=30) == {"g": "2", "q:v": "40"}
    assert codec_options("h264_nvenc", crf=25, preset="p4") == {"rc": "constqp", "qp": "25", "preset": "p4"}
    assert codec_options("h264_vaapi", crf=25, preset="fast") == {"qp": "25"}
    assert codec_options("h264_qsv", crf=25, preset="fast") == {"global_quality": "25", "preset": "fast"}


@pytest.mark.parametrize(("crf", "quality"), [(0, "100"), (0.5, "99"), (49.5, "1"), (50, "1"), (60, "1")])
def test_videotoolbox_quality_stays_in_its_range(crf: float, quality: str) -> None:
    assert codec_options("hevc_videotoolbox", crf=crf)["q:v"] == quality


@pytest.mark.parametrize("vcodec", NAMED)
def test_none_leaves_an_option_out(vcodec: str) -> None:
    assert codec_options(vcodec, g=None, crf=None) == ({"preset": "12"} if vcodec == "libsvtav1" else {})


@pytest.mark.parametrize("vcodec", NAMED)
@pytest.mark.parametrize("crf", CRFS)
def test_options_are_in_ffmpegs_own_table_and_range(vcodec: str, crf: float) -> None:
    if not is_compiled(vcodec):
        pytest.skip(f"{vcodec} is not compiled into this FFmpeg")
    table = option_table(vcodec)
    options = native_options(codec_options(vcodec, g=30, crf=crf, preset=PRESETS.get(vcodec)))
    effort = {} if vcodec in HW_ENCODERS else effort_options(vcodec, fast_decode=1, encoder_threads=2)
    for name, value in (options | effort).items():
        assert name in table, f"{vcodec} has no option {name}"
        check_against_table(table[name], value)


@pytest.mark.parametrize("arguments", [{"g": -1}, {"g": 2.5}, {"g": True}, {"crf": -1}, {"crf": 64}, {"crf": "30"}])
def test_what_is_no_number_of_frames_or_quality_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Invalid (g|crf)"):
        codec_options("h264", **arguments)


def encoded_size(encoder: str, options: dict[str, str]) -> int:
    context: Any = av.CodecContext.create(encoder, "w")
    context.width, context.height, context.pix_fmt = 160, 120, "yuv420p"
    context.time_base, context.framerate = Fraction(1, 30), Fraction(30)
    context.options = dict(options)
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    picture = av.VideoFrame.from_ndarray(noise, format="rgb24").reformat(format="yuv420p")
    picture.pts = 0
    with kept_scheduling():
        size = sum(packet.size for packet in [*context.encode(picture), *context.encode(None)])
    assert not set(options) & set(context.options), "the encoder did not take an option"
    return size


def test_the_command_lines_quality_reaches_an_encoder_context() -> None:
    # libwebp reads the same field on the same scale as VideoToolbox: 1 to 100, the larger the better.
    sizes = [encoded_size("libwebp", native_options({"q:v": quality})) for quality in ("5", "40", "95")]
    assert 2.25 * sizes[0] < 1.5 * sizes[1] < sizes[2]
    # FFmpeg leaves the name of its command line untouched, so that the quality would be lost silently.
    with pytest.raises(AssertionError, match="did not take"):
        encoded_size("libwebp", {"q:v": "2"})
    assert native_options({"q:v": "2", "flags": "+low_delay"})["flags"] == "+low_delay+qscale"


@pytest.mark.parametrize("vcodec", ["h264", "hevc", "libsvtav1"])
def test_effort_options_are_taken(vcodec: str) -> None:
    codecs.hush(encoder_name(vcodec))
    options = codec_options(vcodec) | effort_options(vcodec, fast_decode=1, encoder_threads=2)
    assert encoded_size(encoder_name(vcodec), options) > 0


def test_effort_options_speak_each_encoders_language() -> None:
    assert effort_options("libsvtav1", fast_decode=1, encoder_threads=3) == {"svtav1-params": "fast-decode=1:lp=3"}
    assert effort_options("libsvtav1", encoder_threads=3) == {"svtav1-params": "lp=3"}
    assert effort_options("h264", fast_decode=1, encoder_threads=3) == {"threads": "3", "tune": "fastdecode"}
    assert effort_options("libsvtav1") == effort_options("hevc") == {}
    with pytest.warns(UserWarning, match="h264_nvenc has no such option"):
        assert effort_options("h264_nvenc", fast_decode=1) == {}
    with pytest.raises(ValueError, match="encoder_threads=0"):
        effort_options("h264", encoder_threads=0)


def test_an_encoder_gets_the_same_samples_in_the_order_that_it_takes() -> None:
    assert suited_pix_fmt("libx264", "yuv420p") == "yuv420p"
    assert suited_pix_fmt("libx264", "nv12") == "nv12"
    assert suited_pix_fmt("libsvtav1", "nv12") == "yuv420p"
    assert suited_pix_fmt("libsvtav1", "yuv444p") == "yuv444p"  # not the same samples: not ours to choose
    if is_compiled("h264_qsv"):
        assert suited_pix_fmt("h264_qsv", "yuv420p") == "nv12"


# -- what works -------------------------------------------------------------------------------------------------------


def test_software_encoders_work_and_the_report_agrees_with_a_trial() -> None:
    report = {status.name: status for status in encoder_report()}
    assert set(report) == set(NAMED)
    for status in report.values():
        assert status.compiled == is_compiled(status.name)
        assert status.works == (status.reason is None)
        assert status.works <= status.compiled
    assert all(report[name].works for name in ("h264", "hevc", "libsvtav1"))
    assert detect_available_hw_encoders() == [name for name in HW_ENCODERS if report[name].works]


def test_auto_is_the_best_encoder_that_works() -> None:
    working = detect_available_hw_encoders()
    assert resolve_vcodec("auto") == (working[0] if working else "libsvtav1")


def test_names_that_work_stay_what_they_are() -> None:
    assert [resolve_vcodec(name) for name in ("h264", "hevc", "libsvtav1")] == ["h264", "hevc", "libsvtav1"]


@pytest.mark.parametrize("name", ["h265", "", "libx264", "H264", "mjpeg"])
def test_an_unknown_name_is_refused_with_the_valid_ones(name: str) -> None:
    with pytest.raises(ValueError, match=r"^Invalid vcodec") as caught:
        resolve_vcodec(name)
    assert all(valid in str(caught.value) for valid in VALID_VIDEO_CODECS)
    with pytest.raises(ValueError, match=r"^Invalid vcodec"):
        resolve_vcodec("h264", fallback=name)
    with pytest.raises(ValueError, match=r"^Invalid vcodec"):
        encoder_status(name)


def broken_encoder() -> str:
    """A hardware encoder that does not work here; compiled in if there is one."""
    broken = [status for status in encoder_report() if not status.works]
    if not broken:
        pytest.skip("every encoder works on this machine")
    return max(broken, key=lambda status: status.compiled).name


def test_a_named_encoder_that_fails_says_why_or_falls_back() -> None:
    name = broken_encoder()
    with pytest.raises(EncoderUnavailableError, match=name) as caught:
        resolve_vcodec(name)
    assert str(encoder_status(name).reason) in str(caught.value)
    assert "h264" in str(caught.value)
    assert resolve_vcodec(name, fallback="h264") == "h264"
    assert resolve_vcodec(name, fallback=[name, "hevc"]) == "hevc"
    assert resolve_vcodec("h264", fallback="hevc") == "h264"
    assert resolve_vcodec(name, fallback="auto") == resolve_vcodec("auto")


def test_the_reason_is_the_drivers_not_a_number() -> None:
    status = encoder_status("h264_nvenc")
    if status.works or not status.compiled:
        pytest.skip("NVENC works here, or is not compiled in")
    # FFmpeg's return code alone reads "Operation not permitted", which sends people to their permissions.
    assert status.reason is not None
    assert "PermissionError" not in status.reason
    assert "Errno" not in status.reason


def test_an_encoder_is_tried_once_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(codecs, "_try", lambda vcodec: tried.append(vcodec) or codecs.EncoderStatus(vcodec, True, True))
    monkeypatch.setattr(codecs, "_tried", {})
    assert [resolve_vcodec("auto"), resolve_vcodec("auto")] == [HW_ENCODERS[0]] * 2
    assert sorted(tried) == sorted(HW_ENCODERS)
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as after a fork
    resolve_vcodec("auto")
    assert len(tried) == 2 * len(HW_ENCODERS)


def test_looking_at_encoders_writes_nothing() -> None:
    code = "from lazyvid.recording.codecs import encoder_report; encoder_report()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
