"""Rendering in child processes: `python -m rbft.tiny.yard_pool`, one clip a line in, its row out.

The children are plain programs, so a script that asks for clips needs no `if __name__ == "__main__"`, and a notebook
or standard input will do.
"""

import contextlib
import queue
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rbft.errors import RbftError
from rbft.records import Record
from rbft.tiny.yard_clips import YardClip, YardRow, write_row
from rbft.tiny.yard_dials import YardDials


class _Task(Record):
    folder: str
    clip: YardClip
    dials: YardDials


class RenderError(RbftError):
    """A child process that renders clips ended before its work did."""


def render_rows(folder: Path, clips: Sequence[YardClip], dials: YardDials, workers: int) -> Generator[YardRow]:
    """Writes the clips' files below `folder` and yields their rows, in order, as they are done.

    Few clips, or one worker, are rendered in this process. Raises RenderError where a child ends early.
    """
    if workers == 1 or len(clips) < 24:
        yield from (write_row(folder, clip, dials) for clip in clips)
        return
    tasks = [_Task(folder=str(folder), clip=clip, dials=dials) for clip in clips]
    with contextlib.ExitStack() as ending:
        idle: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()
        for _ in range(workers):
            idle.put(ending.enter_context(_child()))
        threads = ThreadPoolExecutor(workers, thread_name_prefix="rbft-render")
        ending.callback(threads.shutdown, cancel_futures=True)
        yield from threads.map(lambda task: _asked(idle, task), tasks)


@contextlib.contextmanager
def _child() -> Iterator[subprocess.Popen[str]]:
    """A child that waits for tasks; it ends when its standard input closes."""
    command = [sys.executable, "-P", "-m", "rbft.tiny.yard_pool"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
    try:
        yield process
    finally:
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()
        process.wait()


def _asked(idle: "queue.SimpleQueue[subprocess.Popen[str]]", task: _Task) -> YardRow:
    process = idle.get()
    try:
        assert process.stdin is not None and process.stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(task.model_dump_json() + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        if not line.endswith("\n"):
            code = process.wait()
            raise RenderError(
                f"{task.clip.path}: the process that renders it ended with exit code {code}; what it said stands "
                "above. Run again to go on with the clips that are missing; with workers=1 nothing is hidden"
            )
        return YardRow.model_validate_json(line)
    finally:
        idle.put(process)


def main() -> None:
    """Serves on standard input and output. A signal to end is for the process that asked."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    for line in sys.stdin:
        task = _Task.model_validate_json(line)
        row = write_row(Path(task.folder), task.clip, task.dials)
        sys.stdout.write(row.model_dump_json() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
