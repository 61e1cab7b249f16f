from __future__ import annotations

import pytest

from lazyvid.index.sniff import DEMUXERS, SNIFF_BYTES, describe_bytes, sniff, stated_end
from lazyvid.testing import VideoCorpus

CONTAINERS = {
    ".mp4": "mp4",
    ".mov": "mp4",
    ".mkv": "matroska",
    ".webm": "matroska",
    ".avi": "avi",
    ".ts": "mpegts",
    ".mpg": "mpeg",
}

NO_VIDEOS = {
    "nothing": b"",
    "zeros": bytes(100_000),
    "text": b"The quick brown fox jumps over the lazy dog.\n" * 100,
    "many G": b"G" * 300,
    "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "xml": b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>NoSuchKey</Code></Error>',
    "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(100),
    "concat": b"ffconcat version 1.0\nfile victim.mp4\n",
    "hls": b"#EXTM3U\n#EXT-X-VERSION:3\nvictim.ts\n",
    "wav": b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(100),
    "box of size 3": b"\x00\x00\x00\x03ftypisom",
}


def test_every_corpus_file_is_what_its_suffix_says(corpus: VideoCorpus, corpus_name: str) -> None:
    path = corpus[corpus_name]
    assert sniff(path.read_bytes()[:SNIFF_BYTES]) == CONTAINERS[path.suffix]
    assert CONTAINERS[path.suffix] in DEMUXERS


@pytest.mark.parametrize("name", [name for name in NO_VIDEOS if name != "many G"])
def test_what_is_no_video_is_no_video(name: str) -> None:
    assert sniff(NO_VIDEOS[name]) is None


def test_transport_streams_may_begin_inside_a_packet_and_carry_times(corpus: VideoCorpus) -> None:
    stream = corpus["h264_ts"].read_bytes()
    assert sniff(stream[100:]) == "mpegts"
    with_times = b"".join(b"\x01\x02\x03\x04" + stream[i : i + 188] for i in range(0, len(stream), 188))
    assert sniff(with_times) == "mpegts"


@pytest.mark.parametrize("name", ["h264_mkv", "vp9", "mpeg4_avi", "h264_ts"])
def test_a_whole_file_ends_where_it_says(name: str, corpus: VideoCorpus) -> None:
    data = corpus[name].read_bytes()
    container = sniff(data) or ""
    assert stated_end(data[:SNIFF_BYTES], container, len(data)) == len(data)
    assert stated_end(data[:SNIFF_BYTES], container, len(data) - 1) == len(data)


def test_a_live_recording_states_no_end() -> None:
    live = b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff"
    assert sniff(live) == "matroska"
    assert stated_end(live, "matroska", 1000) is None


def test_first_bytes_are_named_as_text_or_numbers() -> None:
    assert describe_bytes(NO_VIDEOS["html"]) == repr(b"<!DOCTYPE html><")
    assert describe_bytes(b"\x89PNG") == "89 50 4e 47"
    assert describe_bytes(b"") == "no bytes at all"
