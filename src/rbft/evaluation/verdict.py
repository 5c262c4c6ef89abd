"""Did it help? Two arms on the same clips, and one arm's row of the table. What follows from them: `advice`.

A run is the predictions of one seed; an arm is its runs by seed. What the words mean: `docs/statistics.md`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Literal

import numpy as np

from rbft.errors import LineageError, ManifestError
from rbft.evaluation import bootstrap, significance
from rbft.evaluation.metrics import UNREADABLE, Answers, FloatArray, confusion, encode, f1_per_label, wilson
from rbft.records import Manifest, Prediction
from rbft.results import ArmReport, CategoryReport, Comparison, DatasetReport, Estimate

Runs = Mapping[int, Sequence[Prediction]]
Metric = Literal["accuracy", "macro_f1"]
HELPED, HURT, CANNOT_TELL = "helped", "hurt", "these clips cannot tell"
RESAMPLES = 2_000


# -- two arms ------------------------------------------------------------------------------------------------------


def compare(
    a: Runs,
    b: Runs,
    *,
    names: tuple[str, str],
    labels: Sequence[str],
    metric: Metric = "accuracy",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """How much better b is than a on the same labelled clips.

    Seeds that both arms ran are paired; an arm with a single run is paired with every run of the other. Raises
    LineageError where the arms answered other clips, disagree on a true label, or share no seed.
    """
    shared = sorted(set(a) & set(b)) if len(a) > 1 and len(b) > 1 else []
    if len(a) > 1 and len(b) > 1 and not shared:
        raise LineageError(
            f"{names[0]} ran seeds {sorted(a)}, {names[1]} ran {sorted(b)}; give both one seed in common"
        )
    runs_a, runs_b = ({s: arm[s] for s in shared} if shared else arm for arm in (a, b))
    truth = _truth({f"{name}, seed {s}": run for name, runs in zip(names, (runs_a, runs_b), strict=True)
                    for s, run in runs.items()})  # fmt: skip
    answers = [answers_of(runs, labels, truth=truth) for runs in (runs_a, runs_b)]
    return compare_answers(answers[0], answers[1], names=names, metric=metric, resamples=resamples, seed=seed)


def compare_all(arms: Mapping[str, Runs], *, labels: Sequence[str], resamples: int = RESAMPLES) -> list[Comparison]:
    """Every pair of arms in their order, in accuracy and in macro F1. Raises LineageError as `compare`."""
    metrics: tuple[Metric, ...] = ("accuracy", "macro_f1")
    return [
        compare(arms[a], arms[b], names=(a, b), labels=labels, metric=metric, resamples=resamples)
        for a, b in combinations(arms, 2)
        for metric in metrics
    ]


def compare_answers(
    a: Answers,
    b: Answers,
    *,
    names: tuple[str, str],
    metric: Metric = "accuracy",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """`compare` on arrays: the same clips in the same order; as many seeds each, or one.

    The interval is the bootstrap's over clips and seeds. p is the exact test on whole clips (one seed: McNemar); over
    several seeds the larger of it and a t-test that also counts the spread between seeds.
    """
    difference = bootstrap.spread(bootstrap.difference_of(*(_counted(x, metric) for x in (a, b))),
                                  resamples=resamples, seed=seed)  # fmt: skip
    num_clips, num_seeds = a.num_clips, max(a.num_seeds, b.num_seeds)
    low, high = difference.low, difference.high
    outcomes = b.correct.astype(np.int64) - a.correct.astype(np.int64)
    seen = float((outcomes.mean(axis=0) ** 2).mean())
    second_moment = max(seen, num_clips * difference.standard_error**2) if num_seeds > 1 else seen
    smallest = significance.smallest_detectable(second_moment, num_clips, num_seeds)
    if metric == "accuracy":
        p = significance.sign_flip(outcomes)
    else:  # a swap moves macro F1 by about as much as accuracy, so too few differing clips limit both
        p = significance.swap_test(a, b, seed=seed)
        smallest = max(smallest, significance.smallest_detectable_normal(difference.standard_error))
    if num_seeds > 1:
        p = max(p, significance.two_way_p(difference))
    if low == high == 0.0:
        fewest = num_clips if metric == "accuracy" else int(min(n for n in np.bincount(a.truth) if n))
        high = significance.never_seen(fewest)
        low, smallest = -high, max(smallest, high)
    verdict = verdict_words(difference.mean, low, high, p, smallest)
    return Comparison(
        a=names[0], b=names[1], metric=metric, difference=difference.mean, low=low, high=high, p=p,
        smallest_detectable=smallest, verdict=verdict,
    )  # fmt: skip


def verdict_words(difference: float, low: float, high: float, p: float, smallest: float) -> str:
    """`helped` or `hurt` where p is below 5 % and the interval leaves out zero; else what these clips could tell."""
    if p < significance.ALPHA and not low <= 0.0 <= high:
        return HELPED if difference > 0 else HURT
    if smallest >= 1.0:
        return f"{CANNOT_TELL}: they are too few to show any difference"
    return f"{CANNOT_TELL}: the smallest difference they could show is {100 * smallest:.1f} points"


def _counted(answers: Answers, metric: Metric) -> bootstrap.Counted:
    return bootstrap.accuracy_of(answers) if metric == "accuracy" else bootstrap.macro_f1_of(answers)


# -- one arm -------------------------------------------------------------------------------------------------------


def answers_of(runs: Runs, labels: Sequence[str], *, truth: Mapping[str, str] | None = None,
               generated: bool = False) -> Answers:  # fmt: skip
    """The labelled clips of an arm's runs as arrays, seeds ascending; `generated` takes the strictly parsed text.

    Raises LineageError where the runs did not answer the same clips.
    """
    truth = _truth({f"seed {s}": run for s, run in runs.items()}) if truth is None else truth
    by_clip = [{p.clip_id: p for p in runs[s]} for s in sorted(runs)]
    predicted = [[run[c].text_label if generated else run[c].label for c in truth] for run in by_clip]
    return encode(list(truth.values()), predicted, labels)


def _truth(runs: Mapping[str, Sequence[Prediction]]) -> dict[str, str]:
    """True label by clip id; raises LineageError naming the runs whose clips or labels differ, or clips twice."""
    faults = []
    first_name, first = next(iter(runs.items()))
    reference = {p.clip_id: p.truth for p in first}
    for name, run in runs.items():
        twice = [clip for clip, n in Counter(p.clip_id for p in run).items() if n > 1]
        found = {p.clip_id: p.truth for p in run}
        odd = sorted(set(found) ^ set(reference))
        other = sorted(c for c in set(found) & set(reference) if found[c] != reference[c])
        faults += [f"{name}: {len(twice)} clips are answered twice: {_some(twice)}"] if twice else []
        faults += [f"{first_name} and {name} answer different clips: {_some(odd)}"] if odd else []
        faults += [f"{first_name} and {name} hold different true labels: {_some(other)}"] if other else []
    truth = {clip: label for clip, label in reference.items() if label is not None}
    if not truth:
        faults.append(f"{first_name}: no labelled clip among {len(reference)}; label some test clips")
    if faults:
        raise LineageError(faults)
    return truth


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


def arm_report(
    runs: Runs,
    *,
    labels: Sequence[str],
    stages: Sequence[str] = (),
    num_steps: int = 0,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ArmReport:
    """One row of the table from the predictions of every seed. F1 leaves out labels without a test clip.

    Calibration is None where a prediction has no probabilities. Raises LineageError as `answers_of`.
    """
    truth = _truth({f"seed {s}": run for s, run in runs.items()})
    answers = answers_of(runs, labels, truth=truth)
    counts = confusion(answers)
    present = [label for label, n in zip(labels, counts[0].sum(axis=1), strict=True) if n]
    generated = None
    if any(p.text is not None for run in runs.values() for p in run):
        generated = answers_of(runs, labels, truth=truth, generated=True)
    sure = _confidence(runs, truth)

    def estimate(counted: bootstrap.Counted) -> Estimate:
        return score_estimate(counted, resamples=resamples, seed=seed)

    return ArmReport(
        seeds=tuple(sorted(runs)),
        stages=tuple(stages),
        num_steps=num_steps,
        accuracy=accuracy_estimate(answers, resamples=resamples, seed=seed),
        macro_f1=estimate(bootstrap.macro_f1_of(answers)),
        f1={label: estimate(bootstrap.f1_of(answers, label)) for label in present},
        confusion=counts.sum(axis=0).tolist(),
        calibration_error=None if sure is None else estimate(bootstrap.calibration_error_of(sure, answers.correct)),
        unreadable_rate=_unreadable(answers),
        generated_accuracy=None if generated is None else accuracy_estimate(generated, resamples=resamples, seed=seed),
        generated_unreadable_rate=None if generated is None else _unreadable(generated),
    )


def score_estimate(counted: bootstrap.Counted, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """A score from 0 to 1 with its bootstrap interval over clips and seeds."""
    found = bootstrap.spread(counted, resamples=resamples, seed=seed)
    return Estimate(mean=found.mean, low=max(found.low, 0.0), high=min(found.high, 1.0), per_seed=found.per_seed)


def accuracy_estimate(answers: Answers, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Accuracy with its interval: Wilson's for one seed and where nothing varies, else the bootstrap's."""
    found = score_estimate(bootstrap.accuracy_of(answers), resamples=resamples, seed=seed)
    if answers.num_seeds > 1 and found.low < found.high:
        return found
    score = wilson(found.mean * answers.num_clips, answers.num_clips)
    return Estimate(mean=found.mean, low=score.low, high=score.high, per_seed=found.per_seed)


