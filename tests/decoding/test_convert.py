"""Pixels: the same as FFmpeg's own conversion at full size, upright, and resized as a plain bilinear would."""

from __future__ import annotations

import dataclasses

import av
import numpy as np
import pytest
import torch
from decoding_samples import opened, pictures

from lazyvid.decoding.convert import PictureConverter, PictureFormat
from lazyvid.errors import DecodeError
from lazyvid.index.probe import build_index
from lazyvid.testing import CORPUS, VideoCorpus, painted_frame, read_frame_number

VIDEOS = sorted(name for name in CORPUS if name != "audio_only")


def converted(converter: PictureConverter, picture: av.VideoFrame, shape: tuple[int, int, int]) -> np.ndarray:
    out = np.full(shape, 77, np.uint8)
    converter.write(picture, out)
    return out


@pytest.mark.parametrize("name", VIDEOS)
def test_full_size_equals_ffmpegs_own_conversion(corpus: VideoCorpus, name: str) -> None:
    source = dataclasses.replace(build_index(corpus[name]).sources[0], rotation=0, hflip=False)
    for colorspace, pixel_format in (("RGB", "rgb24"), ("G", "gray")):
        wanted = PictureFormat(colorspace=colorspace)
        converter = PictureConverter(source, wanted)
        for picture in pictures(corpus[name], count=5):
            expected = picture.to_ndarray(format=pixel_format).reshape(wanted.shape(source))
            np.testing.assert_array_equal(converted(converter, picture, wanted.shape(source)), expected)


def test_the_corpus_holds_several_pixel_formats(corpus: VideoCorpus) -> None:
    found = {
        build_index(corpus[name]).sources[0].pix_fmt
        for name in ("h264_closed", "h264_10bit", "h264_444_odd", "hevc_444")
    }
    assert {"yuv420p", "yuv420p10le", "yuv444p"} <= found


@pytest.mark.parametrize("name", [name for name in VIDEOS if CORPUS[name].rotation])
@pytest.mark.parametrize("resize", [None, (96, 128)])
def test_turned_pictures_come_out_upright(corpus: VideoCorpus, name: str, resize: tuple[int, int] | None) -> None:
    source = build_index(corpus[name]).sources[0]
    assert source.rotation == (-CORPUS[name].rotation) % 360
    wanted = PictureFormat(resize=resize)
    height, width, _ = wanted.shape(source)
    assert (height, width) == (resize or source.display_size)
    converter = PictureConverter(source, wanted)
    for number, picture in enumerate(pictures(corpus[name], count=5)):
        out = converted(converter, picture, wanted.shape(source))
        assert read_frame_number(out) == number
        expected = painted_frame(number, width=width, height=height).astype(int)
        if resize is None:
            assert np.abs(out - expected).mean() < 12  # lossy codec and chroma at half size


def test_a_mirror_image_is_mirrored_before_it_is_turned(corpus: VideoCorpus) -> None:
    _, source, _ = opened(corpus["h264_rotated_90"])
    (picture,) = pictures(corpus["h264_rotated_90"], count=1)
    plain = picture.to_ndarray(format="rgb24")
    for rotation in (0, 90, 180, 270):
        turned = dataclasses.replace(source, rotation=rotation, hflip=True)
        wanted = PictureFormat()
        out = converted(PictureConverter(turned, wanted), picture, wanted.shape(turned))
        np.testing.assert_array_equal(out, np.rot90(plain[:, ::-1], rotation // 90))


# Shrinking with antialiasing is what libswscale's bilinear does, and torchvision's.
@pytest.mark.parametrize("size", [(112, 112), (60, 80), (96, 200), (240, 320), (33, 47)])
@pytest.mark.parametrize("name", ["h264_closed", "h264_444_odd", "h264_10bit", "h264_full_range"])
def test_a_resize_is_close_to_a_plain_bilinear(corpus: VideoCorpus, name: str, size: tuple[int, int]) -> None:
    source = build_index(corpus[name]).sources[0]
    wanted = PictureFormat(resize=size)
    assert wanted.shape(source) == (*size, 3)
    for picture in pictures(corpus[name], count=2):
        out = converted(PictureConverter(source, wanted), picture, wanted.shape(source))
        full = torch.from_numpy(picture.to_ndarray(format="rgb24")).permute(2, 0, 1)[None].float()
        plain = torch.nn.functional.interpolate(full, size, mode="bilinear", antialias=True, align_corners=False)
        expected = plain[0].permute(1, 2, 0).clamp(0, 255).numpy()
        assert np.abs(out - expected).mean() < 2.0


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "area", "lanczos"])
def test_every_interpolation_resizes_and_differs(corpus: VideoCorpus, interpolation: str) -> None:
    source = build_index(corpus["h264_closed"]).sources[0]
    (picture,) = pictures(corpus["h264_closed"], count=1)
    wanted = PictureFormat(resize=(90, 100), interpolation=interpolation)  # type: ignore[arg-type]
    out = converted(PictureConverter(source, wanted), picture, (90, 100, 3))
    assert read_frame_number(out) == 0
    other = PictureFormat(resize=(90, 100), interpolation="bilinear" if interpolation == "nearest" else "nearest")
    assert not np.array_equal(out, converted(PictureConverter(source, other), picture, (90, 100, 3)))


