"""Asking child processes to read files: bounded, in parallel, and surviving whatever a file does to its reader."""

from __future__ import annotations

import collections
import contextlib
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import IO, TypeVar

from rbft.clips.child import FRAMES_PER_BUDGET, Reply, Request, wall_seconds
from rbft.errors import StoreError
from rbft.experiment import ClipLimits
from rbft.machine import available_processors
from rbft.stopping import POLL_SECONDS, check

T = TypeVar("T")
R = TypeVar("R")


class ReaderClosedError(RuntimeError):
    """A reader was closed while it was asked: the work was given up, and nobody waits for the answer."""


class Reader:
    """One child process, started when first asked and again after it died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._complaints: IO[str] | None = None
        self._closed = False
        self._lock = threading.Lock()

    def ask(self, request: Request) -> Reply:
        """Have one file read. A child that is killed, crashes or hangs is a problem of the file, named as such.

        Raises StoreError where the cache cannot be written.
        """
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        late = threading.Event()
        watchdog = threading.Timer(_patience_seconds(request.limits), _kill, (process, late))
        watchdog.daemon = True
        watchdog.start()
        line = ""
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(request.model_dump_json() + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line.endswith("\n"):
            return Reply(problem=self._obituary(request.limits, late.is_set()))
        reply = Reply.model_validate_json(line)
        if reply.store_error is not None:
            raise StoreError(reply.store_error)
        return reply

    def close(self) -> None:
        """End the child, from any thread; nothing can be asked after that."""
        with self._lock:
            self._closed = True
            self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, self._complaints):
            with contextlib.suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()

    def _started(self) -> subprocess.Popen[str]:
        with self._lock:
            if self._closed:
                raise ReaderClosedError
            if self._process is not None and self._process.poll() is not None:
                self._end()
            if self._process is None:
                self._complaints = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "rbft.clips.child"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._complaints,
                    encoding="utf-8",
                )
            return self._process

    def _obituary(self, limits: ClipLimits, late: bool) -> tuple[str, str]:
        """Why the child died, as a reason and a detail."""
        with self._lock:
            process, complaints = self._process, self._complaints
            if process is None or complaints is None:
                raise ReaderClosedError
            code = _exit_code(process)
            complaints.seek(0)
            last_words = complaints.read()[-2_000:].strip().splitlines()[-1:]
            self._end()
        if late or code == -signal.SIGALRM:
            return "too_slow", "the reader hung and was ended; is the disk or the network share slow?"
        if code in (-signal.SIGPROF, -signal.SIGXCPU):
            return "too_slow", (
                f"takes more than {limits.seconds:g} processor seconds (limits.seconds) "
                f"for each {FRAMES_PER_BUDGET} frames; shorten the clip or raise the limit"
            )
        if code == -signal.SIGKILL:
            return "too_large", "the system ended the reader, probably for its memory; see limits.megabytes"
        if last_words:
            return "unreadable", f"the reader stopped: {last_words[0]}"
        return "unreadable", f"the reader stopped with exit code {code}"


def _patience_seconds(limits: ClipLimits) -> float:
    """The child ends itself long before; this is for a child that cannot."""
    return wall_seconds(limits.seconds * (2 + limits.frames // FRAMES_PER_BUDGET))


def _exit_code(process: subprocess.Popen[str]) -> int:
    """Of a child that closed its output, so is about to end; one that does not is ended."""
    try:
        return process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _kill(process: subprocess.Popen[str], late: threading.Event) -> None:
    late.set()
    process.kill()


@contextlib.contextmanager
def readers(workers: int) -> Iterator[Callable[[Callable[[Reader, T], R], Iterable[T]], Iterator[R]]]:
    """A `map(function, items)` that calls `function(reader, item)` on `workers` readers at once, results in order.

    `workers` 0 means one for each processor that this process may use.
    """
    count = workers or available_processors()
    idle: queue.SimpleQueue[Reader] = queue.SimpleQueue()
    every = [Reader() for _ in range(count)]
    for reader in every:
        idle.put(reader)
    threads = ThreadPoolExecutor(count, thread_name_prefix="rbft-reader")

    def one(function: Callable[[Reader, T], R], item: T) -> R:
        reader = idle.get()
        try:
            return function(reader, item)
        finally:
            idle.put(reader)

    def run(function: Callable[[Reader, T], R], items: Iterable[T]) -> Iterator[R]:
        return _in_order(collections.deque(threads.submit(one, function, item) for item in items))

    try:
        yield run
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for reader in every:
            reader.close()
        threads.shutdown()


def _in_order(coming: collections.deque[Future[R]]) -> Iterator[R]:
    """The results, each let go of once it is given; raises StoppedError where the process is asked to end."""
    while coming:
        while not wait([coming[0]], timeout=POLL_SECONDS).done:
            check()
        check()
        yield coming.popleft().result()
