"""`PacketDecoder`: one libavcodec context, fed packets and not a container.

Takes encoded payloads in decode order, gives `av.VideoFrame`s that each carry the number of the packet they came from.
"""

from __future__ import annotations

from collections.abc import Iterator

import av
from av.codec.context import ThreadType
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from lazyvid.decoding.plan import Standing
from lazyvid.errors import UnsupportedCodecError
from lazyvid.index.bitstream import BitstreamReader
from lazyvid.index.frame_index import Source

Payload = bytes | memoryview
"""The bytes of one encoded packet."""

# FFmpeg may list several decoders for a codec and pick one that needs hardware: its "av1" is such a one.
_DECODERS = {"av1": ("libdav1d", "libaom-av1", "av1")}

# Without strict=1 FFmpeg guesses how far H.264 reorders pictures where the stream does not say, and drops those that
# come out later than it guessed.
_OPTIONS = {"h264": {"strict": "1"}}


class PacketDecoder:
    """A decoder for the packets of one source (or of any with the same codec parameters).

    Single-threaded: threads of FFmpeg's own do not survive a fork, and the caller's workers fill the cores.
    """

    def __init__(self, source: Source) -> None:
        """Open a context from the source's extradata; no file is touched.

        Raises:
            UnsupportedCodecError: if this build of FFmpeg has no working decoder for the codec.
        """
        self._context = _open_context(source)
        self._bitstream = BitstreamReader.for_source(source.codec, source.extradata)
        self._used = False
        self._tainted = False
        self.standing: Standing | None = None
        """Where it can go on; None unless its user says so."""

    @property
    def tainted(self) -> bool:
        """Whether it was fed parameter sets other than its extradata: then it must not be used for another run."""
        return self._tainted

    @property
    def held_back(self) -> int:
        """Pictures that it holds back to show them in order, as far as it knows from what it was fed."""
        return self._context.reorder_depth

    def restart(self) -> None:
        """Forget all pictures; the next packet must be one where decoding can start."""
        self.standing = None
        if self._used:
            self._context.flush_buffers()
            self._used = False

    def feed(self, payload: Payload, number: int) -> list[VideoFrame]:
        """Decode one packet.

        Args:
            payload: The packet's bytes.
            number: Comes back as the `pts` of the picture that the packet shows.

        Returns:
            The pictures that are ready, in presentation order; often none or an earlier one.

        Raises:
            av.FFmpegError: if the packet cannot be decoded.
        """
        self._used = True
        if not self._tainted:
            self._tainted = self._bitstream.has_foreign_parameter_sets(payload)
        # A packet made by size is padded as decoders expect; one made from bytes is not, and they read past its end.
        packet = av.Packet(len(payload))
        packet.update(payload)  # type: ignore[arg-type]  # any buffer is taken
        packet.pts = number
        return self._context.decode(packet)

    def drain(self) -> list[VideoFrame]:
        """The pictures still inside, in presentation order; `restart` must follow."""
        self._used = True
        return self._context.decode(None)

    def is_disposable(self, payload: Payload) -> bool:
        """Whether no other packet refers to this one, read from its own bytes."""
        return self._bitstream.is_disposable(payload)


def decoder_names(codec: str) -> Iterator[str]:
    """Names of the decoders to try for a canonical codec name, best first."""
    yield from _DECODERS.get(codec, (codec,))


def _open_context(source: Source) -> VideoCodecContext:
    for name in decoder_names(source.codec):
        if name not in av.codecs_available:
            continue
        context = av.CodecContext.create(name, "r")
        if not isinstance(context, VideoCodecContext):
            break
        if source.extradata:
            context.extradata = source.extradata
        context.width, context.height = source.width, source.height
        # A stream that does not state its colours takes the container's, as when a container is opened.
        context.color_range, context.colorspace = source.color_range, source.colorspace
        context.color_primaries, context.color_trc = source.color_primaries, source.color_trc
        context.thread_count, context.thread_type = 1, ThreadType.NONE
        context.options = _OPTIONS.get(source.codec, {})
        return context
    raise UnsupportedCodecError(
        f"Expected a decoder for {source.codec!r}, found none of {list(decoder_names(source.codec))} in PyAV's FFmpeg. "
        "Install a build of PyAV with it, or convert the video."
    )
