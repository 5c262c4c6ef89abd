"""What to use, how sure, what more clips would buy: the words at the top of the report.

The arm to use is the simplest of those that beat every answer that needs no model and that no other arm is shown to
beat, in accuracy or in macro F1. What *shown* means, and why p is corrected: `docs/statistics.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rbft.evaluation.curve import interval_words, more_clips
from rbft.evaluation.significance import ALPHA
from rbft.evaluation.verdict import CANNOT_TELL, HELPED, HURT, Metric, p_words
from rbft.results import Advice, ArmCurve, ArmReport, Comparison, DatasetReport

CONTROL = "direct-matched"


@dataclass(frozen=True)
class Floor:
    """The strongest answer that needs no model: what it is in words, its accuracy, and every arm minus it."""

    words: str
    accuracy: float
    comparisons: Mapping[str, Comparison]


@dataclass(frozen=True)
class Evidence:
    """What the words are made of. `checkpoints` are paths by arm, of the first seed, where an arm was trained."""

    arms: Mapping[str, ArmReport]
    comparisons: Sequence[Comparison]
    dataset: DatasetReport
    floor: Floor
    checkpoints: Mapping[str, str]
    curves: Mapping[str, ArmCurve]


@dataclass(frozen=True)
class _Judged:
    """A comparison with its p after correction for `family` comparisons that were made together."""

    comparison: Comparison
    p: float
    family: int

    @property
    def shown(self) -> bool:
        """Whether the difference is beyond chance: the corrected p and the interval say so."""
        return self.p < ALPHA and not self.comparison.low <= 0.0 <= self.comparison.high


def advise(evidence: Evidence) -> tuple[str, Advice]:
    """The headline, which says what to use, and the rest of the advice."""
    arm = recommended(evidence)
    subject = arm or most_accurate(evidence.arms)
    checkpoint = None if arm is None else evidence.checkpoints.get(arm)
    advice = Advice(
        arm=arm,
        checkpoint=checkpoint,
        floor=evidence.floor.comparisons[subject],
        how_sure=_how_sure(evidence, subject, used=arm is not None),
        more_clips=more_clips(evidence.curves, subject, evidence.arms),
    )
    return _what_to_use(evidence, arm, checkpoint), advice


def most_accurate(arms: Mapping[str, ArmReport]) -> str:
    """The arm with the highest accuracy, the simplest among equals."""
    return max(sorted(arms, key=lambda name: _complexity(arms[name])), key=lambda name: arms[name].accuracy.mean)


def recommended(evidence: Evidence) -> str | None:
    """The simplest arm that is shown to beat the floor and that no other arm is shown to beat; None: no such arm.

    Beaten is an arm in accuracy or in macro F1. Where that leaves none, because one arm is better in the one and
    another in the other, accuracy decides.
    """
    above = _corrected(list(evidence.floor.comparisons.values()))
    standing = {j.comparison.b for j in above if j.shown and j.comparison.difference > 0}
    simplest = sorted(standing, key=lambda name: (_complexity(evidence.arms[name]), list(evidence.arms).index(name)))
    by_metric: tuple[tuple[Metric, ...], ...] = (("accuracy", "macro_f1"), ("accuracy",))
    for metrics in by_metric:
        for name in simplest:
            judged = [j for metric in metrics for j in _against_others(evidence, name, metric)]
            if not any(j.shown and j.comparison.difference < 0 for j in judged):
                return name
    return None


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the smallest p times their number, the next times one less, never falling."""
    adjusted = [0.0] * len(p_values)
    reached = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = reached
    return adjusted


def _complexity(arm: ArmReport) -> tuple[bool, int, int]:
    """Simpler first: no rationales, then fewer stages, then fewer optimizer steps."""
    return _writes(arm), len(arm.stages), arm.num_steps


def _writes(arm: ArmReport) -> bool:
    return any(stage.startswith("rationale") for stage in arm.stages)


# -- comparisons ---------------------------------------------------------------------------------------------------


def _corrected(comparisons: Sequence[Comparison]) -> list[_Judged]:
    adjusted = holm([c.p for c in comparisons])
    return [_Judged(c, p, len(comparisons)) for c, p in zip(comparisons, adjusted, strict=True)]


def _against_others(evidence: Evidence, name: str, metric: Metric) -> list[_Judged]:
    """An arm minus each other arm. The planned comparison keeps its own p; the rest are corrected together."""
    planned = planned_comparison(evidence.arms, evidence.comparisons, metric)
    pair = set() if planned is None else {planned.a, planned.b}
    turned = [c if c.b == name else _mirrored(c) for c in evidence.comparisons
              if c.metric == metric and name in (c.a, c.b)]  # fmt: skip
    alone = [_Judged(c, c.p, 1) for c in turned if {c.a, c.b} == pair]
    return alone + _corrected([c for c in turned if {c.a, c.b} != pair])


def planned_comparison(
    arms: Mapping[str, ArmReport], comparisons: Sequence[Comparison], metric: Metric = "accuracy"
) -> Comparison | None:
    """The comparison that isolates rationales, fixed before any result: with minus without them.

    Against the trained arm with the nearest number of optimizer steps; the first one where several are as near.
    """
    known = [c for c in comparisons if c.metric == metric and c.a in arms and c.b in arms]
    turned = [_mirrored(c) if _writes(arms[c.a]) else c for c in known if _writes(arms[c.a]) != _writes(arms[c.b])]
    trained = [c for c in turned if arms[c.a].stages]
    return min(trained, key=lambda c: abs(arms[c.a].num_steps - arms[c.b].num_steps), default=None)


