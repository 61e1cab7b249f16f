"""A doctor for LeRobot datasets: holds tables, rows, videos and statistics against one another and names what is wrong.

`check_tables.py`, `check_rows.py` and `check_videos.py` look; the command `lazyvid lerobot check` shows what they find.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from lazyvid.errors import LazyVidError
from lazyvid.lerobot import check_rows, check_tables, check_videos
from lazyvid.lerobot.metadata import DatasetPlace, LeRobotMetadata
from lazyvid.lerobot.report import Advance, CheckReport, EpisodeLine
from lazyvid.storage import ObjectStore, SegmentCache, display_uri


def check_dataset(
    root: str | os.PathLike[str],
    *,
    store: ObjectStore | None = None,
    storage_options: Mapping[str, Any] | None = None,
    decode: bool = False,
    cache: SegmentCache | None = None,
    advance: Advance = lambda _what, _done, _total: None,
) -> CheckReport:
    """Look at all of a dataset: its tables, each row, and the frame index of each video.

    Args:
        root: The dataset's folder.
        store: Where it lies; by default an `ObjectStore` made from `storage_options`.
        storage_options: Options for fsspec, when no `store` is given.
        decode: Decode every frame, too: what a damaged payload takes.
        cache: Where tables are kept.
        advance: Told how far it is.

    Returns:
        What is wrong; what cannot be read at all is among it.

    Raises:
        ObjectNotFoundError: if there is no dataset.
        StoreError: if the store cannot be asked.
    """
    place = DatasetPlace.of(root, store=store, storage_options=storage_options, cache=cache)
    report = CheckReport(display_uri(place.root))
    try:
        meta = LeRobotMetadata.open(place)
    except LazyVidError as error:
        if not place.store.exists("meta/info.json"):
            raise
        report.error("meta", str(error))
        return report
    lengths = meta.episodes.lengths.tolist()
    report.episodes = [EpisodeLine(number, length) for number, length in enumerate(lengths)]
    check_tables.check(meta, report)
    numbers = check_rows.check(meta, report, advance)
    check_tables.check_statistics(meta, report, numbers)
    check_videos.check(meta, report, advance, decode=decode)
    return report
