"""How many cases a chaos test runs: a few in `make test`, many in `make chaos`."""

from __future__ import annotations

import os
from typing import Any

import pytest

_SCALE = float(os.environ.get("LAZYVID_CHAOS_SCALE", "1"))


def counts(few: int, many: int) -> Any:
    """Parametrizes `count`: `many` (times LAZYVID_CHAOS_SCALE), or `few` where conftest's SAMPLE names that test."""
    return pytest.mark.parametrize("count", [few, pytest.param(max(1, round(many * _SCALE)), id="many")])
