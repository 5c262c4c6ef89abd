"""From predictions to the report: rows, comparisons, baselines, curves and examples. No model is needed here."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import fmean

import numpy as np

from rbft import __version__
from rbft.answers import AuditThresholds
from rbft.clips.ingest import ClipFrames
from rbft.evaluation.advice import Evidence, Floor, advise, most_accurate
from rbft.evaluation.baselines import ClipFeatures, mean_brightness, motion_energy, simple_baselines
from rbft.evaluation.compare import write_predictions_csv
from rbft.evaluation.curve import arm_curve, num_labelled, with_share
from rbft.evaluation.metrics import reliability
from rbft.evaluation.verdict import (
    Runs,
    arm_report,
    category_reports,
    collapsed,
    compare,
    compare_all,
    dataset_report,
)
from rbft.experiment import Arm, Experiment
from rbft.files import WITHOUT_LOG, read_jsonl
from rbft.rationales.audit import collapse_note, examined, summarise
from rbft.rationales.leakage import leakage_note
from rbft.records import (
    Checkpoint,
    Clip,
    LossPoint,
    Manifest,
    Prediction,
    Probe,
    Rationale,
    ReinforcePoint,
    RolloutRecord,
)
from rbft.report.material import (
    ArmAnswer,
    DroppedExample,
    ExampleClip,
    LossCurve,
    Measure,
    ReliabilityBin,
    ReportMaterial,
)
from rbft.report.page import write_report
from rbft.results import ArmCurve, ArmReport, DatasetReport, RationaleReport, Report, Retention
from rbft.store import RunStore


@dataclass(frozen=True)
class ArmRun:
    """What an arm left behind, by seed: its chain of checkpoints (empty: zero-shot) and its test predictions.

    `rationales` are the own ones that its stages chose from under the first seed, each with its verdict.
    """

    arm: Arm
    checkpoints: Mapping[int, Sequence[Checkpoint]]
    predictions: Mapping[int, Sequence[Prediction]]
    rationales: Sequence[Rationale] = ()


@dataclass(frozen=True)
class Findings:
    """Everything that a report is made of."""

    experiment: Experiment
    store: RunStore
    manifest: Manifest
    frames: ClipFrames
    probes: Mapping[str, Probe]
    arms: Mapping[str, ArmRun]
    curves: Mapping[str, Mapping[float, Runs]]
    """By arm and share of the labelled training clips, the predictions of every seed; 1.0 is the arm itself."""
    rationales: Sequence[Rationale]
    prompt: str
    """What rationales were asked for by."""
    thresholds: AuditThresholds
    examples: Sequence[Clip]
    explained: Mapping[str, Rationale]
    fingerprints: Mapping[str, str]
    device: str
    retention: Retention | None = None
    notes: Sequence[str] = ()
    """What else the report must say, such as why LoRA was chosen."""

    @property
    def labels(self) -> list[str]:
        """The labels in the user's order."""
        return list(self.manifest.labels)


