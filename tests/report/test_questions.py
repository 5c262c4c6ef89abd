"""The report of a run about questions: its schema, its page, its table."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from rich.console import Console

from rbft.errors import StoreError
from rbft.records import LeftOut, Question
from rbft.report.material import LossCurve
from rbft.report.questions import (
    AskedExample,
    QuestionMaterial,
    Said,
    render_question_words,
    render_questions,
    write_question_report,
)
from rbft.report.schema import QUESTION_SCHEMA_PATH, report_schema
from rbft.results import (
    Comparison,
    Estimate,
    QuestionArm,
    QuestionData,
    QuestionReport,
    QuestionScore,
    QuestionSummary,
)

CHOICE = Question(
    question_id="1", clip_id="<b>a.mp4", kind="multiple choice", text="Who <i>?", options=("A. a dog", "B. a cat"),
    answer="A",
)  # fmt: skip


def score(mean: float) -> QuestionScore:
    estimate = Estimate(mean=mean, low=mean - 0.05, high=mean + 0.05, per_seed=(mean, mean))
    return QuestionScore(questions=20, clips=10, ungraded=0, score=estimate, unreadable=0.025, cut_off=0.0)


def arm(mean: float, *stages: str) -> QuestionArm:
    answers = QuestionSummary(
        overall=score(mean),
        over_categories=None,
        kinds={"multiple choice": score(mean + 0.1), "regression": score(mean - 0.1)},
        categories={},
    )
    where = "checkpoints/abc" if stages else None
    return QuestionArm(seeds=(0, 1), stages=stages, num_steps=8 * len(stages), checkpoint=where, answers=answers)


@pytest.fixture
def asked() -> QuestionReport:
    comparison = Comparison(
        a="zero-shot", b="cot", metric="score", difference=0.1, low=0.02, high=0.18, p=0.01, smallest_detectable=0.08,
        verdict="helped",
    )  # fmt: skip
    return QuestionReport(
        name="yard <q>",
        headline="cot answers best: 60.0 % on the test questions. It helped: +10.0 points against zero-shot.",
        data=QuestionData(
            train=30, cot=12, test=20, train_clips=15, test_clips=10, left_out=1,
            kinds={"multiple choice": 10, "regression": 10},
        ),
        arms={"zero-shot": arm(0.5), "cot": arm(0.6, "thoughts and answers")},
        comparisons=(comparison,),
        timing={"ask cot": 3.0},
        environment={"device": "CPU"},
        experiment={"name": "yard", "seeds": [0, 1]},
        fingerprints={"base": "0123"},
        notes=("2 questions are left out with their clips, see manifest.json",),
    )  # fmt: skip


@pytest.fixture
def material() -> QuestionMaterial:
    said = {
        "zero-shot": Said(text="<answer>B</answer>", answer="B", score=0.0),
        "cot": Said(text="cut <think>", answer=None, score=0.0),
    }
    frames = np.full((4, 12, 16, 3), 90, np.uint8)
    return QuestionMaterial(
        curves=[
            LossCurve("cot", "cot", 0, [(1, 2.0), (2, 1.0)]),
            LossCurve("cot", "reinforce", 0, [(1, 0.5), (2, 1.5)], measure="reward"),
            LossCurve("cot", "reinforce", 0, [(1, 0.0), (2, 0.02)], measure="kl"),
            LossCurve("cot", "reinforce", 0, [(1, 30.0), (2, 34.0)], measure="length"),
        ],
        examples=[AskedExample(CHOICE, frames, [0.0, 0.5, 1.0, 1.5], said)],
        left_out=[LeftOut(clip_id="x", path="x.mp4", reason="too_short", detail="1 frame")],
        artifacts={"answers": "answers"},
    )


def test_written_json_fits_the_published_schema(tmp_path: Path, asked: QuestionReport) -> None:
    write_question_report(tmp_path, asked, QuestionMaterial())
    published = json.loads(QUESTION_SCHEMA_PATH.read_bytes())
    assert published == report_schema(QuestionReport)
    validator = Draft202012Validator(published)
    written = json.loads((tmp_path / "report.json").read_bytes())
    assert written["schema"] == 1
    assert written["about"] == "questions"
    assert list(validator.iter_errors(written)) == []
    assert list(validator.iter_errors({k: v for k, v in written.items() if k != "data"}))


def test_a_number_that_is_not_finite_stops_the_report(tmp_path: Path, asked: QuestionReport) -> None:
    bad = asked.model_copy(update={"timing": {"ask cot": float("inf")}})
    with pytest.raises(StoreError, match=r"not finite: report\.timing\.ask cot is inf"):
        write_question_report(tmp_path, bad, QuestionMaterial())
    assert list(tmp_path.iterdir()) == []


def test_the_page_is_well_formed_and_says_everything(
    page_of: Callable[[str], Any], asked: QuestionReport, material: QuestionMaterial
) -> None:
    for shown in (QuestionMaterial(), material):
        page = page_of(render_questions(asked, shown))
        assert len(page.ids) == len(set(page.ids))
        fragments = {a["href"][1:] for a in page.all("a") if a["href"].startswith("#")}
        assert fragments <= set(page.ids)
    html = render_questions(asked, material)
    for said in (
        "<h1>cot answers best: 60.0 % on the test questions.</h1>", "45.0–55.0", "regression (MRA)", "Who &lt;i&gt;?",
        "A. <bdi>a dog</bdi>", "&lt;b&gt;a.mp4", "wrote “<bdi>cut &lt;think&gt;</bdi>”", "<bdi>unreadable</bdi>",
        "1 too short", "Mean reward of cot, reinforce stage: from 0.50 to 1.50", "from 0.00 to 0.02",
        "Mean length of cot, reinforce stage: from 30.00 to 34.00", "2 questions are left out with their clips",
    ):  # fmt: skip
        assert said in html, said
    assert "<i>?" not in html
    assert render_questions(asked, material) == html


def test_the_table_of_the_terminal(asked: QuestionReport) -> None:
    console = Console(file=io.StringIO(), width=160)
    render_question_words(asked, console)
    assert isinstance(console.file, io.StringIO)
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert lines[0] == asked.headline
    assert "arm all multiple choice regression (MRA) unreadable cut off steps" in lines
    assert "zero-shot 50.0 45.0–55.0 60.0 40.0 2.5 0.0 0" in lines
    assert "cot 60.0 55.0–65.0 70.0 50.0 2.5 0.0 8" in lines
    assert "cot − zero-shot +10.0 +2.0 to +18.0 0.010 helped" in lines
    assert lines[-1] == "percent on 20 questions about 10 clips, 95 % intervals; seeds 0, 1"
