from __future__ import annotations

import gc
import io
import os
import pickle
import random
import sys
import time
from collections import OrderedDict
from pathlib import Path

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lazyvid.errors import ObjectChangedError, ObjectNotFoundError, ShortReadError, StoreError, UnsafeKeyError
from lazyvid.stats import read_stats
from lazyvid.storage import ObjectStore, RangeRequest, is_local, relative_uri
from lazyvid.testing import CountingProxy, S3Server

DATA = random.Random(7).randbytes(300_000)
LARGE = random.Random(8).randbytes(18 << 20)  # above one upload part and above two download parts


def kind(store: ObjectStore) -> str:
    return store.url.partition("://")[0] if "://" in store.url else "file"


class TestEveryStore:
    """The laws that hold for every kind of store."""

    def test_what_was_written_is_read(self, store: ObjectStore) -> None:
        for data in (b"", b"x", DATA, bytearray(DATA), memoryview(DATA)):
            meta = store.write("a/b.bin", data)
            assert meta.size == len(data)
            assert meta.uri == store.resolve("a/b.bin") == store.head("a/b.bin").uri
            assert store.head("a/b.bin").size == len(data)
            assert store.read("a/b.bin") == bytes(data)

    @settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(
            st.tuples(st.integers(0, 300_000), st.integers(0, 300_000)).map(lambda r: tuple(sorted(r))), max_size=8
        )
    )
    def test_ranges_are_slices(self, store: ObjectStore, ranges: list[tuple[int, int]]) -> None:
        if not store.exists("r.bin"):
            store.write("r.bin", DATA)
        assert store.read_ranges("r.bin", ranges) == [DATA[start:stop] for start, stop in ranges]

    def test_many_objects_in_one_call(self, store: ObjectStore, tmp_path: Path) -> None:
        for i in range(5):
            store.write(f"{i}.bin", DATA[i:])
        (tmp_path / "local.bin").write_bytes(DATA)
        ranges = [(10, 20), (0, 5), (100_000, 200_000), (7, 7)]
        requests = [RangeRequest(f"{i}.bin", ranges) for i in range(5)]
        requests += [RangeRequest(tmp_path / "local.bin", ranges), RangeRequest("0.bin", [])]
        answers = store.read_many(requests)
        for i in range(5):
            assert answers[i] == [DATA[i:][start:stop] for start, stop in ranges]
        assert answers[5] == [DATA[start:stop] for start, stop in ranges]
        assert answers[6] == []
        assert store.read_many([]) == []

    def test_a_range_beyond_the_end_is_an_error(self, store: ObjectStore) -> None:
        store.write("s.bin", b"0123456789")
        for bad in [(0, 11), (9, 20), (10, 11), (500, 600)]:
            with pytest.raises(ShortReadError, match=r"s\.bin"):
                store.read_ranges("s.bin", [(0, 1), bad])

    def test_large_objects_go_in_parts(self, store: ObjectStore, tmp_path: Path) -> None:
        source, copy = tmp_path / "large.bin", tmp_path / "deep" / "copy.bin"
        source.write_bytes(LARGE)
        meta = store.upload(source, "up/large.bin")
        assert meta.size == len(LARGE)
        assert store.read_ranges("up/large.bin", [(5, len(LARGE) - 5)]) == [LARGE[5:-5]]
        assert store.download("up/large.bin", copy, pin=store.head("up/large.bin")).size == len(LARGE)
        assert copy.read_bytes() == LARGE
        assert [path.name for path in copy.parent.iterdir()] == ["copy.bin"]
        store.write("w/large.bin", LARGE[::-1])
        assert store.read("w/large.bin") == LARGE[::-1]

    def test_an_empty_file_travels_too(self, store: ObjectStore, tmp_path: Path) -> None:
        (tmp_path / "empty").touch()
        assert store.upload(tmp_path / "empty", "empty").size == 0
        assert store.download("empty", tmp_path / "back").size == 0
        assert (tmp_path / "back").read_bytes() == b""

    def test_open_is_a_seekable_file(self, store: ObjectStore) -> None:
        store.write("f.bin", DATA)
        with store.open("f.bin") as file:
            assert file.read(10) == DATA[:10]
            assert file.seek(-20, io.SEEK_END) == len(DATA) - 20
            assert file.read() == DATA[-20:]
            assert file.read(5) == b""
            assert file.seek(150_000) == file.tell() == 150_000
            assert file.read(100_000) == DATA[150_000:250_000]
            file.seek(0)
            assert file.read() == DATA

    def test_listing(self, store: ObjectStore) -> None:
        names = ["a.mp4", "b.txt", "d/c.mp4", "d/e/f.mp4", "d2/g.mp4"]
        for name in names:
            store.write(name, name.encode())
        found = store.list()
        assert [relative_uri(meta.uri, base=store.url) for meta in found] == names
        assert [meta.uri for meta in found] == sorted(meta.uri for meta in found)
        assert [meta.size for meta in found] == [len(name) for name in names]
        assert all(store.head(meta.uri).size == meta.size for meta in found)
        assert [m.uri for m in store.list(glob="*.mp4")] == [store.resolve("a.mp4")]
        assert len(store.list(glob="**/*.mp4")) == 4
        assert [m.uri for m in store.list("d")] == [store.resolve(n) for n in ("d/c.mp4", "d/e/f.mp4")]
        assert [m.uri for m in store.list("d/", glob="e/*")] == [store.resolve("d/e/f.mp4")]
        assert store.list("nothing/here") == []

    def test_an_object_is_listed_as_itself(self, store: ObjectStore) -> None:
        if kind(store) == "http":
            pytest.skip("an HTTP listing is an index page")
        store.write("a.mp4", b"x")
        assert [meta.uri for meta in store.list("a.mp4")] == [store.resolve("a.mp4")]

    def test_delete(self, store: ObjectStore) -> None:
        for name in ("a", "d/b", "d/e/c", "dd"):
            store.write(name, b"x")
        store.delete("a")
        store.delete("d")
        assert [meta.uri for meta in store.list()] == [store.resolve("dd")]
        for name in ("a", "d", "never"):
            with pytest.raises(ObjectNotFoundError):
                store.delete(name)

    def test_exists(self, store: ObjectStore) -> None:
        store.write("d/a", b"x")
        assert store.exists("d/a")
        assert store.exists("d")
        assert not store.exists("d/b")
        assert not store.exists("e")

    def test_missing_objects(self, store: ObjectStore, tmp_path: Path) -> None:
        for use in (
            lambda: store.head("no.mp4"),
            lambda: store.read("no.mp4"),
            lambda: store.open("no.mp4").read(),
            lambda: store.read_ranges("no.mp4", [(0, 1)]),
            lambda: store.download("no.mp4", tmp_path / "x"),
        ):
            with pytest.raises(FileNotFoundError, match=r"no\.mp4") as caught:
                use()
            assert isinstance(caught.value, ObjectNotFoundError)
        assert not (tmp_path / "x").exists()

    def test_an_upload_of_nothing_names_the_file(self, store: ObjectStore, tmp_path: Path) -> None:
        with pytest.raises(ObjectNotFoundError, match="nothing"):
            store.upload(tmp_path / "nothing", "x")

    def test_a_pinned_read_of_a_replaced_object_is_refused(self, store: ObjectStore, tmp_path: Path) -> None:
        store.write("p.bin", DATA)
        pin = store.head("p.bin")
        assert store.read_ranges("p.bin", [(0, 5)], pin=pin) == [DATA[:5]]
        if kind(store) != "s3":
            time.sleep(0.02)  # for stores whose only clue is the time
        store.write("p.bin", DATA[::-1])
        for use in (
            lambda: store.read_ranges("p.bin", [(0, 5)], pin=pin),
            lambda: store.download("p.bin", tmp_path / "x", pin=pin),
            lambda: store.open("p.bin", pin=pin).read(1),
        ):
            with pytest.raises(ObjectChangedError, match=r"p\.bin"):
                use()
        assert not (tmp_path / "x").exists()

    def test_what_a_write_returns_is_a_pin(self, store: ObjectStore) -> None:
        meta = store.write("p.bin", DATA)
        assert store.read_ranges("p.bin", [(3, 9)], pin=meta) == [DATA[3:9]]

    def test_pinning_is_stated(self, store: ObjectStore) -> None:
        store.write("p.bin", DATA)
        expected = {"s3": "if-match", "http": "if-match"}.get(kind(store), "stat-after")
        assert store.pinning("p.bin") == expected

    def test_keys_that_leave_the_root(self, store: ObjectStore) -> None:
        for bad in ("../x", "a/../../x", "a/b/../../../x", "a\0b"):
            for use in (store.head, store.read, lambda key: store.write(key, b""), store.delete, store.list):
                with pytest.raises(UnsafeKeyError):
                    use(bad)
        store.write("a/b", b"x")
        assert store.read("a/c/../b") == b"x"

    def test_the_root_itself_is_never_deleted(self, store: ObjectStore) -> None:
        store.write("a", b"x")
        for root in ("", ".", store.url, "a/.."):
            with pytest.raises(UnsafeKeyError):
                store.delete(root)
        assert store.read("a") == b"x"

    def test_odd_names(self, store: ObjectStore) -> None:
        names = ["with space.mp4", "ünï/cödé.mp4", "plus+and&.mp4", ".hidden"]
        if kind(store) not in ("http",):
            names += ["per%20cent.mp4", "hash#1.mp4", "what?.mp4", "a=b;c,d.mp4"]
        for name in names:
            store.write(name, name.encode())
            assert store.read(name) == name.encode()
        if kind(store) != "http":
            assert sorted(relative_uri(m.uri, base=store.url) for m in store.list()) == sorted(names)

    def test_a_pickled_store_is_the_same_store(self, store: ObjectStore) -> None:
        store.write("a", b"x")
        again = pickle.loads(pickle.dumps(store))
        assert again == store
        assert hash(again) == hash(store)
        assert again.read("a") == b"x"
        assert store != ObjectStore("memory://elsewhere")

    def test_what_is_read_is_counted(self, store: ObjectStore) -> None:
        store.write("c.bin", DATA)
        before = read_stats()
        store.read_ranges("c.bin", [(0, 1000), (200_000, 201_000)])
        spent = read_stats() - before
        assert (spent.requests, spent.bytes_fetched, spent.retries) == (2, 2000, 0)


