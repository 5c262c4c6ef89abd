"""Synthetic reports as a run leaves them: the published matrices of Qwen2-VL on 196 clips, and harder shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from html.parser import HTMLParser
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from rbft.evaluation.curve import HOW_TO_ASK, curve_words
from rbft.experiment import make_experiment
from rbft.records import LeftOut, Verdict
from rbft.report.material import (
    ArmAnswer,
    DroppedExample,
    ExampleClip,
    LossCurve,
    ReliabilityBin,
    ReportMaterial,
)
from rbft.results import (
    Advice,
    ArmCurve,
    ArmReport,
    Comparison,
    CurvePoint,
    DatasetReport,
    Estimate,
    RationaleReport,
    Report,
)

STAGES = {
    "zero-shot": (),
    "direct": ("label",),
    "direct-matched": ("label",),
    "rb-ft": ("rationale P+R", "label"),
}
STEPS = {"zero-shot": 0, "direct": 49, "direct-matched": 98, "rb-ft": 98}
SKILL = {"zero-shot": 0.57, "direct": 0.69, "direct-matched": 0.73, "rb-ft": 0.805}
RATIONALE = (
    "A single person in a dark coat walks along the fence from the left, slowly and close to the wall. "
    "They stop at the gate, look around twice and reach over it with one arm. "
    "The yard is otherwise empty, lit by one lamp, at night."
)
LONG_LABELS = (
    "routine household activity without any notable event",
    "person falls and does not get up for a while",
    "стекло разбито снаружи",
    "夜间有人翻越围墙并离开现场",
    "حيوان كبير في الحديقة",
    "delivery left at the door and picked up by someone else",
    "vehicle parked across the driveway with its engine running",
)


def estimate(mean: float, *, spread: float = 0.012, width: float = 0.055, num_seeds: int = 3) -> Estimate:
    per_seed = tuple(mean + spread * (i - (num_seeds - 1) / 2) for i in range(num_seeds))
    return Estimate(mean=mean, low=max(0.0, mean - width), high=min(1.0, mean + width), per_seed=per_seed)


def confusion(labels: dict[str, int], skill: float, unreadable: int, num_seeds: int) -> list[list[int]]:
    rows = []
    for i, count in enumerate(labels.values()):
        total = count * num_seeds
        right = round(total * skill)
        wrong = total - right - unreadable
        others = [j for j in range(len(labels)) if j != i]
        row = [0] * (len(labels) + 1)
        row[i], row[-1] = right, unreadable
        for k, j in enumerate(others):
            row[j] = wrong // len(others) + (k < wrong % len(others))
        rows.append(row)
    return rows


def arm_report(name: str, labels: dict[str, int], num_seeds: int = 3) -> ArmReport:
    skill = SKILL.get(name, 0.7)
    trained = bool(STAGES.get(name))
    return ArmReport(
        seeds=tuple(range(num_seeds)),
        stages=STAGES.get(name, ()),
        num_steps=STEPS.get(name, 0),
        accuracy=estimate(skill, num_seeds=num_seeds),
        macro_f1=estimate(skill - 0.05, num_seeds=num_seeds),
        f1={
            label: estimate(skill - 0.09 + 0.14 * i / len(labels), num_seeds=num_seeds)
            for i, label in enumerate(labels)
        },
        confusion=confusion(labels, skill, 0 if trained else 2, num_seeds),
        calibration_error=estimate(0.19 - skill / 8, width=0.02, num_seeds=num_seeds),
        unreadable_rate=0.0,
        generated_accuracy=estimate(skill - 0.015, num_seeds=num_seeds),
        generated_unreadable_rate=0.004 if trained else 0.061,
    )


def make_report(labels: dict[str, int] | None = None, names: Sequence[str] = tuple(STAGES), **changes: Any) -> Report:
    labels = labels or {"normal": 68, "abnormal": 128}
    test = sum(labels.values())
    majority = max(labels, key=lambda label: labels[label])
    experiment = make_experiment(
        {
            "name": "smarthome-7b",
            "clips": "clips/smarthome.csv",
            "model": "Qwen/Qwen2.5-VL-7B-Instruct",
            "domain": "Smart Home Security Expert",
        }
    ).model_copy(update={"labels": dict.fromkeys(labels, "") | {"normal": "routine household activity"}})
    fields: dict[str, Any] = {
        "name": "smarthome-7b",
        "headline": f"Use rb-ft: it labels 80.5 % of {test} test clips correctly; "
        f"always answering {majority!r} gets {100 * labels[majority] / test:.1f} %. "
        "Its checkpoint is checkpoints/6d1f0c2b9a7e4835.",
        "advice": Advice(
            arm="rb-ft",
            checkpoint="checkpoints/6d1f0c2b9a7e4835",
            floor=comparison("always answering 'abnormal'", "rb-ft"),
            how_sure="The accuracy of rb-ft lies between 75.0 and 86.0 %, its macro-F1 between 73.0 and 84.0 % "
            "(95 % intervals, 3 seeds). Rationales helped: rb-ft is 7.5 points over direct-matched "
            "(95 % interval +1.9 to +13.1, p = 0.012; these clips can show 5.8 points or more).",
            more_clips=HOW_TO_ASK,
        ),
        "dataset": DatasetReport(
            train=4 * test,
            test=test,
            unlabelled=12,
            left_out=3,
            labels=labels,
            train_labels={label: count * 4 for label, count in labels.items()},
            majority_label=majority,
            majority_accuracy=labels[majority] / test,
        ),
        "arms": {name: arm_report(name, labels) for name in names},
        "baselines": {"majority": labels[majority] / test, "frame size and motion": 0.622},
        "comparisons": tuple(
            comparison(a, b, metric) for a, b in combinations(names, 2) for metric in ("accuracy", "macro_f1")
        ),
        "rationales": RationaleReport(
            written=784,
            kept=708,
            dropped={"names_label": 41, "truncated": 22, "repeating": 13},
            flagged={"contradicts_label": 57},
            median_words=63,
        ),
        "timing": {"probe": 4.2, "decode": 71.0, "rationales": 1260.5, "train rb-ft": 9310.0, "evaluate": 412.0},
        "environment": {"python": "3.11.9", "torch": "2.10.0", "device": "CPU, 2 cores", "precision": "bfloat16"},
        "experiment": experiment.model_dump(mode="json"),
        "fingerprints": {"clips": "9f2c11d0a7b3e644", "frames": "0c4d8be1f2a39b77", "prompts": "77aa0193be52c0d1"},
        "notes": ("3 clips were left out on request.", "Intervals: bootstrap over clips, 2,000 resamples."),
    }
    return Report(**(fields | changes))


def arm_curve(arm: str, clips: Sequence[int] = (196, 392, 784)) -> ArmCurve:
    """Each doubling buys half of what the one before it bought."""
    points = []
    for step, count in enumerate(reversed(clips)):
        skill = SKILL[arm] - 0.06 * (2**step - 1)
        points.append(
            CurvePoint(
                share=count / clips[-1],
                clips=count,
                accuracy=estimate(skill, width=0.05 + 0.005 * step),
                macro_f1=estimate(skill - 0.03, width=0.06 + 0.005 * step),
            )
        )
    gains = tuple(
        Comparison(
            a=f"{arm} on {clips[-2]} clips", b=f"{arm} on {clips[-1]} clips", metric=metric, difference=0.06, low=0.011,
            high=0.109, p=0.017, smallest_detectable=0.07, verdict="helped",
        )
        for metric in ("accuracy", "macro_f1")
    )  # fmt: skip
    return ArmCurve(points=tuple(reversed(points)), doubling_clips=(clips[-2], clips[-1]), gains=gains)


def comparison(a: str, b: str, metric: Any = "accuracy") -> Comparison:
    difference = SKILL.get(b, 0.7) - SKILL.get(a, 0.7) - (0.004 if metric == "macro_f1" else 0.0)
    told = difference > 0.06
    verdict = "helped" if told else "these clips cannot tell: the smallest difference they could show is 5.8 points"
    return Comparison(
        a=a,
        b=b,
        metric=metric,
        difference=difference,
        low=difference - 0.056,
        high=difference + 0.056,
        p=0.00002 if difference > 0.1 else 0.0121 if told else 0.184,
        smallest_detectable=0.058,
        verdict=verdict,
    )


def loss_curve(arm: str, stage: str, seed: int, num_steps: int = 49) -> LossCurve:
    noise = np.random.default_rng([seed, len(arm), len(stage)])
    start, end = (2.4, 1.1) if stage == "rationale" else (0.9, 0.25)
    steps = range(1, num_steps + 1)
    points = [(s, float(end + (start - end) * np.exp(-s / 12) + noise.normal(0, 0.04))) for s in steps]
    return LossCurve(arm, stage, seed, points)


@cache
def frames(num_frames: int = 16, height: int = 280, width: int = 504, seed: int = 0) -> np.ndarray:
    """A dim yard with a bright figure that walks through it."""
    noise = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    ground = 26 + 30 * (y / height) + 12 * np.sin(x / 37 + seed)
    clip = np.repeat(ground[None, :, :, None], num_frames, axis=0).repeat(3, axis=3)
    clip[:, :, :, 1] *= 1.18
    for t in range(num_frames):
        left = int((t + 0.5) / num_frames * width * 0.85)
        clip[t, height // 3 : height * 5 // 6, left : left + width // 14] = (196, 206, 188)
        clip[t, height // 4 : height // 3, left + 6 : left + width // 20] = (214, 220, 204)
    return (clip + noise.normal(0, 5, clip.shape)).clip(0, 255).astype(np.uint8)


def example(index: int, labels: Sequence[str], names: Sequence[str], **changes: Any) -> ExampleClip:
    truth = labels[index % len(labels)]
    answers = {}
    for k, arm in enumerate(names):
        said = truth if (index + k) % 4 else labels[(index + 1) % len(labels)]
        rest = (1 - 0.81) / (len(labels) - 1)
        answers[arm] = ArmAnswer(said, {label: 0.81 if label == said else rest for label in labels}, text=said)
    fields: dict[str, Any] = {
        "clip_id": f"yard/cam{index % 3}/clip-{index:04d}.mp4",
        "label": truth,
        "frames": changes["frames"] if "frames" in changes else frames(seed=index % 2),
        "seconds": [i * 0.997 for i in range(16)],
        "rationale": RATIONALE,
        "verdict": Verdict(kept=True, flags=("contradicts_label",) if index == 1 else ()),
        "arms": answers,
    }
    return ExampleClip(**(fields | changes))


def make_material(report: Report, num_examples: int = 3, **changes: Any) -> ReportMaterial:
    labels, arms = list(report.dataset.labels), list(report.arms)
    bins = {
        arm: [ReliabilityBin(c, c * (0.8 + 0.05 * k), int(200 * c**4)) for c in (0.55, 0.65, 0.75, 0.85, 0.95)]
        for k, arm in enumerate(arms)
    }
    fields: dict[str, Any] = {
        "loss_curves": [
            loss_curve(name, stage, seed, 98 if name == "direct-matched" else 49)
            for name, arm in report.arms.items()
            for stage in (s.split()[0] for s in arm.stages)
            for seed in arm.seeds
        ],
        "reliability": bins,
        "examples": [example(i, labels, arms) for i in range(num_examples)],
        "dropped_examples": [
            DroppedExample("clip-0007", "The scene is abnormal because a person climbs the fence.", ("names_label",)),
            DroppedExample("clip-0019", "A cat, a cat, a cat, a cat, a cat", ("repeating", "truncated"), "4-grams"),
            DroppedExample("clip-0031", "", ("empty",)),
        ],
        "left_out": [
            LeftOut(clip_id="clip-0901", path="a/clip-0901.mp4", reason="partial", detail="ends at 3.1 of 12.0 s"),
            LeftOut(clip_id="clip-0902", path="a/clip-0902.mp4", reason="no_video_stream", detail="audio only"),
            LeftOut(clip_id="clip-0903", path="a/clip-0903.mp4", reason="partial", detail="ends at 0.4 of 8.0 s"),
        ],
        "artifacts": {"predictions": "predictions/rb-ft.jsonl", "rationales": "rationales/kept.jsonl"},
    }
    return ReportMaterial(**(fields | changes))


VOID = {"meta", "img", "br", "hr", "link", "input", "col"}


class Page(HTMLParser):
    """Elements in order with their attributes, the text of every table cell, and the ids."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.tables: list[list[list[str]]] = []
        self._open: list[str] = []
        self._cell: list[str] | None = None
        self.feed(html)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"<{tag}> repeats an attribute: {names}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        match tag:
            case "table":
                self.tables.append([])
            case "tr":
                self.tables[-1].append([])
            case "td" | "th":
                self._cell = []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, f"</{tag}> closes {self._open[-3:]}"
        self._open.pop()
        if tag in ("td", "th") and self._cell is not None:
            self.tables[-1][-1].append(" ".join(" ".join(self._cell).split()))
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("style", "script"):
            return
        self.text += data
        if self._cell is not None:
            self._cell.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of every element of one kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def ids(self) -> list[str]:
        """Every id in order."""
        return [value for _, attributes in self.elements if (value := attributes.get("id"))]


