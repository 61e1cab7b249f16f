"""`lazyvid catalog`: what each of its commands does and says."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest
from test_cli import Ended, lazyvid, row

from lazyvid import Catalog, ObjectStore
from lazyvid.testing import CountingProxy, S3Server, write_video


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    for number in range(3):
        write_video(tmp_path / "videos" / f"{number}.mp4", frames=10 + number, width=64, height=48)
    return tmp_path / "videos"


def counts(ended: Ended) -> dict[str, str]:
    return {name: row(ended.out, name)[1] for name in ("added", "changed", "gone", "failed")}


def test_a_catalog_s_life(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "c.lance"
    built = lazyvid("catalog", "build", place, folder / "0.mp4", folder / "1*")
    assert (built.code, counts(built)) == (0, {"added": "2", "changed": "0", "gone": "0", "failed": "0"})
    assert "2 videos" in built.out
    appended = lazyvid("catalog", "append", place, folder)
    assert (appended.code, counts(appended)["added"]) == (0, "1")
    write_video(folder / "0.mp4", frames=30, width=64, height=48)
    (folder / "1.mp4").unlink()
    kept = lazyvid("catalog", "refresh", place, "--when-gone", "keep")
    assert (kept.code, counts(kept)) == (0, {"added": "0", "changed": "1", "gone": "1", "failed": "0"})
    assert f"gone {folder / '1.mp4'}" in kept.out
    assert "3 videos" in kept.out
    assert "2 videos" in lazyvid("catalog", "refresh", place).out
    assert Catalog.open(place).frame_counts.tolist() == [30, 12]
    info = lazyvid("catalog", "info", place)
    assert info.code == 0
    for words in ("2, ", "42, ", "h264: 2", "64x48: 2", Catalog.open(place).content_hash):
        assert words in info.out


@pytest.mark.parametrize("kind", ["csv", "parquet", "feather"])
def test_columns_come_from_a_file(folder: Path, tmp_path: Path, kind: str) -> None:
    uris = [str(folder / f"{number}.mp4") for number in range(3)]
    table = pa.table({"uri": uris, "split": ["train", "val", "train"], "label": [1, 2, 3]})
    file = tmp_path / f"labels.{kind}"
    if kind == "csv":
        pyarrow.csv.write_csv(table, file)
    elif kind == "parquet":
        pyarrow.parquet.write_table(table, file)
    else:
        pyarrow.feather.write_feather(table, file)
    assert lazyvid("catalog", "build", tmp_path / "c.lance", folder, "--columns", file).code == 0
    assert Catalog.open(tmp_path / "c.lance").to_table(["split", "label"]) == table.drop_columns(["uri"])
    assert "train: 2, val: 1" in lazyvid("catalog", "info", tmp_path / "c.lance").out


def test_errors_are_said(folder: Path, tmp_path: Path) -> None:
    (folder / "text.mp4").write_text("no video")
    place = tmp_path / "c.lance"
    ended = lazyvid("catalog", "build", place, folder)
    assert (ended.code, ended.out) == (1, "")
    assert "text.mp4" in ended.err
    skipped = lazyvid("catalog", "build", place, folder, "--on-error", "skip")
    assert (skipped.code, counts(skipped)["added"], counts(skipped)["failed"]) == (1, "3", "1")
    assert f"failed {folder / 'text.mp4'}: NotAVideoError" in skipped.out
    (tmp_path / "labels.txt").write_text("")
    (tmp_path / "labels.csv").write_text("a,b\n1\n")
    for wrong in ("labels.txt", "labels.csv", "nowhere.csv"):
        assert lazyvid("catalog", "build", place, folder, "--columns", tmp_path / wrong).code == 2
    for command in (("info",), ("refresh",), ("append", folder)):
        missing = lazyvid("catalog", command[0], tmp_path / "none.lance", *command[1:])
        assert missing.code == 1
        assert "lazyvid catalog build" in missing.err
    assert "nowhere" in lazyvid("catalog", "build", place, folder / "nowhere").err


@pytest.mark.s3
def test_a_listing_is_not_asked_again(
    folder: Path, s3_server: S3Server, s3_prefix: str, counting_proxy: CountingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectStore(storage_options=s3_server.storage_options)
    for path in folder.iterdir():
        store.upload(path, f"{s3_prefix}/{path.name}")
    options = counting_proxy.storage_options_for(s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", options["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", options["secret"])
    endpoint = ("--endpoint-url", options["client_kwargs"]["endpoint_url"])
    assert lazyvid("catalog", "build", f"{s3_prefix}/c.lance", s3_prefix, *endpoint).code == 0
    asked = [request for request in counting_proxy.requests if request.path.endswith(".mp4")]
    assert {request.method for request in asked} == {"GET"}
    assert len(asked) <= 3 * 3
    assert "3, " in lazyvid("catalog", "info", f"{s3_prefix}/c.lance", *endpoint).out
