"""Reports by hand, for the tests of the evidence."""

from __future__ import annotations

from typing import Any

from benchmarks import running, tables

from rbft.results import ArmReport, Comparison, DatasetReport, Estimate, Grounding, RationaleReport, Report

CANNOT = "these clips cannot tell: the smallest difference they could show is 9.0 points"


def estimate(mean: float, low: float, high: float) -> Estimate:
    return Estimate(mean=mean, low=low, high=high, per_seed=(mean, mean))


def arm(mean: float, steps: int) -> ArmReport:
    """An arm whose macro-F1 is two points below its accuracy."""
    lower = estimate(mean - 0.02, mean - 0.07, mean + 0.03)
    return ArmReport(
        seeds=(0, 1), stages=("label",), num_steps=steps, accuracy=estimate(mean, mean - 0.05, mean + 0.05),
        macro_f1=lower, f1={"normal": lower, "abnormal": lower}, confusion=[[1, 1, 0], [1, 1, 0]], unreadable_rate=0.0,
    )  # fmt: skip


def difference(a: str, b: str, value: float, p: float, verdict: str = CANNOT) -> list[Comparison]:
    """b minus a in both metrics, five points to either side."""
    return [
        Comparison(
            a=a, b=b, metric=metric, difference=value, low=value - 0.05, high=value + 0.05, p=p,
            smallest_detectable=0.09, verdict=verdict,
        )
        for metric in ("accuracy", "macro_f1")
    ]  # fmt: skip


def report(arms: dict[str, ArmReport], comparisons: list[Comparison], **changes: Any) -> Report:
    values: dict[str, Any] = {
        "schema_version": 1,
        "name": "medium-three-12345678",
        "headline": "Use rb-ft.",
        "dataset": DatasetReport(
            train=200, test=200, unlabelled=0, left_out=0, labels={"normal": 120, "abnormal": 80},
            train_labels={"normal": 101, "abnormal": 99}, majority_label="normal", majority_accuracy=0.6,
        ),
        "arms": arms,
        "comparisons": tuple(comparisons),
        "rationales": RationaleReport(written=200, kept=197, dropped={"repeating": 3, "empty": 0}),
        "timing": {"train rb-ft: label": 720.0, "predict rb-ft": 34.0},
        "environment": {"device": "CPU"},
        "experiment": {
            "model": "embedded",
            "seeds": [0, 1],
            "training": {"epochs": 3.0, "learning_rate": 3e-4, "vision_learning_rate": 1e-4, "batch_size": 16},
        },
        "fingerprints": {"base": "0123456789abcdef"},
    }  # fmt: skip
    return Report.model_validate(values | changes)


def saved(of: Report, grounding: Grounding | None = None) -> running.Saved:
    return running.Saved(fingerprint="f", report=of, grounding=grounding)


def table_of(key: str) -> tables.Table:
    return next(table for table in tables.TABLES if table.key == key)


def setting(value: float) -> running.Saved:
    arms = {name: arm(0.7, 78) for name in ("zero-shot", "direct", "direct-matched", "rb-ft")}
    arms["rb-ft"] = arm(0.7 + value, 78)
    return saved(report(arms, difference("direct-matched", "rb-ft", value, 0.01)))
