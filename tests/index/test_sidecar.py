from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from index_samples import DAMAGES, make_index, same, zeroed

from lazyvid.errors import CorruptIndexError, LimitExceededError, MissingIndexError
from lazyvid.frames import Limits
from lazyvid.index import local, node_files, sealed
from lazyvid.index.foreign import ForeignTable
from lazyvid.index.frame_index import FrameIndex
from lazyvid.index.sealed import FIRST_MANIFEST
from lazyvid.index.sidecar import read_sidecar, write_sidecar
from lazyvid.storage import ObjectStore
from lazyvid.testing import CountingProxy, S3Server

STORE = ObjectStore()


def read(video: Path | str, store: ObjectStore = STORE) -> FrameIndex:
    found = read_sidecar(video, store=store)
    assert isinstance(found, FrameIndex)
    return found


def files_of(video: Path) -> list[Path]:
    return sorted(path for path in Path(f"{video}.lance").rglob("*") if path.is_file())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    index = make_index(segments=3, hidden=7)
    where = write_sidecar(index, tmp_path / "v.mp4")
    assert where == str(tmp_path / "v.mp4.lance")
    assert same(read(tmp_path / "v.mp4"), index)


def test_it_is_two_files_and_the_manifest_has_its_fixed_name(tmp_path: Path) -> None:
    write_sidecar(make_index(), tmp_path / "v.mp4")
    manifest, data = sorted(files_of(tmp_path / "v.mp4"))
    assert manifest == tmp_path / "v.mp4.lance" / FIRST_MANIFEST
    assert data.parent.name == "data"


