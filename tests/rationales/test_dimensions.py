"""Rationales along their headings: where each part stands, and how alike two parts are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbft.prompts import DIMENSIONS, load_prompts
from rbft.rationales.dimensions import likeness, parts_of, spans_of, with_parts

BRIEF = load_prompts("brief", persona="p", labels={}).templates.dimensions
DEFAULT = load_prompts("default", persona="p", labels={}).templates.dimensions
SHORT = "Subjects: a dog. Attributes: small, red. Actions: running left. Scenes: garden, night."
LONG = """As a security expert I note the following.

1. **Subjects:** One man; his attributes: unclear. No animals.

2. **Attributes**: He wears a hood.
It hides his face.

### Actions
He climbs the fence
and falls.

Scene: a yard at night."""
PLAIN = st.text(st.characters(categories=["Ll", "Nd"], include_characters=" ,"), min_size=1).filter(str.strip)


def test_parts_of_the_short_form() -> None:
    assert parts_of(SHORT, BRIEF) == {
        "subjects": "a dog.", "attributes": "small, red.", "actions": "running left.", "scenes": "garden, night.",
    }  # fmt: skip
    span = spans_of(SHORT, BRIEF)["subjects"]
    assert SHORT[span.start : span.end] == "a dog."


def test_parts_of_what_large_models_write() -> None:
    """Numbers, markdown, a heading on its own line, the singular; a heading's word inside a sentence is none."""
    assert parts_of(LONG, DEFAULT) == {
        "subjects": "One man; his attributes: unclear. No animals.",
        "attributes": "He wears a hood.\nIt hides his face.",
        "actions": "He climbs the fence\nand falls.",
        "scenes": "a yard at night.",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The subject is a dog in the scene.", {"text": "The subject is a dog in the scene."}),
        ("", {"text": ""}),
        ("Subjects: Attributes: red.", {"attributes": "red."}),
        ("Actions: a. Subjects: b. Actions: c.", {"actions": "a.", "subjects": "b. Actions: c."}),
        ("SUBJECTS\uff1a狗\n", {"subjects": "狗"}),
    ],
)
def test_missing_empty_and_repeated_headings(text: str, expected: dict[str, str]) -> None:
    assert parts_of(text, DEFAULT) == expected


def test_other_parts_in_the_same_form() -> None:
    assert with_parts(SHORT, BRIEF, {"subjects": "a cat.", "scenes": "street, day."}) == (
        "Subjects: a cat. Attributes: small, red. Actions: running left. Scenes: street, day."
    )
    made = with_parts(LONG, DEFAULT, {"attributes": "Tall."})
    assert made == LONG.replace("He wears a hood.\nIt hides his face.", "Tall.")
    assert with_parts("no headings", BRIEF, {"text": "another"}) == "another"


@given(st.tuples(PLAIN, PLAIN, PLAIN, PLAIN), st.permutations(DIMENSIONS))
def test_what_is_put_in_is_read_back(texts: tuple[str, ...], order: list[str]) -> None:
    written = "\n".join(f"{name.capitalize()}: {text}" for name, text in zip(order, texts, strict=True))
    parts = {name: text.strip() for name, text in zip(order, texts, strict=True)}
    assert parts_of(written, DEFAULT) == parts
    assert with_parts(written, DEFAULT, parts) == written
    form = "Actions: x.\nScenes: x.\nSubjects: x.\nAttributes: x."
    assert parts_of(with_parts(form, DEFAULT, parts), DEFAULT) == parts


def test_likeness_by_hand() -> None:
    assert likeness("a dog.", "A DOG") == 1.0
    assert likeness("a dog", "a cat") == 0.0, "short texts are the same or not"
    assert likeness("small red", "red small") == 0.0
    first = "a man in dark clothes climbs the fence"
    assert likeness(first, "a man climbs the fence") == pytest.approx(2 * 5 / (8 + 5))
    assert likeness(first, "the fence the fence") == pytest.approx(2 * 2 / (8 + 4)), "a word counts as often as in both"
    assert likeness("", "") == 1.0
    assert likeness(first, "") == 0.0


@given(st.text(max_size=60), st.text(max_size=60))
def test_likeness_is_symmetric_and_one_for_itself(a: str, b: str) -> None:
    assert likeness(a, b) == likeness(b, a)
    assert 0.0 <= likeness(a, b) <= 1.0
    assert likeness(a, a) == 1.0
