"""Every exception is in the tree that `lazyvid.errors` draws, and reaches the caller of a DataLoader as what it is."""

from __future__ import annotations

import builtins
import copy
import inspect
import pickle
import re

import pytest
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, Dataset

from lazyvid import errors

MESSAGE = "expected 4 bytes, found 3 in s3://bucket/a.mp4 (frames 5-9); write it again"
_LINE = re.compile(r"^(?P<indent>[ │├└─]*)(?P<name>\w+Error)\b(?:\s+\((?P<builtin>\w+)\))?")


def _drawn_bases() -> dict[str, list[str]]:
    """Base names of each class, as the module's docstring draws them."""
    bases: dict[str, list[str]] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = _LINE.match(line)
        if not found:
            continue
        depth = len(found["indent"]) // 4 - 1
        above[depth:] = [found["name"]]
        bases[found["name"]] = [above[depth - 1] if depth else "Exception", *filter(None, [found["builtin"]])]
    return bases


def _classes() -> list[type[errors.LazyVidError]]:
    return [c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__]


CLASSES = _classes()
each_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)


def test_the_docstring_draws_the_tree_as_it_is() -> None:
    assert _drawn_bases() == {c.__name__: [b.__name__ for b in c.__bases__] for c in CLASSES}


@each_class
def test_is_a_lazyvid_error_and_the_builtin_it_resembles(cls: type[errors.LazyVidError]) -> None:
    error = cls(MESSAGE)
    assert isinstance(error, errors.LazyVidError)
    for name in _drawn_bases()[cls.__name__]:
        assert isinstance(error, getattr(errors, name, None) or getattr(builtins, name))


@each_class
def test_pickles_and_copies(cls: type[errors.LazyVidError]) -> None:
    for again in (pickle.loads(pickle.dumps(cls(MESSAGE))), copy.copy(cls(MESSAGE))):
        assert type(again) is cls
        assert str(again) == MESSAGE
        assert again.args == (MESSAGE,)


@each_class
def test_is_rebuilt_from_one_string(cls: type[errors.LazyVidError]) -> None:
    # What a DataLoader does with a worker's exception: its class is called with one string, the traceback's text.
    try:
        raise cls(MESSAGE)
    except errors.LazyVidError:
        wrapped = pickle.loads(pickle.dumps(ExceptionWrapper(where="in worker 0")))
    with pytest.raises(cls, match=re.escape(MESSAGE)) as caught:
        wrapped.reraise()
    assert type(caught.value) is cls


class _Raising(Dataset):
    def __len__(self) -> int:
        return len(CLASSES)

    def __getitem__(self, index: int) -> object:
        raise CLASSES[index](MESSAGE)


def test_each_comes_out_of_a_real_worker_as_itself() -> None:
    batches = iter(DataLoader(_Raising(), batch_size=None, num_workers=1, timeout=240))
    for cls in CLASSES:
        with pytest.raises(errors.LazyVidError, match=re.escape(MESSAGE)) as caught:
            next(batches)
        assert type(caught.value) is cls
