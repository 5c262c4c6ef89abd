"""A question about a clip as the text that a model is asked: one for training, for sampling and for evaluation."""

from __future__ import annotations

from rbft.choices import lettered
from rbft.prompts import Prompts
from rbft.records import Question


def question_prompt(prompts: Prompts, question: Question) -> str:
    """What a model is asked to think about and answer by `<think>…</think><answer>…</answer>`.

    Options stand with their letters, as the grader reads them. The text of a label question is the whole query already.
    """
    if question.kind == "label":
        return question.text
    templates = prompts.templates
    assert templates.question is not None, "questions are refused where there is no template `question`"
    options = ""
    if question.kind == "multiple choice":
        assert templates.option is not None, "questions are refused where there is no template `option`"
        items = [
            templates.option.format(letter=letter, text=text) for letter, text in lettered(question.options).items()
        ]
        options = "".join(items)
    return templates.question.format(
        problem=question.text, options=options, form=templates.forms.get(question.kind, "")
    )


def label_question(prompts: Prompts, clip_id: str, label: str, category: tuple[str, ...] = ()) -> Question:
    """Which of the labels a clip has, as a question to think about."""
    return Question(
        question_id=clip_id,
        clip_id=clip_id,
        kind="label",
        text=prompts.reasoned(),
        options=tuple(prompts.labels),
        answer=label,
        category=category,
    )


def prompt_faults(prompts: Prompts) -> list[str]:
    """What a file of prompts lacks for asking questions."""
    return [
        f"the prompts {prompts.templates.name!r} have no template `{name}`, which questions are asked with; add it"
        for name in ("question", "option")
        if getattr(prompts.templates, name) is None
    ]