class TestLocal:
    def test_uris_of_every_form(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        store = ObjectStore()
        for uri in ("d/a b.bin", tmp_path / "d/a b.bin", (tmp_path / "d/a b.bin").as_uri(), f"{tmp_path}/d/a b.bin"):
            assert store.resolve(uri) == f"{tmp_path}/d/a b.bin"
            store.write(uri, b"x")
            assert store.read(uri) == b"x"
        assert is_local(store.list("d")[0].uri)

    def test_a_reader_never_sees_half_a_write(self, tmp_path: Path) -> None:
        store = ObjectStore(tmp_path)
        store.write("a", b"1" * 100_000)
        with store.open("a") as file:
            store.write("a", b"2" * 100_000)
            assert file.read() == b"1" * 100_000
        assert [path.name for path in tmp_path.iterdir()] == ["a"]

    def test_a_failed_write_leaves_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        with pytest.raises(StoreError, match="folder"):
            ObjectStore(tmp_path).write("folder", b"x")
        assert [path.name for path in tmp_path.iterdir()] == ["folder"]

    def test_written_files_have_the_usual_permissions(self, tmp_path: Path) -> None:
        ObjectStore(tmp_path).write("a", b"x")
        (tmp_path / "b").touch()
        assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode

    def test_folders_pipes_and_dangling_links_are_no_objects(self, tmp_path: Path) -> None:
        store = ObjectStore(tmp_path)
        (tmp_path / "folder").mkdir()
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "dangling").symlink_to("nowhere")
        for name in ("folder", "dangling", "folder/x/y"):
            with pytest.raises(ObjectNotFoundError, match=name):
                store.read(name)
        with pytest.raises(StoreError, match="pipe"):
            store.read("pipe")
        with pytest.raises(ObjectNotFoundError):
            store.head("folder")

    def test_links_to_folders_are_followed_once(self, tmp_path: Path) -> None:
        store = ObjectStore(tmp_path / "top")
        ObjectStore(tmp_path).write("elsewhere/v.mp4", b"x")
        store.write("a.mp4", b"x")
        (tmp_path / "top/link").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "top/circle").symlink_to(tmp_path / "top")
        assert [meta.uri for meta in store.list()] == [f"{tmp_path}/top/a.mp4", f"{tmp_path}/top/link/v.mp4"]

    def test_unfinished_files_are_not_listed(self, tmp_path: Path) -> None:
        store = ObjectStore(tmp_path)
        store.write("a", b"x")
        (tmp_path / ".lazyvid-tmp-0123").touch()
        assert len(store.list()) == 1

    def test_names_that_are_too_long(self, tmp_path: Path) -> None:
        with pytest.raises(UnsafeKeyError, match="too long"):
            ObjectStore(tmp_path).write("x" * 300, b"")

    def test_a_pinned_file_that_changes_in_place(self, tmp_path: Path) -> None:
        store = ObjectStore(tmp_path)
        pin = store.write("a", b"12345")
        os.utime(tmp_path / "a", ns=(1, 1))
        with pytest.raises(ObjectChangedError, match="Open it anew"):
            store.read_ranges("a", [(0, 1)], pin=pin)


