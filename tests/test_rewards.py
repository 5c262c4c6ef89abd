"""What an answer earns, against numbers worked by hand; what cannot be computed is None and never 0."""

from __future__ import annotations

import math

import pytest

from rbft.records import Question
from rbft.rewards import RewardFormula, accuracy, format_reward, group_advantages, semantic


def question(kind: str, answer: str, options: tuple[str, ...] = ()) -> Question:
    return Question(question_id="q", clip_id="c", kind=kind, text="?", options=options, answer=answer)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "gold", "options", "answer", "expected"),
    [
        ("label", "abnormal", ("normal", "abnormal"), "Abnormal.", 1.0),
        ("label", "abnormal", ("normal", "abnormal"), "not abnormal", 0.0),
        ("label", "odd", ("normal", "abnormal"), "normal", None),
        ("multiple choice", "B", ("A. a dog", "B. a cat"), "a cat", 1.0),
        ("multiple choice", "B", ("A. a dog", "B. a cat"), "B. a dog", 0.0),
        ("numerical", "3.14", (), "3.1416", 1.0),
        ("numerical", "three", (), "3", None),
        ("regression", "10", (), "8 m", 0.8),
        ("OCR", "NO ENTRY AT NIGHT", (), "no entry by night", 0.75),
        ("free-form", "a dog runs", (), "a dog sleeps", (2 / 3 + 1 / 2 + 2 / 3) / 3),
    ],
)
def test_accuracy_of_each_kind_by_hand(
    kind: str, gold: str, options: tuple[str, ...], answer: str, expected: float | None
) -> None:
    assert accuracy(question(kind, gold, options), answer) == pytest.approx(expected)


def test_format_is_all_or_nothing() -> None:
    assert format_reward("<think>A man.</think>\n<answer>B</answer>") == 1.0
    assert format_reward("<think>A man.</think><answer>B</answer> So B.") == 0.0


def test_the_semantic_term_by_hand() -> None:
    assert semantic(1.0, 0.3) == 0.6
    assert semantic(1.0, 0.7) == 1.0
    assert semantic(1.0, -0.2) == 0.0
    assert semantic(0.0, 0.3) == 0.0
    assert semantic(0.0, 0.3, gate=False) == 0.6
    assert semantic(1.0, None) is None
    assert semantic(1.0, math.nan) is None


def test_a_needed_term_that_is_none_makes_the_reward_none() -> None:
    formula = RewardFormula()
    assert formula.total({"format": 1.0, "accuracy": 0.5, "semantic": None}) == 1.5
    assert formula.total({"format": 1.0, "accuracy": None}) is None


def test_advantages_by_hand() -> None:
    """Mean 1, sample deviation 1 (squares 1 + 0 + 1 over 2)."""
    assert group_advantages([0.0, 1.0, None, 2.0]) == pytest.approx([-1 / 1.0001, 0.0, None, 1 / 1.0001])
    assert group_advantages([0.1, 0.1, 0.1]) == [0.0, 0.0, 0.0]
    assert group_advantages([None, 5.0]) == [None, 0.0]
