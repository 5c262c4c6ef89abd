"""Descriptions and their reader agree; every prompt's own words decide its answer."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import rbft.tiny
from rbft.tiny import language
from rbft.tiny.language import clause_text, describe, label_prompt, parse_description, sentence, words_of
from rbft.tiny.tasks import (
    Lesson,
    Scene,
    defined_labels,
    draw_lesson,
    multiple_choice,
    verification,
    with_thought,
)
from rbft.tiny.world import DIMENSIONS, SceneSpec, sample_spec

specs = st.builds(SceneSpec, **{name: st.sampled_from(words) for name, words in DIMENSIONS.items()})


@given(specs)
def test_reading_a_description_gives_the_spec_back(spec: SceneSpec) -> None:
    assert parse_description(describe(spec)) == words_of(spec)


def test_the_description_has_the_rationale_format() -> None:
    spec = SceneSpec("dog", "black", "small", "running left", "garden", "day")
    expected = "Subjects: a dog. Attributes: small, black. Actions: running left. Scenes: garden, day."
    assert describe(spec) == expected
    assert sentence(spec) == "A small black dog running left in the garden by day."


@pytest.mark.parametrize(
    "text", ["", "a dog", "Subjects: a dog. Scenes: garden.", "Actions: falling. Subjects: a dog."]
)
def test_other_text_is_no_description(text: str) -> None:
    assert parse_description(text) is None


def test_unknown_and_doubled_words_are_read_as_nothing() -> None:
    read = parse_description(
        "Subjects: a dog and a cat. Attributes: tiny, Red. Actions: falling. Scenes: carpet, night"
    )
    assert read == {"subject": "", "size": "", "colour": "red", "action": "falling", "scene": "", "light": "night"}


def test_prompts_are_the_brief_ones() -> None:
    path = Path(rbft.tiny.__file__).parents[1] / "prompts" / "brief.yaml"
    brief = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert brief["rationale"] == language.RATIONALE_PROMPT
    assert brief["label"] == language.LABEL_PROMPT
    assert brief["label_item"] == language.LABEL_ITEM
    assert brief["label_item_bare"] == language.LABEL_ITEM_BARE
    assert all(heading in describe(SPEC).lower() for headings in brief["dimensions"].values() for heading in headings)


SPEC = SceneSpec("bear", "white", "large", "climbing", "porch", "night", lamps=2, sign="07")


def test_clauses_in_words() -> None:
    assert clause_text({"action": "falling"}) == "anything falling"
    assert clause_text({"size": "small", "colour": "red", "scene": "porch"}) == "anything small red on the porch"
    assert clause_text({"subject": "bear", "light": "dusk"}) == "a bear at dusk"
    assert label_prompt({"a": "x", "b": ""}) == "Which label fits the clip? a: x. b."


def fulfils(text: str, words: dict[str, str]) -> bool:
    """Reads one alternative of a definition with a reader of its own: every attribute it names must be the clip's."""
    named = {name: word for name, options in DIMENSIONS.items() for word in options if re.search(rf"\b{word}\b", text)}
    assert named, text
    return all(words[name] == word for name, word in named.items())


def fitting_labels(lesson: Lesson, words: dict[str, str]) -> list[str]:
    items = re.findall(r"(\S+): ([^.]+)\.", lesson.prompt.split("?", 1)[1])
    fits = [label for label, text in items if any(fulfils(t, words) for t in re.split(r" or |, ", text) if t != REST)]
    return fits or [label for label, text in items if text == REST]


REST = "anything else"


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 0.6, 1.0]))
def test_the_definitions_in_the_prompt_decide_the_label(seed: int, level: float) -> None:
    rng = np.random.default_rng(seed)
    scene = Scene(sample_spec(rng), 50)
    lesson = defined_labels(scene, rng, level)
    assert fitting_labels(lesson, scene.words) == [lesson.answer]


@given(st.integers(0, 10**6))
def test_yes_and_the_right_letter_follow_from_the_clip(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = Scene(sample_spec(rng), 50)
    asked = verification(scene, rng, 1.0)
    assert asked.answer == ("yes" if fulfils(asked.prompt, scene.words) else "no")
    choice = multiple_choice(scene, rng, 1.0)
    options = dict(re.findall(r"([A-D]): ([^.]+)\.", choice.prompt))
    assert fulfils(options[choice.answer], scene.words)
    assert sum(fulfils(text, scene.words) for text in options.values()) == 1


def test_definitions_are_balanced_and_get_longer() -> None:
    rng = np.random.default_rng(0)
    scenes = [Scene(sample_spec(rng), 50) for _ in range(600)]
    easy, hard = ([defined_labels(s, rng, level) for s in scenes] for level in (0.0, 1.0))
    rest = [lesson for lesson in hard if REST in lesson.prompt]
    chosen = sum(f"{lesson.answer}: {REST}" in lesson.prompt for lesson in rest)
    assert 0.3 < chosen / len(rest) < 0.6
    assert np.mean([len(x.prompt) for x in hard]) > 1.4 * np.mean([len(x.prompt) for x in easy])


def test_thought_comes_before_the_answer_when_asked_for() -> None:
    rng = np.random.default_rng(0)
    scene = Scene(SPEC, 40)
    lesson = with_thought(Lesson("OCR", "What number is on the sign?", "07"), scene, rng)
    assert lesson.answer == f"<think>{describe(SPEC)}</think><answer>07</answer>"
    assert lesson.prompt.startswith("What number is on the sign? ")


def test_the_mixture_has_the_five_question_types() -> None:
    rng = np.random.default_rng(1)
    kinds = {draw_lesson(Scene(SPEC, 40), rng, 1.0).kind.split(",")[0] for _ in range(600)}
    assert {"multiple choice", "numerical", "OCR", "free-form", "regression", "rationale", "defined labels"} <= kinds
