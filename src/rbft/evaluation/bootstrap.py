"""How sure a score is: bootstrap over clips and seeds together.

Clips and seeds are crossed: every seed answers every clip. Resampling both (the pigeonhole bootstrap, Owen, Annals of
Applied Statistics 2007) gives the shape of the distribution but counts the noise of single answers up to three times.
So it only says how lopsided an interval is; the width is t times the two-way standard error of Obuchowski and Rockette
(Communications in Statistics 1995), with degrees of freedom after Hillis (Statistics in Medicine 2007), and a moderated
variance between seeds. With one seed it is the plain percentile bootstrap over clips. Measured coverage:
`docs/statistics.md`, `benchmarks/coverage.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from rbft.evaluation.metrics import (
    CALIBRATION_BINS,
    Answers,
    FloatArray,
    calibration_bin,
    f1_of_label_totals,
    label_totals,
    macro_f1,
)

PRIOR_SPREAD, PRIOR_FREEDOM = 0.025, 2.0
"""What is believed of the standard deviation of an arm's score between seeds before any is seen, and how firmly."""
_CHUNK_CELLS = 4_000_000
_LOW, _HIGH = 2.5, 97.5
Score = Callable[[FloatArray], FloatArray]
"""Takes totals [draws, seeds, features] over the drawn clips, gives the score [draws, seeds]."""


@dataclass(frozen=True)
class Counted:
    """Per-clip quantities [clips, seeds, features] whose totals a score needs, the score, and the arms in it."""

    per_clip: FloatArray
    score: Score
    num_arms: int = 1


@dataclass(frozen=True)
class Spread:
    """A score with its uncertainty: value of every seed, their mean, 95 % bounds, standard error and its freedom."""

    per_seed: tuple[float, ...]
    mean: float
    low: float
    high: float
    standard_error: float
    degrees_of_freedom: float


def spread(counted: Counted, *, resamples: int, seed: int) -> Spread:
    """The mean over seeds of a score, with its 95 % interval over clips and seeds."""
    rng = np.random.default_rng(seed)
    per_seed = counted.score(counted.per_clip.sum(axis=0)[None])[0]
    draws = _draw(counted, rng, resamples)
    num_seeds = len(per_seed)
    mean = float(per_seed.mean())
    clips_only = float(draws.mean(axis=1).var(ddof=1))
    if num_seeds == 1:
        low, high = np.percentile(draws[:, 0], [_LOW, _HIGH])
        return _ordered(per_seed, mean, float(low), float(high), clips_only**0.5, len(counted.per_clip) - 1.0)
    variance, freedom = _two_way(per_seed, draws, clips_only, counted)
    picked = rng.integers(num_seeds, size=draws.shape)
    both = np.take_along_axis(draws, picked, axis=1).mean(axis=1)
    below, above = np.percentile(both, [_LOW, _HIGH]) - both.mean()
    reach = float(stats.t.ppf(_HIGH / 100, freedom)) * variance**0.5
    scale = 2 * reach / (above - below) if above > below else 0.0
    return _ordered(per_seed, mean, mean + scale * float(below), mean + scale * float(above), variance**0.5, freedom)


