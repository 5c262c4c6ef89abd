"""Counts and scores of predictions against true labels: pure arithmetic on arrays, nothing about models.

Answers are integers into the ordered label list; `UNREADABLE` (-1) is an answer that could not be read. It counts as
wrong everywhere and never leaves a denominator. A label without a test clip has no F1: nan in arrays, None in records.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from rbft.results import Interval

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

UNREADABLE = -1
CALIBRATION_BINS = 15
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Answers:
    """What the runs of one arm answered on the same clips: `truth` [clips], `predicted` [seeds, clips]."""

    labels: tuple[str, ...]
    truth: IntArray
    predicted: IntArray

    def __post_init__(self) -> None:
        if self.predicted.ndim != 2 or self.predicted.shape[1:] != self.truth.shape:
            raise ValueError(f"predicted {self.predicted.shape} is not [seeds, clips] of truth {self.truth.shape}")
        if not self.predicted.size:
            raise ValueError("no labelled clip to judge: metrics need at least one")
        if self.truth.min() < 0 or max(self.truth.max(), self.predicted.max()) >= len(self.labels):
            raise ValueError(f"an answer lies outside the {len(self.labels)} labels")

    def __repr__(self) -> str:
        seeds, clips = self.predicted.shape
        return f"Answers({seeds} seeds, {clips} clips, labels {list(self.labels)})"

    @property
    def num_seeds(self) -> int:
        """Runs of the arm."""
        return int(self.predicted.shape[0])

    @property
    def num_clips(self) -> int:
        """Labelled clips that every run answered."""
        return int(self.predicted.shape[1])

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether each answer is right, [seeds, clips]."""
        return np.equal(self.predicted, self.truth)


def encode(truth: Sequence[str], predicted: Sequence[Sequence[str | None]], labels: Sequence[str]) -> Answers:
    """Label strings as Answers. A predicted string that is no label is unreadable; an unknown truth is a ValueError."""
    index = {label: i for i, label in enumerate(labels)}
    unknown = sorted({t for t in truth if t not in index})
    if unknown:
        raise ValueError(f"true labels {unknown} are not among {list(labels)}")
    rows = [[UNREADABLE if p is None else index.get(p, UNREADABLE) for p in run] for run in predicted]
    return Answers(
        labels=tuple(labels),
        truth=np.array([index[t] for t in truth], dtype=np.int64),
        predicted=np.array(rows, dtype=np.int64).reshape(len(rows), -1),
    )


# -- confusion and what follows from it ----------------------------------------------------------------------------


def confusion(answers: Answers) -> IntArray:
    """Counts [seeds, labels, labels + 1]: rows true labels, columns predicted labels, then unreadable."""
    num = len(answers.labels)
    column = np.where(answers.predicted == UNREADABLE, num, answers.predicted)
    cell = answers.truth * (num + 1) + column
    counts = [np.bincount(row, minlength=num * (num + 1)) for row in cell]
    return np.stack(counts).reshape(-1, num, num + 1).astype(np.int64)


def accuracy(counts: npt.NDArray[np.generic]) -> FloatArray:
    """Share of right answers of confusion counts [..., labels, labels + 1]; unreadable answers stay in the total."""
    table = np.asarray(counts, dtype=np.float64)
    right = np.trace(table[..., : table.shape[-2]], axis1=-2, axis2=-1)
    return np.asarray(right / table.sum(axis=(-2, -1)))


def f1_per_label(counts: npt.NDArray[np.generic]) -> FloatArray:
    """F1 of every label, [..., labels], from confusion counts [..., labels, labels + 1]; nan without a true clip."""
    table = np.asarray(counts, dtype=np.float64)
    square = table[..., : table.shape[-2]]
    return f1_from_totals(np.diagonal(square, axis1=-2, axis2=-1), table.sum(axis=-1), square.sum(axis=-2))


def f1_from_totals(right: FloatArray, true: FloatArray, predicted: FloatArray) -> FloatArray:
    """F1 = 2 right / (true + predicted), elementwise over labels; nan where `true` is zero."""
    total = np.asarray(true + predicted, dtype=np.float64)
    scores = np.divide(2.0 * right, total, out=np.zeros(np.broadcast_shapes(total.shape, right.shape)), where=total > 0)
    return np.where(true > 0, scores, np.nan)


def macro_f1(f1: FloatArray) -> FloatArray:
    """Mean of [..., labels] over the labels that have a true clip."""
    present = ~np.isnan(f1)
    return np.asarray(np.where(present, f1, 0.0).sum(axis=-1) / present.sum(axis=-1))


def label_totals(answers: Answers) -> FloatArray:
    """One-hot right, true and predicted per label, [clips, seeds, 3 x labels]: summed over clips they give every F1."""
    labels = np.arange(len(answers.labels))
    predicted = answers.predicted.T[:, :, None] == labels
    true = np.broadcast_to((answers.truth[:, None] == labels)[:, None, :], predicted.shape)
    return np.concatenate([predicted & true, true, predicted], axis=2).astype(np.float64)


def f1_of_label_totals(totals: FloatArray) -> FloatArray:
    """F1 per label, [..., labels], of sums of `label_totals` [..., 3 x labels]."""
    right, true, predicted = np.split(totals, 3, axis=-1)
    return f1_from_totals(right, true, predicted)


def majority(answers: Answers) -> tuple[str, float]:
    """The most frequent true label (of equals, the first) and its share: what the best constant answer scores."""
    counts = np.bincount(answers.truth, minlength=len(answers.labels))
    best = int(counts.argmax())
    return answers.labels[best], float(counts[best] / counts.sum())


