"""Byte ranges merged into few larger spans; pure arithmetic, used by `ObjectStore` before anything is fetched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import index


@dataclass(frozen=True, slots=True)
class MergePlan:
    """Which spans to fetch, and where in them each range that was asked for lies."""

    spans: tuple[tuple[int, int], ...]
    """Half-open (start, stop) byte spans, sorted, none empty, none touching another."""
    placements: tuple[tuple[int, int], ...]
    """For each range, in the order asked, (number of its span, offset in that span); (-1, 0) for an empty range."""
    lengths: tuple[int, ...]
    """The length in bytes of each range, in the order asked."""

    @property
    def span_bytes(self) -> int:
        """Sum of the spans' lengths: what fetching them costs."""
        return sum(stop - start for start, stop in self.spans)

    @property
    def held_bytes(self) -> int:
        """The most that is in memory for it: the spans, or the ranges where they overlap and are copied out of them."""
        return max(self.span_bytes, sum(self.lengths))

    def cut(self, bodies: Sequence[bytes]) -> list[bytes]:
        """Take the ranges that were asked for out of the spans' bytes.

        Args:
            bodies: the bytes of each span, in the order of `spans`.

        Returns:
            The bytes of each range, in the order asked; a range that is a whole span is not copied.
        """
        return [
            bodies[span][offset : offset + length] if length else b""
            for (span, offset), length in zip(self.placements, self.lengths, strict=True)
        ]


def merge_ranges(ranges: Iterable[tuple[int, int]], *, max_gap: int) -> MergePlan:
    """Merge byte ranges that overlap, touch, or lie at most `max_gap` bytes apart.

    Args:
        ranges: half-open (start, stop) byte ranges in any order; duplicates and empty ones are fine.
        max_gap: how many bytes nobody asked for may be fetched to save a request, >= 0.

    Returns:
        The spans to fetch and the place of each range in them.

    Raises:
        ValueError: if a range starts below zero or stops before it starts, or `max_gap` is negative.
    """
    if max_gap < 0:
        raise ValueError(f"Invalid max_gap {max_gap}: expected a number of bytes >= 0.")
    wanted = [(index(start), index(stop)) for start, stop in ranges]
    spans: list[tuple[int, int]] = []
    placements = [(-1, 0)] * len(wanted)
    span_start = span_stop = -max_gap - 1  # so that no range touches it
    for i in sorted(range(len(wanted)), key=wanted.__getitem__):
        start, stop = wanted[i]
        if start < 0 or stop < start:
            raise ValueError(f"Invalid byte range ({start}, {stop}): expected 0 <= start <= stop.")
        if start == stop:
            continue
        if start - span_stop > max_gap:
            spans.append((start, stop))
            span_start, span_stop = start, stop
        elif stop > span_stop:
            span_stop = stop
            spans[-1] = (span_start, stop)
        placements[i] = (len(spans) - 1, start - span_start)
    return MergePlan(tuple(spans), tuple(placements), tuple(stop - start for start, stop in wanted))


def split_span(start: int, stop: int, *, part_bytes: int) -> list[tuple[int, int]]:
    """Cut one span into parts of at most `part_bytes`, so that a long one travels over several connections."""
    return [(at, min(at + part_bytes, stop)) for at in range(start, stop, part_bytes)]
