from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest

from rbft.experiment import make_experiment
from rbft.files import parse_yaml
from rbft.report import views
from rbft.report.figures import (
    MAX_CURVE_POINTS,
    CurveRange,
    LossRange,
    curve_plot,
    film_strip,
    loss_plot,
    loss_summary,
    reliability_plot,
)
from rbft.report.material import ArmAnswer, DroppedExample, LossCurve, ReliabilityBin
from rbft.report.tables import main_rows
from rbft.results import Report

# -- figures -------------------------------------------------------------------------------------------------------


def curve(points: list[tuple[int, float]], seed: int = 0) -> LossCurve:
    return LossCurve("rb-ft", "label", seed, points)


def test_plots_follow_the_page_colours_and_share_no_ids() -> None:
    curves = [curve([(1, 2.0), (2, 1.0)]), curve([(1, 2.2), (2, 1.2)], 1)]
    plots = [loss_plot(curves, LossRange.of(curves), slot) for slot in ("a", "b")]
    plots.append(reliability_plot("rb-ft", [ReliabilityBin(0.9, 0.8, 20)], "c"))
    ids = [set(re.findall(r'\bid="([^"]+)"', plot.svg)) for plot in plots]
    assert ids[0] and ids[0].isdisjoint(ids[1]) and ids[1].isdisjoint(ids[2])
    for plot, own in zip(plots, ids, strict=True):
        assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', plot.svg)) <= own
        assert not re.search(r"#0[1-4]0[1-4]0[1-4]|xmlns|<style|<metadata|http", plot.svg)
        assert "var(--arm)" in plot.svg
        assert "<text" in plot.svg
    assert plots[0].alt == "Training loss of rb-ft, label stage: from 2.10 to 1.10, 2 seeds"
    assert plots[2].alt == "Reliability of rb-ft: at 90 %, 80 % right (20)"


def test_learning_curves_share_their_axes_and_draw_every_interval(curve_report: Report) -> None:
    curves = curve_report.learning_curve
    shared = CurveRange.of(curves.values())
    assert shared == CurveRange(clips=(196, 392, 784), low=40, high=90)
    plots = [curve_plot(name, curve, shared, name) for name, curve in curves.items()]
    for plot in plots:
        assert re.findall(r">(\d+)</text>", plot.svg)[:3] == ["196", "392", "784"]
        assert "var(--arm)" in plot.svg
        assert not re.search(r"#0[1-4]0[1-4]0[1-4]|xmlns|<style|<metadata|http", plot.svg)
    assert plots[0].svg == curve_plot("direct-matched", curves["direct-matched"], shared, "direct-matched").svg


def test_a_loss_that_is_not_finite_is_counted_and_not_drawn() -> None:
    curves = [curve([(1, 2.0), (2, math.nan), (3, math.inf), (4, 1.0)])]
    assert loss_summary(curves) == "from 2.00 to 1.00; 2 values are not finite and not drawn"
    assert LossRange.of(curves) == LossRange(last_step=4, top=2.0)
    assert "nan" not in loss_plot(curves, LossRange.of(curves), "x").svg
    nothing = [curve([(1, math.nan)])]
    assert loss_summary(nothing) == "no finite loss was logged; 1 values are not finite and not drawn"
    loss_plot(nothing, LossRange.of(nothing), "y")
    loss_plot([curve([])], LossRange.of([]), "z")


def test_what_a_reinforce_stage_earns_has_two_panels_with_held_out_points() -> None:
    """Reward from 0 to 2 and accuracy from 0 to 1 have axes of their own; held-out points are drawn and told."""
    curves = [
        LossCurve("grpo", "reinforce", seed, [(1, 1.0), (2, 1.5)], "reward", [(0, 0.5), (2, 1.75 + seed)])
        for seed in (0, 1)
    ]
    curves.append(LossCurve("grpo", "reinforce", 0, [(1, 0.25), (2, 0.5)], "accuracy"))
    whole, right = views.loss_panels(curves)
    assert whole.title == "reinforce stage: mean reward of sampled answers"
    assert whole.caption == "from 1.00 to 1.50, 2 seeds; held out from 0.50 to 2.25"
    assert right.title == "reinforce stage: mean accuracy of sampled answers"
    assert right.caption == "from 0.25 to 0.50"
    assert LossRange.of(curves[:2]) == LossRange(last_step=2, top=2.75, bottom=0.5)
    assert whole.plot.alt == f"Mean reward of grpo, reinforce stage: {whole.caption}"
    assert right.plot.alt == f"Mean accuracy of grpo, reinforce stage: {right.caption}"
    assert whole.plot.svg.count("var(--ink)") > right.plot.svg.count("var(--ink)"), "rings are drawn"
    assert LossRange.of(curves[2:]) == LossRange(last_step=2, top=0.5, bottom=0.25), "another axis than the reward's"


def test_what_answers_earn_is_drawn_as_means_of_a_few_steps() -> None:
    """A step has few answers: 200 of 0 and 1 in turn are drawn, and told, as 20 means of ten."""
    noisy = LossCurve("grpo", "reinforce", 0, [(step, float(step % 2)) for step in range(200)], "reward")
    assert loss_summary([noisy]) == "from 0.50 to 0.50"
    assert LossRange.of([noisy]) == LossRange(last_step=199, top=0.5, bottom=0.5)
    loss_plot([noisy], LossRange.of([noisy]), "x")


