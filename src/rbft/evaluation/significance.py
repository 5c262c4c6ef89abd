"""Is a difference between two arms more than chance? Exact tests on the same clips, and what they could have shown.

Every test pairs answers by clip. `differences` is [seeds, clips]: 1 where only b is right, -1 where only a is, else 0.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, signal, stats

from rbft.evaluation.bootstrap import Spread
from rbft.evaluation.metrics import Answers, FloatArray, IntArray, f1_of_label_totals, label_totals, macro_f1

ALPHA = 0.05
POWER = 0.80
_Z_ALPHA = float(stats.norm.ppf(1 - ALPHA / 2))
_Z_POWER = float(stats.norm.ppf(POWER))
_CHUNK_CELLS = 4_000_000


def sign_flip(differences: IntArray) -> float:
    """Exact two-sided p that two arms are equally often right, flipping the sign of whole clips.

    Under no difference each clip's sum over seeds is as likely its negative (the arms could be swapped on that clip);
    the distribution of the total over all 2^clips flips is computed exactly, as a convolution of binomials. With one
    seed this is the exact McNemar test.
    """
    sums = np.abs(differences.sum(axis=0))
    total = int(abs(differences.sum()))
    distribution = np.ones(1)
    for size in range(1, int(sums.max(initial=0)) + 1):
        count = int((sums == size).sum())
        if count:
            spaced = np.zeros(2 * size * count + 1)
            spaced[:: 2 * size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
            distribution = signal.convolve(distribution, spaced, method="direct")
    reached = np.abs(np.arange(len(distribution)) - (len(distribution) - 1) // 2) >= total
    return float(min(1.0, distribution[reached].sum()))


def sign_flip_test(differences: FloatArray, *, draws: int = 10_000, seed: int = 0) -> float:
    """Two-sided p that per-clip differences [clips] have mean 0, flipping the sign of whole clips.

    All flips where there are no more than `draws`, else so many at random, the seen one among them.
    """
    if len(differences) < 2 or not differences.any():
        return 1.0
    found = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=draws, rng=np.random.default_rng(seed)
    )
    return float(found.pvalue)


def swap_test(a: Answers, b: Answers, *, draws: int = 10_000, seed: int = 0) -> float:
    """Two-sided p that two arms have the same macro F1, swapping the arms on whole clips (seeded random swaps).

    Counts the seen arrangement among the draws, so p is never 0 (Phipson and Smyth 2010).
    """
    features_a, features_b = label_totals(a), label_totals(b)
    rng = np.random.default_rng(seed)
    num_clips = a.num_clips
    seen = abs(float(_macro(features_b.sum(axis=0)) - _macro(features_a.sum(axis=0))))
    both, gap = features_a.sum(axis=0) + features_b.sum(axis=0), (features_b - features_a).reshape(num_clips, -1)
    chunk = max(1, _CHUNK_CELLS // num_clips)
    reached = 1
    for start in range(0, draws, chunk):
        swapped = rng.integers(2, size=(min(chunk, draws - start), num_clips)).astype(np.float64)
        totals_a = features_a.sum(axis=0) + (swapped @ gap).reshape(-1, *both.shape)
        change = _macro(both - totals_a) - _macro(totals_a)
        reached += int((np.abs(change) >= seen - 1e-12).sum())
    return reached / (draws + 1)


def _macro(totals: FloatArray) -> FloatArray:
    """Macro F1, averaged over seeds, of label totals [..., seeds, 3 x labels]."""
    return np.asarray(macro_f1(f1_of_label_totals(totals)).mean(axis=-1))


def two_way_p(spread: Spread) -> float:
    """Two-sided p of a mean against zero, for new clips and new seeds: t with the spread's own degrees of freedom."""
    if spread.standard_error == 0.0:
        return 1.0 if spread.mean == 0.0 else 0.0
    return float(2 * stats.t.sf(abs(spread.mean) / spread.standard_error, spread.degrees_of_freedom))


def smallest_detectable(second_moment: float, num_clips: int, num_seeds: int = 1) -> float:
    """The smallest true difference in accuracy that a two-sided 5 % test on these clips finds with 80 % power.

    `second_moment` v is the mean square of the per-clip differences: with one seed, the share of discordant clips.
    Solves sqrt(n) d = z(.975) sqrt(v) + z(.8) sqrt(v - d^2) for d: the sample size of McNemar's test (Connor,
    Biometrics 1987). A clip that differs does so by 1 / seeds or more, so v is at least d / seeds; where less was seen,
    v = d / seeds stands in (v = d where no clip differs). On fewer than six clips no exact test reaches 5 %: 1.
    """
    if num_clips < 6:
        return 1.0
    num_seeds = num_seeds if second_moment else 1
    root = _Z_ALPHA * math.sqrt(num_clips) + _Z_POWER * math.sqrt(num_clips + _Z_POWER**2 - _Z_ALPHA**2)
    difference = math.sqrt(second_moment) * root / (num_clips + _Z_POWER**2)
    if 0 < difference <= second_moment * num_seeds:
        return min(difference, 1.0)

    def surplus(d: float) -> float:
        return math.sqrt(num_clips * d) - _Z_ALPHA / math.sqrt(num_seeds) - _Z_POWER * math.sqrt(1 / num_seeds - d)

    return float(optimize.brentq(surplus, 0.0, 1 / num_seeds))


def smallest_detectable_normal(standard_error: float) -> float:
    """The same for any score whose difference is about normal: (z(.975) + z(.8)) standard errors, at most 1."""
    return min((_Z_ALPHA + _Z_POWER) * standard_error, 1.0)


def never_seen(num_clips: int) -> float:
    """Upper 95 % bound (two-sided) on a share that was 0 of `num_clips`: Clopper and Pearson, 1 - 0.025^(1/n)."""
    return 1.0 - float((ALPHA / 2) ** (1.0 / num_clips))
