"""Arithmetic of scores, against numbers worked by hand, scikit-learn, SciPy and the published table."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from rbft.evaluation import metrics
from rbft.evaluation.metrics import UNREADABLE, Answers, encode

LABELS = ("normal", "abnormal")


def answers_from(table: list[list[int]], labels: tuple[str, ...] = LABELS) -> Answers:
    """One run whose confusion counts are `table` [labels, labels + 1]."""
    truth, predicted = [], []
    for t, row in enumerate(table):
        for p, count in enumerate(row):
            truth += [t] * count
            predicted += [UNREADABLE if p == len(labels) else p] * count
    return Answers(labels, np.array(truth), np.array([predicted]))


HAND = answers_from([[56, 12, 0], [26, 100, 2]])
"""RB-FT's row of Table 1 with two right answers made unreadable."""


def test_confusion_keeps_unreadable_answers_in_a_last_column() -> None:
    assert metrics.confusion(HAND).tolist() == [[[56, 12, 0], [26, 100, 2]]]


def test_unreadable_answers_count_as_wrong_in_accuracy_and_f1() -> None:
    counts = metrics.confusion(HAND)[0]
    assert metrics.accuracy(counts) == pytest.approx(156 / 196)
    # F1 = 2 TP / (true + predicted): normal 112 / (68 + 82), abnormal 200 / (128 + 112).
    assert metrics.f1_per_label(counts) == pytest.approx([112 / 150, 200 / 240])
    assert metrics.macro_f1(metrics.f1_per_label(counts)) == pytest.approx((112 / 150 + 200 / 240) / 2)


def test_a_label_without_a_test_clip_has_no_f1_and_stays_out_of_the_mean() -> None:
    given_ = encode(["a", "a", "b"], [["a", "c", "b"]], ("a", "b", "c"))
    f1 = metrics.f1_per_label(metrics.confusion(given_)[0])
    assert f1[:2] == pytest.approx([2 / 3, 1.0])
    assert math.isnan(f1[2])
    assert metrics.macro_f1(f1) == pytest.approx(5 / 6)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 3)), min_size=1, max_size=60))
def test_scores_agree_with_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = np.array([t for t, _ in pairs]), np.array([p for _, p in pairs])
    given_ = Answers(("a", "b", "c", "d"), truth, predicted[None])
    counts = metrics.confusion(given_)[0]
    wide = confusion_matrix(truth, np.where(predicted < 0, 4, predicted), labels=[0, 1, 2, 3, 4])
    assert counts.tolist() == wide[:4].tolist()
    assert metrics.accuracy(counts) == pytest.approx(accuracy_score(truth, predicted))
    present = sorted(set(truth.tolist()))
    theirs = f1_score(truth, predicted, labels=present, average=None, zero_division=0.0)
    assert metrics.f1_per_label(counts)[present] == pytest.approx(theirs)
    assert metrics.macro_f1(metrics.f1_per_label(counts)) == pytest.approx(np.mean(theirs))
    totals = metrics.label_totals(given_).sum(axis=0)
    assert metrics.f1_of_label_totals(totals)[0] == pytest.approx(metrics.f1_per_label(counts), nan_ok=True)


def test_encode_takes_an_unknown_answer_as_unreadable_and_refuses_an_unknown_truth() -> None:
    given_ = encode(["normal", "abnormal"], [["normal", "Abnormal"], [None, "abnormal"]], LABELS)
    assert given_.predicted.tolist() == [[0, UNREADABLE], [UNREADABLE, 1]]
    assert repr(given_) == "Answers(2 seeds, 2 clips, labels ['normal', 'abnormal'])"
    with pytest.raises(ValueError, match=r"^true labels \['odd'\] are not among \['normal', 'abnormal'\]$"):
        encode(["odd"], [["normal"]], LABELS)


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        ([0, 1], [[0]], r"predicted (1, 1) is not [seeds, clips] of truth (2,)"),
        ([], [[]], "no labelled clip to judge: metrics need at least one"),
        ([0, 2], [[0, 1]], "an answer lies outside the 2 labels"),
    ],
)
def test_answers_check_their_shapes(truth: list[int], predicted: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError) as error:
        Answers(LABELS, np.array(truth, dtype=np.int64), np.array(predicted, dtype=np.int64))
    assert str(error.value) == message


def test_majority_takes_the_first_of_equals() -> None:
    assert metrics.majority(HAND) == ("abnormal", pytest.approx(128 / 196))
    assert metrics.majority(encode(["b", "a"], [["a", "a"]], ("a", "b"))) == ("a", 0.5)


# -- calibration ---------------------------------------------------------------------------------------------------


