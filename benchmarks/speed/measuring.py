"""Honest measuring: both sides in one run, in turn, after their outputs were found equal.

A benchmark of one phase is a module with `rows(options) -> list[Row]` and `main(__doc__, rows)`. Alone it prints its
table and exits with 1 where a promise is not kept; `python -m benchmarks.speed` runs all of them.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from rbft.files import write_record
from rbft.records import Record

Work = Callable[[], object]
_WATCH = """
import sys
_start = [0]
def _now():
    lines = open("/proc/self/status").read().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Vm")}
def begin():
    open("/proc/self/clear_refs", "w").write("5")
    _start[0] = _now()["VmRSS"]
"""
VERSIONS = ("rbft", "torch", "transformers", "av", "numpy", "qwen-vl-utils", "trl", "accelerate")


class Row(Record):
    """One comparison: what rbft takes and what the alternative takes, in the same unit, less being better.

    `promised` is the least ratio theirs / ours (None: reported, nothing promised); `equal` says what of both outputs
    was compared, and how far apart they are.
    """

    phase: str
    case: str
    against: str
    ours: float
    theirs: float
    unit: Literal["ms", "s", "CPU ms", "CPU s", "MB", "bytes", "times"]
    promised: float | None
    equal: str

    @property
    def ratio(self) -> float:
        """How many times less ours is."""
        return self.theirs / self.ours

    @property
    def kept(self) -> bool:
        """Whether the promise holds."""
        return self.promised is None or self.ratio >= self.promised


class Measured(Record):
    """One script's rows, and the machine, versions and day of the run."""

    phase: str
    rows: tuple[Row, ...]
    machine: str
    threads: int
    versions: dict[str, str]
    day: str


# -- time ----------------------------------------------------------------------------------------------------------


def in_turn(ours: Work, theirs: Work, *, repeats: int, cpu: bool = False, warm_up: int = 1) -> tuple[float, float]:
    """Median milliseconds of both, taken in turn: wall time, or processor time of this process with `cpu`."""
    clock = time.process_time if cpu else time.perf_counter
    works = (ours, theirs)
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(warm_up + repeats):
        for side in (0, 1) if number % 2 else (1, 0):
            gc.collect()
            start = clock()
            works[side]()
            if number >= warm_up:
                times[side].append(1_000 * (clock() - start))
    return statistics.median(times[0]), statistics.median(times[1])


# -- memory --------------------------------------------------------------------------------------------------------


def peak_megabytes(code: str, *arguments: str) -> float:
    """Peak resident memory in MB of a fresh Python process that runs `code`, above what its imports took.

    `code` calls `begin()` once everything is imported; `sys.argv[1:]` are the arguments.
    """
    script = f"{_WATCH}\n{code}\nprint((_now()['VmHWM'] - _start[0]) / 1000)\n"
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"a measuring process failed:\n{done.stderr}")
    return float(done.stdout.split()[-1])


# -- what every script does ----------------------------------------------------------------------------------------


def check_close(name: str, ours: float, limit: float) -> str:
    """The words for an equality that was checked; raises SystemExit where the difference is beyond the limit."""
    if not ours <= limit:
        raise SystemExit(f"{name}: the outputs differ by {ours:g}, at most {limit:g} is allowed; nothing was timed")
    return f"{name} within {ours:.1e}"


def at_least_one(text: str) -> int:
    """The type of an option that counts something; argparse tells what is wrong."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no count; give a whole number of at least 1")
    return int(text)


def main(
    doc: str,
    rows: Callable[[argparse.Namespace], list[Row]],
    add_options: Callable[[argparse.ArgumentParser], None] | None = None,
) -> int:
    """The command line of one benchmark; `add_options` adds those of its own, or sets other defaults."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--repeats", type=at_least_one, default=5, help="how often both sides are timed; medians are shown"
    )
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    if add_options is not None:
        add_options(parser)
    options = parser.parse_args()
    phase = Path(sys.argv[0]).stem.replace("_", " ")
    found = measured(phase, rows(options))
    if options.json is not None:
        write_record(options.json, found)
    show(found.rows)
    return 0 if all(row.kept for row in found.rows) else 1


def measured(phase: str, rows: Sequence[Row]) -> Measured:
    """Rows with the machine that they were measured on."""
    return Measured(
        phase=phase,
        rows=tuple(rows),
        machine=_machine(),
        threads=_threads(),
        versions=_versions(),
        day=str(date.today()),
    )


def show(rows: Sequence[Row]) -> None:
    """The rows as a table on the terminal."""
    table = Table("phase", "case", "against", "rbft", "it", "unit", "ratio", "promised", "kept", "outputs")
    for row in rows:
        table.add_row(*cells(row))
    Console(width=None if sys.stdout.isatty() else 220).print(table)


def cells(row: Row) -> list[str]:
    """One row as words: numbers to three digits."""
    promised = "" if row.promised is None else number(row.promised)
    kept = "" if row.promised is None else "yes" if row.kept else "NO"
    measured = [number(row.ours), number(row.theirs), row.unit, number(row.ratio)]
    return [row.phase, row.case, row.against, *measured, promised, kept, row.equal]


def number(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _machine() -> str:
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} processors, {platform.system()}"


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _versions() -> dict[str, str]:
    found = {}
    for name in VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
