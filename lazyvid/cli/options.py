"""What all commands that read a store share: options, the store made from them, and the videos that URIs name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from lazyvid.cli.console import DEBUG, one_line
from lazyvid.errors import ObjectNotFoundError
from lazyvid.index.finding import FoundVideo, list_videos
from lazyvid.storage import ObjectStore, display_uri
from lazyvid.storage.layout import SIDECAR_SUFFIX
from lazyvid.storage.masking import is_secret_name


def _set_debug(ctx: typer.Context, value: bool) -> bool:  # noqa: FBT001 - the signature that typer calls
    if value:
        ctx.meta[DEBUG] = True
    return value


Uri = Annotated[
    str, typer.Argument(help="A video: a path, or a URL such as s3://bucket/video.mp4.", show_default=False)
]
Uris = Annotated[
    list[str],
    typer.Argument(
        help="Videos, folders (with those below) or globs: video.mp4, videos/, 's3://bucket/**/*.mp4'.",
        show_default=False,
    ),
]
IndexRoot = Annotated[
    str | None, typer.Option(help="Folder of the sidecars, where they do not lie beside their videos.", metavar="URI")
]
StoreOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        help="Option for the store, may be repeated: anon=true, client_kwargs.region_name=eu-west-1.",
        metavar="KEY=VALUE",
        show_default=False,
        rich_help_panel="Store",
    ),
]
EndpointUrl = Annotated[
    str | None, typer.Option(help="Address of the S3 server, if it is not AWS.", metavar="URL", rich_help_panel="Store")
]
Profile = Annotated[
    str | None, typer.Option(help="Profile in ~/.aws with the credentials.", metavar="NAME", rich_help_panel="Store")
]
Debug = Annotated[bool, typer.Option("--debug", callback=_set_debug, help="Show the traceback of an error.")]


def make_store(
    option: Sequence[str] | None, endpoint_url: str | None, profile: str | None, *, deadline_s: float | None = None
) -> ObjectStore:
    """The store that the options of a command describe.

    Args:
        option: Texts "key=value".
        endpoint_url: Address of an S3 server.
        profile: Name of credentials.
        deadline_s: Seconds that a call may take, and half as long without a byte; None takes the store's own limits.

    Raises:
        typer.BadParameter: if an option is not key=value, or is given in two ways.
    """
    given = [_parsed(text) for text in option or ()]
    if endpoint_url is not None:
        given.append((["client_kwargs", "endpoint_url"], endpoint_url))
    if profile is not None:
        given.append((["profile"], profile))
    options: dict[str, Any] = {}
    for path, value in given:
        _put(options, path, value)
    if deadline_s is None:
        return ObjectStore(storage_options=options or None)
    return ObjectStore(storage_options=options or None, deadline_s=deadline_s, stall_s=deadline_s / 2)


def _parsed(text: str) -> tuple[list[str], Any]:
    name, equals, value = text.partition("=")
    path = name.strip().split(".")
    if not equals or not all(path):
        # What stands there instead may be a secret: it is not repeated.
        raise typer.BadParameter("expected KEY=VALUE, such as anon=true.", param_hint="--option")
    if is_secret_name(path[-1]):
        return path, value  # a key of digits is no number
    try:
        parsed = json.loads(value)
    except ValueError:
        return path, value
    return path, parsed if isinstance(parsed, (bool, int, float)) or parsed is None else value


def _put(options: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a value in nested mappings."""
    inner: Any = options
    for part in path[:-1]:
        inner = inner.setdefault(part, {}) if isinstance(inner, dict) else None
    if not isinstance(inner, dict) or path[-1] in inner:
        raise typer.BadParameter(f"{'.'.join(path)} is given twice, in different ways.", param_hint="--option")
    inner[path[-1]] = value


@dataclass(frozen=True, slots=True)
class Found:
    """What URIs, folders and globs name."""

    listed: tuple[FoundVideo, ...]
    """The videos, each once, and what their listing told."""
    missing: dict[str, str]
    """The URIs, folders and globs that name no video, and why; as they may be shown."""

    @property
    def videos(self) -> tuple[str, ...]:
        """The videos' URIs."""
        return tuple(video.uri for video in self.listed)


def find_all(patterns: Sequence[str], store: ObjectStore) -> Found:
    """Find the videos that URIs, folders and globs name.

    Raises:
        StoreError: if the store cannot be asked.
    """
    found: dict[str, FoundVideo] = {}
    missing: dict[str, str] = {}
    # The shell's own `*` names sidecars beside their videos.
    for pattern in [p for p in patterns if not p.rstrip("/").endswith(SIDECAR_SUFFIX)] or patterns:
        try:
            found |= {video.uri: video for video in list_videos(pattern, store)}
        except ObjectNotFoundError as error:
            missing[display_uri(pattern)] = one_line(error)
    return Found(tuple(found.values()), missing)
