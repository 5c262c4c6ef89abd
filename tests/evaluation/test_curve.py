"""Learning curves: the subsets by their properties, the words by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbft.evaluation.curve import (
    HOW_TO_ASK,
    NOTHING_TRAINED,
    arm_curve,
    curve_faults,
    curve_words,
    labelled_subset,
    more_clips,
    num_labelled,
    with_share,
)
from rbft.evaluation.verdict import arm_report
from rbft.records import Clip, Manifest, Prediction
from rbft.results import ArmCurve, Comparison, CurvePoint, Estimate

LABELS = ("a", "b", "c")


def clip(index: int, label: str | None, split: str = "train") -> Clip:
    return Clip.model_validate(
        {"clip_id": f"{split}{index}", "path": "p", "sha256": "0", "duration_seconds": 1.0, "label": label,
         "split": split}
    )  # fmt: skip


def clips_of(labels: Sequence[str | None]) -> list[Clip]:
    return [clip(i, label) for i, label in enumerate(labels)]


listed = st.lists(st.sampled_from((*LABELS, None)), max_size=60)
shares = st.floats(0.01, 0.99)


# -- subsets -------------------------------------------------------------------------------------------------------


@given(listed, shares, shares, st.integers(0, 2**32 - 1))
def test_a_smaller_share_is_a_subset_of_a_larger_one(labels: list[str | None], a: float, b: float, seed: int) -> None:
    clips = clips_of(labels)
    few, more = (labelled_subset(clips, share, seed) for share in sorted((a, b)))
    assert {c.clip_id for c in few} <= {c.clip_id for c in more} <= {c.clip_id for c in clips}


@given(listed, shares, st.integers(0, 2**32 - 1))
def test_every_label_keeps_its_share_and_unlabelled_clips_and_the_order_stay(
    labels: list[str | None], share: float, seed: int
) -> None:
    clips = clips_of(labels)
    subset = labelled_subset(clips, share, seed)
    before, after = (Counter(c.label for c in some) for some in (clips, subset))
    assert after[None] == before[None]
    for label in LABELS:
        if before[label]:
            assert after[label] >= 1
            assert abs(after[label] - share * before[label]) <= 0.5 + 1e-9 or after[label] == 1
    assert subset == [c for c in clips if c in subset]


def test_other_seeds_draw_other_clips_of_the_same_number_in_any_order_of_the_list() -> None:
    clips = clips_of(["a"] * 40 + ["b"] * 9)
    drawn = [labelled_subset(clips, 0.25, seed) for seed in (0, 1)]
    assert [Counter(c.label for c in some) for some in drawn] == [Counter(a=10, b=2)] * 2
    assert drawn[0] != drawn[1]
    turned = labelled_subset(clips[::-1], 0.25, 0)
    assert {c.clip_id for c in turned} == {c.clip_id for c in drawn[0]}


def test_a_manifest_keeps_its_test_clips() -> None:
    test = tuple(clip(i, "a", "test") for i in range(3))
    manifest = Manifest(labels=dict.fromkeys(LABELS, ""), clips=(*clips_of(["a", "b"] * 4), *test))
    part = with_share(manifest, 0.5, 7)
    assert part.of("test") == list(test)
    assert (num_labelled(manifest), num_labelled(part)) == (8, 4)


def test_shares_that_are_the_same_clips_are_refused() -> None:
    manifest = Manifest(labels=dict.fromkeys(LABELS, ""), clips=tuple(clips_of(["a", "b"] * 3)))
    assert curve_faults(manifest, (0.34, 0.67)) == []
    assert curve_faults(manifest, (0.1, 0.3, 0.9)) == [
        "evaluation.learning_curve: shares 0.1 and 0.3 are both 2 of 6 labelled training clips; give fewer shares, "
        "further apart",
        "evaluation.learning_curve: shares 0.9 and 1 are both 6 of 6 labelled training clips; give fewer shares, "
        "further apart",
    ]


# -- points and gains ----------------------------------------------------------------------------------------------


def answers(right: int, total: int = 100) -> list[Prediction]:
    """The first `right` of alternating labels answered well."""
    made = []
    for i in range(total):
        truth, other = LABELS[i % 2], LABELS[1 - i % 2]
        made.append(
            Prediction(
                clip_id=f"c{i}",
                checkpoint="k",
                truth=truth,
                label=truth if i < right else other,
                log_probabilities={},
                probabilities={},
            )
        )
    return made


def test_a_curve_is_its_points_and_the_gain_nearest_to_a_doubling() -> None:
    runs = {share: {0: answers(n), 1: answers(n)} for share, n in ((1.0, 90), (0.25, 50), (0.6, 80), (0.5, 70))}
    curve = arm_curve("rb-ft", runs, {0.25: 20, 0.5: 40, 0.6: 48, 1.0: 80}, LABELS, resamples=200)
    assert [(p.share, p.clips, p.accuracy.mean) for p in curve.points] == [
        (0.25, 20, 0.5), (0.5, 40, 0.7), (0.6, 48, 0.8), (1.0, 80, 0.9),
    ]  # fmt: skip
    assert curve.points[1].macro_f1 == arm_report(runs[0.5], labels=LABELS, resamples=200).macro_f1
    assert curve.doubling_clips == (40, 80)
    accuracy, macro = curve.gains
    assert (accuracy.a, accuracy.b, accuracy.metric) == ("rb-ft on 40 clips", "rb-ft on 80 clips", "accuracy")
    assert accuracy.difference == pytest.approx(0.2)
    assert (accuracy.verdict, macro.metric) == ("helped", "macro_f1")
    assert np.isclose(macro.difference, curve.points[3].macro_f1.mean - curve.points[1].macro_f1.mean)


# -- in words ------------------------------------------------------------------------------------------------------


def curve_of(difference: float, low: float, high: float, p: float, verdict: str, few: int = 40) -> ArmCurve:
    estimate = Estimate(mean=0.7, low=0.6, high=0.8, per_seed=(0.7,))
    points = tuple(CurvePoint(share=n / 80, clips=n, accuracy=estimate, macro_f1=estimate) for n in (few, 80))
    gain = Comparison(
        a="few", b="all", difference=difference, low=low, high=high, p=p, smallest_detectable=0.1, verdict=verdict
    )
    return ArmCurve(points=points, doubling_clips=(few, 80), gains=(gain,))


TELL = "these clips cannot tell: the smallest difference they could show is 10.0 points"


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        (
            curve_of(0.08, 0.02, 0.14, 0.008, "helped"),
            "From 40 to 80 labelled training clips the accuracy of rb-ft rose by 8.0 points (95 % interval +2.0 to "
            "+14.0, p = 0.008). Doubling them again, to 160, would buy at most about as much, if the curve bends as "
            "curves do.",
        ),
        (
            curve_of(0.08, 0.02, 0.14, 0.008, "helped", few=20),
            "From 20 to 80 labelled training clips the accuracy of rb-ft rose by 8.0 points (95 % interval +2.0 to "
            "+14.0, p = 0.008). Doubling them again, to 160, would buy at most about 4.0 points, if the curve bends as "
            "curves do.",
        ),
        (
            curve_of(0.01, -0.04, 0.06, 0.7, TELL),
            "From 40 to 80 labelled training clips the accuracy of rb-ft rose by 1.0 points (95 % interval −4.0 to "
            "+6.0, p = 0.70). Whether more would help, these clips cannot tell: the smallest difference they could "
            "show is 10.0 points. Doubling them again would hardly buy more than 6.0 points.",
        ),
        (
            curve_of(0.0, -0.1, 0.1, 1.0, "these clips cannot tell: they are too few to show any difference"),
            "From 40 to 80 labelled training clips the accuracy of rb-ft did not move (95 % interval −10.0 to +10.0, "
            "p = 1.00). Whether more would help, these clips cannot tell: they are too few to show any difference. "
            "Doubling them again would hardly buy more than 10.0 points.",
        ),
        (
            curve_of(-0.06, -0.1, -0.02, 0.01, "hurt"),
            "From 40 to 80 labelled training clips the accuracy of rb-ft fell by 6.0 points (95 % interval −10.0 to "
            "−2.0, p = 0.010): more clips like these are not what is missing; look at their labels first.",
        ),
    ],
)
def test_what_more_clips_would_buy(curve: ArmCurve, words: str) -> None:
    assert curve_words("rb-ft", curve) == words


def test_the_words_are_of_the_arm_to_use_or_of_the_most_accurate_one_with_a_curve() -> None:
    arms = {
        name: arm_report({0: answers(n)}, labels=LABELS, stages=("label",), resamples=100)
        for name, n in (("direct", 90), ("direct-matched", 70), ("rb-ft", 80))
    }
    curves = dict.fromkeys(("direct-matched", "rb-ft"), curve_of(0.08, 0.02, 0.14, 0.008, "helped"))
    assert more_clips(curves, "direct-matched", arms) == curve_words("direct-matched", curves["direct-matched"])
    assert more_clips(curves, "direct", arms) == curve_words("rb-ft", curves["rb-ft"])
    assert more_clips({}, "direct", arms) == HOW_TO_ASK
    untrained = {"zero-shot": arm_report({0: answers(50)}, labels=LABELS, resamples=100)}
    assert more_clips({}, "zero-shot", untrained) == NOTHING_TRAINED
