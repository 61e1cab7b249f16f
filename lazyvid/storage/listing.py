"""Lists and removes what lies below a folder of a `Backend`."""

from __future__ import annotations

from functools import partial
from typing import Any

from lazyvid.errors import ObjectNotFoundError
from lazyvid.storage.backend import Backend, Tuning
from lazyvid.storage.layout import split
from lazyvid.storage.masking import display_uri
from lazyvid.storage.objects import ObjectMeta
from lazyvid.storage.retry import Deadline
from lazyvid.storage.transfer import attempt, head, together


async def list_below(backend: Backend, uri: str, *, tuning: Tuning) -> list[ObjectMeta]:
    """Every object below a folder, and the object itself when it is one; sorted by URI."""
    deadline = Deadline(tuning.deadline_s, renewed=True)
    found: list[ObjectMeta] = []
    token: Any = None
    while True:
        page, token = await attempt(backend, uri, "list", partial(backend.list_page, uri, token), deadline=deadline)
        found += page
        deadline.progress()
        if token is None:
            break
    return sorted(found or await _itself(backend, uri, deadline), key=lambda meta: meta.uri)


async def _itself(backend: Backend, uri: str, deadline: Deadline) -> list[ObjectMeta]:
    """The object of this very name, when there is one."""
    path = split(uri)[1]
    if not path or path.endswith("/"):
        return []
    try:
        return [await head(backend, uri, deadline=deadline)]
    except ObjectNotFoundError:
        return []


async def any_below(backend: Backend, uri: str, *, deadline: Deadline) -> bool:
    """Whether a folder holds anything."""
    token: Any = None
    while True:
        page, token = await attempt(backend, uri, "list", partial(backend.list_page, uri, token), deadline=deadline)
        if page or token is None:
            return bool(page)


async def remove(backend: Backend, uri: str, *, tuning: Tuning) -> None:
    """Remove an object, or every object below a folder."""
    below = await list_below(backend, uri, tuning=tuning)
    itself = await _itself(backend, uri, Deadline(tuning.deadline_s))
    found = {meta.uri: meta for meta in [*below, *itself]}
    if not found:
        raise ObjectNotFoundError(f"Cannot delete {display_uri(uri)}: there is no object or folder. Check the URI.")

    async def one(each: str) -> None:
        await attempt(backend, each, "delete", partial(backend.remove, each), deadline=Deadline(tuning.deadline_s))

    await together([partial(one, each) for each in found], at_most=tuning.max_concurrency)
