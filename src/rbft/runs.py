"""A whole run: arms x seeds, from an experiment to a report. The only place that knows the order of things.

(The module is `runs`, because `rbft.run` is the function.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rbft.chains import ask_arm, run_arm
from rbft.clips.ingest import Reading
from rbft.errors import ExperimentError
from rbft.evaluation.curve import num_labelled, with_share
from rbft.evaluation.verdict import Runs
from rbft.experiment import Arm, Experiment, load_experiment
from rbft.files import held
from rbft.findings import ArmRun, Findings, write_findings
from rbft.general import retention
from rbft.models.vlm import device_name
from rbft.preparing import look_up, prepare
from rbft.progress import Reporter
from rbft.question_findings import QuestionFindings, write_question_findings
from rbft.records import Clip, Rationale, fingerprint
from rbft.results import QuestionReport, Report, Retention
from rbft.session import Session
from rbft.store import RunStore
from rbft.training.plan import explained
from rbft.training.work import NUM_EXAMPLE_CLIPS


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: the report, its page, and the checkpoint to classify with.

    That is of the arm that the report says to use, or where this was not trained, of the most accurate one that was
    (None: none was).
    """

    report: Report
    page: Path
    classifier: Path | None


@dataclass(frozen=True)
class QuestionOutcome:
    """What a run about questions leaves: the report, its page, and the best trained arm's checkpoint (or None)."""

    report: QuestionReport
    page: Path
    checkpoint: Path | None


def run(experiment: Experiment | str | Path, *overrides: str, quiet: bool = False) -> Outcome:
    """Run an experiment, or an experiment file with `key=value` overrides; continues where it was interrupted.

    One about questions is for `run_questions`.
    """
    return run_experiment(_loaded(experiment, overrides), Reporter(quiet=quiet))


def run_questions(experiment: Experiment | str | Path, *overrides: str, quiet: bool = False) -> QuestionOutcome:
    """`run` for an experiment about questions."""
    return run_question_experiment(_loaded(experiment, overrides), Reporter(quiet=quiet))


def _loaded(experiment: Experiment | str | Path, overrides: Sequence[str]) -> Experiment:
    if not isinstance(experiment, Experiment):
        return load_experiment(experiment, overrides)
    if overrides:
        raise ExperimentError("overrides belong to an experiment file; change the Experiment itself with model_copy")
    return experiment


def run_demo(output: Path, overrides: Sequence[str], reporter: Reporter | None = None) -> Outcome:
    """Render the night-yard clips, where they are not there yet, and run the demo's experiment on them."""
    from rbft.tiny import demo

    reporter = reporter or Reporter()
    return run_experiment(demo.experiment(output, overrides, reporter), reporter)


def run_experiment(
    experiment: Experiment, reporter: Reporter | None = None, *, ahead: Reading | None = None
) -> Outcome:
    """Everything, in order: clips, frames, rationales, stages, predictions, report.

    `ahead`: the experiment's clips, where their reading was begun before (`rbft.ahead`).
    Raises StoreError where another process works in the same run directory, ShortMemoryError where the work does not
    fit the device's memory.
    """
    if experiment.questions is not None:
        raise ExperimentError(f"{experiment.name}: an experiment about questions; run it with rbft.run_questions")
    with _prepared(experiment, reporter or Reporter(), ahead) as session, explained(session.fit.plan):
        arms = {arm.name: run_arm(session, arm) for arm in experiment.arms}
        curves = {arm.name: _curve(session, arm, arms[arm.name]) for arm in experiment.curve_arms}
        session.release()
        kept = None if session.general is None else retention(session.general, arms)
        return _report(session, arms, curves, kept)


def run_question_experiment(experiment: Experiment, reporter: Reporter | None = None) -> QuestionOutcome:
    """The same for an experiment about questions: clips, frames, stages, answers, report."""
    if experiment.questions is None:
        raise ExperimentError(f"{experiment.name}: has no `questions`; run it with rbft.run")
    with _prepared(experiment, reporter or Reporter()) as session:
        with explained(session.fit.plan):
            arms = {arm.name: ask_arm(session, arm) for arm in experiment.arms}
        session.release()
        assert session.questions is not None, "the experiment is about questions"
        findings = QuestionFindings(
            experiment=experiment,
            store=session.store,
            manifest=session.manifest,
            frames=session.frames,
            questions=session.questions,
            arms=arms,
            fingerprints=_fingerprints(session),
            device=device_name(),
            notes=_notes(session),
        )
        return QuestionOutcome(*write_question_findings(findings))


