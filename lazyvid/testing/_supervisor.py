"""Runs one server for a parent process, kills it and removes its folder when the parent says so, or is gone.

A script, not a module to import: `s3.py` starts it as a process of its own, because a parent that is killed by SIGKILL
cannot clean up after itself. Arguments: parent's pid, folder to remove, other files to remove (separated as in PATH),
log file, command line. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.25


def _die_with_supervisor() -> None:
    """In the server, before exec: even a killed supervisor takes the server along (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def clean(folder: str, files: str) -> None:
    """Removes what a killed server left behind.

    Args:
        folder: removed with all that is in it.
        files: further files, separated by `os.pathsep`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for file in filter(None, files.split(os.pathsep)):
        with contextlib.suppress(OSError):
            os.unlink(file)


def main(arguments: list[str]) -> int:
    """Supervises until the server exits, the parent writes to our standard input or closes it, or is gone itself.

    The line "kill" ends the server as a crash would: what it had written stays.
    """
    parent, folder, files, log_path, *command = arguments
    with open(log_path, "ab") as log:
        server = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_supervisor,  # safe here: this process has one thread
        )
    kept = False
    try:
        while server.poll() is None and os.getppid() == int(parent):
            if select.select([sys.stdin], [], [], _POLL_S)[0]:
                kept = sys.stdin.readline().strip() == "kill"
                break
        return server.poll() or 0
    finally:
        if server.poll() is None:
            server.kill()  # SIGTERM takes SeaweedFS 15 to 25 s
            server.wait()
            if not kept:
                clean(folder, files)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is the parent's to handle
    sys.exit(main(sys.argv[1:]))
