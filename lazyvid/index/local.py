"""Node-local, memory-mapped copies of indexes: a machine's processes share the pages, and one file holds many indexes.

`opening` publishes every index that it read or built; a pickled video finds it again by the hash of its content.
`node_files` keeps the files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pyarrow as pa

from lazyvid.errors import CorruptIndexError
from lazyvid.index import arrow, node_files
from lazyvid.index.frame_index import FrameIndex


def publish(index: FrameIndex) -> str:
    """Lay an index as a mapped file.

    Returns:
        Its content hash, the name under which `load` finds it. Where no file can be written the index stays in this
        process' memory, and one warning says so.
    """
    name = index.content_hash()
    _publish(name, [index], [name])
    return name


def publish_many(indexes: Sequence[FrameIndex]) -> str:
    """Lay many indexes in one mapped file, as for a dataset.

    Returns:
        The name under which `load(name, position=i)` finds the i-th of them.

    Raises:
        ValueError: if there is none.
    """
    if not indexes:
        raise ValueError("publish_many expects one index or more, got none.")
    hashes = [index.content_hash() for index in indexes]
    name = "many-" + hashlib.blake2b("".join(hashes).encode(), digest_size=20).hexdigest()
    _publish(name, indexes, hashes)
    return name


def load(name: str, *, position: int = 0) -> FrameIndex | None:
    """An index that was published on this machine by this user.

    Args:
        name: What `publish` or `publish_many` returned.
        position: Which of the file's indexes, from 0.

    Returns:
        The index, its arrays mapped; the same object as long as it is in use here. None when it is not there (evicted,
        or published elsewhere) or damaged.

    Raises:
        IndexError: if the file holds fewer indexes.
    """
    with node_files.lock():
        file = node_files.find(name)
        if file is None:
            return None
        if not 0 <= position < file.directory.num_rows:
            raise IndexError(f"{name} holds {file.directory.num_rows} indexes, none at {position}.")
        try:
            if position not in file.made:
                file.made[position] = arrow.from_blocks(file.rows, file.directory, position)[1]
        except (CorruptIndexError, pa.ArrowException, OSError, ValueError, TypeError):
            node_files.discard(name)
            return None
        index: FrameIndex = file.made[position]
        return index


def clear() -> None:
    """Forget everything that this process has open here; files stay."""
    node_files.clear()


def _publish(name: str, indexes: Sequence[FrameIndex], hashes: Sequence[str]) -> None:
    with node_files.lock():
        if load(name) is None:  # not there, or damaged and now discarded
            node_files.lay(name, lambda: arrow.to_blocks(indexes, hashes))