# -- calibration ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReliabilityBin:
    """One bar of a reliability plot: answers whose confidence lies in (low, high]; means are nan where count is 0."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def calibration_bin(confidence: FloatArray, num_bins: int = CALIBRATION_BINS) -> IntArray:
    """The equal-width bin (low, high] of each confidence; 0 falls into the first bin."""
    return np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)


def reliability(
    confidence: FloatArray, correct: npt.NDArray[np.bool_], num_bins: int = CALIBRATION_BINS
) -> list[ReliabilityBin]:
    """Bars of a reliability plot over all answers; both arrays have the same shape."""
    which = calibration_bin(confidence, num_bins).ravel()
    count = np.bincount(which, minlength=num_bins)
    sure = np.bincount(which, weights=confidence.ravel(), minlength=num_bins)
    right = np.bincount(which, weights=correct.ravel().astype(np.float64), minlength=num_bins)
    return [
        ReliabilityBin(
            low=i / num_bins,
            high=(i + 1) / num_bins,
            count=int(n),
            confidence=float(s / n) if n else math.nan,
            accuracy=float(r / n) if n else math.nan,
        )
        for i, (n, s, r) in enumerate(zip(count, sure, right, strict=True))
    ]


def calibration_error(
    confidence: FloatArray, correct: npt.NDArray[np.bool_], num_bins: int = CALIBRATION_BINS
) -> float:
    """Expected calibration error (Guo et al., arXiv 1706.04599, eq. 3).

    The sum over bins of count / n x |accuracy - confidence|. Confidence is the probability of the answer given, 0 to 1;
    bins are equally wide.
    """
    bars = [bar for bar in reliability(confidence, correct, num_bins) if bar.count]
    return sum(bar.count * abs(bar.accuracy - bar.confidence) for bar in bars) / confidence.size


# -- exact and score intervals -------------------------------------------------------------------------------------


def wilson(right: float, total: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a share (Wilson 1927); `mean` is right / total. Stays inside 0 to 1 at the ends."""
    if total < 1:
        raise ValueError("a share of zero clips has no interval")
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    share = right / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    low = 0.0 if right == 0 else max(0.0, centre - half)
    high = 1.0 if right == total else min(1.0, centre + half)
    return Interval(mean=share, low=low, high=high)


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided McNemar p: of the clips that one of two arms alone gets right, `only_b` against a fair coin."""
    total = only_a + only_b
    if not total:
        return 1.0
    return float(stats.binomtest(only_b, total, 0.5).pvalue)


# -- printed scores back to counts ---------------------------------------------------------------------------------


def confusion_from_rates(
    totals: Sequence[int], accuracy_percent: float, f1_percent: Sequence[float], *, decimals: int = 2
) -> list[IntArray]:
    """All integer confusion matrices [labels, labels] that print as the given accuracy and F1.

    `totals` are true clips per label; scores are percent, rounded to `decimals` (a tie may have gone either way).
    Every answer is taken as readable. Published tables give no counts: with two labels the answer is nearly always
    one matrix or none (none: the row was not measured on these totals). Two or three labels.
    """
    if len(totals) not in (2, 3) or len(f1_percent) != len(totals):
        raise ValueError(f"{len(totals)} totals and {len(f1_percent)} F1 scores; give two or three of each")
    total = sum(totals)
    right_totals = {c for c in range(total + 1) if _prints_as(100 * c / total, accuracy_percent, decimals)}
    choices = [list(_label_choices(n, total, f1, decimals)) for n, f1 in zip(totals, f1_percent, strict=True)]
    found = []
    for combination in itertools.product(*choices[:-1]):
        for last in choices[-1]:
            cells = (*combination, last)
            if sum(r for r, _ in cells) in right_totals and sum(p for _, p in cells) == total:
                found += list(_matrices(totals, cells))
    return found


def _prints_as(value: float, printed: float, decimals: int) -> bool:
    return abs(value - printed) <= 0.5 * 10.0**-decimals + 1e-9


def _label_choices(true: int, total: int, f1: float, decimals: int) -> Iterator[tuple[int, int]]:
    """Pairs (right, predicted) of one label whose F1 prints as `f1`."""
    for right in range(true + 1):
        for predicted in range(right, total - (true - right) + 1):
            if true + predicted and _prints_as(200 * right / (true + predicted), f1, decimals):
                yield right, predicted


def _matrices(totals: Sequence[int], cells: Sequence[tuple[int, int]]) -> Iterator[IntArray]:
    """Every matrix with the given diagonal, row sums and column sums."""
    missed = [n - right for n, (right, _) in zip(totals, cells, strict=True)]
    false = [predicted - right for right, predicted in cells]
    if len(totals) == 2:
        yield np.array([[cells[0][0], missed[0]], [missed[1], cells[1][0]]], dtype=np.int64)
        return
    for first_as_second in range(min(missed[0], false[1]) + 1):
        first_as_third = missed[0] - first_as_second
        third_as_second = false[1] - first_as_second
        third_as_first = missed[2] - third_as_second
        second_as_first = false[0] - third_as_first
        second_as_third = missed[1] - second_as_first
        if min(first_as_third, third_as_second, third_as_first, second_as_first, second_as_third) < 0:
            continue
        rows = [
            [cells[0][0], first_as_second, first_as_third],
            [second_as_first, cells[1][0], second_as_third],
            [third_as_first, third_as_second, cells[2][0]],
        ]
        yield np.array(rows, dtype=np.int64)
