"""From answers to questions to the report: rows, comparisons, curves and examples. No model is needed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rbft.clips.ingest import ClipFrames
from rbft.clips.question_set import QuestionSet
from rbft.evaluation.question_verdict import compare_all_answers, headline
from rbft.evaluation.questions import summary
from rbft.experiment import Arm, Experiment
from rbft.findings import environment, loss_curves, skipped_steps
from rbft.records import Answered, Checkpoint, Manifest, Question
from rbft.report.questions import AskedExample, QuestionMaterial, Said, write_question_report
from rbft.results import QuestionArm, QuestionData, QuestionReport
from rbft.store import RunStore

NUM_EXAMPLES = 10


@dataclass(frozen=True)
class QuestionRun:
    """What an arm left behind, by seed: its chain of checkpoints (empty: zero-shot) and its answers in the test."""

    arm: Arm
    checkpoints: Mapping[int, Sequence[Checkpoint]]
    answers: Mapping[int, Sequence[Answered]]


@dataclass(frozen=True)
class QuestionFindings:
    """Everything that the report is made of."""

    experiment: Experiment
    store: RunStore
    manifest: Manifest
    frames: ClipFrames
    questions: QuestionSet
    arms: Mapping[str, QuestionRun]
    fingerprints: Mapping[str, str]
    device: str
    notes: Sequence[str] = ()


def write_question_findings(findings: QuestionFindings) -> tuple[QuestionReport, Path, Path | None]:
    """Write `report.json` and `report.html`; the report, the page, and the best trained arm's checkpoint (or None)."""
    experiment = findings.experiment
    rows = {name: _row(findings, run) for name, run in findings.arms.items()}
    comparisons = compare_all_answers(
        {name: run.answers for name, run in findings.arms.items()}, resamples=experiment.evaluation.resamples
    )
    chains = {name: run.checkpoints for name, run in findings.arms.items()}
    timing, untimed = findings.store.timings()
    report = QuestionReport(
        name=experiment.name,
        headline=headline(rows, comparisons),
        data=_data(findings),
        arms=rows,
        comparisons=tuple(comparisons),
        timing=timing,
        environment=environment(findings.device),
        experiment=experiment.model_dump(mode="json"),
        fingerprints=dict(findings.fingerprints),
        notes=(
            *findings.manifest.notes,
            *_left_out(findings.questions),
            *findings.notes,
            *untimed,
            *skipped_steps(findings.store, chains),
        ),
    )
    trained = {name: row.answers.overall.score.mean for name, row in rows.items() if row.checkpoint is not None}
    best = max(trained, key=lambda name: trained[name]) if trained else None
    material = QuestionMaterial(
        curves=loss_curves(findings.store, chains),
        examples=[_example(findings, question) for question in _examples(findings)],
        left_out=findings.manifest.left_out,
        artifacts={"experiment": "experiment.json", "clips": "manifest.json", "answers": "answers"}
        | ({} if best is None else {f"checkpoint of {best}": str(rows[best].checkpoint)}),
    )
    page = write_question_report(findings.store.root, report, material)
    return report, page, None if best is None else _last(findings.arms[best])


def _row(findings: QuestionFindings, run: QuestionRun) -> QuestionArm:
    chains = list(run.checkpoints.values())
    last = _last(run)
    return QuestionArm(
        seeds=tuple(run.answers),
        stages=tuple(stage.question_title for stage in run.arm.stages),
        num_steps=max((sum(c.num_steps for c in chain) for chain in chains), default=0),
        checkpoint=None if last is None else last.relative_to(findings.store.root).as_posix(),
        answers=summary(*run.answers.values(), resamples=findings.experiment.evaluation.resamples),
    )


def _last(run: QuestionRun) -> Path | None:
    """What an arm's first seed ended with."""
    chain = next(iter(run.checkpoints.values()))
    return Path(chain[-1].path) if chain else None


def _left_out(questions: QuestionSet) -> list[str]:
    if not questions.left_out:
        return []
    return [f"{questions.left_out:,} questions are left out with their clips, see manifest.json"]


def _data(findings: QuestionFindings) -> QuestionData:
    questions = findings.questions
    kinds = [question.kind for question in questions.test]
    return QuestionData(
        train=len(questions.train),
        cot=len(questions.cot),
        test=len(questions.test),
        train_clips=len(findings.manifest.of("train")),
        test_clips=len(findings.manifest.of("test")),
        left_out=len(findings.manifest.left_out),
        kinds={kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
    )


def _examples(findings: QuestionFindings) -> list[Question]:
    """Test questions of every kind in turn, of different clips as far as there are."""
    by_kind: dict[str, list[Question]] = {}
    for question in findings.questions.test:
        by_kind.setdefault(question.kind, []).append(question)
    rounds = [asked[i] for i in range(NUM_EXAMPLES) for asked in by_kind.values() if i < len(asked)]
    return rounds[:NUM_EXAMPLES]


def _example(findings: QuestionFindings, question: Question) -> AskedExample:
    frames = findings.frames.read(question.clip_id)
    said = {}
    for name, run in findings.arms.items():
        first_seed = next(iter(run.answers.values()))
        answered = next(a for a in first_seed if a.question_id == question.question_id)
        said[name] = Said(text=answered.text, answer=answered.answer, score=answered.headline)
    return AskedExample(
        question=question,
        frames=np.asarray(frames.data),
        seconds=[float(second) for second in frames.seconds],
        said=said,
    )
