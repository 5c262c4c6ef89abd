"""Which option an answer is: by letter, by text, by both; never guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbft.choices import lettered, read_choice

OPTIONS = ("A. a dog", "B. a cat", "C. 3.5")


@pytest.mark.parametrize(
    "text",
    [
        "B", "b", "(B)", "(b)", "[B]", "B.", "B)", "B:", "**B**", "**B**.", "`B`", '"B"', " B\n", "B<|im_end|>",
        "B. a cat", "B) a cat", "(B) a cat", "B: A Cat.", "B.\na cat", "**B.** a cat", "**B**: a cat",
        "a cat", "A cat.", "'a cat'", "**a cat**",
        "Answer: B", "The answer is B", "The answer is (B) a cat.", "Final answer: **B**.", "Option B", "option (b)",
        "The correct option is B.", "The best choice is: B", "The correct answer is a cat.",
    ],
)  # fmt: skip
def test_an_answer_that_is_one_option_is_read(text: str) -> None:
    assert read_choice(text, OPTIONS) == "B"


@pytest.mark.parametrize(
    "text",
    [
        "", " ", ".", "D", "D. a fox", "a fox", "the cat", "cat", "B. a dog", "(A) a cat", "A. 3.5", "A or B", "A, B",
        "A and B", "AB", "A B", "not B", "B because of the cat", "I think B", "B. B. a cat", "a dog, a cat", "B?C", "2",
        "It is B",
    ],
)  # fmt: skip
def test_whatever_else_is_none(text: str) -> None:
    assert read_choice(text, OPTIONS) is None


def test_a_point_in_an_option_cuts_nothing() -> None:
    assert [read_choice(text, OPTIONS) for text in ("3.5", "C. 3.5", "C", "3", "3.5.")] == ["C", "C", "C", None, "C"]
    assert read_choice("A.", ("A. yes", "B. no")) == "A"


def test_options_have_their_own_letters_or_those_of_their_places() -> None:
    assert lettered(("A. a dog", "(B) a cat", "C: 3.5")) == {"A": "a dog", "B": "a cat", "C": "3.5"}
    assert lettered(("yes", "no")) == {"A": "yes", "B": "no"}
    assert lettered(("B. x", "A. y")) == {"B": "x", "A": "y"}
    assert lettered(("A. x", "A. y")) == {"A": "A. x", "B": "A. y"}
    assert lettered(("A. Lincoln", "George")) == {"A": "A. Lincoln", "B": "George"}
    assert lettered(()) == {}
    assert [read_choice(text, ("B. x", "A. y")) for text in ("B", "x", "A. y", "A. x")] == ["B", "B", "A", None]


def test_an_answer_that_is_one_options_letter_and_anothers_text_is_none() -> None:
    swapped = ("B", "A")
    assert [read_choice(text, swapped) for text in ("A", "B", "A. B", "B. A")] == [None, None, "A", "B"]
    assert [read_choice(text, ("A", "B")) for text in ("A", "B")] == ["A", "B"]


def test_options_may_look_like_a_lead_in() -> None:
    assert [read_choice(text, ("answer: yes", "answer: no")) for text in ("answer: yes", "B", "no")] == ["A", "B", None]
    assert read_choice("Label: B", ("Label: B", "x")) is None


def test_options_that_are_alike_are_told_apart_by_letter_alone() -> None:
    assert [read_choice(text, ("x", "x", "y")) for text in ("x", "A", "B. x", "y")] == [None, "A", "B", "C"]


WORDS = st.text(st.characters(categories=["Ll", "Lo"]), min_size=2, max_size=8)


@given(st.lists(WORDS, min_size=2, max_size=6, unique=True), st.data())
def test_every_option_reads_as_itself_in_every_form(texts: list[str], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(texts) - 1))
    letter = "ABCDEF"[place]
    options = [f"{name}. {text}" for name, text in zip("ABCDEF", texts, strict=False)]
    for answer in (letter, f"({letter})", f"{letter}. {texts[place]}", texts[place], options[place]):
        assert read_choice(answer, options) == letter
        assert read_choice(answer, texts) == letter
    other = texts[place - 1]
    assert read_choice(f"{letter}. {other}", options) is None
