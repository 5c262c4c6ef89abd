"""Numbers for grounding: how much of the attention lies on the objects, and what an answer loses when they are covered.

Attention is compared with its chance level, since a large box holds much of any attention: mass inside boxes with the
share of the area they cover, and the pointing game (Zhang et al., arXiv 1608.00507) with the share of places that would
hit. Masking is judged by the drop in accuracy (Table 5 of the paper), paired by clip and seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rbft.errors import LineageError
from rbft.evaluation import bootstrap, significance
from rbft.evaluation.bootstrap import Counted
from rbft.evaluation.metrics import FloatArray, wilson
from rbft.evaluation.verdict import RESAMPLES, Runs
from rbft.records import Estimate, Focus, Interval

BoolArray = npt.NDArray[np.bool_]
_SUBSAMPLES = 16


# -- attention and boxes -------------------------------------------------------------------------------------------


def cover(boxes: FloatArray, grid: tuple[int, int, int]) -> FloatArray:
    """Share of each place that boxes [T, objects, 4] cover, [steps, rows, columns]; mean over the frames of a step.

    Objects that overlap count once. Sampled at 16 x 16 points a place.
    """
    _, rows, columns = grid
    y, x = ((np.arange(n * _SUBSAMPLES) + 0.5) / (n * _SUBSAMPLES) for n in (rows, columns))
    down = (boxes[..., 1, None] <= y) & (y < boxes[..., 3, None])
    across = (boxes[..., 0, None] <= x) & (x < boxes[..., 2, None])
    inside = (down[..., :, None] & across[..., None, :]).any(axis=1)
    blocks = inside.reshape(len(boxes), rows, _SUBSAMPLES, columns, _SUBSAMPLES).mean(axis=(2, 4))
    return np.stack([part.mean(axis=0) for part in _by_step(blocks, grid[0])])


def targets(boxes: FloatArray, grid: tuple[int, int, int]) -> BoolArray:
    """Places [steps, rows, columns] that win the pointing game, in any frame of their step.

    The place's centre lies in a box, or a box's centre in the place (a box may be smaller than a place).
    """
    steps, rows, columns = grid
    y, x = ((np.arange(n) + 0.5) / n for n in (rows, columns))
    down = (boxes[..., 1, None] <= y) & (y < boxes[..., 3, None])
    across = (boxes[..., 0, None] <= x) & (x < boxes[..., 2, None])
    hit = np.asarray((down[..., :, None] & across[..., None, :]).any(axis=1), dtype=np.bool_)
    for frame, step_boxes in enumerate(boxes):
        for x0, y0, x1, y1 in step_boxes[~np.isnan(step_boxes).any(axis=1)]:
            hit[frame, min(int((y0 + y1) / 2 * rows), rows - 1), min(int((x0 + x1) / 2 * columns), columns - 1)] = True
    return np.stack([part.any(axis=0) for part in _by_step(hit, steps)])


def _by_step(values: npt.NDArray[np.generic], steps: int) -> list[npt.NDArray[np.generic]]:
    """Per-frame values [T, …] by temporal step; the last one may hold fewer frames."""
    size = -(-len(values) // steps)
    return [values[start : start + size] for start in range(0, len(values), size)]


def focus_of(clip_id: str, checkpoint: str, attention: FloatArray, gradient: FloatArray, boxes: FloatArray) -> Focus:
    """One clip's numbers, from maps [layers, steps, rows, columns] (averaged over layers) and boxes [T, objects, 4]."""
    grid = attention.shape[1], attention.shape[2], attention.shape[3]
    covered, winning = cover(boxes, grid), targets(boxes, grid)
    plain, weighted = attention.mean(axis=0), gradient.mean(axis=0)
    return Focus(
        clip_id=clip_id,
        checkpoint=checkpoint,
        area=float(covered.mean()),
        target_share=float(winning.mean()),
        visual_share=min(float(plain.sum()), 1.0),
        mass=mass_inside(plain, covered),
        hit=hits(plain, winning),
        gradient_mass=mass_inside(weighted, covered),
        gradient_hit=hits(weighted, winning),
    )


