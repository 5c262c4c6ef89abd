"""What to use, how sure: every sentence by hand."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbft.evaluation.advice import Evidence, Floor, advise, holm, most_accurate, planned_comparison, recommended
from rbft.evaluation.curve import HOW_TO_ASK, NOTHING_TRAINED
from rbft.results import ArmReport, Comparison, DatasetReport, Estimate

STAGES: dict[str, tuple[str, ...]] = {
    "zero-shot": (), "direct": ("label",), "direct-matched": ("label",), "rb-ft": ("rationale P+R", "label"),
    "rb-ft-joint": ("rationale and label P+R",),
}  # fmt: skip
STEPS = {"zero-shot": 0, "direct": 10, "direct-matched": 20, "rb-ft": 20, "rb-ft-joint": 20}
TELL = "these clips cannot tell: the smallest difference they could show is 9.0 points"
CONSTANT = "always answering 'normal'"
DATASET = DatasetReport(
    train=400, test=100, unlabelled=0, left_out=0, labels={"normal": 50, "abnormal": 50},
    train_labels={"normal": 200, "abnormal": 200}, majority_label="normal", majority_accuracy=0.5,
)  # fmt: skip


def arm(name: str, accuracy: float, seeds: int = 3) -> ArmReport:
    def about(mean: float) -> Estimate:
        return Estimate(mean=mean, low=mean - 0.05, high=mean + 0.06, per_seed=(mean,) * seeds)

    return ArmReport(
        seeds=tuple(range(seeds)), stages=STAGES[name], num_steps=STEPS[name], accuracy=about(accuracy),
        macro_f1=about(accuracy - 0.02), f1={}, confusion=[], unreadable_rate=0.0,
    )  # fmt: skip


def compared(
    a: str, b: str, difference: float, p: float, metric: Any = "accuracy", smallest: float = 0.09
) -> Comparison:
    verdict = TELL if p >= 0.05 else "helped" if difference > 0 else "hurt"
    width = 0.04 if p < 0.05 else 0.3
    return Comparison(
        a=a, b=b, metric=metric, difference=difference, low=difference - width, high=difference + width, p=p,
        smallest_detectable=smallest, verdict=verdict,
    )  # fmt: skip


def evidence(
    accuracies: Mapping[str, float],
    p_values: Mapping[tuple[str, str], float] | None = None,
    *,
    floor: float = 0.5,
    seeds: int = 3,
    macro: tuple[Comparison, ...] = (),
) -> Evidence:
    """Arms of these accuracies; pairs differ with p = 0.001 where they are 5 points apart, or with the p given."""

    def p_of(a: str, b: str) -> float:
        apart = abs(accuracies.get(a, floor) - accuracies.get(b, floor))
        return (p_values or {}).get((a, b), 0.001 if apart > 0.05 else 0.4)

    pairs = [(a, b, accuracies[b] - accuracies[a]) for a, b in combinations(accuracies, 2)]
    return Evidence(
        arms={name: arm(name, accuracy, seeds if STAGES[name] else 1) for name, accuracy in accuracies.items()},
        comparisons=(*(compared(a, b, d, p_of(a, b)) for a, b, d in pairs), *macro),
        dataset=DATASET,
        floor=Floor(CONSTANT, floor, {
            name: compared(CONSTANT, name, accuracy - floor, p_of(CONSTANT, name))
            for name, accuracy in accuracies.items()
        }),
        checkpoints={name: f"checkpoints/{name}" for name in accuracies if STAGES[name]},
        curves={},
    )  # fmt: skip


# -- which arm -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accuracies", "use"),
    [
        ({"zero-shot": 0.55, "direct": 0.70, "direct-matched": 0.72, "rb-ft": 0.86}, "rb-ft"),
        ({"zero-shot": 0.55, "direct": 0.70, "direct-matched": 0.80, "rb-ft": 0.83}, "direct-matched"),
        ({"rb-ft": 0.72, "direct-matched": 0.71, "direct": 0.70, "zero-shot": 0.55}, "direct"),
        ({"zero-shot": 0.70, "direct": 0.71}, "zero-shot"),
        ({"rb-ft": 0.80, "rb-ft-joint": 0.80, "direct": 0.60}, "rb-ft-joint"),
        ({"direct-matched": 0.80, "rb-ft-joint": 0.84}, "direct-matched"),
        ({"zero-shot": 0.40, "direct": 0.54}, None),
        ({"zero-shot": 0.52}, None),
    ],
)
def test_the_simplest_arm_that_none_beats_is_recommended(accuracies: dict[str, float], use: str | None) -> None:
    assert recommended(evidence(accuracies)) == use


def test_an_arm_below_the_floor_is_not_recommended_however_little_beats_it() -> None:
    """zero-shot is simpler and beaten by none, but 50 % is what a constant answer gets."""
    found = evidence({"zero-shot": 0.5, "direct": 0.6}, {("zero-shot", "direct"): 0.2})
    assert recommended(found) == "direct"


def test_many_comparisons_are_corrected_and_the_planned_one_is_not() -> None:
    """p = 0.03 in one of three is 0.09; against the control it is the question the run was made for."""
    four = {"zero-shot": 0.70, "direct": 0.78, "direct-matched": 0.71, "rb-ft": 0.72}
    luck = {("zero-shot", "direct"): 0.03, ("zero-shot", "direct-matched"): 0.5, ("zero-shot", "rb-ft"): 0.5}
    assert recommended(evidence(four, luck)) == "zero-shot"
    assert recommended(evidence(four, luck | {("zero-shot", "direct"): 0.01})) == "direct"
    two = {"direct-matched": 0.72, "rb-ft": 0.80}
    assert recommended(evidence(two, {("direct-matched", "rb-ft"): 0.03})) == "rb-ft"


def test_holm_by_hand() -> None:
    """Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.04 raised to 0.06."""
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_the_p_and_bonferroni_and_keeps_their_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1.0, p * len(p_values)) + 1e-12
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)


def test_the_planned_comparison_is_that_with_the_nearest_steps_whichever_way_it_was_made() -> None:
    found = evidence({"zero-shot": 0.5, "direct": 0.7, "rb-ft": 0.8, "direct-matched": 0.72})
    planned = planned_comparison(found.arms, found.comparisons)
    assert planned is not None
    assert (planned.a, planned.b, planned.verdict) == ("direct-matched", "rb-ft", "helped")
    assert (planned.difference, planned.low, planned.high) == pytest.approx((0.08, 0.04, 0.12))
    without = evidence({"zero-shot": 0.5, "direct": 0.7})
    assert planned_comparison(without.arms, without.comparisons) is None


def test_the_most_accurate_arm_is_the_simplest_among_equals() -> None:
    assert most_accurate({name: arm(name, 0.8) for name in ("rb-ft", "direct-matched", "direct")}) == "direct"
    assert most_accurate({"direct": arm("direct", 0.7), "rb-ft": arm("rb-ft", 0.8)}) == "rb-ft"


# -- the sentences -------------------------------------------------------------------------------------------------


def test_an_arm_that_beats_all() -> None:
    headline, advice = advise(evidence({"zero-shot": 0.55, "direct": 0.70, "direct-matched": 0.72, "rb-ft": 0.86}))
    assert headline == (
        "Use rb-ft: it labels 86.0 % of 100 test clips correctly; always answering 'normal' gets 50.0 %. "
        "Its checkpoint is checkpoints/rb-ft."
    )
    assert (advice.arm, advice.checkpoint, advice.floor.b) == ("rb-ft", "checkpoints/rb-ft", "rb-ft")
    assert advice.how_sure == (
        "The accuracy of rb-ft lies between 81.0 and 92.0 %, its macro-F1 between 79.0 and 90.0 % "
        "(95 % intervals, 3 seeds). Rationales helped: rb-ft is 14.0 points over direct-matched "
        "(95 % interval +10.0 to +18.0, p = 0.001; these clips can show 9.0 points or more)."
    )
    assert advice.more_clips == HOW_TO_ASK


def test_the_simplest_of_arms_that_cannot_be_told_apart() -> None:
    headline, advice = advise(evidence({"direct": 0.70, "direct-matched": 0.71, "rb-ft": 0.73}, seeds=1))
    assert headline.startswith("Use direct: it labels 70.0 % of 100 test clips correctly; always")
    assert advice.how_sure == (
        "The accuracy of direct lies between 65.0 and 76.0 %, its macro-F1 between 63.0 and 74.0 % "
        "(95 % intervals, one seed: another training may differ more). "
        "rb-ft came out higher and is not shown to be better: direct is 3.0 points below rb-ft "
        "(95 % interval −33.0 to +27.0, p = 0.80 after correction for 2 comparisons; "
        "these clips can show 9.0 points or more). "
        "direct-matched came out higher and is not shown to be better: direct is 1.0 points below direct-matched "
        "(95 % interval −31.0 to +29.0, p = 0.80 after correction for 2 comparisons; "
        "these clips can show 9.0 points or more). "
        "Whether rationales help, these clips cannot tell: the smallest difference they could show is 9.0 points "
        "(rb-ft is 2.0 points over direct-matched, 95 % interval −28.0 to +32.0, p = 0.40)."
    )


def test_no_arm_that_beats_the_floor() -> None:
    headline, advice = advise(evidence({"zero-shot": 0.40, "direct": 0.53, "rb-ft": 0.51}))
    assert headline == (
        "Use none of these yet: no arm is shown to beat always answering 'normal', which labels 50.0 % of 100 test "
        "clips correctly. The best arm, direct, labels 53.0 %."
    )
    assert (advice.arm, advice.checkpoint, advice.floor.b) == (None, None, "direct")
    assert advice.how_sure == (
        "The accuracy of direct lies between 48.0 and 59.0 %, its macro-F1 between 46.0 and 57.0 % "
        "(95 % intervals, 3 seeds). It is 3.0 points over always answering 'normal' "
        "(95 % interval −27.0 to +33.0, p = 0.80 after correction for 3 comparisons; "
        "these clips can show 9.0 points or more). "
        "Whether rationales help, these clips cannot tell: the smallest difference they could show is 9.0 points "
        "(rb-ft is 2.0 points below direct, 95 % interval −32.0 to +28.0, p = 0.40)."
    )


def test_a_model_as_it_came() -> None:
    headline, advice = advise(evidence({"zero-shot": 0.70}))
    assert headline.endswith("'normal' gets 50.0 %. It is the model as it came, without training.")
    assert (advice.arm, advice.checkpoint) == ("zero-shot", None)
    assert advice.how_sure == (
        "The accuracy of zero-shot lies between 65.0 and 76.0 %, its macro-F1 between 63.0 and 74.0 % "
        "(95 % intervals, over clips)."
    )
    assert advice.more_clips == NOTHING_TRAINED


def test_the_runner_up_and_the_control_have_their_own_sentences() -> None:
    """The planned comparison is of rb-ft-joint here; rb-ft is told against joint and, level, against the control."""
    found = evidence({"rb-ft-joint": 0.70, "direct-matched": 0.60, "rb-ft": 0.80})
    _, advice = advise(found)
    assert advice.how_sure.split("seeds). ")[1] == (
        "It is 10.0 points over rb-ft-joint, the runner-up (95 % interval +6.0 to +14.0, p = 0.002 after correction "
        "for 2 comparisons; these clips can show 9.0 points or more). "
        "It is 20.0 points over direct-matched, the control with as many steps as rb-ft (95 % interval +16.0 to "
        "+24.0, p = 0.002 after correction for 2 comparisons; these clips can show 9.0 points or more). "
        "Rationales helped: rb-ft-joint is 10.0 points over direct-matched (95 % interval +6.0 to +14.0, p = 0.001; "
        "these clips can show 9.0 points or more)."
    )


def test_rationales_that_hurt_and_arms_that_are_level() -> None:
    _, advice = advise(evidence({"direct-matched": 0.80, "rb-ft": 0.70}))
    assert advice.arm == "direct-matched"
    assert advice.how_sure.endswith(
        "Rationales hurt: rb-ft is 10.0 points below direct-matched (95 % interval −14.0 to −6.0, p = 0.001; "
        "these clips can show 9.0 points or more)."
    )
    _, advice = advise(evidence({"direct-matched": 0.80, "rb-ft": 0.80}))
    assert "(rb-ft is level with direct-matched, 95 % interval −30.0 to +30.0, p = 0.40)." in advice.how_sure


def test_clips_that_are_too_few_to_show_anything() -> None:
    found = evidence({"zero-shot": 0.7, "direct": 0.75})
    few = [compared("zero-shot", "direct", 0.05, 0.4, smallest=1.0)]
    _, advice = advise(Evidence(found.arms, few, DATASET, found.floor, found.checkpoints, {}))
    assert advice.how_sure.endswith("p = 0.40; these clips are too few to show any difference).")


def test_an_arm_that_is_beaten_in_macro_f1_is_not_recommended() -> None:
    """Mostly answering one label can be as accurate as a model that knows both."""
    better = compared("zero-shot", "direct", 0.15, 0.004, "macro_f1")
    _, advice = advise(evidence({"zero-shot": 0.66, "direct": 0.70}, macro=(better,)))
    assert advice.arm == "direct" and "rare labels" not in advice.how_sure


def test_where_one_is_better_in_accuracy_and_one_in_macro_f1_both_are_named() -> None:
    better = compared("direct", "rb-ft", 0.12, 0.004, "macro_f1")
    _, advice = advise(evidence({"direct": 0.78, "rb-ft": 0.71}, macro=(better,)))
    assert advice.arm == "direct"
    assert advice.how_sure.endswith(
        " Where rare labels matter as much as frequent ones, take rb-ft: its macro-F1 is 12.0 points over direct "
        "(95 % interval +8.0 to +16.0, p = 0.004; these clips can show 9.0 points or more)."
    )
    _, advice = advise(
        evidence({"direct": 0.70, "rb-ft": 0.71}, macro=(compared("direct", "rb-ft", 0.12, 0.2, "macro_f1"),))
    )
    assert "rare labels" not in advice.how_sure
