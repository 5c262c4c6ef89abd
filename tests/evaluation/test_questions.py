"""Questions put to a checkpoint: graded, resumed item by item, and means worked by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rbft.clips.frames import Frames
from rbft.errors import UserError
from rbft.evaluation.questions import answer_questions, answers_key, graded, score_of, summary
from rbft.files import read_jsonl
from rbft.models.generate import Generated
from rbft.models.vlm import VLM
from rbft.prompts import load_prompts
from rbft.records import Answered, FramePlan, Question

PROMPTS = load_prompts("brief", persona="", labels={})


def question(number: int, kind: str = "multiple choice", **fields: Any) -> Question:
    given = {"options": ("a bear", "a dog", "a fox"), "answer": "B"} if kind == "multiple choice" else {"answer": "4"}
    return Question.model_validate(
        {"question_id": f"q{number}", "clip_id": f"c{number % 3}", "kind": kind, "text": "Who or what is in the clip?"}
        | given
        | fields
    )


def answered(number: int, clip: str, score: float | None, **fields: Any) -> Answered:
    given = {"question_id": f"q{number}", "clip_id": clip, "checkpoint": "c", "kind": "OCR", "text": "x", "answer": "x"}
    return Answered.model_validate(given | {"finished": True, "num_tokens": 1, "score": score} | fields)


class Noise:
    """Three clips of noise; the third is longer."""

    def read(self, clip_id: str) -> Frames:
        count = self.plan(clip_id).num_frames
        noise = np.random.default_rng(int(clip_id[1:])).integers(0, 255, (count, 84, 84, 3), dtype=np.uint8)
        return Frames(noise, np.arange(count, dtype=np.float64) / 2)

    def plan(self, clip_id: str) -> FramePlan:
        count = 6 if clip_id == "c2" else 4
        times = tuple(t / 2 for t in range(count))
        return FramePlan(
            times_seconds=times, width=84, height=84, frames_per_second=2.0, short_clip_policy="repeat-last"
        )


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return VLM.load("embedded")


def ask(
    load: Callable[[], VLM], questions: list[Question], path: Path, seen: list[int], batch: int = 2
) -> list[Answered]:
    return answer_questions(
        load, "c", questions, Noise(), PROMPTS, max_new_tokens=48, batch_size=batch, path=path, advance=seen.append
    )


def test_answers_come_in_order_and_are_graded(vlm: VLM, tmp_path: Path) -> None:
    questions = [question(0), question(1, "regression"), question(2), question(3, "free-form", answer="a dog walks")]
    seen: list[int] = []
    made = ask(lambda: vlm, questions, tmp_path / "a.jsonl", seen)
    assert [a.question_id for a in made] == ["q0", "q1", "q2", "q3"]
    assert [a.kind for a in made] == [q.kind for q in questions]
    assert sum(seen) == 4
    assert all(a.text and a.num_tokens > 0 and a.score is not None for a in made)
    assert {a.question_id: a for a in read_jsonl(tmp_path / "a.jsonl", Answered)} == {a.question_id: a for a in made}


def test_interrupted_it_goes_on_and_finished_it_loads_nothing(vlm: VLM, tmp_path: Path) -> None:
    questions = [question(n) for n in range(5)]
    whole = ask(lambda: vlm, questions, tmp_path / "whole.jsonl", [])
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    torn = tmp_path / "torn.jsonl"
    torn.write_text("".join(lines[:2]) + lines[2][:20])
    seen: list[int] = []
    assert ask(lambda: vlm, questions, torn, seen) == whole
    assert seen == [2, 2, 1]
    assert torn.read_text().splitlines(keepends=True)[:2] == lines[:2]
    assert ask(lambda: pytest.fail("a model was loaded"), questions, torn, []) == whole


def test_an_answer_does_not_depend_on_its_batch(vlm: VLM, tmp_path: Path) -> None:
    questions = [question(n) for n in range(4)]
    one, many = (ask(lambda: vlm, questions, tmp_path / f"{n}.jsonl", [], batch=n) for n in (1, 4))
    assert one == many


def test_control_tokens_are_named_before_any_answer(vlm: VLM, tmp_path: Path) -> None:
    token = vlm.tokenizer.decode([vlm.end_of_turn])
    questions = [question(0), question(1, text=f"Is it {token}?"), question(2, options=("a dog", f"a {token}"))]
    with pytest.raises(UserError) as caught:
        ask(lambda: vlm, questions, tmp_path / "a.jsonl", [])
    assert caught.value.faults == [
        f"question '{name}': holds {token!r}, a control token of embedded; take it out" for name in ("q1", "q2")
    ]
    assert not (tmp_path / "a.jsonl").exists()


def test_graded_by_hand() -> None:
    def of(kind: str, answer: str, text: str, **fields: Any) -> tuple[float | None, float | None, float | None]:
        made = graded(question(0, kind, answer=answer, **fields), "c", Generated(text, True, 3))
        return made.score, made.mra, made.headline

    tagged = "<think>It counts.</think><answer>{}</answer>".format
    assert of("multiple choice", "B", tagged("B")) == (1.0, None, 1.0)
    assert of("multiple choice", "B", tagged("a bear")) == (0.0, None, 0.0)
    assert of("regression", "10", tagged("8")) == (0.8, 0.6, 0.6)  # error .2 < 1-θ for .50 .55 .60 .65 .70 .75
    assert of("numerical", "10", tagged("8")) == (0.0, 0.6, 0.0)
    assert of("OCR", "stop here", tagged("stop there")) == (0.5, None, 0.5)
    unread = graded(question(0), "c", Generated("<think>B <answer>B", False, 48))
    assert (unread.answer, unread.score, unread.finished) == (None, 0.0, False)


def test_summary_by_hand() -> None:
    rows = [
        answered(0, "a", 1.0, category=("x", "y"), kind="multiple choice"),
        answered(1, "a", 0.0, category=("x",), kind="multiple choice", answer=None, finished=False),
        answered(2, "b", 0.9, mra=0.5, category=("z",), kind="regression"),
        answered(3, "b", None),
    ]
    told = summary(rows, resamples=200)
    assert told.overall.score.mean == pytest.approx((1 + 0 + 0.5) / 3)
    assert (told.overall.questions, told.overall.clips, told.overall.ungraded) == (4, 2, 1)
    assert (told.overall.unreadable, told.overall.cut_off) == (0.25, 0.25)
    assert told.over_categories is not None
    assert told.over_categories.mean == pytest.approx((0.5 + 0.5) / 2), "first categories: x, z; the last has none"
    assert list(told.categories) == ["x", "y", "z"], "the largest first"
    assert told.categories["y"].score.mean == 1.0
    assert told.kinds["regression"].score.mean == 0.5, "MRA"
    assert (told.kinds["OCR"].questions, told.kinds["OCR"].ungraded) == (1, 1)


def test_intervals_are_over_clips_and_not_over_questions() -> None:
    """Ten questions of one clip say no more than one: a clip's answers are drawn together."""
    single = [answered(n, f"c{n}", float(n % 2)) for n in range(20)]
    tenfold = [answered(n * 10 + k, f"c{n}", float(n % 2)) for n in range(20) for k in range(10)]
    one, ten = (summary(rows, resamples=4000).overall.score for rows in (single, tenfold))
    assert (one.mean, one.low, one.high) == pytest.approx((ten.mean, ten.low, ten.high))
    shares = np.random.default_rng(1).binomial(20, 0.5, 40_000) / 20  # a draw of 20 clips, half of them right
    assert (one.low, one.high) == pytest.approx(tuple(np.percentile(shares, [2.5, 97.5])), abs=0.05)


