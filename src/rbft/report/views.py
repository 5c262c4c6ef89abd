"""What the template needs, worked out beforehand: positions in per cent, shares, shortened texts. No HTML here."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from rbft.evaluation.curve import curve_words
from rbft.records import LeftOut
from rbft.report.figures import (
    CurveRange,
    LossRange,
    Plot,
    StripFrame,
    curve_plot,
    film_strip,
    loss_plot,
    loss_summary,
    reliability_plot,
)
from rbft.report.material import ArmAnswer, DroppedExample, ExampleClip, LossCurve, Measure, ReportMaterial
from rbft.report.tables import Row
from rbft.results import ArmReport, Comparison, QuestionArm, Report

MAX_EXAMPLES = 12
MAX_BARS = 4
NUM_COLOURS = 7


@dataclass(frozen=True)
class Scale:
    """A horizontal axis: `low` and `high` stand at 0 and 100 per cent of the width."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> str:
        """Where a value stands, as a CSS or SVG percentage within the axis."""
        share = (value - self.low) / (self.high - self.low)
        return f"{100 * min(1.0, max(0.0, share)):.2f}%"


def accuracy_scale(rows: Iterable[Row]) -> Scale:
    """Tens of per cent that hold every accuracy and its interval, with about five ticks."""
    values = [row.values["accuracy"] for row in rows if "accuracy" in row.values]
    low = min(v.mean if v.low is None else v.low for v in values)
    high = max(v.mean if v.high is None else v.high for v in values)
    bottom, top = max(0, math.floor(low * 10 - 0.2)), min(10, math.ceil(high * 10 + 0.2))
    step = 1 if top - bottom <= 5 else 2
    return Scale(bottom / 10, top / 10, tuple(t / 10 for t in range(bottom, top + 1, step)))


def difference_scale(comparisons: Sequence[Comparison]) -> Scale:
    """Symmetric about zero, wide enough for every interval."""
    reach = max((abs(v) for c in comparisons for v in (c.low, c.high, c.difference)), default=0.0)
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if reach <= 4 * s or s == 0.5)
    edge = max(reach, step) * 1.12
    most = math.floor(edge / step)
    return Scale(-edge, edge, tuple(k * step for k in range(-most, most + 1)))


@dataclass(frozen=True)
class Pair:
    """All comparisons of the same two arms, one for each metric."""

    a: str
    b: str
    comparisons: tuple[Comparison, ...]


def pairs_of(comparisons: Sequence[Comparison]) -> list[Pair]:
    """Comparisons grouped by their arms, in order of first appearance."""
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for comparison in comparisons:
        groups.setdefault((comparison.a, comparison.b), []).append(comparison)
    return [Pair(a, b, tuple(found)) for (a, b), found in groups.items()]


def uses_rationales(report: Report, arm: str) -> bool:
    """Whether one of the arm's stages trains on rationales."""
    return arm in report.arms and any(stage.startswith("rationale") for stage in report.arms[arm].stages)


def arm_colours(arms: Mapping[str, ArmReport | QuestionArm]) -> dict[str, str]:
    """CSS class of each arm: grey for an arm that trains nothing, the palette in order for the others."""
    classes, used = {}, 0
    for name, arm in arms.items():
        classes[name] = f"arm-{used % NUM_COLOURS}" if arm.stages else "arm-untrained"
        used += bool(arm.stages)
    return classes


# -- confusion -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConfusionCell:
    """A count and its share of the row, which is the depth of its colour."""

    count: int
    share: float
    right: bool


@dataclass(frozen=True)
class ConfusionRow:
    """All clips of one true label."""

    label: str
    total: int
    cells: tuple[ConfusionCell, ...]


