"""How we ask. Templates are data (`prompts/*.yaml`); `Prompts` renders them and is fingerprinted into results."""

from __future__ import annotations

import string
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from rbft.errors import ExperimentError
from rbft.files import read_yaml
from rbft.records import QuestionKind, RationaleFormat, Record

BUILT_IN = ("default", "brief")
DIMENSIONS = ("subjects", "attributes", "actions", "scenes")


class PromptTemplates(Record):
    """One file of templates. `dimensions` holds, per dimension, words of which a rationale on the template has one.

    `plain`, `hint`, `described`, `reasoned` and those of questions are asked by some arms alone, so they are no part of
    the templates' fingerprint: what they ask stands in the fingerprints of the texts and examples that come of it.
    """

    schema_version: Literal[1]
    name: str
    rationale: str
    label: str
    label_item: str
    label_item_bare: str
    dimensions: dict[str, tuple[str, ...]]
    plain: str | None = Field(None, exclude=True)
    hint: str | None = Field(None, exclude=True)
    described: str | None = Field(None, exclude=True)
    reasoned: str | None = Field(None, exclude=True)
    question: str | None = Field(None, exclude=True)
    option: str | None = Field(None, exclude=True)
    forms: dict[QuestionKind, str] = Field(default_factory=dict, exclude=True)
    """By kind of question, in which form its answer is wanted; a kind that is not there has no such sentence."""

    @property
    def asking(self) -> QuestionTemplates | None:
        """Those of questions; None where there are none."""
        if self.question is None or self.option is None:
            return None
        return QuestionTemplates(question=self.question, option=self.option, forms=self.forms)


class QuestionTemplates(Record):
    """How questions are asked: what `PromptTemplates` leaves out where it is written, for a checkpoint's card."""

    question: str
    option: str
    forms: dict[QuestionKind, str]


class Prompts(Record):
    """The prompts of one experiment: templates, persona, labels. Rendered text never holds a clip's own label."""

    templates: PromptTemplates
    persona: str
    labels: dict[str, str]

    def asking(self, questions: QuestionTemplates) -> Prompts:
        """The same, asking questions by these templates."""
        return self.model_copy(update={"templates": self.templates.model_copy(update=dict(questions))})

    def rationale(self) -> str:
        """The label-free question that makes the model explain a clip (paper: P_rationale)."""
        return self.templates.rationale.format(persona=self.persona)

    def plain_rationale(self) -> str:
        """A request for the same explanation without persona: what the persona prompt is distilled into."""
        assert self.templates.plain is not None, "an arm that needs `plain` is refused where there is none"
        return self.templates.plain.format()

    def hinted_rationale(self, label: str) -> str:
        """The rationale prompt that also tells the clip's label, for label-hinted arms alone."""
        assert self.templates.hint is not None, "an arm that needs `hint` is refused where there is none"
        return self.templates.hint.format(prompt=self.rationale(), label=self._item(label).rstrip("\n"))

    def describing(self, max_new_tokens: int) -> Describing:
        """How a clip is described before its label is asked for."""
        assert self.templates.described is not None, "an arm that needs `described` is refused where there is none"
        return Describing(template=self.templates.described, max_new_tokens=max_new_tokens)

    def reasoned(self) -> str:
        """The classification query that is answered by `<think>…</think><answer>…</answer>`.

        One text for what the cot stage learns, for rollouts and for evaluation.
        """
        assert self.templates.reasoned is not None, "an arm that needs `reasoned` is refused where there is none"
        return self.templates.reasoned.format(labels=self.listed())

    def reasoning(self, max_new_tokens: int) -> Reasoning:
        """How a checkpoint thinks before it answers, in one turn."""
        assert self.templates.reasoned is not None, "an arm that needs `reasoned` is refused where there is none"
        return Reasoning(kind="reasoning", template=self.templates.reasoned, max_new_tokens=max_new_tokens)

    def _item(self, label: str) -> str:
        definition = self.labels[label]
        if definition:
            return self.templates.label_item.format(label=label, definition=definition.rstrip("."))
        return self.templates.label_item_bare.format(label=label)

    def label(self) -> str:
        """The classification query over the whole label set."""
        return self.templates.label.format(labels=self.listed())

    def listed(self) -> str:
        """All labels with their definitions, as the queries hold them."""
        items = [self._item(label) for label in self.labels]
        joined = "".join(items) if items[0].endswith("\n") else " ".join(items)
        return joined.rstrip("\n")

    def rationale_answer(self, text: str, label: str | None, order: RationaleFormat) -> str:
        """What stage I learns to say: R alone, the label before it (P+C+R), or after it (P+R+C)."""
        match order:
            case "P+R":
                return text
            case "P+C+R":
                assert label is not None, "an unlabelled clip has no P+C+R"
                return f"Label: {label}\n{text}"
            case "P+R+C":
                assert label is not None, "an unlabelled clip has no P+R+C"
                return f"{text}\nLabel: {label}"