def write_findings(findings: Findings) -> tuple[Report, Path, Path | None]:
    """Write `report.json`, `report.html` and a CSV of predictions per arm and seed.

    Returns the report, the page, and the checkpoint to classify with (None: nothing was trained).
    """
    experiment = findings.experiment
    rows = {name: _row(findings, run) for name, run in findings.arms.items()}
    predictions = {name: run.predictions for name, run in findings.arms.items()}
    resamples = experiment.evaluation.resamples
    comparisons = compare_all(predictions, labels=findings.labels, resamples=resamples)
    dataset = dataset_report(findings.manifest)
    answered = _baselines(findings)
    curves = _curves(findings)
    headline, advice = advise(
        Evidence(
            arms=rows,
            comparisons=comparisons,
            dataset=dataset,
            floor=_floor(findings, dataset, answered),
            checkpoints={
                name: _relative(findings, _checkpoint(run)) for name, run in findings.arms.items() if run.arm.stages
            },
            curves=curves,
        )
    )
    rationales = _examined(findings)
    alike = collapse_note(findings.rationales, findings.thresholds)
    leaking = None if rationales is None else leakage_note(rationales.leakage)
    timing, untimed = findings.store.timings()
    report = Report(
        name=experiment.name,
        headline=headline,
        advice=advice,
        alarms=tuple(
            alarm
            for name, run in findings.arms.items()
            for alarm in collapsed(name, run.predictions, trained=bool(run.arm.stages))
        ),
        dataset=dataset,
        arms=rows,
        baselines={name: _accuracy(made) for name, made in answered.items()},
        comparisons=tuple(comparisons),
        categories=category_reports(predictions, findings.manifest, resamples=resamples),
        learning_curve=curves,
        rationales=rationales,
        retention=findings.retention,
        timing=timing,
        environment=environment(findings.device),
        experiment=experiment.model_dump(mode="json"),
        fingerprints=dict(findings.fingerprints),
        notes=findings.manifest.notes
        + tuple(findings.notes)
        + tuple(note for note in (alike, leaking) if note is not None)
        + tuple(silent_labels(findings))
        + tuple(untimed)
        + tuple(skipped_steps(findings.store, {name: run.checkpoints for name, run in findings.arms.items()})),
    )
    for name, by_seed in predictions.items():
        for seed, said in by_seed.items():
            write_predictions_csv(findings.store.root / "predictions" / f"{name}-seed{seed}.csv", said)
    classifier = _classifier(findings, rows, advice.arm)
    page = write_report(findings.store.root, report, _material(findings, classifier))
    return report, page, classifier


def _examined(findings: Findings) -> RationaleReport | None:
    """What holds of all rationales of the training clips."""
    if not findings.rationales:
        return None
    truths = {c.clip_id: c.label for c in findings.manifest.of("train", labelled=True) if c.label is not None}
    return examined(findings.rationales, truths, findings.labels, findings.prompt, findings.thresholds)


def silent_labels(findings: Findings) -> list[str]:
    """Arms that learn rationales, and of some label none: what they learn in that stage is lopsided."""
    labels = {clip.clip_id: clip.label for clip in findings.manifest.of("train", labelled=True)}
    notes = []
    for name, run in findings.arms.items():
        chosen = [(labels[r.clip_id], r.verdict.kept) for r in run.rationales if r.clip_id in labels]
        for label in findings.labels:
            kept = [keep for of, keep in chosen if of == label]
            if kept and not any(kept) and any(keep for _, keep in chosen):
                notes.append(f"{name} learns no rationale of a clip labelled {label!r}: all {len(kept)} were dropped")
    return notes


def _row(findings: Findings, run: ArmRun) -> ArmReport:
    chains = list(run.checkpoints.values())
    row = arm_report(
        run.predictions,
        labels=findings.labels,
        stages=[stage.title for stage in run.arm.stages],
        num_steps=max((sum(c.num_steps for c in chain) for chain in chains), default=0),
        resamples=findings.experiment.evaluation.resamples,
    )
    return row.model_copy(update={"rationales": summarise(run.rationales) if run.rationales else None})


def _curves(findings: Findings) -> dict[str, ArmCurve]:
    """The learning curves that were asked for. Every seed's subset of a share has the same number of clips."""
    shares = [*findings.experiment.evaluation.learning_curve, 1.0]
    clips = {share: num_labelled(with_share(findings.manifest, share, 0)) for share in shares}
    resamples = findings.experiment.evaluation.resamples
    return {
        name: arm_curve(name, runs, clips, findings.labels, resamples=resamples)
        for name, runs in findings.curves.items()
    }


def _baselines(findings: Findings) -> dict[str, list[Prediction]]:
    """Test answers of classifiers that look at frame size, length, brightness or motion alone."""
    train, test = (findings.manifest.of(split, labelled=True) for split in ("train", "test"))
    return simple_baselines(
        [_features(findings, clip) for clip in train],
        [str(clip.label) for clip in train],
        [_features(findings, clip) for clip in test],
        {clip.clip_id: clip.label for clip in test},
        findings.labels,
    )


def _accuracy(made: Sequence[Prediction]) -> float:
    return sum(p.label == p.truth for p in made) / len(made)


