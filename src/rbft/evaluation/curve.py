"""Learning curves: nested subsets of the training clips, what an arm is worth on each, and what more clips would buy.

No curve is fitted to a handful of points. What is said is measured: the gain of the last doubling, with its interval.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from rbft.evaluation.verdict import CANNOT_TELL, HELPED, HURT, RESAMPLES, Runs, arm_report, compare, p_words
from rbft.records import Clip, Manifest
from rbft.results import ArmCurve, ArmReport, Comparison, CurvePoint

HOW_TO_ASK = (
    "What more clips would buy was not measured; add `evaluation.learning_curve=[0.25,0.5]` to the command: "
    "what is trained stays."
)
NOTHING_TRAINED = "No arm was trained, so training clips make no difference yet."


# -- subsets -------------------------------------------------------------------------------------------------------


def labelled_subset(clips: Sequence[Clip], share: float, seed: int) -> list[Clip]:
    """The clips without those labelled ones that fall outside the share; order and unlabelled clips stay.

    Of each label the first round(share x clips), at least one, in an order that only the seed and the clips' ids
    decide: a smaller share is a subset of a larger one, and clips that are added later do not move the others.
    """
    by_label: dict[str, list[str]] = defaultdict(list)
    for clip in clips:
        if clip.label is not None:
            by_label[clip.label].append(clip.clip_id)
    kept = {
        clip_id for members in by_label.values() for clip_id in _seeded(members, seed)[: _count(len(members), share)]
    }
    return [clip for clip in clips if clip.label is None or clip.clip_id in kept]


def with_share(manifest: Manifest, share: float, seed: int) -> Manifest:
    """The manifest with that share of its labelled training clips; the test clips are untouched."""
    train = {clip.clip_id for clip in labelled_subset(manifest.of("train"), share, seed)}
    clips = tuple(clip for clip in manifest.clips if clip.split == "test" or clip.clip_id in train)
    return manifest.model_copy(update={"clips": clips})


def curve_faults(manifest: Manifest, shares: Sequence[float]) -> list[str]:
    """What keeps shares from being points of a curve: too few clips to tell them apart from each other, or from all."""
    counts = [num_labelled(with_share(manifest, share, 0)) for share in shares] + [num_labelled(manifest)]
    names = [f"{share:g}" for share in shares] + ["1"]
    return [
        f"evaluation.learning_curve: shares {names[i]} and {names[i + 1]} are both {counts[i]} of {counts[-1]} "
        "labelled training clips; give fewer shares, further apart"
        for i in range(len(shares))
        if counts[i] == counts[i + 1]
    ]


def num_labelled(manifest: Manifest) -> int:
    """Labelled training clips."""
    return len(manifest.of("train", labelled=True))


def _count(total: int, share: float) -> int:
    return max(1, round(share * total))


def _seeded(clip_ids: Sequence[str], seed: int) -> list[str]:
    return sorted(clip_ids, key=lambda clip_id: hashlib.sha256(f"{seed}\0{clip_id}".encode()).digest())


# -- what was measured ---------------------------------------------------------------------------------------------


def arm_curve(
    name: str,
    runs: Mapping[float, Runs],
    clips: Mapping[float, int],
    labels: Sequence[str],
    *,
    resamples: int = RESAMPLES,
) -> ArmCurve:
    """An arm's curve from its predictions by share (1.0 among them) and the number of clips of each share."""
    shares = sorted(runs)
    points = []
    for share in shares:
        row = arm_report(runs[share], labels=labels, resamples=resamples)
        points.append(CurvePoint(share=share, clips=clips[share], accuracy=row.accuracy, macro_f1=row.macro_f1))
    start = min(shares[:-1], key=lambda share: abs(math.log2(clips[1.0] / clips[share]) - 1))
    gains = tuple(
        compare(
            runs[start],
            runs[1.0],
            names=(f"{name} on {clips[start]} clips", f"{name} on {clips[1.0]} clips"),
            labels=labels,
            metric=metric,
            resamples=resamples,
        )
        for metric in ("accuracy", "macro_f1")
    )
    return ArmCurve(points=tuple(points), doubling_clips=(clips[start], clips[1.0]), gains=gains)


# -- in words ------------------------------------------------------------------------------------------------------


def more_clips(curves: Mapping[str, ArmCurve], arm: str, arms: Mapping[str, ArmReport]) -> str:
    """What more training clips would buy: from the arm's curve, or else from that of the most accurate arm with one."""
    if not curves:
        return HOW_TO_ASK if any(row.stages for row in arms.values()) else NOTHING_TRAINED
    name = arm if arm in curves else max(curves, key=lambda one: arms[one].accuracy.mean)
    return curve_words(name, curves[name])


def curve_words(name: str, curve: ArmCurve) -> str:
    """The measured gain of the last doubling in accuracy, and how far it says anything of the next one."""
    few, all_ = curve.doubling_clips
    gain = curve.gains[0]
    doublings = math.log2(all_ / few)
    measured = (
        f"From {few:,} to {all_:,} labelled training clips the accuracy of {name} {_moved(gain)} "
        f"({interval_words(gain)}, {p_words(gain.p)})"
    )
    if gain.verdict == HELPED:
        per_doubling = gain.difference / doublings
        about = "about as much" if _is_doubling(doublings) else f"about {100 * per_doubling:.1f} points"
        return (
            f"{measured}. Doubling them again, to {2 * all_:,}, would buy at most {about}, if the curve bends as "
            "curves do."
        )
    if gain.verdict == HURT:
        return f"{measured}: more clips like these are not what is missing; look at their labels first."
    hardly = f" Doubling them again would hardly buy more than {100 * gain.high / doublings:.1f} points."
    rest = gain.verdict.removeprefix(CANNOT_TELL)
    return f"{measured}. Whether more would help, these clips cannot tell{rest}.{hardly if gain.high > 0 else ''}"


def interval_words(c: Comparison) -> str:
    """The interval of a difference in percentage points, with signs as tables have them: `−1.4 to +6.0`."""
    return f"95 % interval {_signed(c.low)} to {_signed(c.high)}"


def _signed(difference: float) -> str:
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def _is_doubling(doublings: float) -> bool:
    """Whether a span of clips is a doubling but for rounding to whole clips."""
    return abs(doublings - 1) < 0.1


def _moved(gain: Comparison) -> str:
    if gain.difference == 0:
        return "did not move"
    return f"{'rose' if gain.difference > 0 else 'fell'} by {abs(100 * gain.difference):.1f} points"
