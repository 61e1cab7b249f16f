"""The part of the doctor that looks at `meta/`: counts, bounds, tasks and statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lazyvid.errors import LazyVidError
from lazyvid.lerobot.columns import STATISTICS
from lazyvid.lerobot.episodes import STATS_PREFIX
from lazyvid.lerobot.metadata import LeRobotMetadata
from lazyvid.lerobot.report import CheckReport
from lazyvid.lerobot.schema import DEFAULT_FEATURES, INFO_PATH, LANGUAGE, STATS_PATH, TASKS_PATH
from lazyvid.lerobot.tables import open_parquet

Moments = Mapping[str, Mapping[str, npt.NDArray[np.float64]]]
"""By feature of numbers: min, max, mean and std over all rows."""

_RTOL, _ATOL = 1e-3, 1e-5
_EPISODES = "meta/episodes"


def check(meta: LeRobotMetadata, report: CheckReport) -> None:
    """Whether the tables agree with one another."""
    info, episodes = meta.info, meta.episodes
    if len(episodes) < info.total_episodes:
        report.error(
            INFO_PATH, f"expected {info.total_episodes} episodes in the table of episodes, found {len(episodes)}"
        )
    found = int(episodes.lengths.sum())
    if found != info.total_frames:
        report.error(INFO_PATH, f"expected total_frames {info.total_frames}, found {found} in the table of episodes")
    for key, expected in DEFAULT_FEATURES.items():
        given = info.raw["features"].get(key)
        if given is None or given["dtype"] != expected["dtype"]:
            report.error(INFO_PATH, f"expected the feature {key} of dtype {expected['dtype']}, found {given}")
    if info.is_v3 and float(info.fps) != int(info.fps):
        report.warn(INFO_PATH, f"expected a whole number of frames per second, found {info.fps}: LeRobot refuses it")
    _check_bounds(meta, report)
    _check_tasks(meta, report)


def _check_bounds(meta: LeRobotMetadata, report: CheckReport) -> None:
    episodes = meta.episodes
    names = ("dataset_from_index", "dataset_to_index")
    if not all(name in episodes.column_names for name in names):
        report.error(_EPISODES, f"expected the columns {' and '.join(names)}, found {episodes.column_names}")
        return
    ends = np.cumsum(episodes.lengths)
    first, stop = (episodes.column(name) for name in names)
    for number in np.flatnonzero((first != ends - episodes.lengths) | (stop != ends)).tolist():
        report.error(
            _EPISODES,
            f"expected rows {ends[number] - episodes.lengths[number]} to {ends[number]}, found {first[number]} to "
            f"{stop[number]}",
            episode=number,
        )


def _check_tasks(meta: LeRobotMetadata, report: CheckReport) -> None:
    if not meta.tasks:
        report.error(TASKS_PATH, "expected a task or more, found none")
    if "total_tasks" in meta.info.raw and meta.info.raw["total_tasks"] != len(meta.tasks):
        report.warn(INFO_PATH, f"expected total_tasks {len(meta.tasks)}, found {meta.info.raw['total_tasks']}")
    known = set(meta.tasks)
    for number in range(len(meta.episodes)):
        unknown = [task for task in meta.episodes.tasks(number) if task not in known]
        if unknown:
            report.error(_EPISODES, f"expected tasks of the table of tasks, found {unknown}", episode=number)


# -- statistics -------------------------------------------------------------------------------------------------------


def check_statistics(meta: LeRobotMetadata, report: CheckReport, moments: Moments) -> None:
    """Whether statistics are there, in order, and those of the rows.

    Args:
        meta: The dataset.
        report: Where to note what is wrong.
        moments: Of the rows; empty where they could not be read.
    """
    try:
        stats = meta.stats
    except LazyVidError as error:
        report.error(STATS_PATH, str(error))
        return
    if not stats:
        report.warn(STATS_PATH, "expected statistics, found none: training cannot normalise by them")
    for key, feature in meta.info.features.items():
        if feature.dtype in ("string", LANGUAGE) or not stats:
            continue
        if key not in stats:
            report.warn(STATS_PATH, f"expected statistics of {key}, found none")
            continue
        _check_one(key, stats[key], moments.get(key), report)
    if meta.info.is_v3:
        _check_columns(meta, report)


def _check_one(
    key: str,
    stats: Mapping[str, npt.NDArray[Any]],
    moments: Mapping[str, npt.NDArray[np.float64]] | None,
    report: CheckReport,
) -> None:
    missing = [name for name in ("min", "max", "mean", "std", "count") if name not in stats]
    if missing:
        report.error(STATS_PATH, f"expected {', '.join(missing)} of {key}, found none")
        return
    arrays = {name: np.asarray(value, np.float64) for name, value in stats.items()}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        report.warn(STATS_PATH, f"expected finite statistics of {key}, found NaN or infinity")
        return
    slack = _ATOL + _RTOL * np.abs(arrays["max"])
    if not ((arrays["min"] <= arrays["mean"] + slack).all() and (arrays["mean"] <= arrays["max"] + slack).all()):
        report.error(STATS_PATH, f"expected min <= mean <= max of {key}, found {_shown(arrays)}")
    elif (arrays["std"] < 0).any():
        report.error(STATS_PATH, f"expected std >= 0 of {key}, found {arrays['std'].tolist()}")
    for name, expected in (moments or {}).items():
        found = arrays[name].reshape(-1)
        if found.shape != expected.shape or not np.allclose(found, expected, rtol=_RTOL, atol=_ATOL):
            report.error(
                STATS_PATH,
                f"expected {name} of {key} to be {_rounded(expected)}, that of its rows, found {_rounded(found)}",
            )


def _check_columns(meta: LeRobotMetadata, report: CheckReport) -> None:
    """Without its columns of statistics, LeRobot cannot go on with a dataset."""
    for file in meta.place.store.list(_EPISODES, glob="*/*.parquet"):
        names = set(open_parquet(meta.place.store, file).schema_arrow.names)
        wanted = [
            f"{STATS_PREFIX}{key}/{name}"
            for key, feature in meta.info.features.items()
            if feature.dtype not in ("string", LANGUAGE)
            for name in STATISTICS[:5]
        ]
        missing = [name for name in wanted if name not in names]
        if missing:
            report.warn(
                _EPISODES,
                f"expected columns of statistics, found none of {len(missing)} such as {missing[0]}: LeRobot opens the "
                "dataset but cannot record into it",
            )
            return


def _shown(arrays: Mapping[str, npt.NDArray[np.float64]]) -> str:
    return ", ".join(f"{name} {_rounded(arrays[name])}" for name in ("min", "mean", "max"))


def _rounded(values: npt.NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.6g}") for value in values.reshape(-1)[:8]]
