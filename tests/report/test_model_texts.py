"""Attacks in what a model wrote: the pages have the same elements as with harmless text, and say it verbatim."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from rich.console import Console

from payloads import PAYLOADS
from rbft.records import Curated, Question, Verdict
from rbft.report.curation import render_curation
from rbft.report.material import ArmAnswer, DroppedExample, ReportMaterial
from rbft.report.page import render_page
from rbft.results import CurationReport, Leakage, RationaleReport, Report, StepUsage
from rbft.serving.predictor import Answer, render_answers

HARMLESS = "a dog runs"


Shape = list[tuple[str, tuple[str, ...]]]


def shape(elements: list[tuple[str, dict[str, str | None]]]) -> Shape:
    """What a page is built of: elements with the names of their attributes."""
    return [(tag, tuple(attributes)) for tag, attributes in elements]


def report_page(text: str, report: Report, example_of: Callable) -> str:
    leakage = Leakage(texts=9, names_label=0.5, majority=0.5, accuracy=1, auc=1, auc_masked=0.5, flagged=True)
    counts = RationaleReport(written=9, kept=6, dropped={"refusal": 3}, refusals={text: (3, 1)}, leakage=leakage)
    example = example_of(
        0, ["dog", "cat"], ["rb-ft"], rationale=text, frames=np.zeros((16, 8, 8, 3), np.uint8),
        verdict=Verdict(kept=False, reasons=("refusal",), detail=text),
        arms={"rb-ft": ArmAnswer("dog", {"dog": 1.0, "cat": 0.0}, text=text)},
    )  # fmt: skip
    dropped = [DroppedExample("clip", text, ("refusal",), text)]
    return render_page(
        report.model_copy(update={"rationales": counts, "notes": (text,)}),
        ReportMaterial(examples=[example], dropped_examples=dropped),
    )


def curation_page(text: str) -> str:
    question = Question(question_id="q", clip_id="c", kind="free-form", text=text, answer=text)
    verdicts = (Verdict(kept=True), Verdict(kept=False, reasons=("wrong_answer",), detail=text))
    items = [
        Curated(
            question=question, step="revise", representation=text, reasoned=text, think=f"{text}.", answer=text,
            accuracy=0.5, verdict=verdict,
        )
        for verdict in verdicts
    ]  # fmt: skip
    report = CurationReport(
        name="x", read=2, represented=2, reasoned=2, revised=2, kept=1, dropped={"revise": {"wrong_answer": 1}},
        kinds={"free-form": (2, 1)}, answers={text: (2, 1)},
        usage={"reason": StepUsage(engine=text, answers=2, prompt_tokens=1, num_tokens=1, cost=None)},
        revises=True, notes=(text,),
    )  # fmt: skip
    return render_curation(report, items)


@pytest.fixture(scope="module")
def shapes(small_report: Report, example_of: Callable, page_of: Callable) -> list[Shape]:
    """Of both pages with harmless text."""
    pages = report_page(HARMLESS, small_report, example_of), curation_page(HARMLESS)
    return [shape(page_of(page).elements) for page in pages]


@pytest.mark.parametrize("attack", PAYLOADS)
def test_a_text_of_a_model_adds_no_element_to_a_page(
    attack: str, shapes: list[Shape], small_report: Report, example_of: Callable, page_of: Callable
) -> None:
    pages = report_page(attack, small_report, example_of), curation_page(attack)
    for page, harmless in zip(map(page_of, pages), shapes, strict=True):
        assert shape(page.elements) == harmless
        assert not page.all("script")
        assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
        assert attack in page.text


def test_a_text_of_a_model_does_not_steer_a_terminal() -> None:
    """Escape sequences, a bell, a title, a link, a carriage return, and reading direction turned round."""
    attack = "a\x1b[2J\x1b]0;title\x07\x1b]8;;http://evil.example\x1b\\link\rb\u202ec\x9b31m[bold red]d[/]"
    file = io.StringIO()
    answer = Answer(path=attack, label="dog", probabilities={"dog": 1.0}, log_probabilities={}, rationale=attack)
    render_answers([answer], Console(file=file, width=4000, force_terminal=True, color_system=None))
    told = file.getvalue()
    assert "[bold red]d[/]" in told, "nothing is markup"
    assert not set("\x1b\x07\r\u202e\x9b") & set(told.replace("\x1b[1m", "").replace("\x1b[0m", ""))
