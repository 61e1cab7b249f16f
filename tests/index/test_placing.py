from __future__ import annotations

import pytest
from index_samples import make_index

from lazyvid.errors import CorruptIndexError
from lazyvid.index.placing import located, portable, public


def names(*uris: str, video: str) -> tuple[str, ...]:
    index = make_index(10, segments=len(uris)).with_source_uris(uris)
    return tuple(source.uri for source in portable(index, video).sources)


@pytest.mark.parametrize(
    ("uris", "video", "stored"),
    [
        (["/a/v.mp4"], "/a/v.mp4", ("",)),
        (["/a/v.mp4"], "s3://b/k/v.mp4", ("",)),
        ([""], "/a/v.mp4", ("",)),
        (["/a/v.mp4", "/a/w.mp4"], "/a/v.mp4", ("", "w.mp4")),
        (["/a/v.mp4", "/a/w.mp4"], "/a/w.mp4", ("v.mp4", "")),
        (["/a/v.mp4", "/a/d/w.mp4"], "s3://b/k/v.mp4", ("", "d/w.mp4")),
        (["", "w.mp4"], "/a/v.mp4", ("", "w.mp4")),
        (["", "/a/w.mp4"], "/a/v.mp4", ("", "w.mp4")),
        (["s3://b/v.mp4", "s3://c/w.mp4"], "s3://b/v.mp4", ("", "s3://c/w.mp4")),
        (["https://h/v.mp4?sig=1", "https://u:p@o/w.mp4?sig=2"], "https://h/v.mp4?sig=9", ("", "https://o/w.mp4")),
    ],
)
def test_stored_names_are_relative_to_the_video(uris: list[str], video: str, stored: tuple[str, ...]) -> None:
    assert names(*uris, video=video) == stored


@pytest.mark.parametrize("video", ["/a/v.mp4", "s3://b/k/v.mp4"])
def test_located_undoes_portable(video: str) -> None:
    folder = video.rpartition("/")[0]
    uris = (video, folder + "/w.mp4", folder + "/d/x.mp4")
    index = make_index(10, segments=3).with_source_uris(uris)
    assert located(portable(index, video), video) == uris


@pytest.mark.parametrize("uri", ["/etc/passwd", "file:///etc/passwd", "../../../../x.mp4"])
def test_a_sidecar_in_a_bucket_cannot_name_files_of_this_machine(uri: str) -> None:
    index = make_index(10).with_source_uris([uri])
    with pytest.raises(CorruptIndexError):
        located(index, "s3://bucket/v.mp4")


def test_a_signature_is_not_public() -> None:
    assert public("https://user:word@host/v.mp4?X-Amz-Signature=secret") == "https://host/v.mp4"
    assert public("abfs://container@account.dfs.core.windows.net/v.mp4").count("@") == 1
