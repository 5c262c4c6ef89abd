"""docs/performance.md, from what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.markdown import row
from benchmarks.speed.measuring import Measured, cells

from rbft.files import write_text

DOCS = Path(__file__).parents[2] / "docs"
REPORTS = DOCS / "performance"
NOTES = REPORTS / "notes.md"
PAGE = DOCS / "performance.md"
HEADINGS = ("phase", "case", "against", "rbft", "it", "unit", "ratio", "promised", "kept", "outputs")
_INTRODUCTION = """# Speed, beside what users have today

`make bench` measures every phase on this machine and writes this page (`python -m benchmarks.speed --help`). One script
a phase lies in `benchmarks/speed/`, and says what both sides do. They run in turn in one process, after their outputs
were found equal; *CPU* is processor time on one thread, which other programs on the machine disturb least. A ratio of 3
means that rbft takes a third.
"""


def write_page(found: Sequence[Measured]) -> None:
    """Write the page: one table, where it was measured, and the notes."""
    lines = [row(HEADINGS), row(["---", "---", "---", "---:", "---:", "---", "---:", "---:", "---", "---"])]
    lines += [row(cells(comparison)) for measured in found for comparison in measured.rows]
    parts = [_INTRODUCTION, "\n".join(lines) + "\n", _where(found), NOTES.read_text(encoding="utf-8")]
    write_text(PAGE, "\n".join(parts))


def _where(found: Sequence[Measured]) -> str:
    """The machines, days and versions, each said once."""
    said: dict[str, list[str]] = {}
    for measured in found:
        versions = ", ".join(f"{name} {version}" for name, version in measured.versions.items())
        line = f"{measured.machine}, {measured.threads} thread(s), {measured.day}; {versions}"
        said.setdefault(line, []).append(measured.phase)
    return "\n".join(f"Measured on {line} ({', '.join(phases)}).\n" for line, phases in said.items())
