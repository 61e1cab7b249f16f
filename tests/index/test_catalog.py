"""A catalog says of each video what its own index says, answers damage by errors, and follows its videos when told."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from index_samples import DAMAGES, same

from lazyvid import timing
from lazyvid.errors import (
    AccessDeniedError,
    CorruptIndexError,
    LazyVidError,
    MissingIndexError,
    NotAVideoError,
    ObjectChangedError,
    ObjectNotFoundError,
    StaleIndexError,
)
from lazyvid.index import Catalog, FrameIndex, build_index, catalog_files, node_files, sealed
from lazyvid.index.catalog_table import FORMAT_VERSION, VERSION_KEY
from lazyvid.index.frame_index import UNKNOWN
from lazyvid.index.sidecar import write_sidecar
from lazyvid.storage import ObjectStore
from lazyvid.testing import CountingProxy, S3Server, VideoCorpus, write_video

NAMES = ("h264_closed", "h264_vfr", "h264_edit_list", "mpeg2_ts", "vp9_hidden_webm")


@pytest.fixture(autouse=True)
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a node that has seen no catalog yet."""
    folder = tmp_path / "node"
    monkeypatch.setenv(node_files.DIRECTORY_VARIABLE, str(folder))
    node_files.clear()
    monkeypatch.setattr(node_files._this_process(), "warned", False)
    yield folder
    node_files.clear()


def another_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str = "another") -> None:
    monkeypatch.setenv(node_files.DIRECTORY_VARIABLE, str(tmp_path / name))
    node_files.clear()


@pytest.fixture
def folder(tmp_path: Path, corpus: VideoCorpus) -> Path:
    """Five videos of different kinds; the first two with sidecars."""
    root = tmp_path / "videos"
    (root / "below").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        place = root / "below" if number == 3 else root
        shutil.copy(corpus[name], place / f"{number}{corpus[name].suffix}")
    for path in videos_of(root)[:2]:
        build_index(path).save(path)
    return root


def videos_of(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and ".lance" not in str(p))


def files_of(catalog: Path) -> list[Path]:
    return sorted(path for path in catalog.rglob("*") if path.is_file())


# -- what is in it ----------------------------------------------------------------------------------------------------


def test_a_row_is_what_the_index_says(folder: Path, tmp_path: Path) -> None:
    catalog = Catalog.build(folder, tmp_path / "c.lance")
    videos = videos_of(folder)
    assert catalog.uris == list(map(str, videos))
    assert len(Catalog.open(str(tmp_path / "c.lance"))) == len(catalog) == 5
    table = catalog.to_table()
    assert tuple(table.column_names) == catalog.columns
    for number, (path, row) in enumerate(zip(videos, table.to_pylist(), strict=True)):
        index = catalog.index(number)
        assert same(index, build_index(path))
        assert same(catalog.index(number - 5), index)
        assert row["uri"] == catalog.uri_of(number) == str(path)
        assert row["frames"] == catalog.frame_counts[number] == len(index)
        assert row["size"] == path.stat().st_size
        assert row["fingerprint"] == index.sources[0].fingerprint
        assert row["content_hash"] == index.content_hash()
        assert (row["height"], row["width"]) == index.sources[0].display_size
        assert row["packet_bytes"] == catalog.nbytes[number] == index.packets.size.sum()
        times = np.sort(index.timestamp)
        assert (row["first_timestamp"], row["last_timestamp"]) == (times[0], times[-1])
        assert row["median_step"] == timing.median_step(times)
        assert row["grid_error"] == timing.grid_error(times)
    with pytest.raises(IndexError, match="Video 5"):
        catalog.index(5)
    assert sorted(p for p in folder.rglob("*.lance") if p.is_dir()) == [Path(f"{path}.lance") for path in videos[:2]]


