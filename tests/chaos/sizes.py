"""How many cases a chaos test runs: a few in `make test`, many in `make chaos`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytest

_SCALE = float(os.environ.get("LAZYVID_CHAOS_SCALE", "1"))


def also_in_chaos(values: Sequence[str], *, few: Sequence[str] = ()) -> list[Any]:
    """Values of a parameter: `few` of them by default, all under the mark `chaos`."""
    return [value if value in few else pytest.param(value, marks=pytest.mark.chaos) for value in values]


def counts(few: int, many: int) -> Any:
    """Parametrizes `count`: `few` by default, `many` (times LAZYVID_CHAOS_SCALE) under the mark `chaos`."""
    scaled = max(1, round(many * _SCALE))
    return pytest.mark.parametrize("count", [few, pytest.param(scaled, marks=pytest.mark.chaos, id="many")])
