"""Where the draws of all tests come from, and what a machine must have so that no test is skipped silently."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import zlib
from functools import cache

import pytest

SEED = int(os.environ.get("LAZYVID_CHAOS_SEED", "0"))
"""`make chaos` draws one and prints it; 0 otherwise, so that a run can be repeated."""


def chance(name: str) -> random.Random:
    """Draws that follow from the seed and a name; the seed is shown where the test fails."""
    print(f"LAZYVID_CHAOS_SEED={SEED}")  # noqa: T201 - pytest shows it where the test fails
    return random.Random(SEED ^ zlib.crc32(name.encode()))


def is_required(what: str) -> bool:
    """Whether LAZYVID_REQUIRE (comma-separated) says that a missing `what` is a failure here, not a skip."""
    return what in os.environ.get("LAZYVID_REQUIRE", "").split(",")


def need(what: str, why: str) -> None:
    """Skip the calling test for want of something, or fail it where that is required."""
    if is_required(what):
        pytest.fail(f"LAZYVID_REQUIRE names {what}: this test needs {why}")
    pytest.skip(f"needs {why}")


def need_namespaces() -> None:
    """Skip where no small disk can be mounted; LAZYVID_REQUIRE calls it "namespaces"."""
    if not _runs("unshare", "-rm", "true"):
        need("namespaces", "unshare and user namespaces")


def need_strace() -> None:
    """Skip where system calls cannot be made to fail; LAZYVID_REQUIRE calls it "strace"."""
    if not _runs("strace", "-qq", "-e", "trace=none", "-e", "inject=getpriority:error=EIO", "true"):
        need("strace", "strace, and the right to trace")


@cache
def _runs(*command: str) -> bool:
    return (
        shutil.which(command[0]) is not None
        and not subprocess.run(command, check=False, capture_output=True).returncode
    )