def test_sidecars_are_used_where_they_fit(tmp_path: Path) -> None:
    paths = [write_video(tmp_path / f"{k}.mp4", frames=20 + k, first_number=100 * k) for k in range(4)]
    indexes = [build_index(path) for path in paths]
    write_sidecar(indexes[0].shifted(7.0), paths[0])  # times that only a recorder can know
    write_sidecar(indexes[0], paths[1])  # of another video
    Path(f"{paths[2]}.lance/_versions").mkdir(parents=True)
    Path(f"{paths[2]}.lance/{sealed.FIRST_MANIFEST}").write_bytes(b"no manifest")
    before = files_of(Path(f"{paths[1]}.lance"))
    catalog = Catalog.build(paths, tmp_path / "c.lance")
    assert same(catalog.index(0), indexes[0].shifted(7.0))
    for number in (1, 2, 3):
        assert same(catalog.index(number), indexes[number])
    assert files_of(Path(f"{paths[1]}.lance")) == before
    full = Catalog.build(paths, tmp_path / "f.lance", scan="full", jobs=1)
    assert same(full.index(0), build_index(paths[0], scan="full").shifted(7.0))
    assert np.all(full.index(3).packets.crc32 != UNKNOWN)


def test_what_is_found_is_what_is_named(folder: Path, tmp_path: Path) -> None:
    videos = videos_of(folder)
    assert Catalog.build(f"{folder}/*.mp4", tmp_path / "a.lance").uris == [str(v) for v in videos if v.match("*.mp4")]
    assert Catalog.build(list(reversed(videos)), tmp_path / "b.lance").uris == [str(v) for v in reversed(videos)]
    assert Catalog.build(videos[2], tmp_path / "a.lance").uris == [str(videos[2])]
    assert len(Catalog.open("a.lance", store=ObjectStore(tmp_path))) == 1
    for wrong, error in (
        ([videos[0], str(videos[0])], ValueError),
        ([], ObjectNotFoundError),
        (tmp_path / "nowhere", ObjectNotFoundError),
        ([tmp_path / "nowhere.mp4"], ObjectNotFoundError),
        (["https://127.0.0.1:1/v.mp4?X-Amz-Signature=secretsignature"], ValueError),
    ):
        with pytest.raises(error) as raised:
            Catalog.build(wrong, tmp_path / "c.lance")  # type: ignore[arg-type]
        assert "secretsignature" not in str(raised.value)
    assert not (tmp_path / "c.lance").exists()


def test_videos_that_cannot_be_indexed(folder: Path, tmp_path: Path) -> None:
    videos = [*videos_of(folder), tmp_path / "gone.mp4", tmp_path / "text.mp4"]
    videos[-1].write_text("no video")
    for jobs in (1, 8):
        with pytest.raises((NotAVideoError, ObjectNotFoundError)):
            Catalog.build(videos, tmp_path / "c.lance", jobs=jobs)
    done: list[tuple[int, int]] = []
    catalog = Catalog.build(
        videos,
        tmp_path / "c.lance",
        on_error="skip",
        columns={"number": range(7)},
        on_progress=lambda *numbers: done.append(numbers),
    )
    assert catalog.uris == list(map(str, videos[:5]))
    assert catalog.numbers("number").tolist() == list(range(5))
    assert set(catalog.changes.failed) == set(map(str, videos[5:]))
    assert catalog.changes.failed[str(videos[6])].startswith("NotAVideoError: ")
    assert catalog.changes.added == tuple(map(str, videos[:5]))
    assert done == [(k, 7) for k in range(1, 8)]
    with pytest.raises(ObjectNotFoundError, match="NotAVideoError"):
        Catalog.build([videos[-1]], tmp_path / "d.lance", on_error="skip")


# -- columns of the user's --------------------------------------------------------------------------------------------


def test_columns_in_every_form(folder: Path, tmp_path: Path) -> None:
    videos = list(map(str, videos_of(folder)))
    split = ["train", "val", "train", "test", None]
    by_uri = {uri: {"split": s, "label": k} for k, (uri, s) in enumerate(zip(videos, split, strict=True))}
    expected = {"split": split, "label": [0, 1, 2, 3, 4]}
    forms = [
        pa.table({"uri": videos[::-1], "split": split[::-1], "label": pa.array([4, 3, 2, 1, 0], pa.int64())}),
        dict(reversed(by_uri.items())),
        expected,
        {"split": {u: s for u, s in zip(videos, split, strict=True) if s}, "label": np.arange(5)},
        {"split": pa.array(split), "label": pa.chunked_array([[0, 1], [2, 3, 4]])},
    ]
    for form in forms:
        catalog = Catalog.build(folder, tmp_path / "c.lance", columns=form)
        assert catalog.columns[-2:] == ("split", "label")
        assert catalog.to_table(["split", "label"]).to_pydict() == expected
        assert Catalog.open(tmp_path / "c.lance").metadata(3) == {"split": "test", "label": 3}
    catalog = Catalog.build(folder, tmp_path / "d.lance", columns={videos[1]: {"tags": ["a", "b"]}})
    assert catalog.to_table(["tags"]).to_pydict() == {"tags": [None, ["a", "b"], None, None, None]}


