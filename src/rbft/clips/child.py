"""The process that opens files nobody vouches for: `python -m rbft.clips.child`, one JSON line in, one out.

It bounds its own memory and processor time for each file, has neither sockets nor other programs, and ends with the
process that asked. Frames go straight to the cache; only text crosses the pipe. Asked through `clips.pool`.
"""

from __future__ import annotations

import base64
import contextlib
import os
import queue
import re
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import av
import av.logging

from rbft.clips.cache import FrameCache, cache_key
from rbft.clips.confine import confine
from rbft.clips.container import PacketIndex, too_many_pixels
from rbft.clips.decode import decode
from rbft.clips.frames import Frames, plan_frames
from rbft.clips.probe import examine
from rbft.clips.thumbnails import planned, thumbnails, with_instants
from rbft.errors import ClipError, StoreError
from rbft.experiment import ClipLimits, Sampling
from rbft.records import FramePlan, Grid, Probe, Record

FRAMES_PER_BUDGET = 5_000
"""Decoding gets `limits.seconds` for every so many frames that the packets confirm."""


_OUT_OF_MEMORY = ("get_buffer() failed", "Cannot allocate memory", "Could not allocate", "Failed to allocate")
"""What decoders write into FFmpeg's log when memory fails, and then report as invalid data."""
_PICTURE_SIZE = re.compile(r"Picture size (\d+)x(\d+) (?:exceeds|is invalid)")
"""What they write there about a frame above the bound on pixels that they were given, or above their own."""


class Request(Record):
    """Probe a file, plan its frames, and decode them: into `cache`, or away where there is none."""

    path: str
    sha256: str
    sampling: Sampling
    grid: Grid
    limits: ClipLimits
    start: float | None = None
    end: float | None = None
    cache: str | None = None


class Reply(Record):
    """What came of a request: `problem` is a reason and its detail, `store_error` a fault of the disk instead."""

    probe: Probe | None = None
    plan: FramePlan | None = None
    key: str | None = None
    decoded: bool = False
    thumbnails: str | None = None
    """The clip's small pictures in base64, where there is no cache to hold them."""
    problem: tuple[str, str] | None = None
    store_error: str | None = None


def serve(requests: Iterable[bytes], replies: IO[str]) -> None:
    """Answer requests, a line each, until there are no more."""
    for line in requests:
        replies.write(answer(Request.model_validate_json(line)).model_dump_json() + "\n")
        replies.flush()


def answer(request: Request) -> Reply:
    """Do what one request asks, within its limits. What is known before a problem shows is kept."""
    with av.logging.Capture() as log:
        reply = _answer(request)
    if reply.problem is None or reply.problem[0] != "unreadable":
        return reply
    said = [message for _, _, message in log]
    for width, height in [(int(size[1]), int(size[2])) for size in map(_PICTURE_SIZE.search, said) if size]:
        if width * height > request.limits.pixels:
            error = too_many_pixels(Path(request.path), width, height, request.limits)
            return reply.model_copy(update={"problem": (error.reason, error.detail)})
    if any(sign in message for message in said for sign in _OUT_OF_MEMORY):
        return reply.model_copy(update={"problem": _too_large(request.limits)})
    return reply


def _answer(request: Request) -> Reply:
    path, limits = Path(request.path), request.limits
    probe = plan = key = small = None
    decoded = False
    try:
        with bounded_memory(limits.megabytes):
            with bounded_seconds(limits.seconds):
                probe, index = examine(path, limits)
            plan = plan_frames(probe, request.sampling, request.grid, start=request.start, end=request.end)
            key = cache_key(request.sha256, plan)
            cache = FrameCache(Path(request.cache)) if request.cache else None
            if cache is None or not cache.has(key):
                with bounded_seconds(limits.seconds * (1 + probe.num_frames // FRAMES_PER_BUDGET)):
                    frames, small = frames_and_thumbnails(path, plan, probe, limits, index)
                decoded = True
                if cache is not None:
                    cache.write(request.sha256, plan, frames, small)
    except ClipError as error:
        return Reply(probe=probe, plan=plan, problem=(error.reason, error.detail))
    except MemoryError:
        return Reply(probe=probe, problem=_too_large(limits))
    except StoreError as error:
        return Reply(store_error=str(error))
    if cache is not None:
        return Reply(probe=probe, plan=plan, key=key, decoded=decoded)
    return Reply(probe=probe, plan=plan, decoded=decoded, thumbnails=base64.b64encode(small or b"").decode())


def frames_and_thumbnails(
    path: Path, plan: FramePlan, probe: Probe, limits: ClipLimits, index: PacketIndex
) -> tuple[Frames, bytes]:
    """The planned frames of a clip and its small pictures, out of one decoding; raises ClipError."""
    wide = with_instants(plan)
    frames = decode(path, wide, probe, limits, index=index)
    small = thumbnails(frames)
    return planned(frames, wide, plan), small


def _too_large(limits: ClipLimits) -> tuple[str, str]:
    return "too_large", f"decoding needs more than {limits.megabytes} MB; shrink the frames or raise limits.megabytes"


@contextlib.contextmanager
def bounded_seconds(seconds: float) -> Iterator[None]:
    """Let a signal end this process after so many processor seconds, or if it hangs; it is reported as `too_slow`."""
    if sys.platform == "win32":
        yield
        return
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, wall_seconds(seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def wall_seconds(seconds: float) -> float:
    """How long so many processor seconds may take: generous, for readers share processors; it only catches hangs."""
    return 20.0 + 6.0 * seconds


@contextlib.contextmanager
def bounded_memory(megabytes: int) -> Iterator[None]:
    """Let allocations fail once this process holds so much more data than now. Only Linux counts data this way."""
    if sys.platform != "linux":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _data_bytes() + megabytes * 1_000_000
    if before[1] != resource.RLIM_INFINITY:
        limit = min(limit, before[1])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _data_bytes() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmData")


def _lines_until_closed(descriptor: int) -> Iterator[bytes]:
    """Lines as they come. A thread reads them, so that a closed input ends the process in the midst of a file too."""
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    busy = threading.Event()

    def read() -> None:
        rest = b""
        while data := os.read(descriptor, 65_536):
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                busy.set()
                lines.put(line)
        lines.put(None)
        if busy.is_set():
            os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while (line := lines.get()) is not None:
        yield line
        if lines.empty():
            busy.clear()


def main() -> None:
    """Serve on standard input and output. A signal to end is for the process that asked."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # else what one file made FFmpeg say is said again of the next
    replies = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints must not speak into the replies
    confine()
    with os.fdopen(replies, "w", encoding="utf-8") as file:
        serve(_lines_until_closed(sys.stdin.fileno()), file)


if __name__ == "__main__":
    main()
