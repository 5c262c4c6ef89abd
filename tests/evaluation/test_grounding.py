"""Attention in boxes and drops under masks: numbers worked by hand, intervals against the functions they reuse."""

from __future__ import annotations

import numpy as np
import pytest

from rbft.errors import LineageError
from rbft.evaluation.grounding import cover, difference, drops, estimate, focus_of, focus_table, targets
from rbft.evaluation.metrics import wilson
from rbft.evaluation.significance import never_seen
from rbft.records import Prediction
from rbft.results import Focus

NAN = [float("nan")] * 4


def test_cover_by_hand() -> None:
    """Two frames a step: a quarter of a 2 x 2 grid's first place, then all of its first row; overlaps count once."""
    boxes = np.array(
        [
            [[0, 0, 0.25, 0.25], NAN],
            [[0, 0, 1, 0.5], [0.25, 0, 0.5, 0.5]],
            [NAN, NAN],
        ]
    )
    found = cover(boxes, (2, 2, 2))
    assert found.tolist() == [[[0.625, 0.5], [0, 0]], [[0, 0], [0, 0]]]


def test_targets_hold_centres_both_ways() -> None:
    large = np.array([[[0, 0, 0.5, 1.0]]])
    assert targets(large, (1, 2, 2)).tolist() == [[[True, False], [True, False]]]
    small = np.array([[[0.8, 0.8, 0.9, 0.9]]])
    assert targets(small, (1, 2, 2)).tolist() == [[[False, False], [False, True]]]
    edge = np.array([[[1.0, 1.0, 1.0, 1.0]], [NAN]])
    assert targets(edge, (1, 2, 2)).sum() == 1


def test_focus_of_one_clip_by_hand() -> None:
    attention = np.zeros((2, 1, 2, 2))
    attention[0, 0] = [[0.2, 0.0], [0.0, 0.2]]
    attention[1, 0] = [[0.4, 0.0], [0.0, 0.0]]
    boxes = np.array([[[0, 0, 0.5, 0.5]]])
    found = focus_of("a", "k", attention, np.zeros_like(attention), boxes)
    assert (found.mass, found.hit, found.area, found.target_share) == (pytest.approx(0.75), True, 0.25, 0.25)
    assert found.visual_share == pytest.approx(0.4)
    assert (found.gradient_mass, found.gradient_hit) == (None, None)


def test_even_attention_has_the_mass_of_the_area() -> None:
    boxes = np.array([[[0.1, 0.2, 0.7, 0.9], [0.3, 0.1, 0.9, 0.4]]] * 3)
    even = np.full((4, 3, 5, 6), 0.01)
    found = focus_of("a", "k", even, even, boxes)
    assert found.mass == pytest.approx(found.area)
    assert found.gradient_mass == pytest.approx(found.area)


def test_shares_with_one_seed_have_wilsons_interval() -> None:
    values = np.array([1.0] * 7 + [0.0] * 3)[:, None]
    found, expected = estimate(values, share=True), wilson(7, 10)
    assert (found.mean, found.low, found.high) == (expected.mean, expected.low, expected.high)
    assert found.per_seed == (0.7,)


def test_shares_over_seeds_stay_between_zero_and_one() -> None:
    rng = np.random.default_rng(0)
    values = (rng.random((12, 3)) < 0.9).astype(float)
    found = estimate(values, share=True)
    assert 0 <= found.low < found.mean < found.high <= 1
    assert found.per_seed == pytest.approx(tuple(values.mean(axis=0)))


def test_a_difference_that_was_never_seen_is_not_certain_to_be_zero() -> None:
    zeros = np.zeros((30, 2))
    for found in (estimate(zeros, share=False), difference(zeros, zeros)):
        assert (found.mean, found.low, found.high) == (0.0, -never_seen(30), never_seen(30))


def test_differences_are_paired_by_clip() -> None:
    """b is a plus one constant: paired, there is nothing left to be unsure of."""
    a = np.random.default_rng(0).random((40, 1))
    found = difference(a, a + 0.25)
    assert (found.mean, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))
    one_run = difference(a, np.repeat(a, 3, axis=1) + 0.1)
    assert one_run.mean == pytest.approx(0.1)


def predictions(answers: dict[str, str], truth: str = "yes") -> list[Prediction]:
    return [
        Prediction(clip_id=c, checkpoint="k", truth=truth, label=label, log_probabilities={}, probabilities={})
        for c, label in answers.items()
    ]


def test_drops_by_hand() -> None:
    original = {0: predictions({"a": "yes", "b": "yes", "c": "no"}), 1: predictions({"a": "yes", "b": "no", "c": "no"})}
    objects = {0: predictions({"c": "yes", "a": "no", "b": "no"}), 1: predictions({"a": "no", "b": "no", "c": "no"})}
    random = {0: predictions({"a": "no", "b": "yes", "c": "no"}), 1: predictions({"a": "yes", "b": "yes", "c": "no"})}
    found = drops(original, objects, random)
    assert found.objects.tolist() == [[1, 1], [1, 0], [-1, 0]]
    assert found.random.tolist() == [[1, 0], [0, -1], [0, 0]]
    assert found.effect.tolist() == [[0, 1], [1, 1], [-1, 0]]


def test_drops_of_other_clips_or_seeds_are_refused() -> None:
    original = {0: predictions({"a": "yes", "b": "yes"})}
    fewer = {0: predictions({"a": "yes"})}
    with pytest.raises(LineageError, match=r"^seed 0: 1 clips have no masked prediction: b$"):
        drops(original, original, fewer)
    with pytest.raises(LineageError, match=r"^masked predictions are of seeds \[1\], the originals of \[0\]$"):
        drops(original, {1: original[0]}, original)


def test_clips_whose_map_is_empty_under_a_seed_are_left_out() -> None:
    def focus(clip_id: str, mass: float | None) -> Focus:
        return Focus(clip_id=clip_id, checkpoint="k", area=0.1, target_share=0.1, visual_share=0.2, mass=mass, hit=None,
                     gradient_mass=None, gradient_hit=None)  # fmt: skip

    runs = {1: [focus("a", 0.5), focus("b", 0.25)], 0: [focus("a", None), focus("b", 0.75)]}
    assert focus_table(runs, "mass").tolist() == [[0.75, 0.25]]
    assert focus_table(runs, "gradient_mass").shape == (0, 2)
