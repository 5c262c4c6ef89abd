"""Opening files that nobody vouches for: allowlists, bounds, and one reason for whatever goes wrong.

A file is opened by its real path behind `file:`, with allowlists of protocols, containers and codecs, so a playlist, a
concatenation, an address or an image sequence is refused before anything is read through it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from rbft.errors import ClipError
from rbft.experiment import ClipLimits
from rbft.files import address_hint
from rbft.progress import is_utf8
from rbft.records import ClipProblem

FORMATS = ("mov", "matroska", "avi", "flv", "mpeg", "mpegts", "ogg", "gif", "asf", "mxf", "ivf")
"""Containers that rbft reads, by FFmpeg's names."""
_AUDIO_FORMATS = ("mp3", "wav", "flac", "aac")
"""Also opened, only to be named as files without a video stream."""
CODECS = (
    "h264", "hevc", "vp8", "vp9", "libdav1d", "av1", "vvc", "mpeg1video", "mpeg2video", "mpeg4", "h263", "flv",
    "mjpeg", "gif", "msmpeg4v1", "msmpeg4", "msmpeg4v2", "msmpeg4v3", "wmv1", "wmv2", "vc1", "wmv3", "theora",
    "prores", "dnxhd",
)  # fmt: skip
"""Decoders that may run, by FFmpeg's names. No still-image codecs: a small file can hold a huge image."""
_ROUNDING_PIXELS = 128
"""Decoders allocate sides rounded up; the bound given to them allows for it, ours is exact."""


@dataclass(frozen=True, eq=False)
class PacketIndex:
    """The video packets of a file in decoding order: `ticks` int64 [N] presentation times, `key` and `shown` bool [N].

    `seconds_per_tick` turns ticks into seconds; `first_tick` is the earliest shown. `complete` is False where packets
    carry no presentation time, share one, go back in time, are damaged, or change headers; then nothing may be skipped.
    """

    ticks: npt.NDArray[np.int64]
    key: npt.NDArray[np.bool_]
    shown: npt.NDArray[np.bool_]
    seconds_per_tick: float
    first_tick: int
    complete: bool

    def seconds(self, ticks: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Seconds from the first shown frame."""
        return (ticks - self.first_tick).astype(np.float64) * self.seconds_per_tick


def fail(path: Path, reason: ClipProblem, detail: str) -> ClipError:
    """A ClipError about `path`."""
    return ClipError(str(path), reason, detail)


@contextlib.contextmanager
def reasons(path: Path, doing: str) -> Iterator[None]:
    """Turn what PyAV raises while `doing` something into a ClipError with a reason."""
    try:
        yield
    except MemoryError:  # av.error.MemoryError is one
        raise fail(path, "too_large", f"out of memory while {doing}; see limits.megabytes") from None
    except av.error.PatchWelcomeError as error:
        raise fail(path, "unsupported", f"while {doing}: {error.strerror}") from None
    except av.error.FFmpegError as error:
        raise fail(path, "unreadable", f"while {doing}: {error.strerror}") from None


@contextlib.contextmanager
def opened(path: Path, limits: ClipLimits) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file and find its video stream, checked against the allowlists and the bound on pixels.

    Raises ClipError: missing, empty, unreadable, unsupported, no_video_stream, too_large.
    """
    check_file(path)
    bound = limits.pixels + _ROUNDING_PIXELS * 20_000
    options = {
        "format_whitelist": ",".join(FORMATS + _AUDIO_FORMATS),
        "protocol_whitelist": "file",
        "codec_whitelist": ",".join(CODECS),
        "max_pixels": str(min(bound, 2**31 - 1)),
    }
    try:
        with reasons(path, "reading the header"):
            container = av.open(f"file:{os.path.realpath(path)}", options=options, metadata_errors="replace")
    except ClipError as error:
        if isinstance(error.__context__, av.error.ArgumentError):
            raise fail(
                path, "unsupported", f"not a video container that rbft reads: {', '.join(FORMATS[:-4])}"
            ) from None
        raise
    with container:
        stream = _video_stream(path, container)
        context = stream.codec_context
        if context.width * context.height > limits.pixels:
            raise too_many_pixels(path, context.width, context.height, limits)
        context.thread_count = 1
        context.options = {"max_pixels": options["max_pixels"]}
        yield container, stream


def too_many_pixels(path: Path, width: int, height: int, limits: ClipLimits) -> ClipError:
    """The error for a frame above the bound."""
    return fail(path, "too_large", f"frames of {width}x{height}; limits.pixels allows {limits.pixels} in all")


def check_file(path: Path) -> None:
    """Raise ClipError where a path is not a regular file with bytes in it: missing, empty, unreadable."""
    if not is_utf8(str(path)):
        raise fail(path, "unreadable", "the name holds bytes that are not UTF-8 text; rename the file or its folder")
    try:
        status = path.stat()
    except FileNotFoundError:
        raise fail(path, "missing", f"there is no such file{address_hint(path)}") from None
    except (OSError, ValueError) as error:
        raise fail(path, "unreadable", f"cannot be opened: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(status.st_mode):
        raise fail(path, "unreadable", "not a file" if not stat.S_ISDIR(status.st_mode) else "a folder, not a file")
    if status.st_size == 0:
        raise fail(path, "empty", "the file has no bytes")
    if not os.access(path, os.R_OK):
        raise fail(path, "unreadable", "no permission to read the file")


def file_faults(paths: Iterable[Path]) -> list[str]:
    """One line for each path that is not a regular file with bytes in it. No file is opened."""
    faults = []
    for path in paths:
        try:
            check_file(path)
        except ClipError as error:
            faults.append(str(error))
    return faults


def _video_stream(path: Path, container: InputContainer) -> VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        name = container.format.name.split(",")[0]
        raise fail(path, "no_video_stream", f"the {name} file has no video stream; it has {kinds}")
    best = container.streams.best("video")
    stream = best if isinstance(best, VideoStream) and best in streams else streams[0]
    if stream.codec_context is None:
        raise fail(path, "unsupported", f"a codec that is unknown here; rbft reads {', '.join(CODECS)}")
    if stream.codec_context.name not in CODECS:
        raise fail(path, "unsupported", f"codec {stream.codec_context.name}; rbft reads {', '.join(CODECS)}")
    return stream


def packets(path: Path, container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """The stream's packets in decoding order, without the empty ones that end it."""
    with reasons(path, "reading packets"):
        for packet in container.demux(stream):
            if packet.size:
                yield packet