def test_columns_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    videos = list(map(str, videos_of(folder)))
    for wrong, words in (
        ({"split": ["train"]}, "Expected 5 values in the column split"),
        ({"frames": range(5)}, "frames"),
        ({videos[0]: {"a": 1}, f"{folder}/other.mp4": {"a": 2}}, "other.mp4"),
        ({"split": {"/other.mp4": 3}}, "other.mp4"),
        (pa.table({"uri": [videos[0], videos[0]], "a": [1, 2]}), "1 URIs again"),
        (pa.table({"a": [1]}), "`uri`"),
        ({"a": [1, "b", 2, 3, 4]}, "Cannot make columns"),
    ):
        with pytest.raises(ValueError, match=words):
            Catalog.build(folder, tmp_path / "c.lance", columns=wrong)
    assert not (tmp_path / "c.lance").exists()


def test_filters_are_views(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Catalog.build(folder, tmp_path / "c.lance", columns={"split": ["a", "b", "a", "b", None]})
    view = whole.filter(pc.field("split") == "a")
    assert view.uris == [whole.uris[0], whole.uris[2]]
    assert view.frame_counts.tolist() == whole.frame_counts[[0, 2]].tolist()
    assert view.to_table(["split"]).to_pydict() == {"split": ["a", "a"]}
    assert same(view.index(1), whole.index(2))
    assert view.recipe(1) == whole.recipe(2)
    narrower = view.filter(pc.field("frames") >= int(view.frame_counts.max()))
    assert 1 <= len(narrower) <= 2
    assert len(whole.filter(pc.field("codec") == "none")) == 0
    for _ in range(2):
        for each in (whole, view, narrower):
            again = pickle.loads(pickle.dumps(each))
            assert again.uris == each.uris
            assert repr(again) == repr(each)
        another_node(tmp_path, monkeypatch)
    assert len(pickle.dumps(whole)) < 500
    for wrong in (pc.field("no such column") == 1, pc.field("split"), pc.field("split") + 1, "split == 'a'"):
        with pytest.raises(ValueError, match="split"):
            whole.filter(wrong)
    for change in (view.refresh, lambda: view.append(folder)):
        with pytest.raises(ValueError, match="view"):
            change()


# -- changes ----------------------------------------------------------------------------------------------------------


def test_append(folder: Path, tmp_path: Path) -> None:
    videos = list(map(str, videos_of(folder)))
    catalog = Catalog.build(videos[:2], tmp_path / "c.lance", columns={"split": ["a", "b"]})
    first = catalog.index(0)
    assert catalog.append(folder, columns={"label": [2, 3, 4]}) is catalog
    assert catalog.changes.added == tuple(videos[2:])
    assert catalog.uris == Catalog.open(tmp_path / "c.lance").uris == videos
    assert catalog.to_table(["split", "label"]).to_pydict() == {
        "split": ["a", "b", None, None, None],
        "label": [None, None, 2, 3, 4],
    }
    assert same(catalog.index(0), first)
    for number, video in enumerate(videos):
        assert same(catalog.index(number), build_index(video))
    before = files_of(tmp_path / "c.lance")
    assert catalog.append(folder).changes.added == ()
    assert files_of(tmp_path / "c.lance") == before
    assert len(before) == 2
    more = write_video(tmp_path / "more.mp4", frames=3)
    with pytest.raises(ValueError, match="do not fit"):
        catalog.append(more, columns={"label": [["a", "list"]]})
    assert catalog.append(more, columns={"label": [2.5]}).numbers("label").tolist()[2:] == [2, 3, 4, 2.5]


def test_refresh(folder: Path, tmp_path: Path) -> None:
    videos = list(map(str, videos_of(folder)))
    catalog = Catalog.build(folder, tmp_path / "c.lance", columns={"label": range(5)})
    before = files_of(tmp_path / "c.lance")
    assert catalog.refresh().changes == type(catalog.changes)()
    assert files_of(tmp_path / "c.lance") == before

    write_video(Path(videos[0]), frames=9, first_number=500)  # its sidecar is stale now
    Path(videos[2]).unlink()
    kept = catalog.refresh(when_gone="keep")
    assert (kept.changes.changed, kept.changes.gone) == ((videos[0],), (videos[2],))
    assert kept.uris == videos
    assert catalog.refresh().changes.gone == (videos[2],)
    assert catalog.uris == Catalog.open(tmp_path / "c.lance").uris == [v for v in videos if v != videos[2]]
    assert catalog.numbers("label").tolist() == [0, 1, 3, 4]
    assert len(catalog.index(0)) == catalog.frame_counts[0] == 9
    assert same(catalog.index(2), build_index(videos[3]))

    Path(videos[0]).write_bytes(b"no video any more")
    with pytest.raises(NotAVideoError):
        catalog.refresh()
    assert set(catalog.refresh(on_error="skip").changes.failed) == {videos[0]}
    assert catalog.frame_counts[0] == 9
    for video in videos:
        Path(video).unlink(missing_ok=True)
    with pytest.raises(ObjectNotFoundError, match="Every video"):
        catalog.refresh()
    assert len(Catalog.open(tmp_path / "c.lance")) == 4


def test_two_writers(folder: Path, tmp_path: Path) -> None:
    videos = videos_of(folder)
    one = Catalog.build(videos[:2], tmp_path / "c.lance")
    other = Catalog.open(tmp_path / "c.lance")
    one.append(videos[2:3])
    with pytest.raises(ObjectChangedError, match="another writer"):
        other.append(videos[3:4])
    assert Catalog.open(tmp_path / "c.lance").uris == one.uris == list(map(str, videos[:3]))
    assert len(files_of(tmp_path / "c.lance")) == 2
    assert len(other) == 2


def test_readers_see_whole_versions_while_writers_write(folder: Path, tmp_path: Path) -> None:
    videos = videos_of(folder)
    Catalog.build(videos[:1], tmp_path / "c.lance")
    allowed = {tuple(map(str, videos[k : k + 2])) for k in range(3)} | {(str(videos[0]),)}
    problems: list[BaseException] = []
    done = threading.Event()

    def write(number: int) -> None:
        for _ in range(4):
            try:
                Catalog.build(videos[number : number + 2], tmp_path / "c.lance", jobs=1)
            except ObjectChangedError:
                continue
            except BaseException as error:
                problems.append(error)

    def read() -> None:
        try:
            while not done.is_set():
                catalog = Catalog.open(tmp_path / "c.lance")
                assert tuple(catalog.uris) in allowed
                assert same(catalog.index(0), build_index(catalog.uris[0]))
        except BaseException as error:
            problems.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    reader = threading.Thread(target=read)
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert problems == []
    assert tuple(Catalog.open(tmp_path / "c.lance").uris) in allowed


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [".manifest", ".lance"])
@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_never_a_wrong_catalog(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, part: str
) -> None:
    uri = tmp_path / "c.lance"
    Catalog.build(folder, uri)
    another_node(tmp_path, monkeypatch)  # else the manifest alone would be read
    path = next(path for path in files_of(uri) if path.suffix == part)
    whole = path.read_bytes()
    trials, damage = DAMAGES[name]
    for trial in range(trials):
        damaged = damage(whole, np.random.default_rng(trial))
        path.write_bytes(damaged)
        if damaged != whole:
            with pytest.raises(CorruptIndexError, match=r"c\.lance.*lazyvid catalog build"):
                Catalog.open(uri)
    path.write_bytes(whole)
    assert len(Catalog.open(uri)) == 5


