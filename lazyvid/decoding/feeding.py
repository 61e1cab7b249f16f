"""One run of packets fed to a decoder: its pictures go to their target, and the decoder may go on where it stood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import av

from lazyvid.decoding.decoder import PacketDecoder
from lazyvid.decoding.packets import Job
from lazyvid.decoding.plan import HIDDEN_ROW, Standing
from lazyvid.decoding.pool import DecoderPool
from lazyvid.decoding.targets import Target
from lazyvid.errors import DecodeError
from lazyvid.stats import count


def decode_run(target: Target, job: Job, payloads: Sequence[bytes], pool: DecoderPool) -> None:
    """Give a target the pictures of one run, as far as they come out.

    Args:
        target: Where they go.
        job: The run.
        payloads: Its packets, in feeding order.
        pool: Where the decoder comes from: one that stands in front of what is wanted goes on, else one starts anew.

    Raises:
        DecodeError: if pictures do not come out and cannot come from an earlier start either.
    """
    cause, went_on = _try(target, job, payloads, pool, going_on=True)
    # Packets behind the last wanted one may be damaged, and memory that was short may be there again.
    if (went_on or job.run.goes_on or isinstance(cause, MemoryError)) and _missing(target, job):
        job = replace(job, run=job.run.without_going_on())
        cause, _ = _try(target, job, payloads, pool, going_on=False)
    missing = _missing(target, job)
    if missing and job.run.start == 0:
        raise DecodeError(
            f"Expected {len(job.run.wanted)} frames from the decoder for {job.describe()}, {len(missing)} did not come "
            f"out (frames {missing[:8]}), also when decoding from the file's first packet"
            f"{f': {cause}' if cause else ''}. The video is damaged there, or its index describes another file "
            "(lazyvid verify)."
        ) from cause


def _missing(target: Target, job: Job) -> list[int]:
    return [row for row in job.order.row[job.run.wanted].tolist() if row in target.destinations]


def _try(
    target: Target, job: Job, payloads: Sequence[bytes], pool: DecoderPool, *, going_on: bool
) -> tuple[Exception | None, bool]:
    """What the decoder had to say against it, and whether it had gone on where it stood."""
    serves = (lambda standing: standing.serves(target.stream, job.order, job.run)) if going_on else None
    went_on = False
    try:
        with pool.checkout(job.order.source, serves=serves) as decoder:
            went_on = decoder.standing is not None
            _feed(target, job, payloads, decoder)
            if job.run.goes_on:
                pool.note_held_back(target.stream, decoder.held_back)
    except av.FFmpegError as error:
        return error, went_on
    return None, went_on


def _feed(target: Target, job: Job, payloads: Sequence[bytes], decoder: PacketDecoder) -> None:
    order, run = job.order, job.run
    wanted = set(order.row[run.wanted].tolist())
    standing, decoder.standing = decoder.standing, None
    if standing is None:
        standing = Standing(target.stream, run.start, run.start, set())
    first, begin = int(run.positions.searchsorted(standing.next)), standing.next
    # What is fed in place of a drain is the next read's own: nothing of it is left out.
    may_skip = ((order.disposable[run.positions] < 0) & (run.positions < run.needed_stop)).tolist()
    positions, rows = run.positions.tolist(), order.row[run.positions].tolist()
    fed = decoded = 0
    for i in range(first, len(positions)):
        if not wanted:
            break
        row, payload = rows[i], payloads[i]
        if may_skip[i] and i and row not in wanted and decoder.is_disposable(payload):
            continue
        pictures = decoder.feed(payload, row)
        fed += 1
        standing.next = positions[i] + 1
        standing.inside.add(row)
        for picture in pictures:
            decoded += 1
            standing.inside.discard(picture.pts)
            if target.deliver(picture):
                wanted.discard(picture.pts)
    if wanted:
        for picture in decoder.drain():
            decoded += 1
            target.deliver(picture)
    elif run.goes_on:
        standing.inside.discard(HIDDEN_ROW)
        decoder.standing = standing
    count(packets_fed=fed, packets_skipped=standing.next - begin - fed, frames_decoded=decoded)