def mass_inside(values: FloatArray, covered: FloatArray) -> float | None:
    """Share of a map's total inside the boxes; None where the map is zero everywhere."""
    total = float(values.sum())
    return min(float((values * covered).sum()) / total, 1.0) if total > 0 else None


def hits(values: FloatArray, winning: BoolArray) -> bool | None:
    """Whether the map's largest value (the first of equals) wins the pointing game; None for a map of zeros."""
    return bool(winning.ravel()[int(values.argmax())]) if values.max() > 0 else None


# -- means with intervals ------------------------------------------------------------------------------------------


def estimate(values: FloatArray, *, share: bool, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """The mean of values [clips, seeds] with its 95 % interval over clips and seeds.

    `share` says that every value is from 0 to 1: bounds stay there, and with one seed of zeros and ones the interval is
    Wilson's. A difference that was never seen gets the bound that so many clips allow, as in `verdict.compare`.
    """
    num_clips, num_seeds = values.shape
    if share and num_seeds == 1 and np.isin(values, (0.0, 1.0)).all():
        found = wilson(float(values.sum()), num_clips)
        return Estimate(mean=found.mean, low=found.low, high=found.high, per_seed=(found.mean,))
    spread = bootstrap.spread(_mean(values), resamples=resamples, seed=seed)
    low, high = spread.low, spread.high
    if share:
        low, high = max(low, 0.0), min(high, 1.0)
    elif low == high == 0.0:
        high = significance.never_seen(num_clips)
        low = -high
    return Estimate(mean=spread.mean, low=low, high=high, per_seed=spread.per_seed)


def difference(a: FloatArray, b: FloatArray, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """b minus a of values [clips, seeds] on the same clips, paired by clip and (where both have several) by seed."""
    spread = bootstrap.spread(bootstrap.difference_of(_mean(a), _mean(b)), resamples=resamples, seed=seed)
    low, high = spread.low, spread.high
    if low == high == 0.0:
        high = significance.never_seen(len(a))
        low = -high
    return Interval(mean=spread.mean, low=low, high=high)


def _mean(values: FloatArray) -> Counted:
    num_clips = len(values)
    return Counted(values[:, :, None].astype(np.float64), lambda totals: totals[..., 0] / num_clips)


# -- masking -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Drops:
    """What one arm lost on each clip under each seed, [clips, seeds]: 1 lost a right answer, -1 won one, 0 neither."""

    objects: FloatArray
    random: FloatArray

    @property
    def effect(self) -> FloatArray:
        """What covering objects costs beyond covering as much elsewhere."""
        return self.objects - self.random


def drops(original: Runs, objects: Runs, random: Runs) -> Drops:
    """Drops of one arm from its predictions by seed; raises LineageError where they are not of the same clips."""
    right = [_right(runs, original) for runs in (original, objects, random)]
    return Drops(objects=right[0] - right[1], random=right[0] - right[2])


def _right(runs: Runs, like: Runs) -> FloatArray:
    """Whether each labelled clip is answered rightly, 0 or 1, [clips, seeds], in the order of `like`'s first run."""
    if sorted(runs) != sorted(like):
        raise LineageError(f"masked predictions are of seeds {sorted(runs)}, the originals of {sorted(like)}")
    order = [p.clip_id for p in next(iter(like.values())) if p.truth is not None]
    columns = []
    for seed in sorted(runs):
        by_clip = {p.clip_id: p for p in runs[seed]}
        missing = [clip for clip in order if clip not in by_clip]
        if missing:
            raise LineageError(f"seed {seed}: {len(missing)} clips have no masked prediction: {', '.join(missing[:5])}")
        columns.append([float(by_clip[clip].label == by_clip[clip].truth) for clip in order])
    return np.array(columns, dtype=np.float64).T


def focus_table(runs: Mapping[int, Sequence[Focus]], field: str) -> FloatArray:
    """One field of every clip under every seed, [clips, seeds]; clips for which a seed has None are left out."""
    rows = [[getattr(focus, field) for focus in runs[seed]] for seed in sorted(runs)]
    kept = [column for column in zip(*rows, strict=True) if None not in column]
    return np.array(kept, dtype=np.float64).reshape(len(kept), len(rows))
