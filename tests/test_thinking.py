"""A reasoned answer is written and read back exactly; from untidy text one answer is taken, or none."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbft.thinking import Thought, parse_thought, read_answer, render_thought

TAGS = re.compile("</?(?:think|answer)>", re.IGNORECASE)
PART = st.text().filter(lambda text: not TAGS.search(text)) | st.sampled_from(
    ["", "\n", "a < b", "<think", "</ answer>"]
)


@given(PART, PART)
def test_parsing_inverts_rendering(think: str, answer: str) -> None:
    assert parse_thought(render_thought(Thought(think, answer))) == Thought(think, answer)


@given(PART, PART, st.text(alphabet=" \n\t", max_size=3))
def test_only_white_space_may_stand_between_the_parts(think: str, answer: str, space: str) -> None:
    text = f"<think>{think}</think>{space}<answer>{answer}</answer>"
    assert parse_thought(text) == Thought(think, answer)
    assert parse_thought(text.replace("</think>", "</think>x")) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "B",
        "<answer>B</answer>",
        "<think>a</think>",
        "<think>a</think>B",
        "<think>a</think><answer>B",
        "<think>a<answer>B</answer>",
        "<answer>B</answer><think>a</think>",
        "Sure. <think>a</think><answer>B</answer>",
        " <think>a</think><answer>B</answer>",
        "<think>a</think><answer>B</answer>\n",
        "<think>a</think><answer>B</answer><|im_end|>",
        "<think>a</think><answer>B</answer><answer>B</answer>",
        "<think>a</think><think>b</think><answer>B</answer>",
        "<think>a<answer>A</answer></think><answer>B</answer>",
        "<think>a</think><answer><think>B</answer>",
        "<THINK>a</THINK><ANSWER>B</ANSWER>",
        "<think>a</think>so<answer>B</answer>",
    ],
)
def test_whatever_is_not_the_whole_form_is_no_thought(text: str) -> None:
    assert parse_thought(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think><answer>B</answer>", "B"),
        ("<think>a</think>\n<answer> B\n</answer>\n", "B"),
        ("Sure. <think>a</think> So: <answer>B</answer>.", "B"),
        ("<answer>B</answer>", "B"),
        ("<Answer>B</Answer>", "B"),
        ("<think>a</think> B", "B"),
        ("B<|im_end|>", "B"),
        (" 3.5 ", "3.5"),
        ("", None),
        ("<answer> </answer>", None),
        ("<think>a</think>", None),
        ("<think>B", None),
        ("a</think>B", None),
        ("<answer>B", None),
        ("<think>a</think><answer>B", None),
        ("<answer>A</answer><answer>B</answer>", None),
        ("<think><answer>A</answer></think><answer>B</answer>", None),
        ("<answer>B</answer><think>a</think>", None),
        ("So B. <think>a</think> A", None),
    ],
)
def test_one_answer_is_taken_or_none(text: str, expected: str | None) -> None:
    assert read_answer(text) == expected


@given(PART, PART)
def test_the_answer_of_a_thought_is_what_is_taken(think: str, answer: str) -> None:
    plain = re.sub(r"<\|[^|<>]*\|>|</?s>", " ", answer)
    assert read_answer(render_thought(Thought(think, answer))) == (plain.strip() or None)


def test_a_part_that_would_end_itself_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^think: holds '</Think>', which ends it; take the tag out$"):
        render_thought(Thought("a </Think> b", "B"))
    with pytest.raises(ValueError, match=r"^answer: holds '<answer>', which ends it; take the tag out$"):
        render_thought(Thought("a", "<answer>"))