@pytest.fixture(scope="session")
def report() -> Report:
    return make_report()


@pytest.fixture(scope="session")
def material(report: Report) -> ReportMaterial:
    return make_material(report)


@pytest.fixture(scope="session")
def long_report() -> Report:
    """Seven long labels in several scripts."""
    return make_report({label: 9 + 4 * i for i, label in enumerate(LONG_LABELS)})


@pytest.fixture(scope="session")
def small_report() -> Report:
    """One arm, one seed, nothing written, nothing compared, nothing timed."""
    labels = {"a": 5, "b": 5}
    arm = arm_report("zero-shot", labels, num_seeds=1).model_copy(
        update={"generated_accuracy": None, "generated_unreadable_rate": None}
    )
    return make_report(
        labels, ("zero-shot",), arms={"zero-shot": arm}, rationales=None, timing={}, baselines={}, notes=(),
        headline="Use zero-shot: it labels 57.0 % of 10 test clips correctly.", advice=None,
    )  # fmt: skip


@pytest.fixture(scope="session")
def curve_report(report: Report) -> Report:
    """With the learning curves of two arms."""
    curves = {name: arm_curve(name) for name in ("direct-matched", "rb-ft")}
    assert report.advice is not None
    advice = report.advice.model_copy(update={"more_clips": curve_words("rb-ft", curves["rb-ft"])})
    return report.model_copy(update={"learning_curve": curves, "advice": advice})


@pytest.fixture(scope="session")
def report_of() -> Callable[..., Report]:
    return make_report


@pytest.fixture(scope="session")
def material_of() -> Callable[..., ReportMaterial]:
    return make_material


@pytest.fixture(scope="session")
def example_of() -> Callable[..., ExampleClip]:
    return example


@pytest.fixture(scope="session")
def arm_of() -> Callable[..., ArmReport]:
    return arm_report


@pytest.fixture(scope="session")
def page_of() -> Callable[[str], Page]:
    return Page
