"""Questions about a clip with their answers: what the language phase teaches.

Every question is a function of the clip's spec, a random source and a level 0..1 that grows over the training, so that
labels are first defined by one attribute, later by rules.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from rbft.tiny.language import (
    PERSONAS,
    Clause,
    bare_text,
    clause_text,
    definition_text,
    describe,
    label_prompt,
    rationale_prompt,
    sentence,
    words_of,
)
from rbft.tiny.world import DIMENSIONS, SceneSpec

T = TypeVar("T")

THINK_FIRST = (
    "Think first, then answer.",
    "Think in <think> </think>, then answer in <answer> </answer>.",
    "Describe the clip in <think> </think>, then give the answer in <answer> </answer>.",
)
LABEL_SETS = (
    ("normal", "abnormal"),
    ("yes", "no"),
    ("alarm", "ok"),
    ("safe", "danger"),
    ("fight", "noFight"),
    ("fall", "non_fall"),
    ("open", "closed", "moving"),
    ("low", "middle", "high"),
    ("A", "B", "C", "D"),
    ("1", "2", "3", "4"),
    ("keep", "drop", "ask"),
    ("true", "false"),
    ("normal", "hateful", "offensive"),
    ("calm", "busy", "urgent"),
)
_ASKED = {
    "subject": ("What is the subject?", "Who or what is in the clip?"),
    "size": ("What size is it?", "How big is the subject?"),
    "colour": ("What colour is it?", "Which colour is the subject?"),
    "action": ("What is it doing?", "Which action is seen?"),
    "scene": ("Where is it?", "Which scene is it?"),
    "light": ("What time of day is it?", "Is it day, dusk or night?"),
}


_COMPARING = ("verification", "multiple choice", "bare labels", "defined labels")


@dataclass(frozen=True)
class Lesson:
    """One question and its answer. `kind` names the question's type."""

    kind: str
    prompt: str
    answer: str

    @property
    def compares(self) -> bool:
        """Whether words of the prompt must be compared with the clip."""
        return self.kind.split(",")[0] in _COMPARING


@dataclass(frozen=True)
class Scene:
    """What questions are asked about: the spec and the subject's mean x, 0..100."""

    spec: SceneSpec
    middle: int

    @property
    def words(self) -> dict[str, str]:
        """The six words by dimension."""
        return words_of(self.spec)


def _pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def _others(rng: np.random.Generator, name: str, word: str, count: int) -> list[str]:
    """`count` words of a dimension other than `word`, in random order."""
    rest = [other for other in DIMENSIONS[name] if other != word]
    return [rest[i] for i in rng.permutation(len(rest))[:count]]


# Questions with an answer of their own -------------------------------------------------------------------------------


def rationale(scene: Scene, rng: np.random.Generator, _level: float) -> Lesson:
    """The description along the four dimensions, as one of many experts."""
    return Lesson("rationale", rationale_prompt(_pick(rng, PERSONAS)), describe(scene.spec))


def attribute(scene: Scene, rng: np.random.Generator, _level: float) -> Lesson:
    """One of the six words."""
    name = _pick(rng, list(DIMENSIONS))
    return Lesson("attribute", _pick(rng, _ASKED[name]), bare_text(name, scene.words[name]))


def free_form(scene: Scene, _rng: np.random.Generator, _level: float) -> Lesson:
    """The clip in one sentence."""
    return Lesson("free-form", "Describe the clip in one sentence.", sentence(scene.spec))


def numerical(scene: Scene, _rng: np.random.Generator, _level: float) -> Lesson:
    """How many lamps are lit."""
    return Lesson("numerical", "How many lamps are lit?", str(scene.spec.lamps))


def ocr(scene: Scene, _rng: np.random.Generator, _level: float) -> Lesson:
    """The two digits on the sign."""
    return Lesson("OCR", "What number is on the sign?", scene.spec.sign or "none")


def regression(scene: Scene, _rng: np.random.Generator, _level: float) -> Lesson:
    """The subject's mean horizontal position, 0 to 100."""
    return Lesson("regression", "Where is the subject from left (0) to right (100)?", str(scene.middle))


def verification(scene: Scene, rng: np.random.Generator, level: float) -> Lesson:
    """Whether a clause holds: yes or no."""
    width = 1 if rng.random() > level else int(rng.integers(1, 4))
    true = bool(rng.random() < 0.5)
    clause = true_clause(scene.words, rng, width) if true else false_clause(scene.words, rng, width)
    return Lesson("verification", f"Is it {clause_text(clause)}?", "yes" if true else "no")


def multiple_choice(scene: Scene, rng: np.random.Generator, _level: float) -> Lesson:
    """The letter of the right word."""
    name = _pick(rng, list(DIMENSIONS))
    count = min(len(DIMENSIONS[name]), int(rng.integers(2, 5)))
    options = [scene.words[name], *_others(rng, name, scene.words[name], count - 1)]
    order = rng.permutation(count)
    texts = [f"{letter}: {bare_text(name, options[i])}." for letter, i in zip("ABCD", order, strict=False)]
    right = "ABCD"[int(np.argmin(order))]
    return Lesson("multiple choice", f"{_ASKED[name][0]} {' '.join(texts)}", right)


# Labels --------------------------------------------------------------------------------------------------------------


def true_clause(words: dict[str, str], rng: np.random.Generator, width: int) -> dict[str, str]:
    """A clause of `width` attributes that the clip fulfils."""
    names = [list(DIMENSIONS)[i] for i in sorted(rng.permutation(len(DIMENSIONS))[:width])]
    return {name: words[name] for name in names}


