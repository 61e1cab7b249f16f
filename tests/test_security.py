"""Hostile names, code in data, secrets in texts, folders that others can look into: what SECURITY.md says holds."""

from __future__ import annotations

import ast
import contextlib
import json
import logging
import os
import pickle
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from laws import check_silent, text_of

from lazyvid import (
    Catalog,
    ClipDataset,
    ClipLoader,
    ClipSpec,
    LazyVideo,
    ObjectStore,
    SegmentCache,
    VideoWriter,
    build_index,
)
from lazyvid.errors import LazyVidError, MissingIndexError, ObjectNotFoundError, StoreError, UnsafeKeyError
from lazyvid.index.scratch import scratch_folder
from lazyvid.recording import Recorder
from lazyvid.stats import count
from lazyvid.testing import Fault, FaultServer, S3Server, write_video

ROOT = Path(__file__).resolve().parent.parent


# -- names ------------------------------------------------------------------------------------------------------------

LONG = "k" * 5_000
LEAVING = ["..", "../secret", "a/../../secret", "./../secret", "a/b/../../../secret", "../" * 40 + "etc/passwd"]
IMPOSSIBLE = ["a\0b", "\0", LONG]
STORES = ("local", "s3", "memory", "http")


def _root(kind: str, folder: Path, server: FaultServer) -> str:
    """Where a store of a kind begins."""
    urls = {"s3": server.s3_url("root"), "memory": "memory://root", "http": server.url("root")}
    return urls.get(kind, str(folder / "root"))


@contextlib.contextmanager
def _soon() -> Iterator[None]:
    """No name makes a call hang."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < 60.0


def _takes(kind: str, key: str) -> bool:
    """Whether a store of a kind may hold a key of this length: web servers judge by themselves, and memory has room."""
    return key == LONG and kind in ("http", "memory")


@pytest.mark.parametrize("key", LEAVING + IMPOSSIBLE, ids=lambda key: repr(key[:30]))
@pytest.mark.parametrize("root", STORES)
def test_a_key_that_leaves_its_root_or_cannot_be_is_refused(
    root: str, key: str, tmp_path: Path, fault_server: FaultServer
) -> None:
    (tmp_path / "secret").write_text("not for you")
    options = {"s3": fault_server.storage_options}
    store = ObjectStore(_root(root, tmp_path, fault_server), storage_options=options, deadline_s=30.0)
    looked: list[Callable[[], object]] = [
        lambda: store.read(key),
        lambda: store.delete(key),
        lambda: LazyVideo(key, store=store),
        lambda: build_index(key, store=store),
        lambda: ClipDataset(key, ClipSpec(4), store=store),
        lambda: ClipDataset([key], ClipSpec(4), store=store),
        lambda: Catalog.open(key, store=store),
        lambda: Catalog.build([key], tmp_path / "catalog.lance", store=store),
    ]
    if _takes(root, key):  # there is no such object, and that is what is said
        allowed: tuple[type[LazyVidError], ...] = (ObjectNotFoundError, MissingIndexError)
        calls = [(call, allowed) for call in looked]
        if root == "memory":
            store.write(key, b"x")
            assert store.read(key) == b"x"
            store.delete(key)
    else:
        calls = [(call, (UnsafeKeyError,)) for call in [*looked, lambda: store.write(key, b"x")]]
    for call, kinds in calls:
        with _soon(), pytest.raises(kinds) as raised:
            call()
        assert len(str(raised.value)) < 12_000
    assert (tmp_path / "secret").read_text() == "not for you"
    assert not (tmp_path / "catalog.lance").exists()


@pytest.mark.filterwarnings("ignore:No frame index")
@pytest.mark.parametrize("root", STORES)
def test_an_absolute_path_or_url_stands_for_itself(root: str, tmp_path: Path, fault_server: FaultServer) -> None:
    """As SECURITY.md says: a root is where relative keys begin."""
    path = write_video(tmp_path / "v.mp4", frames=6, width=64, height=48)
    fault_server.objects["other/v.mp4"] = path.read_bytes()
    options = {"s3": fault_server.storage_options}
    store = ObjectStore(_root(root, tmp_path, fault_server), storage_options=options, deadline_s=30.0)
    for uri in (str(path), path.as_uri(), fault_server.s3_url("other/v.mp4"), fault_server.url("other/v.mp4")):
        assert store.read(uri) == path.read_bytes()
        assert len(LazyVideo(uri, store=store)) == 6
        assert len(ClipDataset([uri], ClipSpec(3), store=store)) == 2
        assert len(Catalog.build([uri], tmp_path / f"{len(uri)}.lance", store=store)) == 1
    for absent in ("/no/such/v.mp4", "/" + LONG, "/no/s\0uch"):
        for call in (LazyVideo, build_index, Catalog.open):
            with _soon(), pytest.raises((ObjectNotFoundError, MissingIndexError, UnsafeKeyError)):
                call(absent, store=store)
    assert "stands for itself" in " ".join((ROOT / "SECURITY.md").read_text().split())


@pytest.mark.parametrize("root", STORES)
def test_half_a_character_in_a_key(root: str, tmp_path: Path, fault_server: FaultServer) -> None:
    """Python's name for a byte that is no text, as a listing of a folder may give it."""
    options = {"s3": fault_server.storage_options}
    store = ObjectStore(_root(root, tmp_path, fault_server), storage_options=options, deadline_s=30.0)
    for call in (store.read, lambda key: LazyVideo(key, store=store)):
        with _soon(), pytest.raises((ObjectNotFoundError, UnsafeKeyError, StoreError)):
            call("a\udc80b.mp4")


