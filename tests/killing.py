"""Commands that are killed or asked to end, at a point of the program or by the clock; and what they leave.

`ForkServer` imports everything once and forks for each command, so that an attempt costs what the command itself does.
"""

from __future__ import annotations

import functools
import gc
import importlib
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

KILLED = {-signal.SIGKILL, -signal.SIGALRM}
STOPPED = 75
IMPORTED = (
    "rbft.cli", "rbft.ahead", "rbft.runs", "rbft.curated", "rbft.evaluation.ask", "rbft.report.curation",
    "rbft.serving.predictor", "rbft.serving.explain", "rbft.clips.check", "rbft.models.vlm",
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl", "transformers.models.auto.processing_auto",
)  # fmt: skip
"""What commands import, also late."""


@dataclass(frozen=True)
class At:
    """A point of the program: the n-th call of `module:function`, before it or after; counted from `within` on.

    There the process is killed. With `seconds` the alarm that ends it is set, and goes off so much later; with `ask`
    it is sent this signal, which it may heed, and goes on.
    """

    function: str
    call: int = 1
    after: bool = False
    within: At | None = None
    seconds: float = 0.0
    ask: int | None = None

    def path(self) -> list[At]:
        """From the outermost call to this one."""
        return [*(self.within.path() if self.within else []), self]


@dataclass(frozen=True)
class Ended:
    """How an attempt ended, what it printed, and the noted calls: those that began, and seconds of those that ended."""

    code: int
    seconds: float
    noted: tuple[tuple[str, tuple[int, ...]], ...]
    took: tuple[tuple[str, float], ...]
    out: str
    err: str

    @property
    def was_killed(self) -> bool:
        return self.code in KILLED

    def count(self) -> Counter[str]:
        """How often each noted function was called."""
        return Counter(name for name, _ in self.noted)

    def longest(self, function: str) -> float:
        """Seconds that the longest call of a noted function took."""
        return max(seconds for name, seconds in self.took if name == function)


# -- in the process that is killed ---------------------------------------------------------------------------------


