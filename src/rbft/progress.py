"""Progress on long work: bars on a terminal, one line a step elsewhere. Everything goes to standard error."""

from __future__ import annotations

import errno
import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[[int], None]
Say = Callable[[str], None]


def printable(text: str) -> str:
    """Text for a terminal: what would steer it, in a file's name say, is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def plural(count: int, one: str, many: str) -> str:
    """`1 clip is` or `1,200 clips are`."""
    return f"{count:,} {one if count == 1 else many}"


def is_utf8(text: str) -> bool:
    """Whether a file of text can hold this: not so a file's name with other bytes, or half of a JSON character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Lasting(io.FileIO):
    """A stream that goes silent where its reader is gone, so that nobody's work ends for it."""

    def __init__(self, descriptor: int, gone: tuple[int, ...]) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._gone = gone

    def write(self, data: Any) -> int:
        """All of it written, or nobody there to read it."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in self._gone:
                raise
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, self.fileno())
        os.close(silent)
        return super().write(data)


def lasting(stream: TextIO, *, pipes: bool) -> TextIO:
    """The stream, which outlives its terminal (a dropped connection); with `pipes` also who reads it through a pipe."""
    gone = (errno.EIO, errno.EPIPE) if pipes else (errno.EIO,)
    return io.TextIOWrapper(
        io.BufferedWriter(_Lasting(stream.fileno(), gone)), encoding=stream.encoding, errors=stream.errors,
        line_buffering=bool(stream.line_buffering),
    )  # fmt: skip


class Reporter:
    """Says what is being done. `quiet` says nothing."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self._console = console or Console(stderr=True)
        self._quiet = quiet

    def say(self, text: str) -> None:
        """One line of text, no markup, as long as it is; control characters (of a file's name, say) are escaped."""
        if not self._quiet:
            self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def counted(self, what: str, total: int, unit: str = "clips", *, since: float | None = None) -> Iterator[Advance]:
        """A step over `total` things; call the given function with how many were just finished.

        `since`: when it was begun, by `time.monotonic` (None: now).
        """
        start = time.monotonic() if since is None else since
        if self._quiet or not self._console.is_terminal:
            done = [0]

            def count(number: int) -> None:
                done[0] += number

            yield count
            things = unit.removesuffix("s") if done[0] == 1 else unit
            self.say(f"{what}: {done[0]} {things} in {time.monotonic() - start:.1f} s")
            return
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(what, total=total)
            yield lambda number: progress.advance(task, number)
