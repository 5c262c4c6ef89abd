"""What training cost in general ability: descriptions of general clips against human ones, before and after.

Every number is ROUGE-1 F1 by dimension: the share of words in common with the human text under the same heading. Where
the human text has headings and the model's has not, nothing is in common: keeping the form is part of the ability.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rbft.evaluation.bootstrap import Counted, Spread, difference_of, spread
from rbft.rationales.dimensions import WHOLE, parts_of
from rbft.results import ArmRetention, Estimate, Interval, Retention
from rbft.rouge import rouge_1

MEAN = "mean"
Texts = Mapping[str, str]
"""Descriptions by clip id."""
Dimensions = Mapping[str, Sequence[str]]


def description_f1(said: str, human: str, dimensions: Dimensions) -> dict[str, float]:
    """ROUGE-1 F1 of each dimension that the human text has (or of the whole text), then their `mean`."""
    wanted, found = parts_of(human, dimensions), parts_of(said, dimensions)
    if not set(wanted) & set(dimensions):
        found = dict.fromkeys(wanted, said)
    scores = {name: rouge_1(found.get(name, ""), text) for name, text in wanted.items()}
    return scores | {MEAN: sum(scores.values()) / len(scores)}


def retention_report(
    base: Texts,
    arms: Mapping[str, Mapping[int, Texts]],
    human: Texts,
    *,
    dimensions: Dimensions,
    resamples: int,
    seed: int = 0,
) -> Retention:
    """Each arm's descriptions (by seed) and the base's, on the clips of `human`, with intervals over clips and seeds.

    A dimension is measured on the clips whose human text has it.
    """
    reference = {clip_id: description_f1(base[clip_id], text, dimensions) for clip_id, text in human.items()}
    clips = {
        name: [clip_id for clip_id, scores in reference.items() if name in scores]
        for name in dict.fromkeys(name for scores in reference.values() for name in scores)
    }
    order = [name for name in (WHOLE, *dimensions, MEAN) if name in clips]
    before = {name: _counted([reference], clips[name], name) for name in order}
    made = {}
    for arm, runs in arms.items():
        scored = [
            {c: description_f1(texts[c], text, dimensions) for c, text in human.items()} for texts in runs.values()
        ]
        after = {name: _counted(scored, clips[name], name) for name in order}
        made[arm] = ArmRetention(
            f1={name: _estimate(spread(after[name], resamples=resamples, seed=seed)) for name in order},
            difference={
                name: _interval(spread(difference_of(before[name], after[name]), resamples=resamples, seed=seed))
                for name in order
            },
        )
    return Retention(
        clips=len(human),
        base={name: _estimate(spread(before[name], resamples=resamples, seed=seed)) for name in order},
        arms=made,
    )


def _counted(runs: Sequence[Mapping[str, Mapping[str, float]]], clips: Sequence[str], name: str) -> Counted:
    """A dimension's mean F1 over clips, from the scores of every run by clip."""
    values = np.array([[scores[clip_id][name] for scores in runs] for clip_id in clips])
    return Counted(values[:, :, None], lambda totals: totals[..., 0] / len(clips))


def _estimate(found: Spread) -> Estimate:
    return Estimate(mean=found.mean, low=max(found.low, 0.0), high=min(found.high, 1.0), per_seed=found.per_seed)


def _interval(found: Spread) -> Interval:
    return Interval(mean=found.mean, low=found.low, high=found.high)