def category_reports(
    arms: Mapping[str, Runs], manifest: Manifest, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, CategoryReport]:
    """Accuracy of every arm on the labelled test clips of every category, the largest category first."""
    members: dict[str, set[str]] = {}
    for clip in manifest.of("test", labelled=True):
        for category in clip.category:
            members.setdefault(category, set()).add(clip.clip_id)

    def accuracy_on(clips: set[str], runs: Runs) -> Estimate:
        chosen = {s: [p for p in run if p.clip_id in clips] for s, run in runs.items()}
        return accuracy_estimate(answers_of(chosen, list(manifest.labels)), resamples=resamples, seed=seed)

    return {
        category: CategoryReport(
            clips=len(clips), accuracy={name: accuracy_on(clips, runs) for name, runs in arms.items()}
        )
        for category, clips in sorted(members.items(), key=lambda item: (-len(item[1]), item[0]))
    }


def f1_by_label(answers: Answers) -> dict[str, float | None]:
    """F1 per label over all seeds pooled; None for a label without a test clip."""
    scores = f1_per_label(confusion(answers).sum(axis=0))
    return {label: None if np.isnan(f) else float(f) for label, f in zip(answers.labels, scores, strict=True)}


def _unreadable(answers: Answers) -> float:
    return float((answers.predicted == UNREADABLE).mean())


