"""Baselines that see no content."""

from __future__ import annotations

import numpy as np
import pytest

from rbft.evaluation.baselines import (
    FEATURE_SETS,
    ClipFeatures,
    majority_predictions,
    mean_brightness,
    motion_energy,
    simple_baselines,
)
from rbft.evaluation.verdict import arm_report
from rbft.records import Prediction

LABELS = ("calm", "fight")


def clips(count: int, *, first: int = 0) -> tuple[list[ClipFeatures], list[str]]:
    """Fights are wide, motion says nothing, everything else is constant."""
    rng = np.random.default_rng(first)
    found, labels = [], []
    for i in range(first, first + count):
        fight = i % 2 == 1
        found.append(ClipFeatures(f"c{i}", 640 if fight else 320, 240, 2.0, float(rng.random()), 100.0))
        labels.append(LABELS[fight])
    return found, labels


def share_right(predictions: list[Prediction]) -> float:
    return sum(p.label == p.truth for p in predictions) / len(predictions)


def test_frame_size_alone_finds_what_frame_size_gives_away() -> None:
    train, labels = clips(40)
    test, truth = clips(20, first=100)
    known = {clip.clip_id: label for clip, label in zip(test, truth, strict=True)}
    found = simple_baselines(train, labels, test, known, LABELS)
    assert list(found) == list(FEATURE_SETS) == ["frame size", "duration", "brightness", "motion energy"]
    assert share_right(found["frame size"]) == 1.0
    assert share_right(found["duration"]) == 0.5
    assert share_right(found["motion energy"]) < 0.9
    assert found["frame size"][0].checkpoint == "baseline:frame size"
    assert sum(found["motion energy"][0].probabilities.values()) == pytest.approx(1.0)
    assert simple_baselines(train, labels, test, known, LABELS) == found


def test_baselines_stand_in_the_table_like_arms() -> None:
    train, labels = clips(40)
    test, truth = clips(20, first=100)
    known = {clip.clip_id: label for clip, label in zip(test, truth, strict=True)}
    found = simple_baselines(train, labels, test, known, LABELS)
    report = arm_report({0: found["frame size"]}, labels=LABELS, resamples=100)
    assert report.accuracy.mean == 1.0
    assert report.calibration_error is not None
    report = arm_report({0: majority_predictions(labels, known, LABELS)}, labels=LABELS, resamples=100)
    assert (report.accuracy.mean, report.calibration_error) == (0.5, None)


def test_balanced_weights_keep_a_rare_label() -> None:
    train, labels = clips(40)
    kept = [i for i, label in enumerate(labels) if label == "calm" or i < 4]
    rng = np.random.default_rng(0)
    noisy = [
        ClipFeatures(c.clip_id, c.width + float(rng.normal(0, 300)), 240, 2.0, 0.0, 0.0)
        for c in (train[i] for i in kept)
    ]
    known = {"t": "fight"}
    test = [ClipFeatures("t", 640, 240, 2.0, 0.0, 0.0)]
    plain, balanced = (
        simple_baselines(noisy, [labels[i] for i in kept], test, known, LABELS, balanced=b) for b in (False, True)
    )
    assert balanced["frame size"][0].probabilities["fight"] > plain["frame size"][0].probabilities["fight"]


def test_one_training_label_is_the_answer() -> None:
    train, _ = clips(3)
    found = simple_baselines(train, ["fight"] * 3, train, dict.fromkeys(("c0", "c1", "c2")), LABELS)
    assert [p.label for p in found["frame size"]] == ["fight"] * 3
    assert found["frame size"][0].probabilities == {"calm": 0.0, "fight": 1.0}


def test_majority_is_of_the_training_clips_and_the_first_of_equals() -> None:
    assert [p.label for p in majority_predictions(["fight", "fight", "calm"], {"t": "calm"}, LABELS)] == ["fight"]
    assert [p.label for p in majority_predictions(["fight", "calm"], {"t": None}, LABELS)] == ["calm"]


def test_lengths_must_agree() -> None:
    train, labels = clips(3)
    with pytest.raises(ValueError, match=r"^3 training clips with 2 labels; give one label a clip$"):
        simple_baselines(train, labels[:2], [], {}, LABELS)


def test_motion_and_brightness_by_hand() -> None:
    frames = np.zeros((3, 2, 2, 3), dtype=np.uint8)
    frames[1] = 200
    frames[2] = 190
    assert motion_energy(frames) == pytest.approx((200 + 10) / 2)
    assert mean_brightness(frames) == pytest.approx(130.0)
    assert motion_energy(frames[:1]) == 0.0