def perform(request: dict[str, Any]) -> None:
    """Be the command that a request describes; does not return."""
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request["folder"])
    note = os.open(request["note"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    for function in request["noted"]:
        _note(function, note)
    if request["points"]:
        _arm(request["points"])
    sys.argv = ["rbft", *request["arguments"]]
    from rbft.__main__ import command

    command()


def _owner(function: str) -> tuple[Any, str]:
    module, _, name = function.partition(":")
    *outer, name = name.split(".")
    found = importlib.import_module(module)
    for part in outer:
        found = getattr(found, part)
    return found, name


def _wrap(function: str, wrapped: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    holder, name = _owner(function)
    original = getattr(holder, name)
    setattr(holder, name, functools.wraps(original)(wrapped(original)))


def _note(function: str, file: int) -> None:
    def wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            numbers, began = [value for value in given if isinstance(value, int)], time.monotonic()
            os.write(file, (json.dumps([function, numbers, None]) + "\n").encode())
            result = original(*given, **more)
            os.write(file, (json.dumps([function, numbers, time.monotonic() - began]) + "\n").encode())
            return result

        return call

    _wrap(function, wrapped)


def _arm(points: Sequence[dict[str, Any]]) -> None:
    """Wait for the first point, there for the next, and at the last one pull the plug."""
    point, *later = points
    calls: list[int] = []

    def reached() -> None:
        if later:
            _arm(later)
        elif point["ask"]:
            os.kill(os.getpid(), point["ask"])
        elif point["seconds"]:
            signal.setitimer(signal.ITIMER_REAL, point["seconds"])  # unhandled, as abrupt as SIGKILL
        else:
            os.killpg(0, signal.SIGKILL)

    def wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            calls.append(1)
            now = len(calls) == point["call"]
            if now and not point["after"]:
                reached()
            result = original(*given, **more)
            if now and point["after"]:
                reached()
            return result

        return call

    _wrap(point["function"], wrapped)


def serve() -> None:
    """Import everything and run nothing; then a fork for each request: its process id, at its end its exit code."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            perform(json.loads(line))
        with suppress(PermissionError, ProcessLookupError):  # the child was faster
            os.setpgid(pid, pid)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    os._exit(0)


# -- in the test ---------------------------------------------------------------------------------------------------


class ForkServer:
    """A process that has imported what commands need, and forks itself for each of them. A context manager."""

    def __enter__(self) -> ForkServer:
        self._server = subprocess.Popen(
            [sys.executable, "-P", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment()
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def run(
        self, folder: Path, *arguments: str, at: At | None = None, kill_after: float | None = None,
        noted: Sequence[str] = (),
    ) -> Ended:  # fmt: skip
        """`rbft ARGUMENTS` in a folder, killed at a point or after so many seconds, if it lives so long."""
        assert self._server.stdin is not None and self._server.stdout is not None
        request = _request(folder, arguments, at, noted)
        self._server.stdin.write(request.encode() + b"\n")
        self._server.stdin.flush()
        pid = int(self._line())
        began = time.monotonic()
        if kill_after is not None and not select.select([self._server.stdout], [], [], kill_after)[0]:
            with suppress(ProcessLookupError):  # it has just ended
                os.killpg(pid, signal.SIGKILL)
        return _ended(int(self._line()), began, request)

    def _line(self) -> bytes:
        """What the server says next, and no more: `select` must not miss what a buffer holds."""
        assert self._server.stdout is not None
        said = b""
        while not said.endswith(b"\n"):
            byte = os.read(self._server.stdout.fileno(), 1)
            assert byte, "the fork server has ended"
            said += byte
        return said


def run_process(
    folder: Path, *arguments: str, at: At | None = None, kill_after: float | None = None, noted: Sequence[str] = ()
) -> Ended:
    """The same as a process of its own, from its first import on."""
    request = _request(folder, arguments, at, noted)
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-P", __file__, request], env=_environment(), start_new_session=True)
    with suppress(subprocess.TimeoutExpired):
        process.wait(kill_after)
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return _ended(process.returncode, began, request)


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def _request(folder: Path, arguments: Sequence[str], at: At | None, noted: Sequence[str]) -> str:
    beside = {name: str(folder.with_name(f"{folder.name}.{name}")) for name in ("note", "out", "err")}
    points = [asdict(point) for point in at.path()] if at else []
    asked = {"folder": str(folder), "arguments": arguments, "points": points, "noted": list(noted)}
    return json.dumps(asked | beside)


def _ended(code: int, began: float, request: str) -> Ended:
    asked = json.loads(request)
    texts = {name: Path(asked[name]) for name in ("note", "out", "err")}
    read = {name: path.read_text(encoding="utf-8") if path.exists() else "" for name, path in texts.items()}
    notes = [json.loads(line) for line in read["note"].splitlines()]
    noted = tuple((name, tuple(numbers)) for name, numbers, seconds in notes if seconds is None)
    took = tuple((name, seconds) for name, _, seconds in notes if seconds is not None)
    assert code in KILLED | {0, STOPPED}, read["err"]
    return Ended(code, time.monotonic() - began, noted, took, read["out"], read["err"])


# -- what commands leave -------------------------------------------------------------------------------------------

VOLATILE = re.compile(r"(^|/)(\.lock|timing\.jsonl|events\.out\.tfevents\.[^/]*)$")
TIMINGS = re.compile(r'<section id="timings">.*?</section>', re.DOTALL)
RESULTS = re.compile(r"(rationales|predictions)/|checkpoints/.*\.safetensors$|logs/.*losses")
PART = re.compile(r"(^|/)\.[^/]+\.part$")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes; of a report all but its timings. A hidden `.part` is nobody's file."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if VOLATILE.search(name) or PART.search(name):
            continue
        found[name] = path.read_bytes()
        if path.name == "report.json":
            found[name] = json.dumps(json.loads(found[name]) | {"timing": None}).encode()
        if path.name == "report.html":
            found[name] = TIMINGS.sub("", found[name].decode()).encode()
    return found


def same(folder: Path, whole: Path) -> None:
    """Assert that two folders hold the same files with the same bytes, naming those that differ."""
    ours, theirs = contents(folder), contents(whole)
    assert sorted(ours) == sorted(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []


def same_results(run: Path, whole: Path) -> None:
    """Rationales, weights, losses and predictions are the same to the byte, and no work is left over.

    For runs that differ in a setting which changes none of them.
    """
    ours, theirs = contents(run), contents(whole)
    made = [name for name in theirs if RESULTS.match(name)]
    assert len({name.split("/")[0] for name in made}) == 4, "of each kind"
    assert [name for name in made if ours.get(name) != theirs[name]] == []
    assert not list(run.glob("checkpoints/.*"))


def parts(folder: Path) -> list[Path]:
    """Hidden files of writers that were killed; a run removes them when they are a day old."""
    return [path for path in folder.rglob("*") if PART.search(path.name)]


@dataclass(frozen=True)
class Survived:
    """A folder in which a command was killed again and again and then ended well."""

    folder: Path
    attempts: tuple[Ended, ...]

    @property
    def kills(self) -> int:
        return len(self.attempts) - 1

    def redone(self, whole: Ended) -> Counter[str]:
        """How many more of the noted calls there were than an unharmed command makes; asserts that none is missing."""
        calls = sum((attempt.count() for attempt in self.attempts), Counter[str]())
        assert not whole.count() - calls, "work that was never done"
        return calls - whole.count()

    def check(self, whole: Ended, whole_folder: Path, *, in_flight: int = 1, but: Sequence[str] = ()) -> None:
        """The same files and last words; of each noted function (but `but`) so many calls a kill are made again."""
        same(self.folder, whole_folder)
        assert _words(self.attempts[-1]) == _words(whole)
        redone = self.redone(whole)
        assert all(count <= in_flight * self.kills for name, count in redone.items() if name not in but), redone
        assert len(parts(self.folder)) <= (1 + in_flight) * self.kills, "one of the command, one of each reader"


def _words(ended: Ended) -> str:
    """What a command printed, without the trailing blanks of its table."""
    return "\n".join(line.rstrip() for line in ended.out.splitlines())


Launch = Callable[..., Ended]
"""`ForkServer.run` or `run_process`."""


def killed_at_random(
    launch: Launch, folder: Path, arguments: Sequence[str], *, seconds: float, kills: int, seed: int,
    noted: Sequence[str] = (), start: Path | None = None,
) -> Iterator[Survived]:  # fmt: skip
    """Give a command again and again, killed after uniform(0, seconds), until it ends; then anew, to so many kills.

    In folders beside `folder`, each of which begins as a copy of `start`, or empty.
    """
    rng, number = random.Random(seed), 0
    while kills > 0:
        number += 1
        place = folder.with_name(f"{folder.name}-{number}")
        shutil.copytree(start, place) if start else place.mkdir()
        attempts: list[Ended] = []
        while not attempts or attempts[-1].was_killed:
            after = rng.uniform(0, seconds) if kills > 0 else None
            attempts.append(launch(place, *arguments, kill_after=after, noted=noted))
            kills -= attempts[-1].was_killed
        if len(attempts) == 1:  # the machine has become faster
            seconds = min(seconds, attempts[0].seconds)
        yield Survived(place, tuple(attempts))


if __name__ == "__main__":
    if sys.argv[1:]:
        perform(json.loads(sys.argv[1]))
    serve()