@contextmanager
def _prepared(experiment: Experiment, reporter: Reporter, ahead: Reading | None = None) -> Iterator[Session]:
    """What all arms share, with the run directory held by this process."""
    found = look_up(experiment)
    store = RunStore(Path(experiment.output) / experiment.name)
    with held(store.root):
        yield prepare(experiment, found, store, reporter, ahead=ahead)


def _notes(session: Session) -> list[str]:
    return [note for note in (session.fit.plan.why_lora, session.unpinned) if note]


def _fingerprints(session: Session) -> dict[str, str]:
    return {
        "base": session.base.fingerprint,
        "prompts": session.base.prompts_fingerprint,
        "sampling": session.base.sampling_fingerprint,
        "clips": fingerprint(session.manifest),
    }


# -- learning curve ------------------------------------------------------------------------------------------------


def _curve(session: Session, arm: Arm, whole: ArmRun) -> dict[float, Runs]:
    """Predictions of an arm on all test clips, by the share of the labelled training clips; 1 is the run itself.

    Every seed draws its own clips, so that the intervals know that other clips could have been labelled.
    """
    curve: dict[float, Runs] = {1.0: whole.predictions}
    for share in session.experiment.evaluation.learning_curve:
        curve[share] = {
            seed: _on_share(session, arm, share, seed).predictions[seed] for seed in session.experiment.seeds
        }
    return curve


def _on_share(session: Session, arm: Arm, share: float, seed: int) -> ArmRun:
    """One seed of an arm on its share of the labelled training clips; texts and finished stages are shared."""
    session.release()
    manifest = with_share(session.manifest, share, seed)
    part = replace(
        session,
        manifest=manifest,
        experiment=session.experiment.model_copy(update={"seeds": (seed,)}),
        chains={},
    )
    named = arm.model_copy(update={"name": f"{arm.name} on {num_labelled(manifest)} clips"})
    made = run_arm(part, named)
    part.release()
    return made


# -- report --------------------------------------------------------------------------------------------------------


def _report(
    session: Session,
    arms: Mapping[str, ArmRun],
    curves: Mapping[str, Mapping[float, Runs]],
    kept: Retention | None,
) -> Outcome:
    examples = _example_clips(session)
    written = _written(session, arms)
    explained = session.ask(session.base, session.request, examples, what="Explaining example clips", step="examples")
    findings = Findings(
        experiment=session.experiment,
        store=session.store,
        manifest=session.manifest,
        frames=session.frames,
        probes=session.probes,
        arms=arms,
        curves=curves,
        rationales=written,
        retention=kept,
        prompt=session.prompts.rationale(),
        thresholds=session.thresholds,
        examples=examples,
        explained=explained,
        fingerprints=_fingerprints(session),
        device=device_name(),
        notes=_notes(session),
    )
    report, page, classifier = write_findings(findings)
    return Outcome(report=report, page=page, classifier=classifier)


def _written(session: Session, arms: Mapping[str, ArmRun]) -> list[Rationale]:
    """The base's rationales of the training clips; where no arm asked for them, what the first arm chose from."""
    known = session.written(session.base, session.request)
    train = [known[clip.clip_id] for clip in session.manifest.of("train") if clip.clip_id in known]
    return train or next((list(run.rationales) for run in arms.values() if run.rationales), [])


def _example_clips(session: Session) -> list[Clip]:
    """A few test clips of every label in turn, in manifest order."""
    by_label = {
        label: [c for c in session.manifest.of("test", labelled=True) if c.label == label]
        for label in session.manifest.labels
    }
    rounds = [clips[i] for i in range(NUM_EXAMPLE_CLIPS) for clips in by_label.values() if i < len(clips)]
    return rounds[:NUM_EXAMPLE_CLIPS]