def confusion_rows(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> list[ConfusionRow]:
    """Rows are true labels; columns predicted labels, then unreadable."""
    rows = []
    for i, (label, row) in enumerate(zip(labels, counts, strict=True)):
        total = sum(row)
        cells = tuple(ConfusionCell(n, n / total if total else 0.0, i == j) for j, n in enumerate(row))
        rows.append(ConfusionRow(label, total, cells))
    return rows


# -- plots ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """A plot of one arm with its caption."""

    arm: str
    title: str
    caption: str
    plot: Plot


def loss_panels(curves: Sequence[LossCurve]) -> list[Panel]:
    """A panel for each measure of each stage of each arm; panels of one kind share their axes."""
    groups: dict[tuple[str, str, Measure], list[LossCurve]] = {}
    for curve in curves:
        groups.setdefault((curve.arm, curve.stage, curve.measure), []).append(curve)
    panels = []
    for index, ((arm, stage, measure), group) in enumerate(groups.items()):
        shared = LossRange.of(curve for curve in curves if (curve.stage, curve.measure) == (stage, measure))
        plot = loss_plot(group, shared, f"loss{index}")
        title = f"{stage} stage{_MEASURED[measure]}"
        panels.append(Panel(arm, title, loss_summary(group), plot))
    return panels


_MEASURED: dict[Measure, str] = {
    "loss": "",
    "reward": ": mean reward of sampled answers",
    "accuracy": ": mean accuracy of sampled answers",
    "semantic": ": mean semantic reward of sampled answers",
    "kl": ": divergence from its parent",
    "length": ": length of sampled answers",
}


def reliability_panels(report: Report, material: ReportMaterial) -> list[Panel]:
    """A panel for each arm that has bins, captioned with its calibration error."""
    panels = []
    for index, (name, bins) in enumerate(material.reliability.items()):
        arm = report.arms.get(name)
        error = arm.calibration_error if arm else None
        caption = (
            f"calibration error {100 * error.mean:.1f} % ({100 * error.low:.1f}–{100 * error.high:.1f})"
            if error
            else ""
        )
        panels.append(Panel(name, "", caption, reliability_plot(name, bins, f"rel{index}")))
    return panels


def curve_panels(report: Report) -> list[Panel]:
    """A panel for each arm that has a learning curve; all share their axes."""
    shared = CurveRange.of(report.learning_curve.values())
    panels = []
    for index, (name, curve) in enumerate(report.learning_curve.items()):
        plot = curve_plot(name, curve, shared, f"curve{index}")
        panels.append(Panel(name, "", curve_words(name, curve), plot))
    return panels


# -- examples ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """The probability of one label."""

    label: str
    share: float
    is_truth: bool


@dataclass(frozen=True)
class AnswerView:
    """One arm's answer about one clip."""

    arm: str
    label: str | None
    right: bool | None
    bars: tuple[Bar, ...]
    num_more: int
    text: str | None


@dataclass(frozen=True)
class ExampleView:
    """One card of the film-strip section."""

    clip: ExampleClip
    num_frames: int
    strip: list[StripFrame]
    answers: list[AnswerView]


def example_views(examples: Sequence[ExampleClip]) -> list[ExampleView]:
    """At most twelve cards in the given order; where there are more, up to half are clips that some arm got wrong."""
    missed = [i for i, example in enumerate(examples) if example.is_missed]
    chosen = set(missed[: MAX_EXAMPLES // 2])
    for i in range(len(examples)):
        if len(chosen) >= MAX_EXAMPLES:
            break
        chosen.add(i)
    return [_example_view(examples[i]) for i in sorted(chosen)]


def _example_view(example: ExampleClip) -> ExampleView:
    answers = [_answer_view(arm, answer, example.label) for arm, answer in example.arms.items()]
    return ExampleView(example, len(example.frames), film_strip(example), answers)


def _answer_view(arm: str, answer: ArmAnswer, truth: str | None) -> AnswerView:
    """Bars in the labels' order; with many labels only the likeliest, the truth and the answer."""
    order = list(answer.probabilities)
    if len(order) > MAX_BARS:
        wanted = [label for label in (truth, answer.label) if label is not None and label in answer.probabilities]
        wanted += sorted(order, key=lambda label: -answer.probabilities[label])
        order = [label for label in order if label in list(dict.fromkeys(wanted))[:MAX_BARS]]
    bars = tuple(Bar(label, answer.probabilities[label], label == truth) for label in order)
    right = None if truth is None else answer.label == truth
    return AnswerView(arm, answer.label, right, bars, len(answer.probabilities) - len(order), answer.text)


# -- lists ---------------------------------------------------------------------------------------------------------


def dropped_examples(dropped: Sequence[DroppedExample], limit: int) -> list[DroppedExample]:
    """At most `limit`, taken from every first reason in turn, so that a rare reason is shown too."""
    queues: dict[str, list[DroppedExample]] = {}
    for item in dropped:
        queues.setdefault(item.reasons[0] if item.reasons else "", []).append(item)
    rounds = itertools.zip_longest(*queues.values())
    return [item for turn in rounds for item in turn if item is not None][:limit]


def left_out_counts(left_out: Sequence[LeftOut]) -> list[tuple[str, int]]:
    """How many clips each reason left out, the most frequent first."""
    return sorted(Counter(item.reason for item in left_out).items(), key=lambda pair: (-pair[1], pair[0]))


def settings_yaml(experiment: dict[str, Any]) -> str:
    """The experiment as YAML that `rbft run` reads again."""
    return yaml.dump(experiment, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True, width=100)


class _PlainDumper(yaml.SafeDumper):
    """Writes repeated values again instead of pointing to them, since experiment files know no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# -- text ----------------------------------------------------------------------------------------------------------


def first_sentence(text: str) -> tuple[str, str]:
    """A text as its first sentence and the rest."""
    parts = re.split(r"(?<=[.!?])\s+(?=[A-Z])", text, maxsplit=1)
    return parts[0], parts[1] if len(parts) > 1 else ""


def cut(text: str, limit: int = 1_200) -> str:
    """At most `limit` characters, and how many more there were."""
    return text if len(text) <= limit else f"{text[:limit].rstrip()} … ({len(text) - limit:,} more characters)"


def duration(seconds: float) -> str:
    """`0.4 s`, `42 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def instant(seconds: float) -> str:
    """A time stamp: `0:03.5`, `12:07.0`."""
    tenths = round(seconds * 10)
    return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"