def test_a_missing_part_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Catalog.build(folder, tmp_path / "c.lance")
    another_node(tmp_path, monkeypatch)
    data = next((tmp_path / "c.lance" / "data").iterdir())
    data.unlink()
    with pytest.raises(CorruptIndexError, match=f"{data.name} is missing"):
        Catalog.open(tmp_path / "c.lance")
    (tmp_path / "c.lance" / sealed.FIRST_MANIFEST).unlink()
    with pytest.raises(MissingIndexError, match="lazyvid catalog build"):
        Catalog.open(tmp_path / "c.lance")


def test_other_datasets_are_no_catalogs(folder: Path, tmp_path: Path) -> None:
    video = videos_of(folder)[0]
    program = "import sys, lance, pyarrow as pa; lance.write_dataset(pa.table({'a': [1]}), sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "x.lance")], check=True)
    for uri in (tmp_path / "x.lance", Path(f"{video}.lance")):
        before = {path: path.read_bytes() for path in files_of(uri)}
        with pytest.raises(CorruptIndexError, match=f"{uri.name}"):
            Catalog.open(uri)
        if uri.name != "x.lance":
            with pytest.raises(CorruptIndexError, match="another dataset"):
                Catalog.build(folder, uri)
        assert {path: path.read_bytes() for path in files_of(uri)} == before