def test_encoded_dots_are_a_name_and_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("not for you")
    store = ObjectStore(tmp_path / "root")
    for key in ("%2e%2e/secret", "..%2fsecret"):
        with pytest.raises(ObjectNotFoundError):
            store.read(key)
    with pytest.raises(UnsafeKeyError):
        ObjectStore("http://127.0.0.1:9/root").read("%2e%2e/secret")


def test_links_are_followed_for_reading_as_is_written_down(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("linked")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "elsewhere")
    assert ObjectStore(tmp_path / "root").read("link") == b"linked"
    ObjectStore(tmp_path / "root").write("link", b"replaced")
    assert (tmp_path / "elsewhere").read_text() == "linked", "writing replaces the link, not what it leads to"
    assert "links" in (ROOT / "SECURITY.md").read_text().lower()


@pytest.mark.parametrize("name", ["../cam", "a/../../cam", "/cam", "a\0b", "..", "c" * 300])
def test_names_of_cameras_stay_in_the_recording(name: str, tmp_path: Path) -> None:
    features = {name: {"dtype": "video", "shape": [48, 64, 3], "names": ["height", "width", "channels"]}}
    try:
        with Recorder.create(tmp_path / "run", 30, features, vcodec="h264", preset="ultrafast") as recorder:
            recorder.add_frame({name: np.zeros((48, 64, 3), np.uint8), "task": "x"})
            recorder.save_episode()
    except (LazyVidError, ValueError):
        pass
    assert {path.name for path in tmp_path.iterdir()} <= {"run"}
    for path in (tmp_path / "run").rglob("*"):
        assert path.resolve().is_relative_to(tmp_path / "run")


# -- data is no code --------------------------------------------------------------------------------------------------

_RUNS_CODE = re.compile(
    r"^(pickle\.loads?|pickle\.Unpickler|marshal\.loads?|dill\.\w+|eval|exec|compile|yaml\.load|os\.system"
    r"|np\.load|numpy\.load|torch\.load|shelve\.\w+|joblib\.load)$"
)


