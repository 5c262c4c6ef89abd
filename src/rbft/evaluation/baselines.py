"""What no model is needed for: the most frequent label, and a logistic regression on a clip's size or motion.

A classifier that does not beat these has learnt nothing about what the clips show. Baselines answer in the same records
as arms, so that they stand in the same table and comparisons.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rbft.evaluation.metrics import FloatArray
from rbft.records import Prediction

FEATURE_SETS: Mapping[str, tuple[str, ...]] = {
    "frame size": ("width", "height"),
    "duration": ("duration_seconds",),
    "brightness": ("mean_brightness",),
    "motion energy": ("motion_energy",),
}
"""Name of a baseline to the `ClipFeatures` fields that it may look at."""


@dataclass(frozen=True)
class ClipFeatures:
    """What can be said of a clip without understanding it: displayed size in pixels, seconds, and 0 to 255 levels."""

    clip_id: str
    width: float
    height: float
    duration_seconds: float
    motion_energy: float
    mean_brightness: float


def motion_energy(frames_THWC: npt.NDArray[np.uint8]) -> float:  # noqa: N803
    """Mean absolute difference of neighbouring frames, in levels 0 to 255; 0 for a single frame."""
    total, pairs = 0.0, len(frames_THWC) - 1
    for before, after in itertools.pairwise(frames_THWC):
        total += float(np.abs(after.astype(np.int16) - before.astype(np.int16)).mean())
    return total / pairs if pairs > 0 else 0.0


def mean_brightness(frames_THWC: npt.NDArray[np.uint8]) -> float:  # noqa: N803
    """Mean level of all pixels and channels, 0 to 255."""
    return float(frames_THWC.mean())


def majority_predictions(
    train_labels: Sequence[str], test: Mapping[str, str | None], labels: Sequence[str]
) -> list[Prediction]:
    """The most frequent training label (the first in label order among equals) for every test clip (id to truth)."""
    counts = Counter(train_labels)
    answer = max(labels, key=lambda label: counts[label])
    return [_prediction("majority", clip, truth, answer, {}) for clip, truth in test.items()]


def simple_baselines(
    train: Sequence[ClipFeatures],
    train_labels: Sequence[str],
    test: Sequence[ClipFeatures],
    truth: Mapping[str, str | None],
    labels: Sequence[str],
    *,
    balanced: bool = False,
) -> dict[str, list[Prediction]]:
    """Predictions per test clip of a standardised logistic regression on each of `FEATURE_SETS`.

    `truth` maps test clip ids to labels; `balanced` weights training clips by 1 / frequency. Where the training clips
    all have one label, that label is the answer. Deterministic. Raises ValueError where lengths differ.
    """
    if len(train) != len(train_labels) or not train:
        raise ValueError(f"{len(train)} training clips with {len(train_labels)} labels; give one label a clip")
    found = {}
    for name, fields in FEATURE_SETS.items():
        classes, probabilities = _fit(_columns(train, fields), train_labels, _columns(test, fields), balanced)
        found[name] = [
            _answer(name, clip.clip_id, truth[clip.clip_id], dict(zip(classes, row.tolist(), strict=True)), labels)
            for clip, row in zip(test, probabilities, strict=True)
        ]
    return found


def _columns(clips: Sequence[ClipFeatures], fields: tuple[str, ...]) -> FloatArray:
    rows = [[float(getattr(clip, field)) for field in fields] for clip in clips]
    return np.array(rows, dtype=np.float64).reshape(len(clips), len(fields))


def _fit(
    train: FloatArray, train_labels: Sequence[str], test: FloatArray, balanced: bool
) -> tuple[list[str], FloatArray]:
    """Class names and the test clips' probabilities of each, [clips, classes]."""
    classes = sorted(set(train_labels))
    if len(classes) == 1 or not len(test):
        return classes, np.full((len(test), len(classes)), 1.0 / len(classes))
    model = make_pipeline(
        StandardScaler(), LogisticRegression(max_iter=10_000, class_weight="balanced" if balanced else None)
    )
    model.fit(train, list(train_labels))
    return [str(c) for c in model.classes_], np.asarray(model.predict_proba(test), dtype=np.float64)


def _answer(
    name: str, clip_id: str, truth: str | None, by_class: Mapping[str, float], labels: Sequence[str]
) -> Prediction:
    probabilities = {label: by_class.get(label, 0.0) for label in labels}
    return _prediction(name, clip_id, truth, max(labels, key=lambda label: probabilities[label]), probabilities)


def _prediction(name: str, clip_id: str, truth: str | None, label: str, probabilities: dict[str, float]) -> Prediction:
    return Prediction(
        clip_id=clip_id,
        checkpoint=f"baseline:{name}",
        truth=truth,
        label=label,
        log_probabilities={},
        probabilities=probabilities,
    )