def test_lance_reads_it_too(tmp_path: Path) -> None:
    write_sidecar(make_index(), tmp_path / "v.mp4")
    program = "import lance, sys; t = lance.dataset(sys.argv[1]).to_table(); print(t.num_rows, *t.column_names[:4])"
    done = subprocess.run(
        [sys.executable, "-c", program, f"{tmp_path}/v.mp4.lance"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["300", "segment_idx", "local_frame_idx", "pts", "timestamp"]


def test_a_manifest_stays_small(tmp_path: Path) -> None:
    write_sidecar(make_index(50_000, hidden=4000), tmp_path / "v.mp4")
    assert (tmp_path / "v.mp4.lance" / FIRST_MANIFEST).stat().st_size < 64 * 1024
    assert len(read(tmp_path / "v.mp4")) == 50_000


def test_without_frames_there_is_nothing_to_write(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        write_sidecar(make_index(0), tmp_path / "v.mp4")


def test_without_a_uri_the_first_source_is_the_video(tmp_path: Path) -> None:
    index = make_index()
    with pytest.raises(ValueError, match="uri"):
        write_sidecar(index)
    write_sidecar(index.with_source_uris([str(tmp_path / "v.mp4")]))
    assert same(read(tmp_path / "v.mp4"), index)


def test_index_root_keeps_sidecars_elsewhere(tmp_path: Path) -> None:
    write_sidecar(make_index(), tmp_path / "v.mp4", index_root=tmp_path / "indexes")
    with pytest.raises(MissingIndexError):
        read_sidecar(tmp_path / "v.mp4", store=STORE)
    assert len(read_sidecar(tmp_path / "v.mp4", store=STORE, index_root=tmp_path / "indexes")) == 300


def test_overwriting_leaves_nothing_of_the_old_one(tmp_path: Path) -> None:
    for seed in range(3):
        index = make_index(seed=seed)
        write_sidecar(index, tmp_path / "v.mp4")
        assert same(read(tmp_path / "v.mp4"), index)
        assert len(files_of(tmp_path / "v.mp4")) == 2


def test_a_data_file_of_another_indexer_is_left_alone(tmp_path: Path) -> None:
    write_sidecar(make_index(), tmp_path / "v.mp4")
    other = tmp_path / "v.mp4.lance" / "data" / "0110100101101001011010010123456789abcdef0123456789.lance"
    other.write_bytes(b"its manifest is still to come")
    write_sidecar(make_index(seed=1), tmp_path / "v.mp4")
    assert other.exists()


def test_two_writers_and_a_reader_at_once(tmp_path: Path) -> None:
    indexes = [make_index(seed=seed) for seed in range(2)]
    expected = {index.content_hash() for index in indexes}
    write_sidecar(indexes[0], tmp_path / "v.mp4")
    failures: list[BaseException] = []
    done = threading.Event()

    def write(index: FrameIndex) -> None:
        for _ in range(8):
            write_sidecar(index, tmp_path / "v.mp4")

    def look() -> None:
        while not done.is_set():
            try:
                assert read(tmp_path / "v.mp4").content_hash() in expected
            except BaseException as error:
                failures.append(error)

    writers = [threading.Thread(target=write, args=(index,)) for index in indexes]
    reader = threading.Thread(target=look)
    for thread in [*writers, reader]:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    # A reader gives up after three replacements in a row; it must never take one for another.
    assert [error for error in failures if not isinstance(error, CorruptIndexError)] == []
    assert read(tmp_path / "v.mp4").content_hash() in expected


# -- damage -----------------------------------------------------------------------------------------------------------


def outcome(video: Path, expected: FrameIndex) -> str:
    try:
        return "equal" if same(read(video), expected) else "WRONG"
    except (CorruptIndexError, MissingIndexError) as error:
        return type(error).__name__ if str(video) in str(error) else f"no name: {error}"


@pytest.mark.parametrize("part", [".manifest", ".lance"])
@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_never_a_wrong_index(tmp_path: Path, name: str, part: str) -> None:
    index = make_index(segments=2)
    write_sidecar(index, tmp_path / "v.mp4")
    path = next(path for path in files_of(tmp_path / "v.mp4") if path.suffix == part)
    whole = path.read_bytes()
    trials, damage = DAMAGES[name]
    for trial in range(trials):
        damaged = damage(whole, np.random.default_rng(trial))
        path.write_bytes(damaged)
        # Damage of the seal's own words leaves an unsealed sidecar, which Lance and the checksum may find whole.
        allowed = {"CorruptIndexError"} | ({"equal"} if part == ".manifest" or damaged == whole else set())
        assert outcome(tmp_path / "v.mp4", index) in allowed, (name, trial)
    path.write_bytes(whole)
    assert outcome(tmp_path / "v.mp4", index) == "equal"


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    write_sidecar(make_index(), tmp_path / "v.mp4")
    manifest, data = sorted(files_of(tmp_path / "v.mp4"))
    data.rename(tmp_path / "data")
    with pytest.raises(CorruptIndexError, match=f"{data.name} is missing"):
        read(tmp_path / "v.mp4")
    (tmp_path / "data").rename(data)
    manifest.unlink()
    with pytest.raises(MissingIndexError):
        read(tmp_path / "v.mp4")


@pytest.mark.parametrize("part", [".manifest", ".lance"])
def test_a_part_of_another_sidecar_is_noticed(tmp_path: Path, part: str) -> None:
    write_sidecar(make_index(seed=1), tmp_path / "v.mp4")
    write_sidecar(make_index(seed=2), tmp_path / "w.mp4")
    ours, theirs = (
        next(path for path in files_of(tmp_path / name) if path.suffix == part) for name in ("v.mp4", "w.mp4")
    )
    shutil.copy(theirs, ours)
    with pytest.raises(CorruptIndexError, match=r"lazyvid index --force"):
        read(tmp_path / "v.mp4")


def test_the_lances_of_old_sidecars_do_not_hide_a_missing_manifest(tmp_path: Path) -> None:
    (tmp_path / "v.mp4.lance" / "data").mkdir(parents=True)
    (tmp_path / "v.mp4.lance" / "data" / "x.lance").write_bytes(b"x")
    with pytest.raises(MissingIndexError, match="lazyvid index"):
        read(tmp_path / "v.mp4")


def test_limits_are_checked(tmp_path: Path) -> None:
    write_sidecar(make_index(), tmp_path / "v.mp4")
    with pytest.raises(LimitExceededError, match="index_bytes"):
        read_sidecar(tmp_path / "v.mp4", store=STORE, limits=Limits(index_bytes=4000))
    with pytest.raises(LimitExceededError, match="frames"):
        read_sidecar(tmp_path / "v.mp4", store=STORE, limits=Limits(frames=299))


def test_what_was_read_before_is_not_parsed_again_and_believed_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, index, other = tmp_path / "v.mp4", make_index(hidden=3), make_index(200)
    write_sidecar(index, video)
    local.publish(read(video))
    with monkeypatch.context() as patched:
        patched.setattr(sealed, "parse_dataset", lambda *_, **__: pytest.fail("parsed again"))
        assert same(read(video), index)
        with pytest.raises(LimitExceededError, match="frames"):
            read_sidecar(video, store=STORE, limits=Limits(frames=299))
    node_files.discard(index.content_hash())
    assert same(read(video), index), "parsed again where the machine's copy is gone"
    write_sidecar(other, video)
    assert same(read(video), other)
    local.publish(other)
    for path in files_of(video):
        good = path.read_bytes()
        for bad in (good[:-1], good[:-1] + bytes([good[-1] ^ 1]), b""):
            path.write_bytes(bad)
            with pytest.raises((CorruptIndexError, MissingIndexError)):
                read(video)
        path.write_bytes(good)
    assert same(read(video), other)


# -- other tools ------------------------------------------------------------------------------------------------------

WRITE_FOREIGN = """
import sys, lance, pyarrow as pa
n, path, how = int(sys.argv[1]), sys.argv[2], sys.argv[3]
def table(a, b):
    whole = {"segment_idx": [0] * (b - a), "local_frame_idx": range(a, b), "pts": [i * 512 for i in range(a, b)]}
    columns = {name: pa.array(values, pa.int64()) for name, values in whole.items()}
    return pa.table({**columns, "timestamp": [i / 30 for i in range(a, b)], "camera": ["front"] * (b - a)})
if how == "plain":
    lance.write_dataset(table(0, n), path)
elif how == "old names":
    lance.write_dataset(table(0, n), path, enable_v2_manifest_paths=False)
elif how == "fragments":
    lance.write_dataset(table(0, n), path, max_rows_per_file=max(1, n // 4))
elif how == "appended":
    lance.write_dataset(table(0, n // 2), path)
    lance.write_dataset(table(n // 2, n), path, mode="append")
elif how == "deleted":
    lance.write_dataset(table(0, n + 5), path)
    lance.dataset(path).delete(f"local_frame_idx >= {n}")
elif how == "cleaned":
    import datetime
    lance.write_dataset(table(0, 3), path)
    lance.write_dataset(table(0, n), path, mode="overwrite")
    lance.dataset(path).cleanup_old_versions(older_than=datetime.timedelta(0))
"""


def write_foreign(path: Path, count: int, how: str = "plain") -> None:
    """A dataset by plain Lance, in a process of its own: this one must not have imported it by itself."""
    subprocess.run([sys.executable, "-c", WRITE_FOREIGN, str(count), str(path), how], check=True, capture_output=True)


@pytest.mark.parametrize("how", ["plain", "old names", "fragments", "appended", "deleted", "cleaned"])
def test_sidecars_of_other_tools_are_read(tmp_path: Path, how: str) -> None:
    write_foreign(tmp_path / "v.mp4.lance", 40, how)
    table = read_sidecar(tmp_path / "v.mp4", store=STORE)
    assert isinstance(table, ForeignTable)
    assert table.pts.tolist() == [i * 512 for i in range(40)]
    assert table.timestamp.tolist() == [i / 30 for i in range(40)]


def test_writing_over_another_tools_sidecar_replaces_every_version(tmp_path: Path) -> None:
    write_foreign(tmp_path / "v.mp4.lance", 40, "appended")
    index = make_index()
    write_sidecar(index, tmp_path / "v.mp4")
    assert same(read(tmp_path / "v.mp4"), index)
    assert len(files_of(tmp_path / "v.mp4")) == 2


def test_a_dataset_without_the_columns_is_no_sidecar(tmp_path: Path) -> None:
    program = "import lance, pyarrow as pa, sys; lance.write_dataset(pa.table({'pts': [1]}), sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "v.mp4.lance")], check=True, capture_output=True)
    with pytest.raises(CorruptIndexError, match="segment_idx"):
        read_sidecar(tmp_path / "v.mp4", store=STORE)


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(4))
def test_damage_of_unsealed_sidecars_never_ends_this_process(tmp_path: Path, trial: int) -> None:
    write_foreign(tmp_path / "v.mp4.lance", 400)
    parts = [path for path in files_of(tmp_path / "v.mp4") if path.suffix in (".manifest", ".lance")]
    for number in range(15):
        path = parts[number % len(parts)]
        whole = path.read_bytes()
        path.write_bytes(zeroed(whole, np.random.default_rng([trial, number])))
        with contextlib.suppress(CorruptIndexError):
            assert isinstance(read_sidecar(tmp_path / "v.mp4", store=STORE), ForeignTable)
        path.write_bytes(whole)


# -- S3 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.s3
def test_on_s3_two_gets_read_it(s3_server: S3Server, s3_prefix: str, counting_proxy: CountingProxy) -> None:
    index = make_index(9000)
    writer = ObjectStore(storage_options=s3_server.storage_options)
    write_sidecar(index, f"{s3_prefix}/v.mp4", store=writer)
    write_sidecar(index, f"{s3_prefix}/v.mp4", store=writer)
    assert len(writer.list(f"{s3_prefix}/v.mp4.lance")) == 2
    reader = ObjectStore(storage_options=counting_proxy.storage_options_for(s3_server))
    assert same(read(f"{s3_prefix}/v.mp4", reader), index)
    assert [request.method for request in counting_proxy.requests] == ["GET", "GET"]
    with pytest.raises(MissingIndexError):
        read(f"{s3_prefix}/w.mp4", reader)


@pytest.mark.s3
def test_on_s3_another_tools_sidecar_is_found_by_listing(tmp_path: Path, s3_server: S3Server, s3_prefix: str) -> None:
    store = ObjectStore(storage_options=s3_server.storage_options)
    write_foreign(tmp_path / "x.lance", 40, "appended")
    for path in (tmp_path / "x.lance").rglob("*"):
        if path.is_file():
            store.upload(path, f"{s3_prefix}/v.mp4.lance/{path.relative_to(tmp_path / 'x.lance')}")
    assert len(read_sidecar(f"{s3_prefix}/v.mp4", store=store)) == 40