def test_several_seeds_are_pooled_with_the_value_of_each() -> None:
    runs = [[answered(n, f"c{n}", float(n < right)) for n in range(10)] for right in (4, 6)]
    told = summary(*runs, resamples=200).overall.score
    assert told.per_seed == pytest.approx((0.4, 0.6))
    assert told.mean == pytest.approx(0.5)
    assert told.low < 0.4 < 0.6 < told.high
    assert score_of(runs).per_clip.shape == (10, 2, 2)


def test_key_changes_with_what_answers_depend_on() -> None:
    frames = {"c0": "f", "c1": "g", "c2": "h"}
    base = answers_key("c", [question(0)], frames, PROMPTS, max_new_tokens=48)
    assert base == answers_key("c", [question(0)], dict(frames), PROMPTS, max_new_tokens=48)
    long = load_prompts("default", persona="", labels={})
    others = [
        answers_key("d", [question(0)], frames, PROMPTS, max_new_tokens=48),
        answers_key("c", [question(0, answer="A")], frames, PROMPTS, max_new_tokens=48),
        answers_key("c", [question(0)], frames | {"c0": "z"}, PROMPTS, max_new_tokens=48),
        answers_key("c", [question(0)], frames, long, max_new_tokens=48),
        answers_key("c", [question(0)], frames, PROMPTS, max_new_tokens=49),
    ]
    assert len({base, *others}) == 6
