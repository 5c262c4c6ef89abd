"""Did it help with questions? Two arms' answers to the same questions, and the sentence about all arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from rbft.errors import LineageError
from rbft.evaluation import bootstrap, significance
from rbft.evaluation.questions import score_of
from rbft.evaluation.verdict import HELPED, RESAMPLES, p_words, verdict_words
from rbft.records import Answered
from rbft.results import Comparison, QuestionArm

Answers = Mapping[int, Sequence[Answered]]
"""An arm's answers by seed."""


def compare_answers(
    a: Answers, b: Answers, *, names: tuple[str, str], resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """How much better b answers than a: the difference of mean scores over all questions.

    Seeds that both arms ran are paired; an arm with one run is paired with every run of the other. The interval is the
    bootstrap's over clips and seeds, of a clip all questions together. p is the test that flips whole clips; over
    several seeds the larger of it and a t-test that also counts the spread between seeds. Raises LineageError where the
    arms share no seed.
    """
    shared = sorted(set(a) & set(b)) if len(a) > 1 and len(b) > 1 else []
    if len(a) > 1 and len(b) > 1 and not shared:
        raise LineageError(
            f"{names[0]} ran seeds {sorted(a)}, {names[1]} ran {sorted(b)}; give both one seed in common"
        )
    runs_a, runs_b = ([arm[s] for s in shared or sorted(arm)] for arm in (a, b))
    difference = bootstrap.spread(
        bootstrap.difference_of(score_of(runs_a), score_of(runs_b)), resamples=resamples, seed=seed
    )
    per_clip = _per_clip(runs_b) - _per_clip(runs_a)
    p = significance.sign_flip_test(per_clip, seed=seed)
    if max(len(runs_a), len(runs_b)) > 1:
        p = max(p, significance.two_way_p(difference))
    low, high = difference.low, difference.high
    smallest = significance.smallest_detectable_normal(difference.standard_error)
    if low == high == 0.0:
        high = significance.never_seen(len(per_clip))
        low, smallest = -high, high
    verdict = verdict_words(difference.mean, low, high, p, smallest)
    return Comparison(
        a=names[0], b=names[1], metric="score", difference=difference.mean, low=low, high=high, p=p,
        smallest_detectable=smallest, verdict=verdict,
    )  # fmt: skip


def compare_all_answers(arms: Mapping[str, Answers], *, resamples: int = RESAMPLES) -> list[Comparison]:
    """Every pair of arms in their order."""
    return [compare_answers(arms[a], arms[b], names=(a, b), resamples=resamples) for a, b in combinations(arms, 2)]


def _per_clip(runs: Sequence[Sequence[Answered]]) -> np.ndarray:
    """By clip, the sum of what its answers are worth, averaged over runs; a clip weighs by its questions."""
    sums = dict.fromkeys((answered.clip_id for answered in runs[0]), 0.0)
    for run in runs:
        for answered in run:
            sums[answered.clip_id] += (answered.headline or 0.0) / len(runs)
    return np.array(list(sums.values()))


def headline(arms: Mapping[str, QuestionArm], comparisons: Sequence[Comparison]) -> str:
    """Which arm answers best, and whether the test questions show that it does better than the first arm."""
    best = max(arms, key=lambda name: arms[name].answers.overall.score.mean)
    first = next(iter(arms))
    said = f"{best} answers best: {100 * arms[best].answers.overall.score.mean:.1f} % on the test questions."
    if best == first:
        return said + (" No other arm is ahead of it." if len(arms) > 1 else "")
    found = next(c for c in comparisons if {c.a, c.b} == {first, best})
    ahead = f"{100 * found.difference:+.1f} points against {first} ({p_words(found.p)})"
    if found.verdict == HELPED:
        return f"{said} It helped: {ahead}."
    return f"{said} That it is better is not shown: {ahead}; {found.verdict}."
