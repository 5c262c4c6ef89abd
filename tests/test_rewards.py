"""What an answer earns, against numbers worked by hand; what cannot be computed is None and never 0."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rbft.answers import load_thresholds
from rbft.prompts import load_prompts
from rbft.records import Question, QuestionKind
from rbft.rewards import (
    RewardFormula,
    RewardTerm,
    accuracy,
    dimensions_named,
    format_reward,
    group_advantages,
    label_free,
    length,
    mean_relative_accuracy,
    semantic,
    ungradable,
)

LABELS = ("normal", "abnormal")
PETS = ("A. a dog", "B. a cat")


def question(kind: str, answer: str, options: tuple[str, ...] = ()) -> Question:
    fields = {"question_id": "q", "clip_id": "c", "kind": kind, "text": "?", "options": options, "answer": answer}
    return Question.model_validate(fields)


# -- accuracy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "gold", "options", "answer", "expected"),
    [
        ("label", "abnormal", LABELS, "Abnormal.", 1.0),
        ("label", "abnormal", LABELS, "normal", 0.0),
        ("label", "abnormal", LABELS, "not abnormal", 0.0),
        ("label", "abnormal", LABELS, "normal or abnormal", 0.0),
        ("multiple choice", "B", PETS, "(B)", 1.0),
        ("multiple choice", "B", PETS, "a cat", 1.0),
        ("multiple choice", "a cat", PETS, "B", 1.0),
        ("multiple choice", "B", PETS, "A", 0.0),
        ("multiple choice", "B", PETS, "B. a dog", 0.0),
        ("multiple choice", "B", PETS, "A or B", 0.0),
        ("numerical", "3.14", (), "3.1416", 1.0),
        ("numerical", "3.14", (), "3.15", 0.0),
        ("numerical", "5", (), "5.00", 1.0),
        ("numerical", "1234", (), "1,234", 1.0),
        ("numerical", "-2", (), "−2", 1.0),
        ("numerical", "-2", (), "2", 0.0),
        ("numerical", "50%", (), "50", 1.0),
        ("numerical", "0.5", (), "50%", 0.0),
        ("numerical", "5 m", (), "5 metres", 1.0),
        ("numerical", "5 m", (), "5 cm", 0.0),
        ("numerical", "5", (), "five", 0.0),
        ("numerical", "5", (), "4 or 5", 0.0),
        ("regression", "10", (), "10", 1.0),
        ("regression", "10", (), "8 m", 0.8),
        ("regression", "10", (), "12.5", 0.75),
        ("regression", "10", (), "30", 0.0),
        ("regression", "-10", (), "-8", 0.8),
        ("regression", "0", (), "0.0", 1.0),
        ("regression", "0", (), "0.1", 0.0),
        ("regression", "10", (), "ten", 0.0),
        ("OCR", "NO ENTRY AT NIGHT", (), "no entry at night", 1.0),
        ("OCR", "NO ENTRY AT NIGHT", (), "no entry by night", 0.75),
        ("OCR", "NO ENTRY AT NIGHT", (), "no entry", 0.5),
        ("OCR", "EXIT", (), "the exit", 0.0),
        ("OCR", "EXIT", (), "a b c", 0.0),
        ("OCR", "PRICE: 3.50", (), "Price: 3,50", 0.5),
        ("OCR", "禁止入内", (), "禁止出内", 0.75),
        ("free-form", "a dog runs", (), "A dog runs.", 1.0),
        ("free-form", "a dog runs", (), "a dog sleeps", (2 / 3 + 1 / 2 + 2 / 3) / 3),
    ],
)
def test_accuracy_of_each_kind_by_hand(
    kind: str, gold: str, options: tuple[str, ...], answer: str, expected: float
) -> None:
    assert accuracy(question(kind, gold, options), answer) == pytest.approx(expected)


GOLDS = {
    "label": ("odd", LABELS), "multiple choice": ("C", PETS), "numerical": ("three", ()), "regression": ("3 to 4", ()),
    "OCR": (" ", ()), "free-form": ("?!", ()),
}  # fmt: skip


@pytest.mark.parametrize("kind", get_args(QuestionKind))
def test_without_a_readable_truth_an_answer_cannot_be_graded(kind: str) -> None:
    gold, options = GOLDS[kind]
    asked = question(kind, gold, options)
    assert accuracy(asked, "3") is None
    assert accuracy(asked, gold) is None
    assert accuracy(asked, None) is None


@pytest.mark.parametrize(
    ("kind", "gold", "options"),
    [("label", "normal", LABELS), ("multiple choice", "A", PETS), ("numerical", "3", ()), ("regression", "3", ()),
     ("OCR", "EXIT", ()), ("free-form", "a dog", ())],
)  # fmt: skip
def test_no_answer_is_wrong(kind: str, gold: str, options: tuple[str, ...]) -> None:
    assert accuracy(question(kind, gold, options), None) == 0.0
    assert accuracy(question(kind, gold, options), "") == 0.0


@given(st.sampled_from(["numerical", "regression", "OCR", "free-form"]), st.text(), st.text())
def test_accuracy_is_a_share_and_the_truth_earns_all_of_it(kind: str, gold: str, answer: str) -> None:
    asked = question(kind, gold)
    mark, own = accuracy(asked, answer), accuracy(asked, gold)
    assert own in (None, 1.0)
    assert (mark is None) == (own is None)
    assert mark is None or 0 <= mark <= 1


WORDS = st.lists(st.sampled_from("abc"), max_size=5)


@given(WORDS, WORDS.filter(bool))
def test_word_errors_are_the_recursive_edit_distance(answer: list[str], gold: list[str]) -> None:
    def edits(x: list[str], y: list[str]) -> int:
        if not x or not y:
            return len(x) + len(y)
        if x[0] == y[0]:
            return edits(x[1:], y[1:])
        return 1 + min(edits(x[1:], y), edits(x, y[1:]), edits(x[1:], y[1:]))

    expected = max(0.0, 1 - edits(answer, gold) / len(gold))
    assert accuracy(question("OCR", " ".join(gold)), " ".join(answer)) == expected


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("20", "20", 1.0),
        ("19.5", "20", 1.0),  # error .025 is below every 1 - θ, the least of which is .05
        ("19", "20", 0.9),  # error .05 is not below .05
        ("17", "20", 0.7),  # error .15: θ = .50 … .80
        ("25", "20", 0.5),  # error .25: θ = .50 … .70
        ("10", "20", 0.0),  # error .5 is not below .5
        ("10.02", "20", 0.1),
        ("100", "20", 0.0),
        ("-17", "-20", 0.7),
        ("0", "0", 1.0),
        ("1", "0", 0.0),
        ("many", "20", 0.0),
        (None, "20", 0.0),
        ("20", "many", None),
    ],
)
def test_mean_relative_accuracy_by_hand(answer: str | None, gold: str, expected: float | None) -> None:
    assert mean_relative_accuracy(answer, gold) == expected


def test_rows_that_the_grader_cannot_grade_are_named_with_what_is_needed() -> None:
    good = [question("label", "normal", LABELS), question("multiple choice", "a cat", PETS), question("OCR", "EXIT")]
    good += [question("numerical", "0"), question("regression", "0"), question("free-form", "dog")]
    assert ungradable(good) == []
    bad = [question(kind, *GOLDS[kind]).model_copy(update={"question_id": kind}) for kind in get_args(QuestionKind)]
    bad.append(question("label", "x"))
    assert ungradable([*bad, *good]) == [
        "question 'label': the answer 'odd' cannot be graded; a label answer is exactly one of the options, which are "
        "'normal', 'abnormal'",
        "question 'multiple choice': the answer 'C' cannot be graded; a multiple choice answer is exactly one of the "
        "options, which are 'A. a dog', 'B. a cat'",
        "question 'numerical': the answer 'three' cannot be graded; a numerical answer is one plain number, like 3, "
        "1,234.5 or 50%",
        "question 'regression': the answer '3 to 4' cannot be graded; a regression answer is one plain number, like 3, "
        "1,234.5 or 50%",
        "question 'OCR': the answer ' ' cannot be graded; an OCR answer has at least one word",
        "question 'free-form': the answer '?!' cannot be graded; a free-form answer has at least one word",
        "question 'q': the answer 'x' cannot be graded; a label answer is exactly one of the options, which are none",
    ]


# -- other terms ---------------------------------------------------------------------------------------------------


def test_format_is_all_or_nothing() -> None:
    assert format_reward("<think>A man.</think>\n<answer>B</answer>") == 1.0
    assert format_reward("<think>A man.</think><answer>B</answer> So B.") == 0.0
    assert format_reward("<think>A man.</think><answer>B") == 0.0


@pytest.mark.parametrize(
    ("mark", "similarity", "gate", "expected"),
    [
        (1.0, 0.3, True, 0.6), (0.1, 0.3, True, 0.6), (1.0, 0.5, True, 1.0), (1.0, 0.7, True, 1.0),
        (1.0, -0.2, True, 0.0),
        (0.0, 0.3, True, 0.0), (0.0, 0.3, False, 0.6), (None, 0.3, True, None), (None, 0.3, False, 0.6),
        (1.0, None, True, None), (1.0, None, False, None), (0.0, None, True, 0.0), (0.0, None, False, None),
        (1.0, math.nan, True, None), (0.0, math.nan, False, None),
    ],
)  # fmt: skip
def test_the_semantic_term_by_hand(
    mark: float | None, similarity: float | None, gate: bool, expected: float | None
) -> None:
    assert semantic(mark, similarity, gate=gate) == expected


def test_length_counts_for_right_answers_within_both_bounds() -> None:
    bounds = (320, 512)
    assert [length(1.0, tokens, bounds) for tokens in (319, 320, 512, 513)] == [0.0, 1.0, 1.0, 0.0]
    assert length(0.0, 400, bounds) == 0.0
    assert length(None, 400, bounds) is None
    assert length(None, 10, bounds) == 0.0


def test_reasoning_that_names_a_label_is_not_label_free() -> None:
    rules = load_thresholds()
    assert label_free("A man runs over the lawn.", LABELS, rules) == 1.0
    assert label_free("This looks ａbnormal.", LABELS, rules) == 0.0
    assert label_free("He walks normally.", LABELS, rules) == 0.0
    assert label_free("", LABELS, rules) == label_free("...", LABELS, rules) == label_free(None, LABELS, rules) == 0.0


def test_dimensions_are_counted() -> None:
    dimensions = load_prompts("default", persona="p", labels={}).templates.dimensions
    assert dimensions_named("Subjects: a man. Attributes: tall. Actions: runs. Scenes: a lawn.", dimensions) == 1.0
    assert dimensions_named("Subjects: a man. Actions: runs.", dimensions) == 0.5
    assert dimensions_named("He runs.", dimensions) == dimensions_named(None, dimensions) == 0.0


# -- the formula ---------------------------------------------------------------------------------------------------


def test_the_default_is_format_and_accuracy() -> None:
    formula = RewardFormula()
    assert formula.terms == ("format", "accuracy")
    assert formula.total({"format": 1.0, "accuracy": 0.5, "semantic": None}) == 1.5


def test_every_term_has_a_weight() -> None:
    weights = dict.fromkeys(get_args(RewardTerm), 0.5)
    formula = RewardFormula.model_validate(weights)
    assert formula.weights == weights
    assert formula.total(dict.fromkeys(formula.terms, 0.5)) == 0.25 * len(weights)
    assert RewardFormula(semantic=1, semantic_gate=False).total({"format": 1, "accuracy": 0, "semantic": 0.6}) == 1.6


@given(st.sets(st.sampled_from(get_args(RewardTerm)), min_size=1), st.sampled_from(get_args(RewardTerm)))
def test_a_term_that_counts_and_is_none_makes_the_reward_none(terms: set[str], missing: str) -> None:
    formula = RewardFormula.model_validate({term: float(term in terms) for term in get_args(RewardTerm)})
    rewards = {term: None if term == missing else 1.0 for term in get_args(RewardTerm)}
    assert formula.total(rewards) == (None if missing in terms else len(terms))


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        (
            {"format": 0, "accuracy": 0},
            "every weight is 0, so nothing is rewarded; give one of format, accuracy, semantic, length, label_free, "
            "dimensions",
        ),
        ({"length_tokens": (9, 3)}, r"length_tokens \[9, 3\] holds no length; give the shortest, then the longest"),
        ({"semantic": -1}, "greater than or equal to 0"),
        ({"semantics": 1}, "Extra inputs are not permitted"),
        ({"accuracy": math.inf}, "finite number"),
        ({"format": 1e308, "accuracy": 1e308}, "less than or equal to 1000000"),
    ],
)
def test_a_formula_that_makes_no_sense_is_refused(given_: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RewardFormula.model_validate(given_)


# -- advantages ----------------------------------------------------------------------------------------------------


def test_advantages_by_hand() -> None:
    """0, 1, 2: mean 1, sample deviation 1 (squares 1 + 0 + 1 over 2). 1, 1, 0, 0: mean 1/2, deviation sqrt(1/3)."""
    assert group_advantages([0.0, 1.0, None, 2.0]) == pytest.approx([-1 / 1.0001, 0.0, None, 1 / 1.0001])
    one = 0.5 / (math.sqrt(1 / 3) + 1e-4)
    assert group_advantages([1.0, 1.0, 0.0, 0.0]) == pytest.approx([one, one, -one, -one])


def test_what_has_nothing_to_be_compared_with_gets_nothing() -> None:
    assert group_advantages([0.1, 0.1, 0.1]) == [0.0, 0.0, 0.0]
    assert group_advantages([None, 5.0]) == [None, 0.0]
    assert group_advantages([None, None]) == [None, None]
    assert group_advantages([]) == []


REWARDS = st.lists(st.floats(0, 4) | st.none(), max_size=10)


@given(st.lists(st.floats(0, 4), min_size=2, max_size=10))
def test_torch_gives_the_same(rewards: list[float]) -> None:
    numbers = torch.tensor(rewards, dtype=torch.float64)
    expected = (numbers - numbers.mean()) / (numbers.std() + 1e-4)
    assert group_advantages(rewards) == pytest.approx(expected.tolist(), abs=1e-9)


@given(REWARDS)
def test_advantages_keep_places_and_order_and_sum_to_nothing(rewards: list[float | None]) -> None:
    advantages = group_advantages(rewards)
    assert [a is None for a in advantages] == [r is None for r in rewards]
    pairs = sorted((r, a) for r, a in zip(rewards, advantages, strict=True) if r is not None and a is not None)
    assert [a for _, a in pairs] == sorted(a for _, a in pairs)
    assert math.fsum(a for _, a in pairs) == pytest.approx(0, abs=1e-9)