class Describing(Record):
    """Describe, then classify: the query's template, and how long the model's own description may be."""

    template: str
    max_new_tokens: int

    def asks(self, prompts: Prompts) -> str:
        """What makes the model describe the clip."""
        return prompts.rationale()

    def query(self, prompts: Prompts, description: str) -> str:
        """The classification query after a description of the clip, in one turn."""
        return self.template.format(rationale=description, query=prompts.label())


class Reasoning(Record):
    """Think, then answer, in one turn: the template of the query, and how long the whole answer may be."""

    kind: Literal["reasoning"]
    template: str
    max_new_tokens: int

    def asks(self, prompts: Prompts) -> str:
        """What makes the model think and answer: the classification query with its request for both."""
        return self.template.format(labels=prompts.listed())


def load_prompts(name_or_file: str, *, persona: str, labels: Mapping[str, str]) -> Prompts:
    """Load `default`, `brief` or a file. Raises ExperimentError with every fault."""
    if name_or_file in BUILT_IN:
        path = Path(str(resources.files("rbft"))) / "prompts" / f"{name_or_file}.yaml"
    else:
        path = Path(name_or_file)
        if not path.is_file():
            raise ExperimentError(f"prompts: no file {name_or_file!r}; give a file or one of {', '.join(BUILT_IN)}")
    document = read_yaml(path)
    if not isinstance(document, dict):
        raise ExperimentError(f"{path}: prompt templates are a mapping of names to texts")
    renamed = {("schema_version" if name == "schema" else name): value for name, value in document.items()}
    try:
        templates = PromptTemplates.model_validate(renamed)
    except ValidationError as error:
        faults = [f"{path}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ExperimentError([fault.replace(": schema_version: ", ": schema: ", 1) for fault in faults]) from None
    given = {name: fields for name, fields in _FIELDS.items() if getattr(templates, name) is not None}
    faults = [f for f in (_fields(path, templates, name, fields) for name, fields in given.items()) if f]
    if sorted(templates.dimensions) != sorted(DIMENSIONS):
        faults.append(f"{path}: dimensions: {sorted(templates.dimensions)} must be {sorted(DIMENSIONS)}")
    if faults:
        raise ExperimentError(faults)
    return Prompts(templates=templates, persona=persona, labels=dict(labels))


_FIELDS: dict[str, set[str]] = {
    "rationale": {"persona"},
    "label": {"labels"},
    "label_item": {"label", "definition"},
    "label_item_bare": {"label"},
    "plain": set(),
    "hint": {"prompt", "label"},
    "described": {"rationale", "query"},
    "reasoned": {"labels"},
    "question": {"problem", "options", "form"},
    "option": {"letter", "text"},
}


def _fields(path: Path, templates: PromptTemplates, name: str, allowed: set[str]) -> str | None:
    """A fault line where a template names another field than the allowed ones, lacks one, or formats one."""
    try:
        parts = list(string.Formatter().parse(getattr(templates, name)))
    except ValueError as error:
        return f"{path}: {name}: {error}; a brace that is meant as text is doubled"
    found = {field for _, field, _, _ in parts if field is not None}
    if any(specification or conversion for _, _, specification, conversion in parts):
        return f"{path}: {name}: a field is a bare name, without `:` or `!`; needs exactly {sorted(allowed)}"
    if found == allowed:
        return None
    return f"{path}: {name}: holds the fields {sorted(found)}, needs exactly {sorted(allowed)}"