def test_calibration_error_worked_by_hand() -> None:
    # Four bins: (0.5, 0.75] holds 0.6 right and 0.7 wrong: |0.5 - 0.65| x 2/4; (0.75, 1] holds 0.8 and 1.0 right: 0.1.
    confidence, correct = np.array([0.6, 0.7, 0.8, 1.0]), np.array([True, False, True, True])
    assert metrics.calibration_error(confidence, correct, 4) == pytest.approx(0.5 * 0.15 + 0.5 * 0.1)
    bars = metrics.reliability(confidence, correct, 4)
    assert [bar.count for bar in bars] == [0, 0, 2, 2]
    assert (bars[2].low, bars[2].high) == (0.5, 0.75)
    assert (bars[2].confidence, bars[2].accuracy) == pytest.approx((0.65, 0.5))
    assert math.isnan(bars[0].accuracy)


def test_bin_edges_belong_to_the_bin_below() -> None:
    assert metrics.calibration_bin(np.array([0.0, 0.25, 0.26, 0.5, 1.0]), 4).tolist() == [0, 0, 1, 1, 3]


def test_calibration_error_is_zero_for_sure_and_right_and_one_for_sure_and_wrong() -> None:
    sure = np.ones((2, 5))
    assert metrics.calibration_error(sure, sure > 0) == 0.0
    assert metrics.calibration_error(sure, sure < 0) == 1.0


# -- intervals and tests -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "total"), [(0, 10), (10, 10), (3, 7), (158, 196)])
def test_wilson_agrees_with_scipy(right: int, total: int) -> None:
    theirs = stats.binomtest(right, total).proportion_ci(method="wilson")
    found = metrics.wilson(right, total)
    assert (found.mean, found.low, found.high) == pytest.approx((right / total, theirs.low, theirs.high), abs=1e-12)


def test_wilson_refuses_nothing() -> None:
    with pytest.raises(ValueError, match=r"^a share of zero clips has no interval$"):
        metrics.wilson(0, 0)


def test_mcnemar_is_a_fair_coin_on_the_discordant_clips() -> None:
    assert metrics.mcnemar(0, 0) == 1.0
    assert metrics.mcnemar(0, 6) == pytest.approx(2 / 64)
    # 10 to 2: 2 x (1 + 12 + 66) / 4096
    assert metrics.mcnemar(10, 2) == metrics.mcnemar(2, 10) == pytest.approx(158 / 4096)


# -- Table 1 of the paper ------------------------------------------------------------------------------------------

TABLE_1 = {
    "Qwen2-VL-7B zero-shot": ((57.65, 59.11, 56.08), [[60, 8], [75, 53]]),
    "Qwen2-VL-7B direct": ((69.39, 36.17, 79.87), [[17, 51], [9, 119]]),
    "Qwen2-VL-7B RB-FT": ((80.61, 74.67, 84.30), [[56, 12], [26, 102]]),
    "Qwen2.5-VL-7B zero-shot": ((55.10, 60.36, 48.24), [[67, 1], [87, 41]]),
    "Qwen2.5-VL-7B direct": ((76.02, 51.55, 84.07), [[25, 43], [4, 124]]),
    "Qwen2.5-VL-7B RB-FT": ((82.65, 76.06, 86.40), [[54, 14], [20, 108]]),
}


@pytest.mark.parametrize("row", TABLE_1)
def test_a_qwen_row_of_table_1_has_one_confusion_matrix_and_prints_to_the_last_digit(row: str) -> None:
    (accuracy, *f1), expected = TABLE_1[row]
    found = metrics.confusion_from_rates([68, 128], accuracy, f1)
    assert [matrix.tolist() for matrix in found] == [expected]
    counts = np.hstack([found[0], np.zeros((2, 1), dtype=np.int64)])
    printed = [metrics.accuracy(counts), *metrics.f1_per_label(counts)]
    assert [f"{100 * value:.2f}" for value in printed] == [f"{value:.2f}" for value in (accuracy, *f1)]


def test_a_published_row_that_no_counts_give_has_no_matrix() -> None:
    assert metrics.confusion_from_rates([68, 128], 70.12, [38.02, 78.95]) == []  # UniFormerV2


@settings(max_examples=25)
@given(st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=3), min_size=3, max_size=3))
def test_three_labels_printed_and_solved_hold_the_matrix(table: list[list[int]]) -> None:
    totals = [sum(row) for row in table]
    if min(totals) == 0:
        return
    counts = np.hstack([np.array(table), np.zeros((3, 1), dtype=np.int64)])
    rates = [round(100 * float(f), 2) for f in metrics.f1_per_label(counts)]
    found = metrics.confusion_from_rates(totals, round(100 * float(metrics.accuracy(counts)), 2), rates)
    assert table in [matrix.tolist() for matrix in found]
    assert all(matrix.sum(axis=1).tolist() == totals and matrix.min() >= 0 for matrix in found)


def test_printed_scores_need_two_or_three_labels() -> None:
    with pytest.raises(ValueError, match=r"^4 totals and 4 F1 scores; give two or three of each$"):
        metrics.confusion_from_rates([1, 1, 1, 1], 50, [50, 50, 50, 50])
