"""The dials of the night yard: how far it is from the world that the model knows, and what its labels ask for."""

import difflib
import math
from dataclasses import dataclass

from rbft.errors import UserError
from rbft.tiny.shift import MAX_SEVERITY, SEVERITIES
from rbft.tiny.yard_rules import RULES, LabelRule

RULE_NAMES = ("attribute", "two", "three")
LABEL_COUNTS = ("two", "three")
DISTRACTORS: dict[str, tuple[int | str, int | str, int | str]] = {
    "lamps": (0, 1, 2),
    "light": ("day", "dusk", "night"),
}
"""Attributes that no rule uses, and their value for the first, the middle and the last label; test clips have all."""


@dataclass(frozen=True)
class YardDials:
    """Everything that a yard's clips depend on, but their number and seed.

    `severity` of the shift: 0 none, 1 hard (`SEVERITIES` names five steps). `rule`: over how many dimensions the labels
    go. `labels`: two, or three at 65, 26 and 9 %. `balance`: the share of clips that are not normal, None for the
    rule's own (0.5, or 0.35 with three labels). `distractor`: the share of training clips, labelled or not, in which
    `distractor_on` tells the label; in the others, and in every test clip, it says nothing.

    Raises UserError with every fault.
    """

    severity: float = SEVERITIES["medium"]
    rule: str = "three"
    labels: str = "two"
    balance: float | None = None
    distractor: float = 0.0
    distractor_on: str = "lamps"

    def __post_init__(self) -> None:
        faults = [
            _range_fault("severity", self.severity, 0, MAX_SEVERITY),
            _choice_fault("rule", self.rule, RULE_NAMES),
            _choice_fault("labels", self.labels, LABEL_COUNTS),
            None if self.balance is None else _range_fault("balance", self.balance, 0, 1, open_ends=True),
            _range_fault("distractor", self.distractor, 0, 1),
            _choice_fault("distractor_on", self.distractor_on, tuple(DISTRACTORS)),
        ]
        if any(faults):
            raise UserError([fault for fault in faults if fault])

    @property
    def label_rule(self) -> LabelRule:
        """The rule behind the labels."""
        return RULES[self.rule, self.labels]

    @property
    def shares(self) -> dict[str, float]:
        """The share of clips that each label is drawn with, the first label first."""
        rule = self.label_rule
        marked = 1 - rule.rest_share if self.balance is None else self.balance
        others = dict(zip(rule.kinds, (marked * share for share in rule.shares), strict=True))
        return {rule.rest: 1 - marked} | others

    @property
    def even(self) -> bool:
        """Whether every label has the same share by itself: two labels, and no `balance` set."""
        return self.labels == "two" and self.balance is None

    def distracting_value(self, label: str) -> int | str:
        """What the distractor shows in a training clip with this label."""
        labels = self.label_rule.labels
        values = DISTRACTORS[self.distractor_on]
        return values[0] if label == labels[0] else values[-1] if label == labels[-1] else values[1]


def _range_fault(name: str, value: object, low: float, high: float, *, open_ends: bool = False) -> str | None:
    allowed = f"a number {'between' if open_ends else 'from'} {low:g} {'and' if open_ends else 'to'} {high:g}"
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        inside = low < value < high if open_ends else low <= value <= high
        return None if inside else f"{name} is {value:g}; give {allowed}"
    return f"{name} is {value!r}; give {allowed}"


def _choice_fault(name: str, value: object, allowed: tuple[str, ...]) -> str | None:
    if value in allowed:
        return None
    close = difflib.get_close_matches(str(value), allowed, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{name} is {value!r}{hint} give one of {', '.join(allowed)}"
