"""Two arms on the same questions: differences and p worked by hand, verdicts in words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbft.errors import LineageError
from rbft.evaluation import significance
from rbft.evaluation.question_verdict import compare_all_answers, compare_answers, headline
from rbft.evaluation.questions import summary
from rbft.evaluation.verdict import CANNOT_TELL, HELPED, HURT
from rbft.records import Answered
from rbft.results import QuestionArm


def answered(clip: int, number: int, score: float | None) -> Answered:
    return Answered(
        question_id=f"{clip}-{number}", clip_id=str(clip), checkpoint="c", kind="OCR", text="", finished=True,
        num_tokens=1, answer="x", score=score,
    )  # fmt: skip


def run(*clips: tuple[float | None, ...]) -> list[Answered]:
    """An answer for every score, clip by clip."""
    return [answered(c, n, score) for c, scores in enumerate(clips) for n, score in enumerate(scores)]


def test_the_difference_is_of_means_over_questions_and_p_flips_whole_clips() -> None:
    """Clips of two, one and one question. b is better by 1.0, 0.5 and 0.5 in sum: of 8 flips two are as far out."""
    a = {0: run((0.0, 0.5), (0.0,), (0.25,))}
    b = {0: run((1.0, 0.5), (0.5,), (0.75,))}
    found = compare_answers(a, b, names=("a", "b"), resamples=200)
    assert found.metric == "score"
    assert found.difference == pytest.approx(2.0 / 4)
    assert found.p == pytest.approx(2 / 8)
    assert found.verdict.startswith(CANNOT_TELL)
    back = compare_answers(b, a, names=("b", "a"), resamples=200)
    assert back.difference == pytest.approx(-0.5)
    assert back.p == found.p


def test_many_clips_show_what_helps_and_what_hurts() -> None:
    a, b = {0: run(*[(0.2, 0.4)] * 12)}, {0: run(*[(0.6, 0.9)] * 11, (0.1, 0.4))}
    found = compare_all_answers({"a": a, "b": b}, resamples=500)[0]
    assert (found.a, found.b, found.verdict) == ("a", "b", HELPED)
    assert 0 < found.low < found.difference < found.high
    assert compare_answers(b, a, names=("b", "a"), resamples=500).verdict == HURT


def test_equal_answers_leave_room_for_what_was_never_seen() -> None:
    same = {0: run(*[(0.5,)] * 10)}
    found = compare_answers(same, same, names=("a", "b"), resamples=200)
    assert (found.difference, found.p) == (0.0, 1.0)
    assert found.high == pytest.approx(1 - 0.025**0.1)
    assert found.low == -found.high
    assert found.verdict.startswith(CANNOT_TELL)


def test_seeds_are_paired_and_their_spread_counts() -> None:
    """One seed gains on every clip, the other loses as much: nothing is shown, whatever single clips say."""
    zero = {0: run(*[(0.5,)] * 12)}
    split = {0: run(*[(0.9,)] * 12), 1: run(*[(0.2,)] * 12)}
    found = compare_answers(zero, split, names=("zero", "split"), resamples=300)
    assert found.difference == pytest.approx(0.05)
    assert found.verdict.startswith(CANNOT_TELL)
    with pytest.raises(LineageError, match=r"a ran seeds \[0, 1\], b ran \[2, 3\]; give both one seed in common"):
        compare_answers(split, {2: split[0], 3: split[1]}, names=("a", "b"))


@given(st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=12).filter(any))
def test_the_sign_flip_test_is_the_exact_one_on_right_and_wrong(values: list[int]) -> None:
    exact = significance.sign_flip(np.array([values], dtype=np.int64))
    assert significance.sign_flip_test(np.array(values, dtype=np.float64)) == pytest.approx(exact)


def _arms(**runs: dict[int, list[Answered]]) -> dict[str, QuestionArm]:
    return {
        name: QuestionArm(
            seeds=tuple(of), stages=(), num_steps=0, checkpoint=None, answers=summary(*of.values(), resamples=100)
        )
        for name, of in runs.items()
    }


def test_the_headline_names_the_best_and_claims_no_more_than_the_test_shows() -> None:
    low, high = {0: run(*[(0.2,)] * 12)}, {0: run(*[(0.8,)] * 11, (0.7,))}
    few = {0: run((0.2,), (0.4,))}
    other = {0: run((0.2,), (0.5,))}
    shown = compare_all_answers({"zero-shot": low, "cot": high}, resamples=200)
    assert headline(_arms(**{"zero-shot": low, "cot": high}), shown) == (
        "cot answers best: 79.2 % on the test questions. It helped: +59.2 points against zero-shot (p < 0.001)."
    )
    found = compare_all_answers({"zero-shot": few, "cot": other}, resamples=200)
    said = headline(_arms(**{"zero-shot": few, "cot": other}), found)
    assert said.startswith(
        "cot answers best: 35.0 % on the test questions. That it is better is not shown: +5.0 points against zero-shot "
        "(p = 1.00); these clips cannot tell"
    )
    back = compare_all_answers({"zero-shot": high, "cot": low}, resamples=200)
    assert headline(_arms(**{"zero-shot": high, "cot": low}), back) == (
        "zero-shot answers best: 79.2 % on the test questions. No other arm is ahead of it."
    )
    assert headline(_arms(cot=low), []) == "cot answers best: 20.0 % on the test questions."