def _floor(findings: Findings, dataset: DatasetReport, answered: Mapping[str, list[Prediction]]) -> Floor:
    """The most accurate of the best constant answer and the simple classifiers, and every arm against it."""
    constant = f"always answering {dataset.majority_label!r}"
    any_of = next(iter(answered.values()))
    made = {constant: [p.model_copy(update={"label": dataset.majority_label}) for p in any_of]}
    made |= {f"looking at {name} alone": found for name, found in answered.items()}
    words = max(made, key=lambda name: _accuracy(made[name]))
    comparisons = {
        name: compare(
            {0: made[words]},
            run.predictions,
            names=(words, name),
            labels=findings.labels,
            resamples=findings.experiment.evaluation.resamples,
        )
        for name, run in findings.arms.items()
    }
    return Floor(words=words, accuracy=_accuracy(made[words]), comparisons=comparisons)


def _features(findings: Findings, clip: Clip) -> ClipFeatures:
    frames, probe = findings.frames.read(clip.clip_id).data, findings.probes[clip.clip_id]
    return ClipFeatures(
        clip_id=clip.clip_id,
        width=probe.width,
        height=probe.height,
        duration_seconds=clip.duration_seconds,
        motion_energy=motion_energy(frames),
        mean_brightness=mean_brightness(frames),
    )


def _classifier(findings: Findings, rows: Mapping[str, ArmReport], use: str | None) -> Path | None:
    """The checkpoint of the arm to use, or where this was not trained, of the most accurate one that was."""
    trained = {name: row for name, row in rows.items() if findings.arms[name].arm.stages}
    if not trained:
        return None
    return _checkpoint(findings.arms[use if use in trained else most_accurate(trained)])


def _checkpoint(run: ArmRun) -> Path:
    """What an arm's first seed ended with."""
    return Path(next(iter(run.checkpoints.values()))[-1].path)


def _relative(findings: Findings, path: Path) -> str:
    return path.relative_to(findings.store.root).as_posix()


# -- the page's material -------------------------------------------------------------------------------------------


def _material(findings: Findings, classifier: Path | None) -> ReportMaterial:
    dropped = [r for r in findings.rationales if not r.verdict.kept]
    artifacts = {"experiment": "experiment.json", "clips": "manifest.json", "predictions": "predictions"}
    if classifier is not None:
        artifacts["classifier"] = _relative(findings, classifier)
    return ReportMaterial(
        loss_curves=loss_curves(findings.store, {name: run.checkpoints for name, run in findings.arms.items()}),
        reliability={name: _reliability(run) for name, run in findings.arms.items()},
        examples=[_example(findings, clip) for clip in findings.examples],
        dropped_examples=[
            DroppedExample(clip_id=r.clip_id, text=r.text, reasons=r.verdict.reasons, detail=r.verdict.detail)
            for r in dropped
        ],
        left_out=findings.manifest.left_out,
        artifacts=artifacts,
    )


def loss_curves(store: RunStore, chains: Mapping[str, Mapping[int, Sequence[Checkpoint]]]) -> list[LossCurve]:
    """Of every stage of every arm and seed whose logs are still there: users may delete them."""
    curves = []
    for name, chain_of in chains.items():
        for seed, chain in chain_of.items():
            for checkpoint in chain:
                logs = store.logs(checkpoint.fingerprint)
                if (path := logs / "losses.jsonl").exists():
                    read = read_jsonl(path, LossPoint, WITHOUT_LOG)
                    points = [(point.step, point.loss) for point in read if point.loss is not None]
                    curves.append(LossCurve(arm=name, stage=checkpoint.stage, seed=seed, points=points))
                if (path := logs / "reinforce.jsonl").exists():
                    tested = logs / "held_out.jsonl"
                    records = read_jsonl(tested, RolloutRecord, WITHOUT_LOG) if tested.exists() else []
                    earned = read_jsonl(path, ReinforcePoint, WITHOUT_LOG)
                    curves += _reinforce_curves(name, checkpoint.stage, seed, earned, records)
    return curves


