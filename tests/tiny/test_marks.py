"""Marks stand where a word or clause of a question ends, and say what holds of the clip."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from rbft.tiny.lessons import pack, segment_of
from rbft.tiny.marks import LAYERS, Mark, Probes, mark_loss, marks_of
from rbft.tiny.tasks import Lesson, Scene, defined_labels
from rbft.tiny.tokenizer import build_tokenizer, world_texts
from rbft.tiny.world import sample_spec

DOG = {
    "subject": "dog",
    "size": "small",
    "colour": "black",
    "action": "running left",
    "scene": "garden",
    "light": "day",
}
NOTES = "Subjects: a dog. Attributes: small, black. Actions: running left. Scenes: garden, day. "
ASKED = "Which label fits the clip? "


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(world_texts(400))


def read(text: str, kind: str) -> list[tuple[str, bool]]:
    """The last word before each mark of a kind, and what the mark says."""
    return [(text[: mark.place + 1].split()[-1], mark.holds) for mark in marks_of(text, DOG) if mark.kind == kind]


def test_words_and_clauses_of_a_definition() -> None:
    text = ASKED + "alarm: a bear, anything falling or a dog in the garden. ok: anything else."
    assert read(text, "word") == [("bear", False), ("falling", False), ("dog", True), ("garden", True)]
    assert read(text, "clause") == [("bear", False), ("falling", False), ("garden", True)]


def test_a_clause_holds_only_as_a_whole() -> None:
    assert read("Is it a small dog running right?", "word") == [("small", True), ("dog", True), ("right", False)]
    assert read("Is it a small dog running right?", "clause") == [("right", False)]
    assert read("Is it a small dog running left?", "clause") == [("left", True)]


def test_a_clause_knows_its_label() -> None:
    text = ASKED + "alarm: a bear, anything falling or a dog in the garden. ok: anything else."
    named = [(text[: mark.place + 1].split()[-1], mark.label) for mark in marks_of(text, DOG) if mark.kind == "label"]
    assert named == [("bear", "alarm"), ("falling", "alarm"), ("garden", "alarm"), ("else", "ok")]


def test_options_and_bare_labels() -> None:
    assert read("What size is it? A: small. B: large.", "clause") == [("small", True), ("large", False)]
    assert read(ASKED + "cat. dog.", "word") == [("cat", False), ("dog", True)]


def test_a_description_before_the_question_is_not_marked() -> None:
    assert marks_of(NOTES + ASKED + "cat.", DOG) == [Mark(len(NOTES + ASKED) + 2, "word", False)]
    assert {mark.place for mark in marks_of(NOTES + ASKED + "a: a dog.", DOG)} == {len(NOTES + ASKED) + 7}


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 1.0]))
def test_the_label_is_the_one_whose_clause_holds(seed: int, level: float) -> None:
    rng = np.random.default_rng(seed)
    scene = Scene(sample_spec(rng), 50)
    lesson = defined_labels(scene, rng, level)
    held = [m.place for m in marks_of(lesson.prompt, scene.words) if m.kind == "clause" and m.holds]
    start = lesson.prompt.index(f" {lesson.answer}: ")
    item = lesson.prompt[start : lesson.prompt.index(".", start)]
    if "anything else" in item:
        assert held == []
    else:
        assert held and all(start < place < start + len(item) for place in held)


def test_a_mark_lies_on_the_last_token_of_its_word(tokenizer: PreTrainedTokenizerFast) -> None:
    lesson = Lesson("defined labels", ASKED + "alarm: a dog running left. ok: anything else.", "alarm")
    segment = segment_of(tokenizer, lesson, DOG)
    texts = [tokenizer.decode(segment.ids[: place + 1]) for place, _, _ in segment.marks]
    assert [text.split()[-1] for text in texts] == ["dog", "left", "left", "left", "else"]
    answer = segment.ids[-segment.num_answer]
    assert [value for _, _, value in segment.marks[:4]] == [1, 1, 1, answer] and segment.marks[4][2] != answer
    assert segment_of(tokenizer, Lesson("numerical", "How many lamps are lit?", "2"), DOG).marks == []
    packed = pack([[segment_of(tokenizer, Lesson("OCR", "What?", "07"), DOG), segment]], pad_id=0)
    first = int((packed.segment == 1).sum())
    assert packed.marks["word"].tolist() == [
        [0, first + place, 1] for place, kind, _ in segment.marks if kind == "word"
    ]


def test_the_loss_reads_each_kind_after_its_layer() -> None:
    probes, table = Probes(4), torch.nn.Linear(4, 3, bias=False)
    torch.nn.init.zeros_(table.weight)
    marks = {
        "word": torch.tensor([[0, 1, 1], [0, 2, 0]]),
        "clause": torch.tensor([[0, 2, 1]]),
        "label": torch.tensor([[0, 0, 0]]),
    }
    states = [torch.zeros(1, 3, 4, requires_grad=True) for _ in range(5)]
    loss, right = mark_loss(probes, table, tuple(states), marks)
    assert float(loss.detach()) == pytest.approx(2 * np.log(2) + np.log(3))
    assert right == {"word": 0.5, "clause": 0.0, "label": 1.0}
    with torch.no_grad():
        for layer in probes.read.values():
            layer.weight.copy_(torch.tensor([[1.0, -2.0, 0.5, 0.0]]))
        for state in states:
            state.copy_(torch.arange(12.0).view(1, 3, 4) ** 2)
    mark_loss(probes, table, tuple(states), marks)[0].backward()
    touched = [index for index, state in enumerate(states) if state.grad is not None and state.grad.abs().sum() > 0]
    assert touched == sorted(set(LAYERS.values()))


def test_without_marks_the_loss_is_zero() -> None:
    none = {kind: torch.zeros(0, 3, dtype=torch.long) for kind in LAYERS}
    loss, right = mark_loss(Probes(4), torch.nn.Identity(), (torch.zeros(1, 3, 4),), none)
    assert float(loss) == 0.0 and right == {}