@pytest.mark.parametrize("change", ["version", "column", "type", "null"])
def test_tables_of_another_form(folder: Path, tmp_path: Path, change: str) -> None:
    catalog = Catalog.build(folder, tmp_path / "c.lance")
    table = pa.Table.from_batches([catalog._table.columns])
    for name in ("pins", "index"):
        table = table.append_column(name, catalog._table.cells.column(name))
    version = FORMAT_VERSION
    if change == "version":
        version, words = FORMAT_VERSION + 1, "found version 2: install a newer lazyvid"
    elif change == "column":
        table, words = table.drop_columns(["median_step"]), "median_step"
    elif change == "type":
        at = table.column_names.index("frames")
        table, words = (
            table.set_column(at, "frames", table.column("frames").cast(pa.int32())),
            "int64 without nulls, found int32",
        )
    else:
        table, words = table.set_column(0, "uri", pa.nulls(5, pa.string())), "uri to be string without nulls"
    table = table.replace_schema_metadata({VERSION_KEY: str(version)})
    sealed.write_dataset(table, str(tmp_path / "c.lance"), store=ObjectStore(), what="catalog")
    with pytest.raises(CorruptIndexError, match=words):
        Catalog.open(tmp_path / "c.lance")


# -- on a node --------------------------------------------------------------------------------------------------------


