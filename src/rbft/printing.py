"""What commands say when they end: words, tables, where results are, and the next step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from rbft.progress import printable


def print_imported(imported: Any, videos: Path | None, out: Path | None) -> None:
    """Counts of a benchmark, the manifest written among its videos, and the next step."""
    from rbft.clips.benchmarks import render_counts, write_manifest

    console = Console()
    render_counts(imported, console)
    if videos is None:
        console.print("Nothing is written without --videos FOLDER.", markup=False, highlight=False)
        return
    place = out or videos / "clips.csv"
    for note in write_manifest(imported, place):
        console.print(f"note: {printable(note)}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"\nNext: rbft check {place}", markup=False, highlight=False, soft_wrap=True)


def print_imported_questions(
    name: str, files: list[Path], videos: Path | None, out: Path | None, leave_out_missing: bool
) -> None:
    """The same of a benchmark of questions; raises UserError."""
    from rbft.clips.question_import import import_questions, left_out_file, render_imported, write_imported

    imported = import_questions(name, files, videos=videos, leave_out_missing=leave_out_missing)
    console = Console()
    if videos is None:
        render_imported(imported, console, "with --videos FOLDER every one is listed in a file")
        console.print("Nothing is written without --videos FOLDER.", markup=False, highlight=False)
        return
    place = out or videos / f"{name}.jsonl"
    write_imported(imported, place, videos)
    render_imported(imported, console, f"{left_out_file(place)} lists every one")
    folder = "" if place.parent == videos else f" --videos {videos}"
    console.print(f"\nNext: rbft ask MODEL {place}{folder}", markup=False, highlight=False, soft_wrap=True)


def print_outcome(outcome: Any) -> None:
    """Words and table of a run, where its page is, and how to use its classifier."""
    from rbft.report.tables import render_table, render_words

    console = Console()
    render_words(outcome.report, console)
    console.print()
    render_table(outcome.report, console)
    console.print(f"\nReport:   {outcome.page}", markup=False, highlight=False, soft_wrap=True)
    if outcome.classifier is not None:
        usable = outcome.report.advice is not None and outcome.report.advice.arm is not None
        title = "Classify:" if usable else "Try:     "
        console.print(f"{title} rbft predict {outcome.classifier} CLIP…", markup=False, highlight=False, soft_wrap=True)


def print_answers(outcome: Any) -> None:
    """The same of a run about questions."""
    from rbft.report.questions import render_question_words

    console = Console()
    render_question_words(outcome.report, console)
    console.print(f"\nReport:   {outcome.page}", markup=False, highlight=False, soft_wrap=True)
    if outcome.checkpoint is not None:
        console.print(
            f"Ask:      rbft ask {outcome.checkpoint} QUESTIONS.jsonl", markup=False, highlight=False, soft_wrap=True
        )