def false_clause(words: dict[str, str], rng: np.random.Generator, width: int) -> dict[str, str]:
    """A clause that the clip does not fulfil: one or more of its attributes are others."""
    clause = true_clause(words, rng, width)
    names = list(clause)
    wrong = {_pick(rng, names), *(name for name in names if rng.random() < 0.4)}
    return {name: _others(rng, name, word, 1)[0] if name in wrong else word for name, word in clause.items()}


def bare_labels(scene: Scene, rng: np.random.Generator, _level: float) -> Lesson:
    """Labels that speak for themselves: `dog. cat. bear.`"""
    name = _pick(rng, list(DIMENSIONS))
    count = min(len(DIMENSIONS[name]), int(rng.integers(2, 5)))
    options = [scene.words[name], *_others(rng, name, scene.words[name], count - 1)]
    shuffled = [options[i] for i in rng.permutation(count)]
    return Lesson("bare labels", label_prompt(dict.fromkeys(shuffled, "")), scene.words[name])


def _clauses(words: dict[str, str], rng: np.random.Generator, fits: bool, level: float) -> list[Clause]:
    """One label's alternatives; at least one of them holds if and only if the label fits."""
    count = 1 + int(rng.integers(0, 4)) if rng.random() < level else 1
    widths = [2 if rng.random() < 0.6 * level else 1 for _ in range(count)]
    clauses: list[Clause] = [false_clause(words, rng, width) for width in widths]
    if fits:
        clauses[int(rng.integers(count))] = true_clause(words, rng, int(_pick(rng, widths)))
    return clauses


def defined_labels(scene: Scene, rng: np.random.Generator, level: float) -> Lesson:
    """Labels whose meaning only the prompt gives: `alarm: a dog. ok: anything else.`"""
    words = scene.words
    labels = list(_pick(rng, LABEL_SETS))
    count = len(labels) if len(labels) == 2 or rng.random() > 0.5 * level else min(len(labels), 3)
    count = 2 if rng.random() > level else count
    labels = [labels[i] for i in rng.permutation(len(labels))[:count]]
    right = int(rng.integers(count))
    texts = []
    if rng.random() > 0.7 * level + 0.1:
        texts = _same_dimension(words, rng, right, count)
    else:
        rest = int(rng.integers(count)) if rng.random() < 0.75 else -1
        for index in range(count):
            clauses = _clauses(words, rng, index == right, level)
            texts.append("anything else" if index == rest else definition_text(clauses, rng))
    return Lesson("defined labels", label_prompt(dict(zip(labels, texts, strict=True))), labels[right])


def _same_dimension(words: dict[str, str], rng: np.random.Generator, right: int, count: int) -> list[str]:
    """The easiest definitions: one word a label, all of one dimension."""
    names = [name for name in DIMENSIONS if len(DIMENSIONS[name]) >= count]
    name = _pick(rng, names)
    shown = _others(rng, name, words[name], count - 1)
    shown.insert(right, words[name])
    return [bare_text(name, word) for word in shown]


# The mixture ---------------------------------------------------------------------------------------------------------

_MIXTURE: dict[Callable[[Scene, np.random.Generator, float], Lesson], tuple[float, float]] = {
    rationale: (0.08, 0.27),
    attribute: (0.08, 0.07),
    free_form: (0.00, 0.04),
    numerical: (0.02, 0.03),
    ocr: (0.02, 0.04),
    regression: (0.02, 0.04),
    verification: (0.24, 0.12),
    multiple_choice: (0.18, 0.09),
    bare_labels: (0.04, 0.04),
    defined_labels: (0.32, 0.26),
}
"""Shares at level 0 and at level 1. Comparing words with a clip comes first: it takes longest to be found."""
_ASKS = list(_MIXTURE)
_FIRST, _LAST = np.asarray(list(_MIXTURE.values())).T
THINK_SHARE = 0.12
NOTES_SHARE = 0.06


def with_thought(lesson: Lesson, scene: Scene, rng: np.random.Generator) -> Lesson:
    """The same question, answered after a description: `<think>…</think><answer>x</answer>`."""
    answer = f"<think>{describe(scene.spec)}</think><answer>{lesson.answer}</answer>"
    return Lesson(f"{lesson.kind}, thinking", f"{lesson.prompt} {_pick(rng, THINK_FIRST)}", answer)


def with_notes(lesson: Lesson, scene: Scene) -> Lesson:
    """The same question with the true description before it, as a rationale stands in a conversation."""
    return Lesson(f"{lesson.kind}, notes", f"{describe(scene.spec)} {lesson.prompt}", lesson.answer)


def draw_lesson(scene: Scene, rng: np.random.Generator, level: float) -> Lesson:
    """One question of the mixture."""
    shares = _FIRST + (_LAST - _FIRST) * level
    lesson = _ASKS[int(rng.choice(len(_ASKS), p=shares / shares.sum()))](scene, rng, level)
    if lesson.kind in ("rationale", "free-form"):
        return lesson
    if lesson.kind == "defined labels" and rng.random() < NOTES_SHARE:
        return with_notes(lesson, scene)
    return with_thought(lesson, scene, rng) if rng.random() < THINK_SHARE else lesson


def level_at(share: float) -> float:
    """The level of difficulty after `share` of the language phase: single attributes first, all by 70 %."""
    return float(np.clip((share - 0.2) / 0.5, 0.0, 1.0))
