"""A digest of both files of a sidecar, patched into its manifest: damage is known before Lance sees a byte; pure.

Lance has no checksums, and damaged bytes can abort the process that reads them. `sidecar` writes the schema's metadata
with `PLACEHOLDER`, seals the manifest that Lance made of it, and opens only what the seal fits.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

METADATA_KEY = "lazyvid:seal"
_PREFIX = "lazyvid-seal/1"
_PATTERN = re.compile(rb"lazyvid-seal/1:([0-9a-f]{32}):([0-9]{15}):([0-9a-f]{32})")
_DATA_NAME = re.compile(rb"[0-9A-Za-z_\-]{8,120}\.lance")
PLACEHOLDER = f"{_PREFIX}:{'0' * 32}:{'0' * 15}:{'0' * 32}"
"""What the schema's metadata holds before sealing; as long as the seal, so that no offset in the manifest changes."""


@dataclass(frozen=True, slots=True)
class Seal:
    """What a sealed manifest says of its sidecar."""

    data_name: str
    """Name of the one data file."""
    data_digest: str
    """blake2b of the data file, 32 hexadecimal digits."""
    data_size: int
    """Bytes of the data file."""
    digest: str
    """blake2b of the manifest, 32 hexadecimal digits: names the content of both files."""
    intact: bool
    """Whether the manifest's own digest fits."""

    def fits(self, data: bytes) -> bool:
        """Whether `data` is the data file that was sealed."""
        return len(data) == self.data_size and _digest(data) == self.data_digest


def sealed(manifest: bytes, data: bytes) -> bytes:
    """The manifest with `PLACEHOLDER` replaced, wherever Lance wrote it, by the digests of `data` and of itself.

    Raises:
        ValueError: if the manifest holds no placeholder, or names not exactly one data file.
    """
    if PLACEHOLDER.encode() not in manifest or len(data_names(manifest)) != 1:
        raise ValueError("Expected a manifest with a placeholder for the seal and one data file, found another one.")
    body = manifest.replace(PLACEHOLDER.encode(), _text(_digest(data), len(data), "0" * 32))
    return body.replace(_text(_digest(data), len(data), "0" * 32), _text(_digest(data), len(data), _digest(body)))


def read_seal(manifest: bytes) -> Seal | None:
    """The seal of a manifest; None when it carries none, as those that other tools wrote."""
    found = _PATTERN.search(manifest)
    if found is None:
        return None
    data_digest, size, digest = (group.decode() for group in found.groups())
    body = manifest.replace(found.group(), _text(data_digest, int(size), "0" * 32))
    names = data_names(manifest)
    return Seal(
        data_name=min(names, default=""),
        data_digest=data_digest,
        data_size=int(size),
        digest=digest,
        intact=_digest(body) == digest and len(names) == 1,
    )


def data_names(manifest: bytes) -> set[str]:
    """The data files that a manifest names, sealed or not."""
    names = set()
    for end in (match.end() for match in re.finditer(rb"\.lance", manifest)):
        for length in range(len(b".lance") + 1, 128):
            start = end - length
            # In protobuf a field's first string stands behind "\n" and its length. Without them, a regular expression
            # would take bytes before the name for a part of it.
            if (
                start >= 2
                and manifest[start - 2 : start] == bytes([10, length])
                and _DATA_NAME.fullmatch(manifest, start, end)
            ):
                names.add(manifest[start:end].decode())
    return names


def _text(data_digest: str, size: int, digest: str) -> bytes:
    return f"{_PREFIX}:{data_digest}:{size:015d}:{digest}".encode()


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
