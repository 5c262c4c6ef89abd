"""Sentences, and the part of some reasoning that describes the clip."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbft.describing import load_openings, sentences
from rbft.thinking import Thought, parse_thought, render_thought
from rbft.tiny.language import describe
from rbft.tiny.world import SceneSpec


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("A dog runs. A cat sits.", ["A dog runs.", "A cat sits."]),
        ("It waits 3.5 seconds. Then it runs.", ["It waits 3.5 seconds.", "Then it runs."]),
        ("Option A. shows a dog. The end.", ["Option A. shows a dog.", "The end."]),
        ("Mr. X opens the door. He leaves.", ["Mr. X opens the door.", "He leaves."]),
        ("Animals, e.g. a dog, run. They stop.", ["Animals, e.g. a dog, run.", "They stop."]),
        ("At 5 p.m. it rains. Then not.", ["At 5 p.m. it rains.", "Then not."]),
        ("The U.S. flag hangs there. It moves.", ["The U.S. flag hangs there.", "It moves."]),
        ("1. A dog runs. 2. It stops.", ["1. A dog runs.", "2. It stops."]),
        ("There are 3. They run.", ["There are 3.", "They run."]),
        ("Hmm... let me see. A dog!", ["Hmm... let me see.", "A dog!"]),
        ("He falls... Then he stands.", ["He falls...", "Then he stands."]),
        ("Is it a dog? No! a cat", ["Is it a dog?", "No!", "a cat"]),
        ('He says "go." Then he goes.', ['He says "go."', "Then he goes."]),
        ("a dog runs. a cat sits.", ["a dog runs.", "a cat sits."]),
        ("first line\nsecond line\n\nthird", ["first line", "second line", "third"]),
        ("犬が走る。猫が座る。", ["犬が走る。", "猫が座る。"]),
        ("no end", ["no end"]),
        (" \n ", []),
        ("", []),
    ],
)  # fmt: skip
def test_sentences(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts


@given(st.text())
def test_sentences_lose_nothing_but_white_space(text: str) -> None:
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


@given(st.lists(st.sampled_from(["A dog runs.", "It is 2.5 m wide.", "Is it red?", "Mr. X waits!"])))
def test_sentences_of_joined_sentences_are_those(parts: list[str]) -> None:
    assert sentences(" ".join(parts)) == parts


@pytest.mark.parametrize(
    ("think", "part"),
    [
        ("Let me think about this. A dog runs in a garden. So B.", "A dog runs in a garden. So B."),
        ("Hmm. Okay, let's look. Wait... A red car stops.", "A red car stops."),
        ("The question is asked about option A. Hmm! The ball weighs 3.5 kg.", "The ball weighs 3.5 kg."),
        ("I need to count the lamps. Two lamps are lit.", "Two lamps are lit."),
        ("The user wants the label. A bear climbs. I will say abnormal.", "A bear climbs. I will say abnormal."),
        ("A dog runs. Let me check. It is a dog.", "A dog runs. Let me check. It is a dog."),
        ("I see a dog.", "I see a dog."),
        ("Okay, the clip shows a dog.", "Okay, the clip shows a dog."),
        ("Let me think.", "Let me think."),
        ("Hmm. Let me think.", "Hmm. Let me think."),
        ("  ", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_what_opens_a_thought_is_no_description(think: str, part: str) -> None:
    assert load_openings().describing_part(think) == part


def test_a_description_along_the_headings_keeps_its_subject() -> None:
    """VideoRFT's own cut, behind the first ".", would leave the subject out."""
    told = describe(SceneSpec("bear", "red", "small", "falling", "beach", "day"))
    thought = parse_thought(render_thought(Thought(told, "abnormal")))
    assert thought is not None
    assert load_openings().describing_part(thought.think) == told
