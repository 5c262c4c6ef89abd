"""Numbers for grounding: how much of the attention lies on the objects, and what an answer loses when they are covered.

Attention is compared with its chance level, since a large box holds much of any attention: mass inside boxes with the
share of the area they cover, and the pointing game (Zhang et al., arXiv 1608.00507) with the share of places that would
hit. Masking is judged by the drop in accuracy (Table 5 of the paper), paired by clip and seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rbft.errors import LineageError
from rbft.evaluation import bootstrap, significance
from rbft.evaluation.bootstrap import Counted
from rbft.evaluation.metrics import FloatArray, wilson
from rbft.evaluation.verdict import RESAMPLES, Runs, arm_report
from rbft.results import ArmFocus, ArmMasking, Estimate, Focus, Grounding, GroundingComparison, Interval

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


# -- a whole run ---------------------------------------------------------------------------------------------------


_SHARES = {
    "visual_share": "visual_share",
    "mass": "mass",
    "pointing": "hit",
    "gradient_mass": "gradient_mass",
    "gradient_pointing": "gradient_hit",
}
"""Fields of `ArmFocus` to the fields of `Focus` that they are means of."""


def summarise(
    name: str,
    original: Mapping[str, Runs],
    *,
    focus: Mapping[str, Mapping[int, Sequence[Focus]]],
    masked: Mapping[str, Mapping[str, Runs]],
    covered: tuple[float | None, float | None],
    labels: Sequence[str],
    resamples: int = RESAMPLES,
) -> Grounding:
    """The numbers of a run: every arm, and every pair of arms.

    `original` are predictions by arm and seed of the measured clips; `focus` the same (empty: not measured); `masked`
    predictions by what is covered (`objects`, `random`), arm and seed (empty: not measured); `covered` the covered and
    the touched share of pixels.
    """
    tables = {arm: {field: focus_table(by_seed, of) for field, of in _SHARES.items()} for arm, by_seed in focus.items()}
    lost = {arm: drops(original[arm], masked["objects"][arm], masked["random"][arm]) for arm in original if masked}

    def masking(arm: str) -> ArmMasking:
        runs = {"original": original[arm], "objects": masked["objects"][arm], "random": masked["random"][arm]}
        reports = {key: arm_report(runs_of, labels=labels, resamples=resamples) for key, runs_of in runs.items()}
        return ArmMasking(
            **reports,
            object_drop=estimate(lost[arm].objects, share=False, resamples=resamples),
            random_drop=estimate(lost[arm].random, share=False, resamples=resamples),
            effect=estimate(lost[arm].effect, share=False, resamples=resamples),
        )

    def compared(a: str, b: str) -> GroundingComparison:
        pairs: dict[str, tuple[FloatArray, FloatArray]] = {}
        if tables:
            pairs |= {field: (tables[a][field], tables[b][field]) for field in ("mass", "pointing")}
        if lost:
            pairs |= {"object_drop": (lost[a].objects, lost[b].objects), "effect": (lost[a].effect, lost[b].effect)}
        found = {field: difference(*values, resamples=resamples) for field, values in pairs.items()}
        return GroundingComparison(a=a, b=b, **found)

    one = [clip for by_seed in focus.values() for clip in next(iter(by_seed.values()))]
    return Grounding(
        name=name,
        objects="",
        clips=len(next(iter(next(iter(original.values())).values()))),
        clips_without_objects=0,
        area=float(np.mean([clip.area for clip in one])) if one else None,
        target_share=float(np.mean([clip.target_share for clip in one])) if one else None,
        covered_share=covered[0],
        touched_share=covered[1],
        attention={
            arm: ArmFocus(
                **{f: estimate(t, share=True, resamples=resamples) if len(t) else None for f, t in table.items()}
            )
            for arm, table in tables.items()
        },
        masking={arm: masking(arm) for arm in lost},
        comparisons=tuple(compared(a, b) for a, b in combinations(original, 2)),
    )


# -- on a terminal -------------------------------------------------------------------------------------------------


def render_grounding(found: Grounding, console: Console) -> None:
    """Tables of attention and of masking in percent with 95 % intervals, then the differences between arms."""
    without = f"; {found.clips_without_objects} more have no object" if found.clips_without_objects else ""
    console.print(Text(f"{found.clips} test clips, objects from {found.objects}{without}"))
    if found.attention and found.area is not None and found.target_share is not None:
        rows = [
            [arm, *map(_share, (of.mass, of.pointing, of.gradient_mass, of.gradient_pointing, of.visual_share))]
            for arm, of in found.attention.items()
        ]
        area, target = f"{100 * found.area:.1f}", f"{100 * found.target_share:.1f}"
        rows.append(["chance", area, target, area, target, ""])
        title = "Attention of the answer, % (in objects: of the attention on the clip)"
        _table(title, ["arm", "in objects", "pointing", "by gradient", "pointing", "on the clip"], rows, console)
    if found.masking and found.covered_share is not None and found.touched_share is not None:
        rows = [
            [
                arm,
                *(f"{100 * report.accuracy.mean:.1f}" for report in (of.original, of.random, of.objects)),
                *map(_points, (of.random_drop, of.object_drop, of.effect)),
            ]
            for arm, of in found.masking.items()
        ]
        title = (
            f"Accuracy with {100 * found.covered_share:.0f} % of the pixels covered, % and points "
            f"({100 * found.touched_share:.0f} % of the random patches lie on an object)"
        )
        heads = ["arm", "original", "random", "objects", "random drop", "object drop", "objects − random"]
        _table(title, heads, rows, console)
    rows = [[f"{c.b} − {c.a}", *map(_points, (c.mass, c.pointing, c.object_drop, c.effect))] for c in found.comparisons]
    if rows:
        heads = ["difference", "in objects", "pointing", "object drop", "objects − random"]
        _table("Differences between arms, points", heads, rows, console)
    for note in found.notes:
        console.print(Text(f"note: {note}"))


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> None:
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, head in enumerate(heads):
        table.add_column(Text(head), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _share(of: Interval | None) -> str:
    return "–" if of is None else f"{100 * of.mean:.1f}\n{100 * of.low:.1f}–{100 * of.high:.1f}"


def _points(of: Interval | None) -> str:
    if of is None:
        return "–"
    return f"{100 * of.mean:+.1f}\n{100 * of.low:+.1f} to {100 * of.high:+.1f}".replace("-", "−")
