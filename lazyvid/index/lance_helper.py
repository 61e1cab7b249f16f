"""Reads and writes Lance datasets in local folders: the body of `lance_process`, and alone a subprocess that serves it.

Imports nothing of lazyvid, so that the subprocess starts in the time that `import lance` takes. Requests and answers
are `<8 bytes: length of JSON><8 bytes: length of payload><JSON><payload>`; the payload is an Arrow IPC stream.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import threading
import time
from typing import Any, BinaryIO

HEADER = struct.Struct("<QQ")
_PARENT_LOOK_S = 1.0


def read_dataset(folder: str, columns: list[str] | None, max_rows: int | None) -> Any:
    """The newest version of the dataset in `folder`, with its schema's metadata.

    Args:
        folder: The dataset.
        columns: Which columns to read, as far as they are there; None reads all.
        max_rows: One row more than these is read at most: what follows would not be wanted. None reads all.

    Returns:
        A `pyarrow.Table`. Lance's own exceptions come out as they are, `PanicException` (a BaseException) too.
    """
    import lance

    dataset = lance.dataset(folder)
    present = [name for name in dataset.schema.names if columns is None or name in columns]
    limit = None if max_rows is None else max_rows + 1
    return dataset.to_table(columns=present, limit=limit) if present else dataset.schema.empty_table()


def write_dataset(table: Any, folder: str) -> None:
    """Write `table` as a new dataset of one fragment, with the manifest names that begin at 2**64 - 2."""
    import lance

    # As many rows a file as there are: readers fetch one data file by one request.
    lance.write_dataset(
        table,
        folder,
        mode="create",
        max_rows_per_file=max(1, table.num_rows),
        max_bytes_per_file=1 << 50,
        enable_v2_manifest_paths=True,
    )


def to_ipc(table: Any) -> bytes:
    """A table as an Arrow IPC stream."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def from_ipc(data: bytes) -> Any:
    """The table of an Arrow IPC stream."""
    import pyarrow as pa

    with pa.ipc.open_stream(pa.BufferReader(data)) as reader:
        return reader.read_all()


def describe(error: BaseException) -> str:
    """One line about an exception of Lance, without the places in its source code."""
    text = " ".join(str(error).split()).partition(", /home/runner/")[0]
    return f"{type(error).__name__}: {text[:300]}"


def _receive(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    text_bytes, payload_bytes = HEADER.unpack(header)
    return json.loads(stream.read(text_bytes)), stream.read(payload_bytes)


def _send(stream: BinaryIO, message: dict[str, Any], payload: bytes = b"") -> None:
    text = json.dumps(message).encode()
    stream.write(HEADER.pack(len(text), len(payload)) + text)
    stream.write(payload)
    stream.flush()


def _answer(request: dict[str, Any], payload: bytes) -> bytes:
    if request["op"] == "read":
        table = read_dataset(request["folder"], request["columns"], request["max_rows"])
        table.validate(full=True)  # nothing vouches for the bytes, and the asker will follow their offsets
        return to_ipc(table)
    if request["op"] == "write":
        write_dataset(from_ipc(payload), request["folder"])
        return b""
    raise ValueError(f"Unknown request {request['op']!r}.")


def _end_with_parent(parent: int) -> None:
    # The end of stdin does not always tell: a fork of the parent may hold the pipe open.
    while os.getppid() == parent:
        time.sleep(_PARENT_LOOK_S)
    os._exit(0)


def serve(parent: int) -> None:
    """Answer requests on stdin until it ends or the process `parent` is gone."""
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    # Whatever else is printed in this process must not get among the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    while (received := _receive(requests)) is not None:
        try:
            result = _answer(*received)
        except (KeyboardInterrupt, SystemExit):
            return
        except BaseException as error:  # a Rust panic is a BaseException; all become the answer
            kind = "unavailable" if isinstance(error, ImportError) else "failed"
            _send(answers, {"status": kind, "error": describe(error)})
        else:
            _send(answers, {"status": "ok"}, result)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
