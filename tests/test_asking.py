"""Questions as prompts: letters as the grader reads them, one sentence for the form of each kind."""

from pathlib import Path

import pytest

from rbft.asking import prompt_faults, question_prompt
from rbft.choices import read_choice
from rbft.prompts import BUILT_IN, load_prompts
from rbft.records import Question

KINDS = ("multiple choice", "numerical", "OCR", "free-form", "regression")


def question(kind: str, *options: str) -> Question:
    return Question.model_validate(
        {"question_id": "q", "clip_id": "c", "kind": kind, "text": "What is it?", "options": options, "answer": "A"}
    )


def test_brief_form_is_what_the_embedded_model_learnt() -> None:
    prompts = load_prompts("brief", persona="x", labels={})
    assert question_prompt(prompts, question("multiple choice", "a dog", "a cat")) == (
        "What is it? A: a dog. B: a cat. Describe the clip in <think> </think>, then give the answer in "
        "<answer> </answer>."
    )
    assert question_prompt(prompts, question("OCR")).startswith("What is it? Describe the clip")


def test_default_form_has_a_line_an_option_and_a_sentence_of_each_kind() -> None:
    prompts = load_prompts("default", persona="x", labels={})
    asked = question_prompt(prompts, question("multiple choice", "B. a dog", "A. a cat"))
    assert asked.startswith("What is it?\nB. a dog\nA. a cat\nThink first")
    assert read_choice("B. a dog", ["B. a dog", "A. a cat"]) == "B"
    texts = [question_prompt(prompts, question(kind)) for kind in KINDS]
    assert all(text.startswith("What is it?\nThink first") for text in texts)
    assert all(text.endswith(f"{prompts.templates.forms[kind]}") for text, kind in zip(texts, KINDS, strict=True))  # type: ignore[index]
    assert len(set(texts)) == 4  # numerical and regression are asked alike


def test_label_question_is_its_own_query() -> None:
    prompts = load_prompts("brief", persona="x", labels={"a": "", "b": ""})
    asked = question("label", "a", "b").model_copy(update={"text": prompts.reasoned()})
    assert question_prompt(prompts, asked) == prompts.reasoned()


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_prompts_can_ask_questions(name: str) -> None:
    assert prompt_faults(load_prompts(name, persona="x", labels={})) == []


def test_prompts_without_templates_of_questions_are_named(tmp_path: Path) -> None:
    lines = [
        "schema: 1", "name: own", "rationale: 'x {persona}'", "label: '{labels}'", "label_item: '{label}{definition}'",
        "label_item_bare: '{label}'", "dimensions: {subjects: [s], attributes: [a], actions: [b], scenes: [c]}",
    ]  # fmt: skip
    path = tmp_path / "own.yaml"
    path.write_text("\n".join(lines))
    prompts = load_prompts(str(path), persona="x", labels={})
    assert prompt_faults(prompts) == [
        "the prompts 'own' have no template `question`, which questions are asked with; add it",
        "the prompts 'own' have no template `option`, which questions are asked with; add it",
    ]