@pytest.mark.parametrize("size", [(120, 160), (64, 64), (1, 1), (300, 40)])
def test_gray_is_luma_at_any_size(corpus: VideoCorpus, size: tuple[int, int]) -> None:
    source = build_index(corpus["h264_closed"]).sources[0]
    (picture,) = pictures(corpus["h264_closed"], count=1)
    wanted = PictureFormat(resize=size, colorspace="G")
    out = converted(PictureConverter(source, wanted), picture, (*size, 1))
    luma = torch.from_numpy(picture.to_ndarray(format="gray"))[None, None].float()
    expected = torch.nn.functional.interpolate(luma, size, mode="bilinear", antialias=True)[0, 0].numpy()
    assert np.abs(out[..., 0] - expected).mean() < 2.0


def test_the_same_picture_gives_the_same_pixels_whatever_came_before(corpus: VideoCorpus) -> None:
    source = build_index(corpus["h264_closed"]).sources[0]
    several = list(pictures(corpus["h264_closed"], count=6))
    wanted = PictureFormat(resize=(50, 70))
    converter = PictureConverter(source, wanted)
    forwards = [converted(converter, picture, (50, 70, 3)) for picture in several]
    backwards = [converted(converter, picture, (50, 70, 3)) for picture in reversed(several)][::-1]
    fresh = [converted(PictureConverter(source, wanted), picture, (50, 70, 3)) for picture in several]
    for one, two, three in zip(forwards, backwards, fresh, strict=True):
        assert np.array_equal(one, two)
        assert np.array_equal(one, three)


def test_only_the_rows_asked_for_are_written(corpus: VideoCorpus) -> None:
    source = build_index(corpus["h264_444_odd"]).sources[0]
    (picture,) = pictures(corpus["h264_444_odd"], count=1)
    wanted = PictureFormat()
    memory = np.full((3, *wanted.shape(source)), 77, np.uint8)
    PictureConverter(source, wanted).write(picture, memory[1])
    assert np.all(memory[[0, 2]] == 77)
    np.testing.assert_array_equal(memory[1], picture.to_ndarray(format="rgb24"))


def test_a_change_of_size_is_an_error_unless_it_is_resized(corpus: VideoCorpus) -> None:
    source = build_index(corpus["h264_closed"]).sources[0]
    (other,) = pictures(corpus["h264_444_odd"], count=1)
    with pytest.raises(DecodeError, match=r"160x120 .*found 161x121.*resize"):
        converted(PictureConverter(source, PictureFormat()), other, (120, 160, 3))
    out = converted(PictureConverter(source, PictureFormat(resize=(120, 160))), other, (120, 160, 3))
    assert read_frame_number(out) == 0


def test_wrong_words_are_named() -> None:
    with pytest.raises(ValueError, match="colorspace 'YUV'"):
        PictureFormat(colorspace="YUV")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="interpolation 'spline'"):
        PictureFormat(interpolation="spline")  # type: ignore[arg-type]
