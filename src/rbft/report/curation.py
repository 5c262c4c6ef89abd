"""The funnel of a curation: as a table, as `curation.json`, and as a page with examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from rbft.files import write_record, write_text
from rbft.progress import printable
from rbft.records import Curated
from rbft.report.glossary import REASON_MEANINGS
from rbft.report.page import rendered
from rbft.results import CurationReport

MAX_KEPT_EXAMPLES, MAX_DROPPED_EXAMPLES = 6, 3
"""Examples on the page: so many that are kept, and so many of each reason."""
_STEP_OF = {"represented": "represent", "reasoned": "reason", "revised": "revise"}


def funnel(report: CurationReport) -> list[tuple[str, int, dict[str, int]]]:
    """Rows of the funnel: name, questions that came so far, and why others did not, the commonest reason first."""
    names = [name for name in _STEP_OF if name != "revised" or report.revises]
    rows: list[tuple[str, int, dict[str, int]]] = [("read", report.read, {})]
    for name in names:
        reasons = report.dropped.get(_STEP_OF[name], {})
        rows.append((name, getattr(report, name), dict(sorted(reasons.items(), key=lambda pair: -pair[1]))))
    return [*rows, ("kept", report.kept, {})]


def write_curation(folder: Path, report: CurationReport, items: Sequence[Curated]) -> Path:
    """Write `curation.json` and `curation.html` into `folder`; returns the page's path."""
    write_record(folder / "curation.json", report)
    page = folder / "curation.html"
    write_text(page, render_curation(report, items))
    return page


def render_curation(report: CurationReport, items: Sequence[Curated]) -> str:
    """The page as HTML. The same input gives the same text."""
    return rendered(
        "curation.html.j2",
        report=report,
        funnel=funnel(report),
        kept=[item for item in items if item.verdict.kept][:MAX_KEPT_EXAMPLES],
        dropped=_dropped(items),
        reason_meanings=REASON_MEANINGS,
    )


def render_funnel(report: CurationReport, console: Console) -> None:
    """The funnel and what it took, for a terminal."""
    table = Table("", "questions", "dropped", box=box.SIMPLE_HEAD)
    for name, count, reasons in funnel(report):
        table.add_row(
            name, f"{count:,}", ", ".join(f"{n:,} {reason.replace('_', ' ')}" for reason, n in reasons.items())
        )
    console.print(table)
    for step, used in report.usage.items():
        cost = "" if used.cost is None else f", {used.cost:.2f} in the unit of the prices"
        console.print(
            f"{step}: {used.answers:,} answers of {printable(used.engine)}, {used.prompt_tokens:,} tokens read, "
            f"{used.num_tokens:,} written{cost}",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
    for note in report.notes:
        console.print(f"note: {printable(note)}", markup=False, highlight=False, soft_wrap=True)


def _dropped(items: Sequence[Curated]) -> list[Curated]:
    """A few of each reason."""
    seen: dict[str, int] = {}
    chosen = []
    for item in items:
        if item.verdict.kept:
            continue
        first = item.verdict.reasons[0]
        seen[first] = seen.get(first, 0) + 1
        if seen[first] <= MAX_DROPPED_EXAMPLES:
            chosen.append(item)
    return chosen