def skipped_steps(store: RunStore, chains: Mapping[str, Mapping[int, Sequence[Checkpoint]]]) -> list[str]:
    """Said of every stage that skipped optimizer steps, because their loss or gradients were no numbers."""
    notes = []
    kinds: tuple[tuple[str, type[LossPoint] | type[ReinforcePoint]], ...] = (
        ("losses.jsonl", LossPoint), ("reinforce.jsonl", ReinforcePoint),
    )  # fmt: skip
    for name, chain_of in chains.items():
        for seed, checkpoint in [(seed, checkpoint) for seed, chain in chain_of.items() for checkpoint in chain]:
            for file, kind in kinds:
                path = store.logs(checkpoint.fingerprint) / file
                points = read_jsonl(path, kind, WITHOUT_LOG) if path.exists() else []
                if skipped := sum(bool(point.skipped) for point in points):
                    notes.append(
                        f"{name}, seed {seed} ({checkpoint.stage}): {skipped} of {len(points)} steps were skipped, "
                        f"because their loss or gradients were no numbers; {path.relative_to(store.root).as_posix()} "
                        "names their clips"
                    )
    return notes


def _reinforce_curves(
    arm: str, stage: str, seed: int, points: Sequence[ReinforcePoint], held_out: Sequence[RolloutRecord]
) -> list[LossCurve]:
    """The whole reward and its terms, of sampled answers by step and of held-out ones by point; divergence, length.

    The divergence from the parent is there where there is a reference.
    """
    measures: dict[Measure, list[tuple[int, float | None]]] = {
        "reward": [(p.step, p.reward) for p in points],
        "accuracy": [(p.step, p.rewards.get("accuracy")) for p in points],
        "semantic": [(p.step, p.rewards.get("semantic")) for p in points],
        "kl": [(p.step, p.kl) for p in points],
        "length": [(p.step, p.num_tokens) for p in points],
    }
    tested: dict[Measure, list[tuple[int, float]]] = {
        "reward": _means((r.step, r.reward) for r in held_out),
        "accuracy": _means((r.step, r.rewards.get("accuracy")) for r in held_out),
        "semantic": _means((r.step, r.rewards.get("semantic")) for r in held_out),
        "length": _means((r.step, float(r.num_tokens)) for r in held_out),
    }
    known = {name: [(step, value) for step, value in values if value is not None] for name, values in measures.items()}
    return [
        LossCurve(arm, stage, seed, found, name, tested.get(name, ()))
        for name, found in known.items()
        if found or tested.get(name)
    ]


def _means(values: Iterable[tuple[int, float | None]]) -> list[tuple[int, float]]:
    """The mean of each step's values that could be computed."""
    steps: dict[int, list[float]] = {}
    for step, value in values:
        if value is not None:
            steps.setdefault(step, []).append(value)
    return [(step, fmean(found)) for step, found in steps.items()]


def _reliability(run: ArmRun) -> list[ReliabilityBin]:
    made = [p for predictions in run.predictions.values() for p in predictions]
    confidence = np.array([max(p.probabilities.values()) for p in made])
    correct = np.array([p.label == p.truth for p in made])
    return [
        ReliabilityBin(confidence=b.confidence, accuracy=b.accuracy, count=b.count)
        for b in reliability(confidence, correct)
        if b.count
    ]


def _example(findings: Findings, clip: Clip) -> ExampleClip:
    frames = findings.frames.read(clip.clip_id)
    explained = findings.explained.get(clip.clip_id)
    answers = {}
    for name, run in findings.arms.items():
        first_seed = next(iter(run.predictions.values()))
        said = next(p for p in first_seed if p.clip_id == clip.clip_id)
        answers[name] = ArmAnswer(label=said.label, probabilities=said.probabilities, text=said.text)
    return ExampleClip(
        clip_id=clip.clip_id,
        label=clip.label,
        frames=np.asarray(frames.data),
        seconds=[float(second) for second in frames.seconds],
        rationale=explained.text if explained else None,
        verdict=explained.verdict if explained else None,
        arms=answers,
    )


def environment(device: str) -> dict[str, str]:
    """What a report was made with."""
    packages = {name: metadata.version(name) for name in ("torch", "transformers", "av", "numpy")}
    return {
        "rbft": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": str(os.cpu_count()),
        "device": device,
        **packages,
    }
