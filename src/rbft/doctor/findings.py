"""What `rbft doctor` says about one thing: whether it is well, what was found, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rbft.progress import printable
from rbft.records import Record

State = Literal["ok", "note", "fault"]
_STYLES: dict[State, str] = {"ok": "green", "note": "yellow", "fault": "bold red"}


class Finding(Record):
    """One thing that was looked at. `note`: works, but worth knowing. `fault`: rbft cannot be used as it is."""

    name: str
    state: State
    found: str
    advice: str = ""
    """What to do next; empty where all is well."""


class Examination(Record):
    """Everything that was looked at, in order."""

    findings: tuple[Finding, ...]

    @property
    def faults(self) -> int:
        """How many things keep rbft from being used."""
        return sum(finding.state == "fault" for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """2 where something must be mended, else 0."""
        return 2 if self.faults else 0


def ok(name: str, found: str) -> Finding:
    """All is well."""
    return Finding(name=name, state="ok", found=found)


def note(name: str, found: str, advice: str) -> Finding:
    """Works, but worth knowing."""
    return Finding(name=name, state="note", found=found, advice=advice)


def fault(name: str, found: str, advice: str) -> Finding:
    """Must be mended before rbft can be used."""
    return Finding(name=name, state="fault", found=found, advice=advice)


def render_examination(findings: Sequence[Finding], console: Console) -> None:
    """Print a row for each thing, then how many must be mended."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        said = Text(printable(finding.found))
        if finding.advice:
            said.append(f"\n{printable(finding.advice)}", style="dim" if finding.state == "note" else "bold")
        table.add_row(Text(finding.state, _STYLES[finding.state]), Text(printable(finding.name)), said)
    console.print(table)
    examination = Examination(findings=tuple(findings))
    notes = sum(finding.state == "note" for finding in findings)
    verdict = f"{examination.faults} must be mended" if examination.faults else "rbft can be used"
    console.print(Text(f"\n{len(findings)} looked at, {notes} worth knowing: {verdict}"))