def test_long_curves_are_thinned_to_means() -> None:
    long = [curve([(step, 1.0 + step % 2) for step in range(10_000)])]
    svg = loss_plot(long, LossRange.of(long), "x").svg
    assert len(svg) < 40_000
    assert MAX_CURVE_POINTS < 1_000


def test_reliability_without_predictions_is_an_empty_plot() -> None:
    plot = reliability_plot("direct", [ReliabilityBin(math.nan, math.nan, 0)], "x")
    assert plot.alt == "Reliability of direct: no predictions"


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((16, 280, 504, 3), [(232, 129)] * 6),
        ((16, 640, 300, 3), [(82, 176)] * 6),
        ((2, 56, 56, 3), [(56, 56)] * 2),
        ((1, 1, 5000, 3), [(232, 1)]),
    ],
)
def test_strips_fit_and_are_never_enlarged(shape: tuple[int, ...], sizes: list, example_of: Callable) -> None:
    frames = np.full(shape, 90, np.uint8)
    strip = film_strip(example_of(0, ["a", "b"], ["rb-ft"], frames=frames, seconds=range(shape[0])))
    assert [(frame.width, frame.height) for frame in strip] == sizes
    assert strip[0].seconds == 0
    assert strip[-1].seconds == shape[0] - 1


# -- views ---------------------------------------------------------------------------------------------------------


def test_accuracy_scale_holds_every_interval(report: Report) -> None:
    scale = views.accuracy_scale(main_rows(report))
    assert (scale.low, scale.high) == (0.4, 0.9)
    assert scale.ticks == (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    assert scale.at(0.65) == "50.00%"
    assert scale.at(2) == "100.00%"


def test_difference_scale_is_symmetric_and_whole(report: Report) -> None:
    scale = views.difference_scale(report.comparisons)
    assert scale.low == -scale.high
    assert 0 in scale.ticks
    assert all(scale.low < c.low and c.high < scale.high for c in report.comparisons)
    assert [round(t, 3) for t in views.difference_scale(()).ticks] == [-0.01, 0.0, 0.01]


def test_comparisons_are_grouped_by_their_arms(report: Report) -> None:
    pairs = views.pairs_of(report.comparisons)
    assert len(pairs) == 6
    assert [c.metric for c in pairs[0].comparisons] == ["accuracy", "macro_f1"]


def test_untrained_arms_are_grey(report: Report) -> None:
    assert views.arm_colours(report.arms) == {
        "zero-shot": "arm-untrained", "direct": "arm-0", "direct-matched": "arm-1", "rb-ft": "arm-2",
    }  # fmt: skip


def test_confusion_shares_are_of_rows() -> None:
    """Table 1's Qwen2-VL RB-FT: TN 56, FP 12, FN 26, TP 102."""
    rows = views.confusion_rows(["normal", "abnormal"], [[56, 12, 0], [26, 102, 0]])
    assert [row.total for row in rows] == [68, 128]
    assert [round(cell.share, 3) for cell in rows[1].cells] == [0.203, 0.797, 0.0]
    assert [[cell.right for cell in row.cells] for row in rows] == [[True, False, False], [False, True, False]]
    assert views.confusion_rows(["a"], [[0, 0]])[0].cells[0].share == 0.0


def test_settings_are_an_experiment_again(report: Report) -> None:
    again = make_experiment(parse_yaml(views.settings_yaml(report.experiment)))
    assert again.model_dump(mode="json") == report.experiment


def test_many_labels_show_the_likeliest_the_truth_and_the_answer(example_of: Callable) -> None:
    probabilities = {"a": 0.02, "b": 0.4, "c": 0.3, "d": 0.2, "e": 0.05, "f": 0.03}
    example = example_of(0, ["a", "b"], [], label="a", arms={"rb-ft": ArmAnswer("b", probabilities)})
    answer = views.example_views([example])[0].answers[0]
    assert [bar.label for bar in answer.bars] == ["a", "b", "c", "d"]
    assert [bar.is_truth for bar in answer.bars] == [True, False, False, False]
    assert answer.num_more == 2
    assert answer.right is False


def test_an_unlabelled_example_is_not_judged(example_of: Callable) -> None:
    example = example_of(0, ["a", "b"], ["rb-ft"], label=None)
    assert views.example_views([example])[0].answers[0].right is None


def test_dropped_examples_show_every_reason() -> None:
    dropped = [DroppedExample(str(i), "x", ("repeating",)) for i in range(9)] + [DroppedExample("9", "", ("empty",))]
    assert [item.clip_id for item in views.dropped_examples(dropped, 3)] == ["0", "9", "1"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (42, "42 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s"), (7_620, "2 h 07 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert views.duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00.0"), (3.46, "0:03.5"), (59.96, "1:00.0"), (727, "12:07.0")])
def test_instants(seconds: float, text: str) -> None:
    assert views.instant(seconds) == text


def test_cut_says_how_much_is_missing() -> None:
    assert views.cut("short") == "short"
    assert views.cut("x" * 1_300) == "x" * 1_200 + " … (100 more characters)"


def test_first_sentence() -> None:
    assert views.first_sentence("It gets 80.5 %. Rationales helped.") == ("It gets 80.5 %.", "Rationales helped.")
    assert views.first_sentence("p = 0.5 is") == ("p = 0.5 is", "")
