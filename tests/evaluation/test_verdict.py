"""Arms against arms: tests, intervals and words; error rates and coverage by simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rbft.errors import LineageError, ManifestError
from rbft.evaluation import bootstrap, significance
from rbft.evaluation.metrics import Answers, accuracy, confusion, encode, f1_per_label, macro_f1, mcnemar, wilson
from rbft.evaluation.verdict import (
    arm_report,
    category_reports,
    collapsed,
    compare,
    compare_answers,
    dataset_report,
    p_words,
    verdict_words,
)
from rbft.records import Clip, LeftOut, Manifest, Prediction

LABELS = ("normal", "abnormal")
NAMES = ("direct", "rb-ft")


def prediction(clip: int, truth: str | None, label: str | None, **changes: object) -> Prediction:
    given_: dict[str, object] = {
        "clip_id": f"c{clip}", "checkpoint": "k", "truth": truth, "label": label, "log_probabilities": {},
        "probabilities": {},
    }  # fmt: skip
    return Prediction.model_validate(given_ | changes)


def run(right: list[int], truth: list[int] | None = None) -> list[Prediction]:
    """One run over two labels; `right` holds 1, 0, or -1 for an unreadable answer."""
    truth = [i % 2 for i in range(len(right))] if truth is None else truth
    labels = [LABELS[t] if r == 1 else LABELS[1 - t] if r == 0 else None for t, r in zip(truth, right, strict=True)]
    return [prediction(i, LABELS[t], label) for i, (t, label) in enumerate(zip(truth, labels, strict=True))]


def outcomes(right: np.ndarray) -> Answers:
    """Answers over two labels from right-or-wrong [seeds, clips]."""
    truth = np.arange(right.shape[1]) % 2
    return Answers(LABELS, truth, np.where(right.astype(bool), truth, 1 - truth))


# -- the exact tests -----------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 10))
def test_one_seed_is_exact_mcnemar(only_a: int, only_b: int, same: int) -> None:
    differences = np.array([[1] * only_b + [-1] * only_a + [0] * (same + 1)])
    assert significance.sign_flip(differences) == pytest.approx(mcnemar(only_a, only_b))


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(-1, 1), min_size=3, max_size=3), min_size=1, max_size=9))
def test_sign_flip_is_the_share_of_all_flips_that_reach_as_far(clips: list[list[int]]) -> None:
    differences = np.array(clips).T
    sums = differences.sum(axis=0)
    flips = [abs(int(sums @ signs)) for signs in itertools.product([1, -1], repeat=len(sums))]
    assert significance.sign_flip(differences) == pytest.approx(np.mean([f >= abs(sums.sum()) for f in flips]))


def test_swap_test_agrees_with_every_swap_counted() -> None:
    rng = np.random.default_rng(3)
    truth = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    a, b = (Answers(("a", "b", "c"), truth, rng.integers(-1, 3, (2, 8))) for _ in range(2))

    def difference(swap: tuple[int, ...]) -> float:
        keep = np.array(swap) == 0
        sides = [np.where(keep, x.predicted, y.predicted) for x, y in ((a, b), (b, a))]
        f1 = [macro_f1(f1_per_label(confusion(Answers(a.labels, truth, s)))).mean() for s in sides]
        return abs(f1[1] - f1[0])

    seen = difference((0,) * 8)
    exact = np.mean([difference(swap) >= seen - 1e-12 for swap in itertools.product([0, 1], repeat=8)])
    assert significance.swap_test(a, b, draws=20_000) == pytest.approx(exact, abs=0.015)
    assert significance.swap_test(a, b, draws=500, seed=1) == significance.swap_test(a, b, draws=500, seed=1)


# -- what the clips could show -------------------------------------------------------------------------------------


def test_smallest_detectable_difference_solves_the_sample_size_formula() -> None:
    # Connor 1987: n = (1.96 sqrt(v) + 0.8416 sqrt(v - d^2))^2 / d^2; v = 0.25, d = 0.1 needs 195 clips.
    found = significance.smallest_detectable(0.25, 195)
    needed = (1.959964 * 0.5 + 0.841621 * (0.25 - found**2) ** 0.5) ** 2 / found**2
    assert needed == pytest.approx(195, rel=1e-5)
    assert found == pytest.approx(0.0997, abs=1e-4)


def test_smallest_detectable_difference_where_little_was_seen() -> None:
    # v = d: n d = (1.96 + 0.8416 sqrt(1 - d))^2
    found = significance.smallest_detectable(0.0, 196)
    assert 196 * found == pytest.approx((1.959964 + 0.841621 * (1 - found) ** 0.5) ** 2, rel=1e-5)
    assert significance.smallest_detectable(0.01, 196) == found
    assert significance.smallest_detectable(0.25, 5) == 1.0


def test_power_at_the_smallest_detectable_difference_is_about_four_in_five() -> None:
    rng = np.random.default_rng(0)
    size = significance.smallest_detectable(0.3, 200)
    shares = [(0.3 + size) / 2, (0.3 - size) / 2, 0.7]
    found = [mcnemar(int(a), int(b)) < 0.05 for b, a, _ in rng.multinomial(200, shares, size=1000)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.07)


# -- bootstrap -----------------------------------------------------------------------------------------------------


def test_one_seed_is_the_percentile_bootstrap_of_scipy() -> None:
    right = np.random.default_rng(0).random((1, 150)) < 0.7
    ours = bootstrap.spread(bootstrap.accuracy_of(outcomes(right)), resamples=20_000, seed=1)
    theirs = stats.bootstrap((right[0],), np.mean, method="percentile", n_resamples=20_000, rng=2).confidence_interval
    assert (ours.mean, ours.low, ours.high) == pytest.approx((right.mean(), theirs.low, theirs.high), abs=0.007)
    assert ours.standard_error == pytest.approx(right[0].std() / 150**0.5, rel=0.03)


def test_several_seeds_have_the_two_way_standard_error() -> None:
    # Between clips: variance of clip means / clips. Between seeds, moderated, beyond the noise of single answers.
    right = (np.random.default_rng(4).random((5, 80)) < np.array([0.3, 0.5, 0.6, 0.7, 0.9])[:, None]).astype(float)
    clip, seed, mean = right.mean(axis=0), right.mean(axis=1), right.mean()
    rest = ((right - clip[None] - seed[:, None] + mean) ** 2).sum() / (4 * 79) / 80
    between = (4 * seed.var(ddof=1) + 2 * (0.025**2 + rest)) / 6
    expected = clip.var(ddof=1) / 80 + (between - rest) / 5
    found = bootstrap.spread(bootstrap.accuracy_of(outcomes(right)), resamples=8_000, seed=0)
    assert found.standard_error == pytest.approx(expected**0.5, rel=0.02)
    assert found.per_seed == pytest.approx(seed)
    clips_alone = (clip.var(ddof=1) / 80) ** 2 / 79
    assert found.degrees_of_freedom == pytest.approx(expected**2 / (clips_alone + (between / 5) ** 2 / 6), rel=0.05)


def test_two_seeds_far_apart_do_not_make_an_interval_of_anything_goes() -> None:
    right = np.zeros((2, 200))
    right[0, :130] = right[1, :155] = 1
    found = bootstrap.spread(bootstrap.accuracy_of(outcomes(right)), resamples=4_000, seed=0)
    assert 0.05 < found.mean - found.low < 0.15 and 0.05 < found.high - found.mean < 0.15


def test_identical_runs_add_nothing_to_one() -> None:
    right = np.random.default_rng(0).random((1, 120)) < 0.8
    one, three = (
        bootstrap.spread(bootstrap.accuracy_of(outcomes(np.repeat(right, n, axis=0))), resamples=8_000, seed=0)
        for n in (1, 3)
    )
    assert (three.low, three.high) == pytest.approx((one.low, one.high), abs=0.01)


def test_large_test_sets_cost_no_more_memory_or_time() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 200_000)
    answers = Answers(("a", "b", "c"), truth, np.where(rng.random((2, 200_000)) < 0.6, truth, 0))
    found = bootstrap.spread(bootstrap.macro_f1_of(answers), resamples=500, seed=0)
    assert found.high - found.low < 0.1


@pytest.mark.parametrize("score", ["accuracy", "macro_f1", "f1", "calibration"])
def test_point_estimates_are_the_metrics(score: str) -> None:
    rng = np.random.default_rng(1)
    answers = Answers(("a", "b", "c"), rng.integers(0, 2, 60), rng.integers(-1, 3, (3, 60)))
    sure = rng.random((3, 60))
    counts = confusion(answers)
    match score:
        case "accuracy":
            counted, expected = bootstrap.accuracy_of(answers), accuracy(counts)
        case "macro_f1":
            counted, expected = bootstrap.macro_f1_of(answers), macro_f1(f1_per_label(counts))
        case "f1":
            counted, expected = bootstrap.f1_of(answers, "b"), f1_per_label(counts)[:, 1]
        case _:
            from rbft.evaluation.metrics import calibration_error

            counted = bootstrap.calibration_error_of(sure, answers.correct)
            expected = np.array([calibration_error(s, c) for s, c in zip(sure, answers.correct, strict=True)])
    found = bootstrap.spread(counted, resamples=200, seed=0)
    assert found.per_seed == pytest.approx(expected)
    assert found.low <= found.mean <= found.high


# -- coverage and error rates, simulated -------------------------------------------------------------------------


def simulated(rng: np.random.Generator, seeds: int, clips: int, seed_sd: float) -> tuple[np.ndarray, np.ndarray]:
    """Two arms without a difference, [seeds, clips] each: clips vary (for both and for each), seeds and answers too."""
    shared = rng.normal(1.6, 2.0, clips)

    def arm() -> np.ndarray:
        logit = shared + rng.normal(0, 1.0, clips) + rng.normal(0, seed_sd, (seeds, 1))
        return rng.random((seeds, clips)) < 1 / (1 + np.exp(-logit))

    return arm(), arm()


GRID = [(1, 100, 0.0), (3, 100, 0.0), (3, 200, 0.1), (5, 100, 0.2)]
"""Seeds, clips, standard deviation between seeds in logits (0.1: about 0.9 points of accuracy)."""


@pytest.mark.parametrize(("seeds", "clips", "seed_sd"), GRID)
def test_intervals_cover_and_verdicts_err_as_promised(seeds: int, clips: int, seed_sd: float) -> None:
    rng = np.random.default_rng(1000 * seeds + clips)
    big = rng.normal(1.6, (2.0**2 + 1.0 + seed_sd**2) ** 0.5, 400_000)
    true = float((1 / (1 + np.exp(-big))).mean())
    trials, covered, held, significant, judged = 400, 0, 0, 0, 0
    for _ in range(trials):
        a, b = simulated(rng, seeds, clips, seed_sd)
        arm = bootstrap.spread(bootstrap.accuracy_of(outcomes(a)), resamples=400, seed=0)
        found = compare_answers(outcomes(a), outcomes(b), names=NAMES, resamples=400)
        covered += arm.low <= true <= arm.high
        held += found.low <= 0.0 <= found.high
        significant += found.p < 0.05
        judged += found.verdict in ("helped", "hurt")
    # Nominal 95 %; the standard error of 400 trials is 1.1 points.
    assert 0.92 <= covered / trials <= 0.985
    assert 0.92 <= held / trials <= 0.997  # few seeds that do not differ: wider than need be
    assert significant / trials <= 0.05
    assert judged / trials <= 0.05


# -- compare -------------------------------------------------------------------------------------------------------


def test_seeds_are_paired_and_a_single_run_is_paired_with_each() -> None:
    base = [1, 1, 0, 0, 1, 0, 1, 0, 0, 0]
    better = [1, 1, 1, 1, 1, 0, 1, 0, 1, 1]
    both = compare({0: run(base), 1: run(better)}, {1: run(better), 0: run(base)}, names=NAMES, labels=LABELS)
    assert (both.difference, both.p) == (0.0, 1.0)
    single = compare({0: run(base)}, {1: run(better), 2: run(base)}, names=NAMES, labels=LABELS)
    assert (single.a, single.b, single.metric) == (*NAMES, "accuracy")
    assert single.difference == pytest.approx(0.2)
    shared = compare({0: run(base), 1: run(base)}, {1: run(better), 2: run(base)}, names=NAMES, labels=LABELS)
    assert shared.difference == pytest.approx(0.4)


def test_a_clear_gain_helped_its_mirror_hurt_and_unreadable_is_wrong() -> None:
    worse, better = [0] * 30 + [-1] * 10 + [1] * 60, [1] * 90 + [0] * 10
    runs = ({0: run(worse)}, {0: run(better)})
    up = compare(*runs, names=NAMES, labels=LABELS)
    assert (up.verdict, up.difference) == ("helped", pytest.approx(0.3))
    assert up.p == pytest.approx(mcnemar(10, 40))
    down = compare(*reversed(runs), names=NAMES, labels=LABELS)
    assert (down.verdict, down.p, down.difference) == ("hurt", up.p, pytest.approx(-0.3))
    f1 = compare(*runs, names=NAMES, labels=LABELS, metric="macro_f1")
    assert (f1.metric, f1.verdict) == ("macro_f1", "helped")
    assert f1.low < f1.difference < f1.high


def test_no_difference_anywhere_still_has_a_width() -> None:
    same = {0: run([1, 0] * 25), 1: run([1, 0] * 25)}
    found = compare(same, same, names=NAMES, labels=LABELS)
    bound = 1 - 0.025 ** (1 / 50)
    assert (found.low, found.high) == pytest.approx((-bound, bound))
    f1 = compare(same, same, names=NAMES, labels=LABELS, metric="macro_f1")
    assert f1.high == pytest.approx(1 - 0.025 ** (1 / 25))
    assert (f1.p, f1.verdict) == (1.0, found.verdict)
    assert f1.smallest_detectable == pytest.approx(significance.smallest_detectable(0.0, 50))


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((0.1, 0.02, 0.18, 0.01, 0.1), "helped"),
        ((-0.1, -0.18, -0.02, 0.01, 0.1), "hurt"),
        (
            (0.1, 0.02, 0.18, 0.06, 0.123),
            "these clips cannot tell: the smallest difference they could show is 12.3 points",
        ),
        (
            (0.1, -0.01, 0.2, 0.04, 0.1),
            "these clips cannot tell: the smallest difference they could show is 10.0 points",
        ),
        ((0.0, -0.5, 0.5, 1.0, 1.0), "these clips cannot tell: they are too few to show any difference"),
    ],
)
def test_verdicts_need_both_the_test_and_the_interval(numbers: tuple[float, ...], words: str) -> None:
    assert verdict_words(*numbers) == words


def test_what_cannot_be_compared_is_named() -> None:
    with pytest.raises(LineageError) as error:
        compare({0: run([1] * 4), 1: run([1] * 4)}, {2: run([1]), 3: run([1])}, names=NAMES, labels=LABELS)
    assert str(error.value) == "direct ran seeds [0, 1], rb-ft ran [2, 3]; give both one seed in common"
    with pytest.raises(LineageError) as error:
        compare({0: run([1] * 9)}, {0: [*run([1, 1], [1, 1]), *run([1, 1])]}, names=NAMES, labels=LABELS)
    assert error.value.faults == [
        "rb-ft, seed 0: 2 clips are answered twice: c0, c1",
        "direct, seed 0 and rb-ft, seed 0 answer different clips: c2, c3, c4, c5, c6 and 2 more",
    ]
    with pytest.raises(LineageError) as error:
        compare({0: run([1, 1], [0, 0])}, {0: run([1, 1], [0, 1])}, names=NAMES, labels=LABELS)
    assert str(error.value) == "direct, seed 0 and rb-ft, seed 0 hold different true labels: c1"
    with pytest.raises(LineageError) as error:
        arm_report({4: [prediction(0, None, "normal")]}, labels=LABELS)
    assert str(error.value) == "seed 4: no labelled clip among 1; label some test clips"


# -- reports -------------------------------------------------------------------------------------------------------


def test_an_arm_of_one_seed_has_wilsons_interval_and_leaves_out_unlabelled_clips_and_absent_labels() -> None:
    answers = [*run([1, 1, 0, -1, 1, 1]), prediction(9, None, "normal")]
    report = arm_report({7: answers}, labels=[*LABELS, "rare"], stages=["label"], num_steps=12, resamples=200)
    expected = wilson(4, 6)
    assert (report.seeds, report.stages, report.num_steps) == ((7,), ("label",), 12)
    assert (report.accuracy.mean, report.accuracy.low, report.accuracy.high) == pytest.approx(
        (expected.mean, expected.low, expected.high)
    )
    assert report.accuracy.per_seed == pytest.approx((4 / 6,))
    assert report.confusion == [[2, 1, 0, 0], [0, 2, 0, 1], [0, 0, 0, 0]]
    assert list(report.f1) == list(LABELS)
    assert report.f1["normal"].mean == pytest.approx(4 / 5)
    assert report.macro_f1.mean == pytest.approx((4 / 5 + 4 / 6) / 2)
    assert report.unreadable_rate == pytest.approx(1 / 6)
    assert (report.calibration_error, report.generated_accuracy, report.generated_unreadable_rate) == (None, None, None)


def test_a_perfect_arm_is_not_certain() -> None:
    report = arm_report({s: run([1] * 20) for s in (0, 1, 2)}, labels=LABELS, resamples=200)
    assert report.accuracy.mean == 1.0
    assert report.accuracy.low == pytest.approx(wilson(20, 20).low)


def test_several_seeds_calibration_and_the_second_readout() -> None:
    def answers(seed: int) -> list[Prediction]:
        rng = np.random.default_rng(seed)
        found = []
        for clip in range(40):
            sure = float(rng.uniform(0.5, 1))
            truth = LABELS[clip % 2]
            label = truth if rng.random() < sure else LABELS[1 - clip % 2]
            spread = {label: sure, LABELS[1 - LABELS.index(label)]: 1 - sure}
            text = None if clip % 4 == 3 else truth
            found.append(prediction(clip, truth, label, probabilities=spread, text="t", text_label=text))
        return found

    report = arm_report({s: answers(s) for s in (0, 1, 2)}, labels=LABELS, resamples=300)
    assert report.seeds == (0, 1, 2)
    assert len(report.accuracy.per_seed) == 3
    assert report.accuracy.low < report.accuracy.mean < report.accuracy.high
    assert sum(map(sum, report.confusion)) == 120
    assert report.calibration_error is not None
    assert report.calibration_error.low <= report.calibration_error.mean <= report.calibration_error.high
    assert report.generated_accuracy is not None
    assert report.generated_accuracy.mean == report.generated_accuracy.per_seed[0] == 0.75
    assert report.generated_unreadable_rate == 0.25
    assert report == arm_report({s: answers(s) for s in (2, 1, 0)}, labels=LABELS, resamples=300)


def clip(index: int, split: str, label: str | None) -> Clip:
    return Clip.model_validate(
        {"clip_id": f"c{index}", "path": "p", "sha256": "0", "duration_seconds": 1.0, "label": label, "split": split}
    )


def manifest(train: list[str | None], test: list[str | None]) -> Manifest:
    clips = [clip(i, "train", label) for i, label in enumerate(train)]
    clips += [clip(100 + i, "test", label) for i, label in enumerate(test)]
    left_out = (LeftOut(clip_id="x", path="x", reason="empty", detail=""),)
    return Manifest(labels=dict.fromkeys(LABELS, ""), clips=tuple(clips), left_out=left_out)


def test_the_dataset_is_counted_and_the_best_constant_answer_is_that_of_the_test_clips() -> None:
    report = dataset_report(manifest(["normal", "normal", "abnormal", None], ["abnormal"] * 3 + ["normal", None]))
    assert (report.train, report.test, report.unlabelled, report.left_out) == (3, 4, 2, 1)
    assert (report.labels, report.train_labels) == ({"normal": 1, "abnormal": 3}, {"normal": 2, "abnormal": 1})
    assert (report.majority_label, report.majority_accuracy) == ("abnormal", 0.75)


def test_a_dataset_without_a_labelled_test_clip_is_refused() -> None:
    with pytest.raises(ManifestError) as error:
        dataset_report(manifest(["normal"], [None]))
    expected = "no test clip has a label: nothing could be measured; label some, or set `split` to test"
    assert str(error.value) == expected


def test_accuracy_per_category_counts_a_clip_in_each_of_its_categories() -> None:
    """Ten test clips: all outdoors, four of them with an animal too; the last has no label and counts nowhere."""
    clips = [
        clip(i, "test", LABELS[i % 2] if i < 9 else None).model_copy(
            update={"category": ("outdoors", "animal") if i < 4 else ("outdoors",)}
        )
        for i in range(10)
    ]
    elsewhere = clip(10, "train", "normal").model_copy(update={"category": ("indoors",)})
    listed = Manifest(labels=dict.fromkeys(LABELS, ""), clips=(*clips, elsewhere))
    one = [
        p.model_copy(update={"truth": c.label}) for p, c in zip(run([1, 1, 0, 1, 1, 0, 0, 1, 1, 1]), clips, strict=True)
    ]
    two = [
        p.model_copy(update={"truth": c.label}) for p, c in zip(run([1, 0, 0, 1, 1, 0, 1, 1, 1, 1]), clips, strict=True)
    ]
    found = category_reports({"direct": {0: one, 1: two}, "zero-shot": {0: one}}, listed, resamples=200)
    assert {name: report.clips for name, report in found.items()} == {"outdoors": 9, "animal": 4}
    assert list(found) == ["outdoors", "animal"]
    assert found["animal"].accuracy["direct"].per_seed == (0.75, 0.5)
    assert found["outdoors"].accuracy["zero-shot"].mean == pytest.approx(6 / 9)
    expected = wilson(3, 4)
    alone = found["animal"].accuracy["zero-shot"]
    assert (alone.low, alone.high) == (expected.low, expected.high)
    assert category_reports({"zero-shot": {0: one}}, manifest(["normal"], ["normal"])) == {}


def test_p_in_words() -> None:
    assert [p_words(p) for p in (0.0, 0.0004, 0.0123, 0.05, 0.0997, 0.5)] == [
        "p < 0.001", "p < 0.001", "p = 0.012", "p = 0.050", "p = 0.10", "p = 0.50",
    ]  # fmt: skip


def test_macro_f1_cannot_show_less_than_its_differing_clips_allow() -> None:
    """One differing clip of eight: the exact test cannot reach 5 %, whatever the spread of the bootstrap says."""
    truth = ["a", "b"] * 4
    said = [list(truth), ["b", *truth[1:]]]
    a, b = (encode(truth, [answers], ["a", "b"]) for answers in said)
    accuracy, macro = (compare_answers(a, b, names=("a", "b"), metric=m) for m in ("accuracy", "macro_f1"))
    assert macro.smallest_detectable >= accuracy.smallest_detectable > 0.5


# -- collapse --------------------------------------------------------------------------------------------------------


def answered(labels: str, truths: str = "nnaa") -> list[Prediction]:
    """`n` and `a` are the labels, `-` an unreadable answer, `?` a clip without a label."""
    names = {"n": "normal", "a": "abnormal", "-": None, "?": None}
    return [
        prediction(i, names[truth], names[label]) for i, (truth, label) in enumerate(zip(truths, labels, strict=True))
    ]


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ({0: "nnnn"}, ["gives all test clips the label 'normal'"]),
        ({0: "nnnn", 1: "nnnn"}, ["gives all test clips the label 'normal'"]),
        ({0: "nnnn", 1: "nnna", 2: "nnnn"}, ["gives all test clips the label 'normal' under seeds 0, 2"]),
        (
            {0: "nnnn", 1: "aaaa"},
            ["gives all test clips the label 'normal' under seed 0", "gives all test clips the label 'abnormal' under "
             "seed 1"],
        ),
        ({0: "nnna"}, []),
        ({0: "nnn-"}, []),
        ({0: "----"}, []),
    ],
)  # fmt: skip
def test_an_arm_of_one_label_is_told_with_its_seeds(runs: dict[int, str], said: list[str]) -> None:
    found = collapsed("rb-ft", {seed: answered(labels) for seed, labels in runs.items()}, trained=True)
    assert [words.partition("; ")[0] for words in found] == [f"rb-ft {words}" for words in said]
    assert all("lower training.learning_rate, or set training.class_weights=balanced." in words for words in found)


def test_clips_of_one_true_label_show_no_collapse() -> None:
    assert collapsed("direct", {0: answered("nnnn", "nnnn")}, trained=True) == []
    assert collapsed("direct", {0: answered("nnna", "nna?")}, trained=True) != [], "clips without labels do not count"
    [words] = collapsed("zero-shot", {0: answered("aaaa")}, trained=False)
    assert words.endswith("; the model as it came tells no clips apart; look at the definitions of the labels.")
