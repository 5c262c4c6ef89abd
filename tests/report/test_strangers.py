"""Whatever text strangers write - labels, paths, ids, questions, rationales, categories - stays text on every page."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from payloads import PAYLOADS
from rbft.records import Curated, LeftOut, Question, Verdict
from rbft.report.curation import render_curation
from rbft.report.material import ArmAnswer, DroppedExample, ExampleClip, LossCurve, ReliabilityBin, ReportMaterial
from rbft.report.page import render_page
from rbft.report.questions import AskedExample, QuestionMaterial, Said, render_questions
from rbft.results import (
    CategoryReport,
    Comparison,
    CurationReport,
    Estimate,
    QuestionArm,
    QuestionData,
    QuestionReport,
    QuestionScore,
    QuestionSummary,
    Report,
    StepUsage,
)

FORBIDDEN = {"script", "iframe", "object", "embed", "base", "form", "link", "input", "frame", "frameset", "applet"}
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
FRAMES = np.full((2, 12, 16, 3), 90, np.uint8)


def holds(page: Any, payload: str, images: int, clean: list[str]) -> None:
    """No element and no attribute comes of the payload, it is there as text, and the page forbids scripts besides."""
    tags = [tag for tag, _ in page.elements]
    assert FORBIDDEN.isdisjoint(tags)
    assert tags.count("img") == images
    assert sorted(tags) == clean, "the same elements as with a harmless text of that length"
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("srcdoc", "action", "autofocus")]
        assert (attributes.get("href") or "#").startswith(("#", "./")), tag
        assert (attributes.get("src") or "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
    metas = [meta for meta in page.all("meta") if meta.get("http-equiv")]
    assert [(meta["http-equiv"], meta["content"]) for meta in metas] == [("Content-Security-Policy", POLICY)]
    assert payload in page.text


def estimate() -> Estimate:
    return Estimate(mean=0.5, low=0.4, high=0.6, per_seed=(0.5,))


def report_page(text: str, report: Report, *, figures: bool) -> str:
    arm = report.arms["rb-ft"]
    labels = {text: 3, "other": 4}
    comparison = report.comparisons[0].model_copy(update={"a": text, "b": text, "verdict": text})
    hostile = report.model_copy(
        update={
            "name": text, "headline": text, "baselines": {text: 0.5}, "comparisons": (comparison,),
            "dataset": report.dataset.model_copy(
                update={"labels": labels, "train_labels": labels, "majority_label": text}
            ),
            "arms": {text: arm.model_copy(update={"f1": dict.fromkeys(labels, arm.accuracy), "stages": (text,)})},
            "rationales": report.rationales and report.rationales.model_copy(update={"dropped": {text: 1}}),
            "categories": {text: CategoryReport(clips=3, accuracy={text: estimate()})},
            "timing": {text: 1.0}, "environment": {text: text}, "experiment": {text: text, "clips": [text]},
            "fingerprints": {text: text}, "notes": (text,),
        }
    )  # fmt: skip
    clip = ExampleClip(
        text, text, FRAMES, [0.0, 1.0], rationale=text, verdict=Verdict(kept=False, reasons=("empty",), detail=text),
        arms={text: ArmAnswer(text, {text: 1.0, "other": 0.0}, text=text)},
    )  # fmt: skip
    return render_page(
        hostile,
        ReportMaterial(
            loss_curves=[LossCurve(text, text, 0, [(1, 1.0), (2, 0.5)])] if figures else (),
            reliability={text: [ReliabilityBin(0.5, 0.5, 3)]} if figures else {},
            examples=[clip],
            dropped_examples=[DroppedExample(text, text, (text,), text)],
            left_out=[LeftOut(clip_id=text, path=text, reason="empty", detail=text)],
            artifacts={text: text.replace("/", "|")},
        ),
    )


def question_page(text: str) -> str:
    score = QuestionScore(questions=2, clips=1, ungraded=0, score=estimate(), unreadable=0.0, cut_off=0.0)
    answers = QuestionSummary(
        overall=score, over_categories=estimate(), kinds={"multiple choice": score}, categories={text: score}
    )
    arm = QuestionArm(seeds=(0,), stages=(text,), num_steps=1, checkpoint=text, answers=answers)
    report = QuestionReport(
        name=text, headline=text,
        data=QuestionData(
            train=1, cot=1, test=2, train_clips=1, test_clips=1, left_out=1, kinds={"multiple choice": 2}
        ),
        arms={text: arm},
        comparisons=(
            Comparison(
                a=text, b=text, metric="score", difference=0.1, low=0.0, high=0.2, p=0.1, smallest_detectable=0.1,
                verdict=text,
            ),
        ),
        timing={text: 1.0}, environment={text: text}, experiment={text: text}, fingerprints={text: text}, notes=(text,),
    )  # fmt: skip
    question = Question(
        question_id=text, clip_id=text, kind="multiple choice", text=text, options=(text, "b"), answer=text
    )
    return render_questions(
        report,
        QuestionMaterial(
            examples=[AskedExample(question, FRAMES, [0.0, 1.0], {text: Said(text=text, answer=text, score=0.5)})],
            left_out=[LeftOut(clip_id=text, path=text, reason="empty", detail=text)],
            artifacts={text: text.replace("/", "|")},
        ),
    )


def curation_page(text: str) -> str:
    report = CurationReport(
        name=text, read=2, represented=1, reasoned=1, revised=1, kept=1, dropped={"represent": {text: 1}},
        kinds={text: (2, 1)}, answers={text: (2, 1)}, revises=True, notes=(text,),
        usage={text: StepUsage(engine=text, answers=1, prompt_tokens=1, num_tokens=1, cost=0.1)},
    )  # fmt: skip
    question = Question(
        question_id=text, clip_id=text, kind="multiple choice", text=text, options=(text, "b"), answer=text
    )
    items = [
        Curated.model_construct(
            question=question, representation=text, reasoned=text, think=f"{text} more", answer=text,
            verdict=Verdict(kept=kept, reasons=() if kept else ("empty",), detail=text), steps=(),
        )
        for kept in (True, False)
    ]  # fmt: skip
    return render_curation(report, items)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_page_has_no_element_that_a_stranger_wrote(
    payload: str, report: Report, page_of: Callable[[str], Any]
) -> None:
    pages: dict[str, tuple[Callable[[str], str], int]] = {
        "report": (lambda text: report_page(text, report, figures=payload is PAYLOADS[0]), 2),
        "questions": (question_page, 2),
        "curation": (curation_page, 0),
    }
    for render, images in pages.values():
        twin = re.sub(r"[^\w .]", "x", payload)
        harmless = sorted(tag for tag, _ in page_of(render(twin)).elements)
        holds(page_of(render(payload)), payload, images, harmless)


@pytest.mark.parametrize("payload", ["a\u202eb\x00c\ud800", "\x1b[31mred\x1b]0;title\x07\x9b2J"])
def test_letters_that_cannot_be_printed_are_spelled_on_a_page(
    payload: str, report: Report, page_of: Callable[[str], Any]
) -> None:
    spelled = "".join(c if c.isprintable() or c in "\u202e\ud800" else f"\\x{ord(c):02x}" for c in payload)
    page = report_page(payload, report, figures=True)
    assert spelled.replace("\ud800", "?") in page_of(page).text
    assert not set("\x00\x07\x1b\x9b\ud800") & set(page)