class TestArguments:
    @pytest.mark.parametrize(
        "bad",
        [{"max_gap": -1}, {"max_concurrency": 0}, {"deadline_s": 0.0}, {"stall_s": -1.0}, {"deadline_s": float("nan")}],
    )
    def test_limits_are_checked(self, bad: dict[str, float]) -> None:
        with pytest.raises(ValueError, match="Invalid"):
            ObjectStore(**bad)  # type: ignore[arg-type]

    def test_options_are_copied(self) -> None:
        options = {"client_kwargs": {"endpoint_url": "http://a"}}
        store = ObjectStore("s3://b", storage_options=options)
        options["client_kwargs"]["endpoint_url"] = "http://b"
        store.storage_options["client_kwargs"]["endpoint_url"] = "http://c"
        assert store.storage_options == {"client_kwargs": {"endpoint_url": "http://a"}}

    def test_equal_arguments_make_equal_stores(self) -> None:
        make = lambda **extra: ObjectStore("s3://b/", storage_options={"a": [1, {"b": 2}]}, **extra)  # noqa: E731
        assert make() == make()
        assert len({make(), make(), make(max_gap=1), make(stall_s=1.0)}) == 3
        assert make() != "s3://b"

    def test_absolute_uris_stand_for_themselves(self) -> None:
        store = ObjectStore("s3://bucket/root/")
        assert store.url == "s3://bucket/root"
        assert store.resolve("k") == "s3://bucket/root/k"
        assert store.resolve("/local/../k") == "/local/../k"
        assert store.resolve("https://h/k?x=1") == "https://h/k?x=1"
        assert store.resolve("file:///k") == "/k"

    def test_encoded_dots_do_not_leave_a_web_root(self) -> None:
        with pytest.raises(UnsafeKeyError):
            ObjectStore("https://h/root").resolve("%2e%2E/x")
        assert ObjectStore("s3://b/root").resolve("%2e%2e/x") == "s3://b/root/%2e%2e/x"

    def test_keys_that_s3_cannot_hold(self) -> None:
        with pytest.raises(UnsafeKeyError, match="1024"):
            ObjectStore("s3://b").resolve("ä" * 513)
        assert ObjectStore("s3://b").resolve("ä" * 512)

    def test_unknown_schemes_and_options(self) -> None:
        with pytest.raises(StoreError, match="nosuch"):
            ObjectStore().head("nosuch://b/k")
        with pytest.raises(StoreError, match="not_an_option") as caught:
            ObjectStore("s3://b", storage_options={"not_an_option": "hidden-value"}).head("k")
        assert "hidden-value" not in str(caught.value)

    def test_a_missing_package_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules[fsspec.get_filesystem_class.__module__]._registry, "s3", raising=False)
        monkeypatch.setitem(sys.modules, "s3fs", None)
        with pytest.raises(StoreError, match=r"pip install lazyvid\[s3\]"):
            ObjectStore("s3://b", storage_options={"anon": True}, stall_s=3.3).head("k")


