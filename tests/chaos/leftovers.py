"""What processes leave behind: looks at the system, by process and by name, and can tell two test runs side by side."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

_SHARED = Path("/dev/shm")


def family(pid: int) -> set[int]:
    """A process and all below it that still run."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            facts = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if facts[0] not in "ZX":
            parents[int(entry.parent.name)] = int(facts[1])
    found = {pid} & parents.keys()
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def running(pids: Iterable[int]) -> dict[int, str]:
    """Those that still run, and their command lines."""
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX":
                found[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:200]
    return found


def shared_memory() -> set[str]:
    """The names of all that lies in shared memory."""
    return set(os.listdir(_SHARED)) if _SHARED.is_dir() else set()


def held_shared_memory(pids: Iterable[int]) -> set[str]:
    """The names in shared memory that processes have mapped or open."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            found |= set(re.findall(rf"{_SHARED}/(\S+)", Path(f"/proc/{pid}/maps").read_text()))
        with contextlib.suppress(OSError):
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    target = Path(os.readlink(entry))
                    found |= {target.name} if target.parent == _SHARED else set()
    return found


def ownerless_shared_memory(before: Iterable[str]) -> set[str]:
    """Names in shared memory that are new since `before`, of this process or of one that is gone.

    torch's names tell who made them. Of other names it counts who holds them: they are no loss while another process
    that runs does, such as a test run beside this one and what it started.
    """
    new = shared_memory() - set(before)
    if not new:
        return set()
    mine = family(os.getpid())
    others = {int(entry.name) for entry in Path("/proc").glob("[0-9]*")} - mine
    held = held_shared_memory(others)
    makers = {name: int(found[1]) for name in new if (found := re.match(r"torch_(\d+)_", name))}
    gone = {name for name in new if name not in held and (name not in makers or makers[name] not in others)}
    return gone & shared_memory()  # what is freed meanwhile is not left


def held_locks(folder: Path) -> list[str]:
    """The lock files of a folder that somebody holds."""
    found = []
    for path in sorted(folder.glob("*.lock")):
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                found.append(path.name)
    return found


def open_files() -> dict[str, str]:
    """This process's descriptors of files that have a name, by number; not pipes, sockets or devices."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{number}")
            if target.startswith("/") and not target.startswith(("/dev/null", "/dev/pts", "/dev/tty", "/proc/")):
                found[number] = target
    return found


def count_descriptors(but: re.Pattern[str], *, sockets: bool) -> int:
    """How many descriptors this process has open, but for some files, and with or without those of sockets."""
    count = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{number}")
            count += not but.search(target) and (sockets or not target.startswith("socket:"))
    return count


def kinds_of_descriptors() -> str:
    """What this process has open, for a message: how many of each kind, or of each file."""
    found: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[re.sub(r":\[\d+\]$", "", os.readlink(f"/proc/self/fd/{number}"))] += 1
    return ", ".join(f"{count} {what}" for what, count in found.most_common(12))