def _confidence(runs: Runs, truth: Mapping[str, str]) -> FloatArray | None:
    """Probability of the answer given, [seeds, clips] (of the likeliest label where the answer is unreadable)."""
    rows = []
    for s in sorted(runs):
        by_clip = {p.clip_id: p for p in runs[s]}
        chosen = [by_clip[clip] for clip in truth]
        if not all(p.probabilities for p in chosen):
            return None
        rows.append([p.probabilities.get(p.label or "", max(p.probabilities.values())) for p in chosen])
    return np.array(rows, dtype=np.float64)


def collapsed(name: str, runs: Runs, *, trained: bool) -> list[str]:
    """Said of an arm that gives all labelled test clips one label, under every seed or under some; nothing of others.

    Clips that all have the same true label cannot show it.
    """
    only: dict[str, list[int]] = {}
    for seed, run in runs.items():
        labelled = [p for p in run if p.truth is not None]
        given = {p.label for p in labelled}
        if len({p.truth for p in labelled}) > 1 and len(given) == 1 and (label := given.pop()) is not None:
            only.setdefault(label, []).append(seed)
    next_step = (
        "it has learnt no difference between the labels: look at its training loss, lower training.learning_rate, or "
        "set training.class_weights=balanced"
        if trained
        else "the model as it came tells no clips apart; look at the definitions of the labels"
    )
    told = []
    for label, seeds in only.items():
        where = "" if len(seeds) == len(runs) else f" under seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        told.append(f"{name} gives all test clips the label {label!r}{where}; {next_step}.")
    return told


# -- the data and the sentence -------------------------------------------------------------------------------------


def dataset_report(manifest: Manifest) -> DatasetReport:
    """Counts of the clips, and what the best constant answer would score on the test clips.

    Raises ManifestError where no test clip has a label.
    """
    per_split = {split: Counter(c.label for c in manifest.of(split, labelled=True)) for split in ("train", "test")}
    test, train = ({label: per_split[s][label] for label in manifest.labels} for s in ("test", "train"))
    if not sum(test.values()):
        raise ManifestError("no test clip has a label: nothing could be measured; label some, or set `split` to test")
    majority = max(test, key=lambda label: test[label])
    return DatasetReport(
        train=sum(train.values()),
        test=sum(test.values()),
        unlabelled=sum(clip.label is None for clip in manifest.clips),
        left_out=len(manifest.left_out),
        labels=test,
        train_labels=train,
        majority_label=majority,
        majority_accuracy=test[majority] / sum(test.values()),
    )


def p_words(p: float) -> str:
    """`p = 0.012`, or `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.0995 else f"p = {p:.2f}"
