"""What we ask: label-free rationale prompts, labels and definitions verbatim, and answers that read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rbft.answers import read_labelled_rationale
from rbft.errors import ExperimentError
from rbft.experiment import make_experiment
from rbft.prompts import BUILT_IN, DIMENSIONS, Prompts, load_prompts
from rbft.records import fingerprint

DEFINED = {"normal": "routine household activity", "abnormal": "a threat to people, pets or property."}
TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=20).map(str.strip)
LABELS = st.lists(TEXT.filter(bool), min_size=2, max_size=5)


def accepted(labels: list[str]) -> bool:
    """Whether an experiment takes these labels: they differ in more than case and spaces."""
    try:
        make_experiment({"name": "x", "clips": "c", "model": "m", "labels": labels})
    except ExperimentError:
        return False
    return True


def template_file(folder: Path, **changes: Any) -> Path:
    """The `brief` templates with other values; None leaves a key out."""
    document = {
        "schema": 1,
        "name": "mine",
        "rationale": "You are a {persona}.",
        "label": "Which? {labels}",
        "label_item": "{label}: {definition}.",
        "label_item_bare": "{label}.",
        "dimensions": {name: [name] for name in DIMENSIONS},
    } | changes
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in document.items() if v is not None}), encoding="utf-8")
    return path


def faults(path: Path) -> list[str]:
    with pytest.raises(ExperimentError) as caught:
        load_prompts(str(path), persona="p", labels={})
    assert all(fault.startswith(f"{path}: ") for fault in caught.value.faults)
    return [fault.removeprefix(f"{path}: ") for fault in caught.value.faults]


# -- rendering -----------------------------------------------------------------------------------------------------


def test_brief_by_hand() -> None:
    prompts = load_prompts("brief", persona="Night Yard Security Expert", labels=DEFINED)
    assert prompts.rationale() == (
        "You are a Night Yard Security Expert. Describe the subjects, attributes, actions and scenes of the clip."
    )
    assert prompts.label() == (
        "Which label fits the clip? normal: routine household activity. abnormal: a threat to people, pets or property."
    )
    bare = load_prompts("brief", persona="p", labels={"cat": "", "dog": ""})
    assert bare.label() == "Which label fits the clip? cat. dog."


def test_default_by_hand() -> None:
    prompts = load_prompts("default", persona="Smart Home Security Expert", labels=DEFINED)
    assert prompts.label() == (
        "Which of these labels fits the clip best?\n"
        "- normal: routine household activity\n"
        "- abnormal: a threat to people, pets or property\n"
        "Answer with one label only."
    )
    assert prompts.rationale().startswith("You are a Smart Home Security Expert. Watch the whole clip")
    mixed = load_prompts("default", persona="p", labels={"cat": "", "dog": "a dog"})
    assert "\n- cat\n- dog: a dog\nAnswer" in mixed.label()


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_four_dimensions_are_asked_for(name: str) -> None:
    prompts = load_prompts(name, persona="p", labels=DEFINED)
    assert tuple(prompts.templates.dimensions) == DIMENSIONS
    for dimension in DIMENSIONS:
        assert dimension in prompts.rationale().casefold()


@pytest.mark.parametrize("name", BUILT_IN)
@given(labels=LABELS, definition=TEXT)
@settings(max_examples=50)
def test_the_rationale_prompt_never_depends_on_the_labels(name: str, labels: list[str], definition: str) -> None:
    """No label text can reach it: whatever the labels are called, the prompt is the same one."""
    reference = load_prompts(name, persona="Expert", labels={"normal": "", "abnormal": ""})
    prompts = Prompts(templates=reference.templates, persona="Expert", labels=dict.fromkeys(labels, definition))
    assert prompts.rationale() == reference.rationale()
    marked = Prompts(templates=reference.templates, persona="Expert", labels={f"Q7{i}Z": "Q8Z" for i in range(3)})
    assert "Q7" not in marked.rationale()
    assert "Q8" not in marked.rationale()


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("labels", [("normal", "abnormal"), ("fight", "noFight"), ("hateful", "offensive", "normal")])
def test_the_labels_of_the_papers_data_are_not_in_the_rationale_prompt(name: str, labels: tuple[str, ...]) -> None:
    text = load_prompts(name, persona="Expert", labels=dict.fromkeys(labels, "")).rationale().casefold()
    assert not [label for label in labels if label.casefold() in text]


@pytest.mark.parametrize("name", BUILT_IN)
@given(labels=LABELS, definition=TEXT.filter(bool), persona=st.text(max_size=20))
@settings(max_examples=50)
def test_every_label_definition_and_persona_survives(
    name: str, labels: list[str], definition: str, persona: str
) -> None:
    templates = load_prompts(name, persona="", labels=DEFINED).templates
    prompts = Prompts(templates=templates, persona=persona, labels=dict.fromkeys(labels, definition))
    text = prompts.label()
    for label in labels:
        assert f"{label}: {definition.rstrip('.')}" in text
    assert f"You are a {persona}. " in prompts.rationale()


@pytest.mark.parametrize("name", BUILT_IN)
def test_what_single_arms_ask(name: str) -> None:
    prompts = load_prompts(name, persona="Q9", labels=DEFINED)
    assert "Q9" not in prompts.plain_rationale()
    assert not [label for label in DEFINED if label in prompts.plain_rationale()]
    for dimension in ("subjects", "attributes", "actions", "scene"):
        assert dimension in prompts.plain_rationale()
    hinted = prompts.hinted_rationale("abnormal")
    assert prompts.rationale() in hinted
    assert "abnormal: a threat to people, pets or property" in hinted
    assert "routine" not in hinted, "the other labels are not told"
    asked = prompts.describing(9).query(prompts, "A {cat}.")
    assert asked.index("A {cat}.") < asked.index(prompts.label())
    assert prompts.describing(9).max_new_tokens == 9


def test_what_single_arms_ask_by_hand() -> None:
    prompts = load_prompts("brief", persona="p", labels=DEFINED | {"bare": ""})
    assert prompts.hinted_rationale("normal") == f"normal: routine household activity. {prompts.rationale()}"
    assert prompts.hinted_rationale("bare") == f"bare. {prompts.rationale()}"
    assert prompts.describing(9).query(prompts, "A cat.") == f"A cat. {prompts.label()}"
    assert prompts.describing(9).asks(prompts) == prompts.rationale()
    assert prompts.reasoned() == (
        f"{prompts.label()} Describe the clip in <think> </think>, then give the answer in <answer> </answer>."
    ), "the embedded model learnt to read this"
    assert prompts.reasoning(9).asks(prompts) == prompts.reasoned()
    assert (
        load_prompts("default", persona="p", labels=DEFINED)
        .reasoned()
        .startswith(
            "Which of these labels fits the clip best?\n- normal: routine household activity\n- abnormal: a threat to "
            "people, pets or property\nThink first: describe"
        )
    )


def test_what_single_arms_ask_is_no_part_of_the_fingerprint() -> None:
    """So that finished stages stay finished: what is asked stands in the fingerprints of what comes of it."""
    prompts = load_prompts("brief", persona="p", labels=DEFINED)
    changes = {"plain": "x", "hint": None, "described": "{rationale}{query}", "reasoned": "{labels}!"}
    other = prompts.model_copy(update={"templates": prompts.templates.model_copy(update=changes)})
    assert fingerprint(other) == fingerprint(prompts)
    assert fingerprint(load_prompts("brief", persona="X", labels={"a": "b", "c": ""})) == "f6f7609135884283"
    assert fingerprint(load_prompts("default", persona="X", labels={"a": "b", "c": ""})) == "84977480a209ba23"


def test_braces_are_text() -> None:
    braces = "{persona} {labels} {0} {{}} {"
    prompts = load_prompts("brief", persona=braces, labels={braces: braces, "}": ""})
    assert prompts.rationale().startswith(f"You are a {braces}. Describe")
    assert prompts.label() == f"Which label fits the clip? {braces}: {braces}. }}."


def test_everything_that_is_asked_is_in_the_fingerprint() -> None:
    one = load_prompts("brief", persona="p", labels=DEFINED)
    others = [
        load_prompts("default", persona="p", labels=DEFINED),
        load_prompts("brief", persona="q", labels=DEFINED),
        load_prompts("brief", persona="p", labels=DEFINED | {"normal": "x"}),
        load_prompts("brief", persona="p", labels=DEFINED | {"third": ""}),
    ]
    assert len({fingerprint(prompts) for prompts in [one, *others]}) == 5
    assert fingerprint(load_prompts("brief", persona="p", labels=DEFINED)) == fingerprint(one)


# -- answers -------------------------------------------------------------------------------------------------------


@given(labels=LABELS.filter(accepted), text=st.text(max_size=80), data=st.data())
@settings(max_examples=300)
def test_what_stage_one_learns_to_say_reads_back(labels: list[str], text: str, data: st.DataObject) -> None:
    prompts = load_prompts("brief", persona="p", labels=dict.fromkeys(labels, ""))
    label = data.draw(st.sampled_from(labels))
    assert prompts.rationale_answer(text, label, "P+R") == text
    assert tuple(read_labelled_rationale(text, labels, "P+R")) == (None, text)
    for order in ("P+C+R", "P+R+C"):
        answer = prompts.rationale_answer(text, label, order)
        assert tuple(read_labelled_rationale(answer, labels, order)) == (label, text)


def test_the_label_stands_where_the_format_says() -> None:
    prompts = load_prompts("brief", persona="p", labels=DEFINED)
    assert prompts.rationale_answer("A cat.", "normal", "P+C+R") == "Label: normal\nA cat."
    assert prompts.rationale_answer("A cat.", "normal", "P+R+C") == "A cat.\nLabel: normal"
    assert prompts.rationale_answer("A cat.", None, "P+R") == "A cat."
    for order in ("P+C+R", "P+R+C"):
        with pytest.raises(AssertionError, match="an unlabelled clip has no"):
            prompts.rationale_answer("A cat.", None, order)


# -- template files ------------------------------------------------------------------------------------------------


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    prompts = load_prompts(str(template_file(tmp_path)), persona="Judge", labels={"a": "", "b": "x"})
    assert prompts.rationale() == "You are a Judge."
    assert prompts.label() == "Which? a. b: x."
    assert prompts.templates.name == "mine"


def test_an_unknown_file() -> None:
    with pytest.raises(ExperimentError) as caught:
        load_prompts("breif", persona="p", labels={})
    assert str(caught.value) == "prompts: no file 'breif'; give a file or one of default, brief"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rationale": "You are."}, "rationale: holds the fields [], needs exactly ['persona']"),
        (
            {"rationale": "{persona} {label}"},
            "rationale: holds the fields ['label', 'persona'], needs exactly ['persona']",
        ),
        ({"rationale": "{persona.name}"}, "rationale: holds the fields ['persona.name'], needs exactly ['persona']"),
        ({"rationale": "{persona[0]}"}, "rationale: holds the fields ['persona[0]'], needs exactly ['persona']"),
        ({"rationale": "{}"}, "rationale: holds the fields [''], needs exactly ['persona']"),
        (
            {"rationale": "{persona:>{width}}"},
            "rationale: a field is a bare name, without `:` or `!`; needs exactly ['persona']",
        ),
        ({"plain": "{persona}"}, "plain: holds the fields ['persona'], needs exactly []"),
        ({"hint": "{prompt}"}, "hint: holds the fields ['prompt'], needs exactly ['label', 'prompt']"),
        ({"reasoned": "{query}"}, "reasoned: holds the fields ['query'], needs exactly ['labels']"),
        ({"described": "{query}"}, "described: holds the fields ['query'], needs exactly ['query', 'rationale']"),
        ({"label": "{labels!r}"}, "label: a field is a bare name, without `:` or `!`; needs exactly ['labels']"),
        ({"label": "{labels"}, "label: expected '}' before end of string; a brace that is meant as text is doubled"),
        (
            {"label": "}{labels}"},
            "label: Single '}' encountered in format string; a brace that is meant as text is doubled",
        ),
        ({"label_item": "{label}"}, "label_item: holds the fields ['label'], needs exactly ['definition', 'label']"),
        (
            {"label_item_bare": "{label}{definition}"},
            "label_item_bare: holds the fields ['definition', 'label'], needs exactly ['label']",
        ),
        ({"schema": 2}, "schema: Input should be 1"),
        ({"schema": None}, "schema: Field required"),
        ({"schema": None, "schema_version": 2}, "schema: Input should be 1"),
        ({"rationale": 5}, "rationale: Input should be a valid string"),
        ({"persona": "x"}, "persona: Extra inputs are not permitted"),
        (
            {"dimensions": {"subjects": ["who"]}},
            "dimensions: ['subjects'] must be ['actions', 'attributes', 'scenes', 'subjects']",
        ),
    ],
)
def test_faults_of_a_template_file(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    assert faults(template_file(tmp_path, **changes)) == [expected]


def test_all_faults_of_a_template_file_at_once(tmp_path: Path) -> None:
    assert faults(template_file(tmp_path, rationale=None, label=3, colour="x")) == [
        "rationale: Field required",
        "label: Input should be a valid string",
        "colour: Extra inputs are not permitted",
    ]
    assert len(faults(template_file(tmp_path, rationale="x", label="x", dimensions={}))) == 3
    (tmp_path / "list.yaml").write_text("[a]")
    assert faults(tmp_path / "list.yaml") == ["prompt templates are a mapping of names to texts"]


def test_doubled_braces_are_text(tmp_path: Path) -> None:
    path = template_file(tmp_path, rationale="{{json}} {persona}")
    assert load_prompts(str(path), persona="p", labels={}).rationale() == "{json} p"