class TestHttp:
    def test_weak_etags_pin_nothing(self, weak_http_folder: tuple[str, Path]) -> None:
        url, folder = weak_http_folder
        (folder / "a").write_bytes(DATA)
        store = ObjectStore(url)
        pin = store.head("a")
        assert pin.etag is None
        assert pin.modified_ns is not None
        assert store.pinning("a") == "none"
        assert store.read_ranges("a", [(1, 9)], pin=pin) == [DATA[1:9]]
        (folder / "a").write_bytes(DATA[:-1])
        with pytest.raises(ObjectChangedError, match="bytes"):
            store.read_ranges("a", [(1, 9)], pin=pin)

    def test_a_presigned_url_is_read(self, s3_server: S3Server) -> None:
        import s3fs

        ObjectStore(s3_server.url(), storage_options=s3_server.storage_options).write("signed/v.mp4", DATA)
        filesystem = s3fs.S3FileSystem(**s3_server.storage_options, skip_instance_cache=True)
        url = filesystem.sign(s3_server.url("signed/v.mp4"), expiration=100)
        filesystem.close_session(filesystem.loop, filesystem._s3creator)
        store = ObjectStore()
        meta = store.head(url)
        assert meta.size == len(DATA)
        assert store.read_ranges(url, [(5, 50)], pin=meta) == [DATA[5:50]]
        with pytest.raises(StoreError) as caught:
            store.read(url.replace("v.mp4", "w.mp4"))
        signature = url.split("Signature=")[1].split("&")[0]
        assert signature not in str(caught.value)