def _mirrored(c: Comparison) -> Comparison:
    """The same comparison, a minus b."""
    words = {HELPED: HURT, HURT: HELPED}.get(c.verdict, c.verdict)
    changed = {"a": c.b, "b": c.a, "difference": -c.difference, "low": -c.high, "high": -c.low, "verdict": words}
    return c.model_copy(update=changed)


# -- what to use ---------------------------------------------------------------------------------------------------


def _what_to_use(evidence: Evidence, arm: str | None, checkpoint: str | None) -> str:
    floor, test = evidence.floor, evidence.dataset.test
    if arm is None:
        best = most_accurate(evidence.arms)
        return (
            f"Use none of these yet: no arm is shown to beat {floor.words}, which labels "
            f"{100 * floor.accuracy:.1f} % of {test} test clips correctly. The best arm, {best}, labels "
            f"{100 * evidence.arms[best].accuracy.mean:.1f} %."
        )
    use = (
        f"Use {arm}: it labels {100 * evidence.arms[arm].accuracy.mean:.1f} % of {test} test clips correctly; "
        f"{floor.words} gets {100 * floor.accuracy:.1f} %."
    )
    if checkpoint is None:
        return f"{use} It is the model as it came, without training."
    return f"{use} Its checkpoint is {checkpoint}."


# -- how sure ------------------------------------------------------------------------------------------------------


def _how_sure(evidence: Evidence, name: str, *, used: bool) -> str:
    """The ranges of an arm, its distance to its neighbours (where it is of no use: to the floor), and rationales."""
    planned = planned_comparison(evidence.arms, evidence.comparisons)
    sentences = [_range(name, evidence.arms[name])]
    sentences += _neighbours(evidence, name, planned) if used else [_to_floor(evidence, name)]
    if planned is not None:
        sentences.append(_rationales(planned))
    return " ".join(sentences + (_in_macro_f1(evidence, name) if used else []))


def _to_floor(evidence: Evidence, name: str) -> str:
    judged = next(j for j in _corrected(list(evidence.floor.comparisons.values())) if j.comparison.b == name)
    return f"It is {_apart(judged)}."


def _neighbours(evidence: Evidence, name: str, planned: Comparison | None) -> list[str]:
    """An arm against the most accurate other one and against the control; the planned comparison has its own words."""
    judged = {j.comparison.a: j for j in _against_others(evidence, name, "accuracy")}
    told = set() if planned is None else {planned.a, planned.b}
    runner_up = max(judged, key=lambda other: evidence.arms[other].accuracy.mean, default=None)
    named = {CONTROL: ", the control with as many steps as rb-ft"}
    if runner_up is not None:
        named = {runner_up: ", the runner-up"} | named
    sentences = []
    for other, role in named.items():
        if other not in judged or {name, other} == told:
            continue
        ahead = judged[other].comparison.difference < 0
        first = f"{other} came out higher and is not shown to be better: {name}" if ahead else "It"
        sentences.append(f"{first} is {_apart(judged[other], '' if ahead else role)}.")
    return sentences


def _range(name: str, arm: ArmReport) -> str:
    seeds = f"{len(arm.seeds)} seeds" if len(arm.seeds) > 1 else "one seed: another training may differ more"
    if not arm.stages:
        seeds = "over clips"
    accuracy, macro = arm.accuracy, arm.macro_f1
    return (
        f"The accuracy of {name} lies between {100 * accuracy.low:.1f} and {100 * accuracy.high:.1f} %, its macro-F1 "
        f"between {100 * macro.low:.1f} and {100 * macro.high:.1f} % (95 % intervals, {seeds})."
    )


def _apart(judged: _Judged, what: str = "") -> str:
    """`4.0 points over direct, the runner-up (95 % interval …, p = …; …)`."""
    c = judged.comparison
    corrected = f" after correction for {judged.family} comparisons" if judged.family > 1 else ""
    could = "these clips are too few to show any difference"
    if c.smallest_detectable < 1.0:
        could = f"these clips can show {100 * c.smallest_detectable:.1f} points or more"
    return f"{_size(c)}{what} ({interval_words(c)}, {p_words(judged.p)}{corrected}; {could})"


def _size(c: Comparison) -> str:
    apart = f"{abs(100 * c.difference):.1f}"
    return f"level with {c.a}" if apart == "0.0" else f"{apart} points {'over' if c.difference > 0 else 'below'} {c.a}"


def _rationales(planned: Comparison) -> str:
    range_ = f"{interval_words(planned)}, {p_words(planned.p)}"
    if planned.verdict in (HELPED, HURT):
        could = f"these clips can show {100 * planned.smallest_detectable:.1f} points or more"
        return f"Rationales {planned.verdict}: {planned.b} is {_size(planned)} ({range_}; {could})."
    rest = planned.verdict.removeprefix(CANNOT_TELL)
    return f"Whether rationales help, these clips cannot tell{rest} ({planned.b} is {_size(planned)}, {range_})."


def _in_macro_f1(evidence: Evidence, name: str) -> list[str]:
    """Where an arm is shown to beat the one to use in macro F1: which, and by how much."""
    better = [j for j in _against_others(evidence, name, "macro_f1") if j.shown and j.comparison.difference < 0]
    if not better:
        return []
    most = min(better, key=lambda j: j.comparison.difference)
    turned = _Judged(_mirrored(most.comparison), most.p, most.family)
    return [f"Where rare labels matter as much as frequent ones, take {most.comparison.a}: "
            f"its macro-F1 is {_apart(turned)}."]  # fmt: skip
