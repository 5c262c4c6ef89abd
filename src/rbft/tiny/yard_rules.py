"""What the night yard's labels mean: rules over the words of a description, and how clips of each label are drawn.

A label is a list of clauses, any of which must hold; the first label is everything else. The definition that a model
reads is written from the same clauses, so the text and the rule cannot drift apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from rbft.tiny.language import clause_text

Clause = dict[str, str]
Kinds = tuple[tuple[float, Clause], ...]
"""Kinds of clips: their shares, and the words that are fixed in each."""


@dataclass(frozen=True)
class LabelRule:
    """`rest` is the label of all other clips; `near` are its kinds, which share words with the labels of `kinds`.

    `shares` says how the clips that are not `rest` divide into the labels of `kinds`, in the same order.
    """

    rest: str
    near: Kinds
    kinds: Mapping[str, Kinds]
    shares: tuple[float, ...] = (1.0,)
    rest_share: float = 0.5

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, `rest` first."""
        return (self.rest, *self.kinds)

    @property
    def definitions(self) -> dict[str, str]:
        """Label to its one-line definition, as an experiment's `labels` take it."""
        return {self.rest: "anything else"} | {label: _any_of(kinds) for label, kinds in self.kinds.items()}

    def label_of(self, words: Mapping[str, str]) -> str:
        """The label of a clip with these words; one that is not told ("") fulfils no clause."""
        for label, kinds in self.kinds.items():
            if any(all(words[name] == word for name, word in clause.items()) for _, clause in kinds):
                return label
        return self.rest

    def kinds_of(self, label: str) -> Kinds:
        """The kinds of clips that are drawn for a label."""
        return self.near if label == self.rest else self.kinds[label]


def _any_of(kinds: Kinds) -> str:
    *first, last = [clause_text(clause) for _, clause in kinds]
    return f"{', '.join(first)} or {last}" if first else last


_BEAR, _TRUCK, _PERSON = {"subject": "bear"}, {"subject": "truck"}, {"subject": "person"}
_FALLING = {"action": "falling"}
_CLIMBER = {"subject": "person", "action": "climbing"}
_GARDEN_TRUCK = {"subject": "truck", "scene": "garden"}

# Rest clips of each rule share a word with a clause, so that the rule is needed; two fifths of them or fewer are free.
_NEAR_ATTRIBUTE: Kinds = ((0.30, {"subject": "car"}), (0.30, {"subject": "dog"}), (0.40, {}))
_NEAR_TWO: Kinds = ((0.38, _PERSON), (0.34, {"action": "climbing"}), (0.28, {}))
_NEAR_THREE: Kinds = (
    (0.28, _PERSON),
    (0.22, {"action": "climbing"}),
    (0.18, _TRUCK),
    (0.14, {"scene": "garden"}),
    (0.18, {}),
)

# MultiHateClip's English labels stand at 65 / 26 / 9 %.
_THREE_LABELS = (26 / 35, 9 / 35)


def _graded(near: Kinds, ask: Kinds, alarm: Kinds) -> LabelRule:
    """Three labels. No clip can fulfil a clause of two of them, so their order does not matter."""
    return LabelRule("normal", near, {"ask": ask, "alarm": alarm}, _THREE_LABELS, rest_share=0.65)


RULES: dict[tuple[str, str], LabelRule] = {
    ("attribute", "two"): LabelRule(
        "normal", _NEAR_ATTRIBUTE, {"abnormal": ((0.34, _BEAR), (0.33, _TRUCK), (0.33, _PERSON))}
    ),
    ("two", "two"): LabelRule("normal", _NEAR_TWO, {"abnormal": ((0.34, _BEAR), (0.30, _FALLING), (0.36, _CLIMBER))}),
    ("three", "two"): LabelRule(
        "normal",
        _NEAR_THREE,
        {"abnormal": ((0.30, _BEAR), (0.22, _FALLING), (0.26, _CLIMBER), (0.22, _GARDEN_TRUCK))},
    ),
    ("attribute", "three"): _graded(_NEAR_ATTRIBUTE, ((0.5, _TRUCK), (0.5, _PERSON)), ((1.0, _BEAR),)),
    ("two", "three"): _graded(_NEAR_TWO, ((0.55, _BEAR), (0.45, _FALLING)), ((1.0, _CLIMBER),)),
    ("three", "three"): _graded(
        _NEAR_THREE, ((0.40, _BEAR), (0.30, _FALLING), (0.30, _GARDEN_TRUCK)), ((1.0, _CLIMBER),)
    ),
}
"""By abstraction (over how many dimensions the rule goes) and number of labels."""
