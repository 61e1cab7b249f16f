"""What worker processes need of what is sent to them, said before they are started and by its name."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from multiprocessing.context import get_spawning_popen
from multiprocessing.reduction import ForkingPickler
from types import FunctionType
from typing import Any

import numpy as np
import torch

_DEPTH = 8


def check_picklable(thing: Any, *, name: str = "dataset") -> None:
    """Raise unless something can be sent to worker processes that are started by "forkserver" or "spawn".

    Tensors and arrays are not looked into, so that this costs next to nothing.

    Args:
        thing: A dataset, a transform, ...
        name: What messages call it.

    Raises:
        TypeError: naming the part that cannot be sent, and what to do.
    """
    error = _error(thing)
    if error is None:
        return
    where, part, error = _culprit(thing, name, error, _DEPTH)
    raise TypeError(
        f"Expected a {name} that can be sent to worker processes, but {where} cannot be pickled: {part!r} ({error}). "
        "Define functions and classes at the top of a module, not as a lambda, inside a function or in a notebook; or "
        "use multiprocessing_context='fork', which sends nothing."
    ) from error


def check_before_sending(**parts: Any) -> None:
    """Raise unless these can be sent, where a process is being started now; else whoever pickles says what is wrong.

    Raises:
        TypeError: as `check_picklable`.
    """
    if get_spawning_popen() is not None:
        for name, part in parts.items():
            check_picklable(part, name=name)


class _Probe(ForkingPickler):
    """Pickles as `multiprocessing` does, but for what is always sent well and may be large or have effects."""

    def reducer_override(self, thing: Any) -> Any:
        if isinstance(thing, (torch.Tensor, torch.UntypedStorage, np.ndarray)):
            return int, ()
        if type(thing).__module__.startswith("multiprocessing."):  # locks and queues pass to children alone
            return int, ()
        if isinstance(thing, (FunctionType, type)) and thing.__module__ == "__main__" and _is_interactive():
            raise pickle.PicklingError("defined in an interactive session, where a new process cannot find it")
        return NotImplemented


def _is_interactive() -> bool:
    return not hasattr(sys.modules["__main__"], "__file__")


def _error(thing: Any) -> Exception | None:
    try:
        _Probe(io.BytesIO(), pickle.HIGHEST_PROTOCOL).dump(thing)
    except Exception as error:  # whatever a `__reduce__` raises
        return error
    return None


def _culprit(thing: Any, path: str, error: Exception, depth: int) -> tuple[str, Any, Exception]:
    """The innermost part that cannot be pickled, by the path that leads to it."""
    for name, part in _parts(thing) if depth else ():
        inner = _error(part)
        if inner is not None:
            return _culprit(part, path + name, inner, depth - 1)
    return path, thing, error


def _parts(thing: Any) -> Iterator[tuple[str, Any]]:
    """What pickling something comes to, by the name of each."""
    if isinstance(thing, (FunctionType, type)):
        return
    if isinstance(thing, dict):
        yield from ((f"[{key!r}]", value) for key, value in thing.items())
    elif isinstance(thing, (list, tuple)):
        yield from ((f"[{number}]", value) for number, value in enumerate(thing))
    elif is_dataclass(thing):
        yield from ((f".{field.name}", getattr(thing, field.name)) for field in fields(thing))
    elif hasattr(thing, "__dict__"):
        yield from ((f".{name}", value) for name, value in vars(thing).items())
    try:
        reduced = thing.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    except Exception:  # then it is this very thing
        return
    for part in reduced[1:] if isinstance(reduced, tuple) else ():
        if part is not thing:
            yield "", part
