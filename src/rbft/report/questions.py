"""The report of a run about questions: `report.json`, its page and its table. Shares style and parts with `page`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rbft.choices import lettered
from rbft.progress import printable
from rbft.records import LeftOut, Question, QuestionKind
from rbft.report import views
from rbft.report.figures import StripFrame, film_strip
from rbft.report.glossary import QUESTION_GLOSSARY
from rbft.report.material import ExampleClip, LossCurve
from rbft.report.page import rendered, write_whole
from rbft.report.tables import comparisons_table, interval_text, percent, table_frame, value_of
from rbft.results import QuestionArm, QuestionReport, QuestionScore


@dataclass(frozen=True)
class Said:
    """What one arm wrote, the answer taken out of it, and what that is worth; None where it cannot be read."""

    text: str
    answer: str | None
    score: float | None


@dataclass(frozen=True, repr=False)
class AskedExample:
    """A question to look at: its clip's frames uint8 `[T, H, W, 3]`, their instants, and what each arm said."""

    question: Question
    frames: NDArray[np.uint8]
    seconds: Sequence[float]
    said: Mapping[str, Said]


@dataclass(frozen=True)
class QuestionMaterial:
    """Everything on the page that is not in `report.json`."""

    curves: Sequence[LossCurve] = ()
    examples: Sequence[AskedExample] = ()
    left_out: Sequence[LeftOut] = ()
    artifacts: Mapping[str, str] = field(default_factory=dict)


def write_question_report(folder: Path, report: QuestionReport, material: QuestionMaterial) -> Path:
    """Write `report.json` and `report.html` into `folder`, each whole or not at all; returns the page's path.

    Raises StoreError where the disk refuses, or where a number of the report is not finite.
    """
    return write_whole(folder, report, lambda: render_questions(report, material))


def render_questions(report: QuestionReport, material: QuestionMaterial) -> str:
    """The whole page as HTML. The same input gives the same text."""
    return rendered(
        "questions.html.j2",
        report=report,
        material=material,
        colours=views.arm_colours(report.arms),
        seeds=sorted({seed for arm in report.arms.values() for seed in arm.seeds}),
        headline=views.first_sentence(report.headline),
        columns=columns_of(report),
        pairs=views.pairs_of(report.comparisons),
        difference_scale=views.difference_scale(report.comparisons),
        loss_panels=views.loss_panels(material.curves),
        examples=[_view(example) for example in material.examples],
        left_out_counts=views.left_out_counts(material.left_out),
        settings=views.settings_yaml(report.experiment),
        glossary=QUESTION_GLOSSARY,
    )


@dataclass(frozen=True)
class ExampleView:
    """One card of the page."""

    example: AskedExample
    options: dict[str, str]
    strip: list[StripFrame]


def _view(example: AskedExample) -> ExampleView:
    question = example.question
    strip = film_strip(ExampleClip(question.clip_id, None, example.frames, example.seconds))
    return ExampleView(example, lettered(question.options) if question.kind == "multiple choice" else {}, strip)


def columns_of(report: QuestionReport) -> dict[str, dict[str, QuestionScore]]:
    """By heading the scores of every arm: all questions first, then each kind."""
    kinds: list[QuestionKind] = list(report.data.kinds)
    columns = {"all": {name: arm.answers.overall for name, arm in report.arms.items()}}
    for kind in kinds:
        heading = "regression (MRA)" if kind == "regression" else kind
        columns[heading] = {name: arm.answers.kinds[kind] for name, arm in report.arms.items()}
    return columns


# -- terminal ------------------------------------------------------------------------------------------------------


def render_question_words(report: QuestionReport, console: Console) -> None:
    """Print the headline, the scores of every arm by kind, and the comparisons."""
    console.print(Text(printable(report.headline)))
    console.print()
    console.print(_table(report))
    if report.comparisons:
        console.print(comparisons_table(report.comparisons))
    seeds = ", ".join(map(str, sorted({seed for arm in report.arms.values() for seed in arm.seeds})))
    data = report.data
    console.print(
        Text(f"percent on {data.test} questions about {data.test_clips} clips, 95 % intervals; seeds {seeds}", "dim")
    )


def _table(report: QuestionReport) -> Table:
    """Arms as rows."""
    table = table_frame()
    table.add_column("arm", overflow="fold")
    columns = columns_of(report)
    for heading in (*columns, "unreadable", "cut off", "steps"):
        table.add_column(heading, justify="right", min_width=16 if heading == "all" else None)
    for name, arm in report.arms.items():
        cells = [_cell(column[name], whole=heading == "all") for heading, column in columns.items()]
        table.add_row(Text(printable(name)), *cells, *_rest(arm))
    return table


def _cell(score: QuestionScore, *, whole: bool) -> Text:
    cell = Text(percent(score.score.mean))
    if whole:
        cell.append(f" {interval_text(value_of(score.score)):9}", style="dim")
    return cell


def _rest(arm: QuestionArm) -> tuple[str, str, str]:
    overall = arm.answers.overall
    return percent(overall.unreadable), percent(overall.cut_off), f"{arm.num_steps:,}"