def test_nothing_in_the_package_runs_what_it_reads() -> None:
    """No sidecar, catalog, manifest, journal or checkpoint is unpickled or evaluated."""
    found = []
    for path in sorted((ROOT / "lazyvid").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _RUNS_CODE.match(ast.unparse(node.func)):
                safe = any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
                safe = safe or ast.unparse(node.func) == "re.compile"
                found += [] if safe else [f"{path.name}:{node.lineno} {ast.unparse(node.func)}"]
            if isinstance(node, ast.Call) and any(
                k.arg == "shell" and ast.unparse(k.value) == "True" for k in node.keywords
            ):
                found.append(f"{path.name}:{node.lineno} shell=True")
    assert found == []


def test_the_state_of_a_loader_is_plain_json(tmp_path: Path) -> None:
    build_index(write_video(tmp_path / "v.mp4", frames=12, gop=4, width=64, height=48)).save(tmp_path / "v.mp4")
    loader = ClipLoader(ClipDataset(str(tmp_path), ClipSpec(4)), batch_size=1)
    next(iter(loader))
    state = loader.state_dict()
    assert json.loads(json.dumps(state)) == state


# -- secrets ----------------------------------------------------------------------------------------------------------

KEY, SECRET, TOKEN = "AKIAVERYPUBLICNAME", "the-very-secret-key-0123", "the-session-token-4567"


def _said(call: Callable[[], object]) -> str:
    """All that a failing call says."""
    with pytest.raises(Exception) as raised:  # noqa: PT011 - any
        call()
    return text_of(raised.value)


@pytest.mark.parametrize("fault", [Fault.status(403), Fault.status(503)], ids=str)
def test_no_text_shows_a_secret(fault: Fault, fault_server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    options = {**fault_server.storage_options, "key": KEY, "secret": SECRET, "token": TOKEN}
    store = ObjectStore(storage_options=options, deadline_s=2.0)
    uri = fault_server.s3_url("v.mp4")
    fault_server.script(default=fault)
    texts = [repr(store), str(store), repr(VideoWriter(uri, 30, store=store))]
    with caplog.at_level(logging.DEBUG, logger="lazyvid"):
        for call in (
            lambda: LazyVideo(uri, store=store),
            lambda: build_index(uri, store=store),
            lambda: ClipDataset(fault_server.s3_url("videos"), ClipSpec(4), store=store),
            lambda: store.write(uri, b"x"),
            lambda: list(store.list(fault_server.s3_url("videos"))),
        ):
            texts.append(_said(call))
    check_silent([SECRET, TOKEN], *texts, caplog.text, "\n".join(str(record.args) for record in caplog.records))


def test_no_object_of_a_training_run_shows_a_secret(s3_server: S3Server, s3_prefix: str, tmp_path: Path) -> None:
    store = ObjectStore(storage_options=s3_server.storage_options)
    path = write_video(tmp_path / "v.mp4", frames=12, gop=4, width=64, height=48)
    store.upload(path, f"{s3_prefix}/v.mp4")
    build_index(f"{s3_prefix}/v.mp4", store=store).save(f"{s3_prefix}/v.mp4", store=store)
    video = LazyVideo(f"{s3_prefix}/v.mp4", store=store)
    dataset = ClipDataset([video.uri], ClipSpec(4), store=store)
    loader = ClipLoader(dataset, batch_size=1)
    batch = next(iter(loader))
    stored = b"".join(store.read(meta.uri) for meta in store.list(s3_prefix))
    shown = [repr(o) for o in (store, video, video[:2], dataset, loader, loader.sampler, video.frame_index, batch)]
    secret = str(s3_server.storage_options["secret"])
    check_silent([secret], *shown, json.dumps(loader.state_dict()), repr(vars(loader)))
    assert secret.encode() not in stored
    by_profile = ObjectStore(storage_options={"profile": "training"})
    assert secret.encode() not in pickle.dumps(by_profile)


def test_notebooks_keep_no_secret() -> None:
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"AKIA[0-9A-Z]{12,}|aws_secret_access_key\s*=|X-Amz-Signature=[0-9a-f]{8}", text), path


# -- folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:No frame index")
def test_folders_of_ones_own_are_closed_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault_server: FaultServer
) -> None:
    for name in ("LAZYVID_INDEX_DIR", "LAZYVID_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = os.umask(0)
    try:
        (tmp_path / "video").mkdir()
        path = write_video(tmp_path / "video" / "v.mp4", frames=6, width=64, height=48)
        fault_server.objects["v.mp4"] = path.read_bytes()
        LazyVideo(fault_server.url("v.mp4"), cache=SegmentCache(), fetch="file")[0]
        count(requests=0)
        with scratch_folder():
            pass
        with VideoWriter(fault_server.s3_url("w.mp4"), 30, store=_store(fault_server)) as writer:
            writer.add_frame(np.zeros((48, 64, 3), np.uint8))
        recorder = Recorder.create(fault_server.s3_url("run"), 30, _CAMERA, vcodec="h264", store=_store(fault_server))
        recorder.finalize()
    finally:
        os.umask(before)
    made = [found for found in tmp_path.iterdir() if found.name.startswith("lazyvid-")]
    assert len(made) >= 3
    assert {found.name: oct(stat.S_IMODE(found.stat().st_mode)) for found in made} == {
        found.name: "0o700" for found in made
    }


_CAMERA: Mapping[str, Mapping[str, Any]] = {
    "cam": {"dtype": "video", "shape": [48, 64, 3], "names": ["height", "width", "channels"]}
}


def _store(server: FaultServer) -> ObjectStore:
    return ObjectStore(storage_options=server.storage_options)