def _two_way(per_seed: FloatArray, draws: FloatArray, clips_only: float, counted: Counted) -> tuple[float, float]:
    """Variance of the mean over seeds, for new clips and new seeds, and its degrees of freedom.

    `draws` [draws, seeds] share their clips, so the covariance between seeds is what the clips alone do, and the
    variance beyond it is noise of single answers; what the seeds vary more than that noise is the seeds' own.

    A variance of two or three seeds says little, and t with one degree of freedom nothing: so it is moderated (Smyth,
    Statistical Applications in Genetics and Molecular Biology 2004), that is averaged with what is believed before any
    seed is seen: a standard deviation of `PRIOR_SPREAD` an arm beyond the noise, worth `PRIOR_FREEDOM` degrees of
    freedom.
    """
    num_clips, num_seeds = counted.per_clip.shape[:2]
    covariance = np.cov(draws, rowvar=False)
    own = float(np.trace(covariance)) / num_seeds
    shared = (float(covariance.sum()) - num_seeds * own) / (num_seeds * (num_seeds - 1))
    noise = max(own - shared, 0.0)
    freedom = PRIOR_FREEDOM + num_seeds - 1
    spread_before = counted.num_arms * PRIOR_SPREAD**2 if own else 0.0  # nothing to add where nothing ever differs
    believed = PRIOR_FREEDOM * (spread_before + noise)
    between = (believed + (num_seeds - 1) * float(per_seed.var(ddof=1))) / freedom / num_seeds
    variance = clips_only + max(between - noise / num_seeds, 0.0)
    certainty = clips_only**2 / max(num_clips - 1, 1) + between**2 / freedom
    return variance, max(variance**2 / certainty, 1.0) if certainty else float(max(num_clips - 1, 1))


def _ordered(per_seed: FloatArray, mean: float, low: float, high: float, error: float, freedom: float) -> Spread:
    """The interval always holds the estimate (scores that are biased under resampling may lie beside it)."""
    return Spread(tuple(float(v) for v in per_seed), mean, min(low, mean), max(high, mean), error, max(freedom, 1.0))


def _draw(counted: Counted, rng: np.random.Generator, resamples: int) -> FloatArray:
    """Scores [resamples, seeds] on clips drawn with replacement; all seeds see the same draw."""
    num_clips, num_seeds, num_features = counted.per_clip.shape
    flat = counted.per_clip.reshape(num_clips, -1)
    patterns, counts = np.unique(flat, axis=0, return_counts=True)
    chunk = max(1, _CHUNK_CELLS // (len(patterns) + patterns.shape[1]))
    scores = []
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        weights = rng.multinomial(num_clips, counts / num_clips, size=size).astype(np.float64)
        scores.append(counted.score((weights @ patterns).reshape(size, num_seeds, num_features)))
    return np.concatenate(scores)


# -- what each score counts ----------------------------------------------------------------------------------------


def accuracy_of(answers: Answers) -> Counted:
    """Accuracy: one feature, right or wrong."""
    num_clips = answers.num_clips
    return Counted(answers.correct.T[:, :, None].astype(np.float64), lambda totals: totals[..., 0] / num_clips)


def f1_of(answers: Answers, label: str) -> Counted:
    """F1 of one label, which must have a true clip; a draw without one takes 0 right of 0 predicted as 0."""
    index = answers.labels.index(label)
    return Counted(label_totals(answers), lambda totals: np.nan_to_num(f1_of_label_totals(totals)[..., index]))


def macro_f1_of(answers: Answers) -> Counted:
    """Macro F1 over the labels that the drawn clips hold."""
    return Counted(label_totals(answers), lambda totals: macro_f1(f1_of_label_totals(totals)))


def calibration_error_of(confidence: FloatArray, correct: npt.NDArray[np.bool_]) -> Counted:
    """Expected calibration error of [seeds, clips] confidences: per bin, the sum of correct - confidence."""
    which = calibration_bin(confidence)
    gap = np.where(which[..., None] == np.arange(CALIBRATION_BINS), (correct - confidence)[..., None], 0.0)
    num_clips = confidence.shape[1]
    return Counted(gap.transpose(1, 0, 2), lambda totals: np.abs(totals).sum(axis=-1) / num_clips)


def difference_of(a: Counted, b: Counted) -> Counted:
    """b minus a on the same clips; seeds are paired, an arm with one run is paired with every run of the other."""
    seeds = max(a.per_clip.shape[1], b.per_clip.shape[1])
    num_a = a.per_clip.shape[2]
    sides = [np.broadcast_to(c.per_clip, (len(c.per_clip), seeds, c.per_clip.shape[2])) for c in (a, b)]
    joined = np.concatenate(sides, axis=2)
    return Counted(joined, lambda totals: b.score(totals[..., num_a:]) - a.score(totals[..., :num_a]), num_arms=2)