def test_a_node_keeps_one_file(folder: Path, tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = Catalog.build(folder, tmp_path / "c.lance")
    (file,) = node.iterdir()
    assert file.name == f"catalog-{catalog.content_hash}.index"
    assert node.stat().st_mode & 0o777 == 0o700
    pickled = pickle.dumps(catalog)
    shutil.rmtree(tmp_path / "c.lance")
    node_files.clear()
    assert same(pickle.loads(pickled).index(4), catalog.index(4))  # no store is asked
    another_node(tmp_path, monkeypatch)
    with pytest.raises(MissingIndexError):
        len(pickle.loads(pickled))


def test_a_version_that_is_gone_is_said(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = Catalog.build(videos_of(folder)[:2], tmp_path / "c.lance")
    pickled = pickle.dumps(catalog)
    catalog.append(folder)
    assert len(pickle.loads(pickled)) == 2  # this node has it
    another_node(tmp_path, monkeypatch)
    with pytest.raises(StaleIndexError, match="Open it anew"):
        len(pickle.loads(pickled))


def test_damage_of_the_node_s_file_is_mended(folder: Path, tmp_path: Path, node: Path) -> None:
    expected = [build_index(path) for path in videos_of(folder)]
    Catalog.build(folder, tmp_path / "c.lance")
    (file,) = node.iterdir()
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
        node_files.clear()
        file.unlink()
        file.write_bytes(damaged)
        catalog = Catalog.open(tmp_path / "c.lance")
        assert catalog.frame_counts.tolist() == [len(index) for index in expected]
        for number, index in enumerate(expected):
            assert same(catalog.index(number), index)


def test_without_a_usable_folder_it_stays_in_memory(folder: Path, tmp_path: Path, node: Path) -> None:
    node.write_bytes(b"")  # no folder can be made there
    with pytest.warns(UserWarning, match=node_files.DIRECTORY_VARIABLE):
        catalog = Catalog.build(folder, tmp_path / "c.lance")
    again = Catalog.open(tmp_path / "c.lance")  # a second warning would be an error here
    for number in range(5):
        assert same(catalog.index(number), again.index(number))
    assert pickle.loads(pickle.dumps(again)).uris == catalog.uris


def test_a_fork_opens_what_its_parent_opened(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lance has run in the parent: the child maps the same file, and on another node a helper reads the table."""
    catalog = Catalog.build(folder, tmp_path / "c.lance")
    expected = build_index(catalog.uris[2])
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            try:
                fresh = Catalog.open(tmp_path / "c.lance")
                good = same(fresh.index(2), expected) and same(catalog.index(2), expected)
                good = good and len(fresh.filter(pc.field("frames") > 0)) == 5
            except BaseException:
                os._exit(2)
            os._exit(0 if good else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        another_node(tmp_path, monkeypatch)


# -- on S3 ------------------------------------------------------------------------------------------------------------


def upload(folder: Path, store: ObjectStore, prefix: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            store.upload(path, f"{prefix}/{path.relative_to(folder)}")


@pytest.mark.s3
def test_on_s3(
    folder: Path,
    tmp_path: Path,
    s3_server: S3Server,
    s3_prefix: str,
    counting_proxy: CountingProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upload(folder, ObjectStore(storage_options=s3_server.storage_options), f"{s3_prefix}/videos")
    options = counting_proxy.storage_options_for(s3_server)

    def asked() -> list[str]:
        methods = [request.method for request in counting_proxy.requests]
        counting_proxy.reset()
        return methods

    catalog = Catalog.build(f"{s3_prefix}/videos", f"{s3_prefix}/c.lance", storage_options=options)
    assert catalog.uris == [f"{s3_prefix}/videos/{path.relative_to(folder)}" for path in videos_of(folder)]
    assert len(asked()) < 3 * 5 + 10
    assert len(Catalog.open(f"{s3_prefix}/c.lance", storage_options=options)) == 5
    assert asked() == ["GET"]
    another_node(tmp_path, monkeypatch)
    opened = Catalog.open(f"{s3_prefix}/c.lance", storage_options=options)
    assert asked() == ["GET", "GET"]
    pickled = pickle.dumps(opened)
    for number, path in enumerate(videos_of(folder)):
        assert opened.index(number).timestamp.tolist() == build_index(path).timestamp.tolist()
        assert [pin.etag is not None for pin in opened.recipe(number).pins] == [True]
    assert pickle.loads(pickled).uris == catalog.uris
    assert asked() == []

    store = ObjectStore(storage_options=s3_server.storage_options)
    first, second, *_ = videos_of(folder)
    store.upload(second, f"{s3_prefix}/videos/{first.name}")
    store.delete(f"{s3_prefix}/videos/{second.name}")
    changes = opened.refresh().changes
    assert changes.changed == (f"{s3_prefix}/videos/{first.name}",)
    assert changes.gone == (f"{s3_prefix}/videos/{second.name}",)
    assert len(opened.index(0)) == len(build_index(second))


@pytest.mark.s3
def test_on_s3_without_the_right_to_write(folder: Path, s3_server: S3Server, s3_prefix: str) -> None:
    upload(folder, ObjectStore(storage_options=s3_server.storage_options), f"{s3_prefix}/videos")
    with pytest.raises(AccessDeniedError):
        Catalog.build(f"{s3_prefix}/videos", f"{s3_prefix}/c.lance", storage_options=s3_server.read_only_options)
    with pytest.raises(LazyVidError):
        Catalog.open(f"{s3_prefix}/c.lance", storage_options=s3_server.read_only_options)


def test_no_secret_is_kept(folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"s3": {"key": "AKIDEXAMPLE", "secret": "verysecretkey"}}
    catalog = Catalog.build(folder, tmp_path / "c.lance", storage_options=options)
    assert "verysecretkey" not in repr(catalog)
    for path in (*files_of(tmp_path / "c.lance"), *files_of(tmp_path / "node")):
        assert b"verysecretkey" not in path.read_bytes()


def test_catalog_files_names_its_versions(folder: Path, tmp_path: Path) -> None:
    assert catalog_files.version_at(str(tmp_path / "c.lance"), ObjectStore()) is None
    catalog = Catalog.build(folder, tmp_path / "c.lance")
    assert catalog_files.version_at(str(tmp_path / "c.lance"), ObjectStore()) == catalog.content_hash
    shutil.copytree(tmp_path / "c.lance", tmp_path / "copy.lance")
    assert Catalog.open(tmp_path / "copy.lance").content_hash == catalog.content_hash


def test_an_index_is_a_frame_index(folder: Path, tmp_path: Path) -> None:
    assert isinstance(Catalog.build(folder, tmp_path / "c.lance").index(0), FrameIndex)