class TestS3:
    def test_identities(self, s3_server: S3Server) -> None:
        writer = ObjectStore(s3_server.url(), storage_options=s3_server.storage_options)
        reader = ObjectStore(s3_server.url(), storage_options=s3_server.read_only_options)
        wrong = ObjectStore(s3_server.url(), storage_options=s3_server.wrong_options)
        writer.write("identities/a", b"x")
        assert reader.read("identities/a") == b"x"
        for use in (
            lambda: reader.write("identities/b", b"x"),
            lambda: reader.delete("identities/a"),
            lambda: wrong.head("identities/a"),
            lambda: wrong.read_ranges("identities/a", [(0, 1)]),
            lambda: wrong.list("identities"),
        ):
            with pytest.raises(PermissionError, match="the key given in storage_options") as caught:
                use()
            for options in (s3_server.read_only_options, s3_server.wrong_options):
                assert options["secret"] not in str(caught.value)
                assert options["key"] not in str(caught.value)

    def test_clients_share_what_botocore_knows_of_s3(self, s3_server: S3Server, s3_prefix: str) -> None:
        """A process that meets many credentials, as they are renewed, must not hold a model of S3 for each."""

        def parsed() -> int:
            gc.collect()
            return sum(type(thing) is OrderedDict for thing in gc.get_objects())

        for number in range(3):
            options = {**s3_server.storage_options, "default_block_size": 1 << (20 + number)}
            ObjectStore(storage_options=options).write(f"{s3_prefix}/{number}", b"some")
            if number == 0:
                before = parsed()
        assert parsed() - before < 5_000

    def test_a_missing_bucket(self, s3_server: S3Server) -> None:
        store = ObjectStore("s3://no-such-bucket", storage_options=s3_server.storage_options)
        for use in (lambda: store.head("k"), lambda: store.read("k"), lambda: store.list(), lambda: store.delete("k")):
            with pytest.raises(ObjectNotFoundError, match="no-such-bucket"):
                use()

    def test_a_whole_bucket_is_never_deleted(self, s3_server: S3Server) -> None:
        with pytest.raises(UnsafeKeyError):
            ObjectStore(storage_options=s3_server.storage_options).delete(s3_server.url())

    def test_endpoint_and_keys_from_the_environment(self, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        options = s3_server.storage_options
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint_url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", options["key"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", options["secret"])
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        store = ObjectStore(s3_server.url(), stall_s=9.5)
        store.write("env/a", b"x")
        assert store.read("env/a") == b"x"
        assert options["secret"].encode() not in pickle.dumps(store)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        with pytest.raises(PermissionError, match="AWS_ACCESS_KEY_ID"):
            ObjectStore(s3_server.url(), stall_s=9.4).head("env/a")

    def test_a_listing_of_many_pages(self, s3_server: S3Server, s3_prefix: str) -> None:
        store = ObjectStore(
            s3_prefix, storage_options={**s3_server.storage_options, "s3_additional_kwargs": {"MaxKeys": 3}}
        )
        for i in range(8):
            store.write(f"{i}", b"x")
        before = read_stats()
        assert len(store.list()) == 8
        assert (read_stats() - before).requests == 3

    def test_requests_are_what_they_should_be(self, s3_server: S3Server, counting_proxy: CountingProxy) -> None:
        options = counting_proxy.storage_options_for(s3_server)
        store = ObjectStore(s3_server.url("count"), storage_options=options)
        store.write("a.bin", DATA)
        pin = store.head("a.bin")
        counting_proxy.reset()
        store.read_ranges("a.bin", [(0, 100), (50_000, 50_100), (250_000, 250_100)], pin=pin)
        assert len(counting_proxy.requests) == 2
        assert counting_proxy.bytes_down == 50_100 + 100
        counting_proxy.reset()
        store.read("a.bin")
        assert len(counting_proxy.requests) == 1
