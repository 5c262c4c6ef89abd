"""A whole run: arms x seeds, from an experiment to a report. The only place that knows the order of things.

(The module is `runs`, because `rbft.run` is the function.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rbft.ahead import frame_cache
from rbft.answers import AuditThresholds, load_thresholds
from rbft.chains import ask_arm, run_arm
from rbft.clips.changes import changed_clips
from rbft.clips.check import CheckResult, check_experiment
from rbft.clips.grouped import Bad, by_reason, counted
from rbft.clips.ingest import Reading, build_manifest, clip_frames, manifest_of
from rbft.clips.manifest import Listing, read_manifest
from rbft.clips.question_set import QuestionSet, read_question_set, used_questions
from rbft.errors import CheckpointError, ExperimentError, ManifestError, UserError
from rbft.evaluation.curve import curve_faults, num_labelled, with_share
from rbft.evaluation.verdict import Runs, dataset_report
from rbft.experiment import Arm, Experiment, load_experiment
from rbft.files import held, read_record, sweep, write_record, write_text
from rbft.findings import ArmRun, Findings, write_findings
from rbft.general import general_session, list_general, retention
from rbft.models.encoder import EncoderFiles, find_encoder
from rbft.models.sources import Source, is_on_hub, resolve
from rbft.models.vlm import TokenCounter, device_name, grid_of, local_source, model_shape, this_device
from rbft.progress import Reporter
from rbft.prompts import Prompts, load_prompts
from rbft.question_findings import QuestionFindings, write_question_findings
from rbft.rationales.crew import Crew, crew_of
from rbft.records import Checkpoint, Clip, FramePlan, Grid, Manifest, Rationale, fingerprint
from rbft.results import QuestionReport, Report, Retention
from rbft.session import Session
from rbft.store import RunStore
from rbft.training.examples import stage_faults
from rbft.training.fit import Fit, fit
from rbft.training.plan import MemoryPlan, explained
from rbft.training.work import NUM_EXAMPLE_CLIPS, question_work, work_of

MEMORY = "memory.json"


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


# -- clips and frames ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What an experiment names, found before anything is written."""

    listing: Listing
    general: Listing | None
    prompts: Prompts
    thresholds: AuditThresholds
    source: Source
    grid: Grid
    encoders: Mapping[str, EncoderFiles]
    crew: Crew | None
    questions: QuestionSet | None = None


def look_up(experiment: Experiment) -> Found:
    """The list of clips, the prompts, the model and encoders; raises UserError for what is wrong with them."""
    if experiment.questions is not None:
        prompts = load_prompts(experiment.prompts, persona=experiment.domain, labels={})
        questions = read_question_set(experiment, prompts)
        listing = questions.listing
    else:
        questions = None
        listing = read_manifest(
            Path(experiment.clips).expanduser(), labels=experiment.labels, allow_outside=experiment.allow_outside
        )
        if listing.faults:
            raise ManifestError(listing.faults)
        prompts = load_prompts(experiment.prompts, persona=experiment.domain, labels=listing.labels)
    source = resolve(experiment.model, revision=experiment.revision, allow_remote_code=experiment.allow_remote_code)
    grid = grid_of(source, allow_remote_code=experiment.allow_remote_code)
    encoders = {name: find_encoder(name) for name in experiment.encoders}
    general, thresholds, crew = list_general(experiment), load_thresholds(None), crew_of(experiment, grid)
    return Found(listing, general, prompts, thresholds, source, grid, encoders, crew, questions)


def prepare(
    experiment: Experiment, found: Found, store: RunStore, reporter: Reporter, *, finished: bool = False,
    ahead: Reading | None = None,
) -> Session:  # fmt: skip
    """Read every clip into the cache, and write down what is run.

    `finished`: nothing is left to train, so stages are those of the run, whatever this device could train.
    """
    listing, source, prompts = found.listing, found.source, found.prompts
    cache = frame_cache(experiment)
    sweep(store.root)
    sweep(cache.root)
    if ahead is None or ahead.listing != listing or ahead.grid != found.grid:
        ahead = Reading(
            listing,
            sampling=experiment.sampling,
            grid=found.grid,
            limits=experiment.limits,
            workers=experiment.workers,
            cache=cache,
        )
    with reporter.counted("Reading clips", len(listing.rows), since=ahead.since) as advance:
        inspections = ahead.finish(advance)
    manifest = build_manifest(listing, inspections, split_rule=experiment.split, on_bad_clip=experiment.on_bad_clip)
    questions = None if found.questions is None else used_questions(found.questions, manifest)
    if questions is None and (faults := faults_of(experiment, manifest, prompts)):
        raise ManifestError(faults)
    frames = clip_frames(cache, inspections)
    began = _began_with_lora(store, source)
    fitted = _fit(experiment, manifest, frames.plan, prompts, source, found.encoders, questions=questions, lora=began)
    if not finished and not _reported(store, experiment):
        fitted.refuse()
    _tell(manifest, len(listing.rows), fitted, store, reporter)
    if unpinned := source.unpinned(experiment.revision):
        reporter.say(f"note: {unpinned}")
    if (changed := _changed_clips(store, manifest)) is not None:
        reporter.say(f"note: {changed}")
    if not finished:
        write_record(store.root / MEMORY, fitted.plan)
    write_text(store.root / "experiment.json", experiment.model_dump_json(indent=2) + "\n")
    write_record(store.root / "manifest.json", manifest)
    session = Session(
        experiment=experiment,
        store=store,
        reporter=reporter,
        manifest=manifest,
        frames=frames,
        frame_keys={i.row.clip_id: i.key for i in inspections if i.key is not None},
        probes={i.row.clip_id: i.probe for i in inspections if i.probe is not None},
        prompts=prompts,
        thresholds=found.thresholds,
        base=_base(experiment, source, prompts),
        fit=fitted,
        encoders=found.encoders,
        crew=found.crew,
        unpinned=unpinned,
        clips={clip.clip_id: clip for clip in manifest.clips},
        questions=questions,
    )
    if found.general is not None:
        session.general = general_session(session, found.general, cache, found.grid)
    return session


def _changed_clips(store: RunStore, manifest: Manifest) -> str | None:
    """What to say of clips whose bytes changed since this directory's last run; None where there is nothing."""
    path = store.root / "manifest.json"
    return changed_clips(read_record(path, Manifest), manifest) if path.is_file() else None


def _tell(manifest: Manifest, num_listed: int, fitted: Fit, store: RunStore, reporter: Reporter) -> None:
    """Say which clips are left out, what was noticed, and the memory that is expected."""
    left_out = [Bad(left.path, left.reason, left.detail) for left in manifest.left_out]
    for line in by_reason(left_out, f"{store.root / 'manifest.json'} lists every clip"):
        reporter.say(f"left out: {line}")
    if left_out:
        reporter.say(f"left out: {len(left_out):,} of {num_listed:,} clips ({counted(left_out)})")
    for note in manifest.notes:
        reporter.say(f"note: {note}")
    for line in fitted.plan.lines():
        reporter.say(line)


def _base(experiment: Experiment, source: Source, prompts: Prompts) -> Checkpoint:
    """The model that every arm begins with."""
    return Checkpoint(
        fingerprint=source.fingerprint(),
        path=str(source.folder) if experiment.model != "embedded" else experiment.model,
        stage="base",
        base=source.name,
        parent=None,
        data_fingerprint="",
        sampling_fingerprint=fingerprint(experiment.sampling.model_dump()),
        prompts_fingerprint=fingerprint(prompts),
        config_fingerprint="",
        seed=0,
        num_steps=0,
    )


def _began_with_lora(store: RunStore, source: Source) -> bool | None:
    """Whether this run fell back on LoRA when it began, so that it stays one run on a machine of another size."""
    path = store.root / MEMORY
    before = read_record(path, MemoryPlan) if path.is_file() else None
    return None if before is None or before.model != source.name else before.why_lora is not None


def _reported(store: RunStore, experiment: Experiment) -> bool:
    """Whether this very experiment has its report: nothing is left that could need the memory."""
    asked = store.root / "experiment.json"
    same = asked.is_file() and asked.read_bytes() == (experiment.model_dump_json(indent=2) + "\n").encode()
    return same and (store.root / "report.json").is_file()


def check_run(experiment: Experiment, source: Source | None) -> CheckResult:
    """Check an experiment as its run would: its clips, then what its arms, prompts, evaluation and model need.

    `source` is where its model is, None where it is not on this machine. Writes nothing.
    """
    questions = None
    if experiment.questions is not None:
        prompts = load_prompts(experiment.prompts, persona=experiment.domain, labels={})
        questions = read_question_set(experiment, prompts)
    grid = None if source is None else grid_of(source, allow_remote_code=experiment.allow_remote_code)
    result = check_experiment(experiment, grid, None if questions is None else questions.listing)
    faults: list[str] = []
    memory: list[str] = []
    notes: list[str] = []
    try:
        list_general(experiment)
        if grid is not None:
            crew_of(experiment, grid, find=local_source)
    except UserError as error:
        faults += error.faults
    encoders = _encoders_here(experiment, notes, faults)
    try:
        if result.exit_code == 0:
            manifest = manifest_of(result.listing, result.inspections, result.splits, result.notes)
            prompts = load_prompts(experiment.prompts, persona=experiment.domain, labels=manifest.labels)
            if questions is None:
                faults += faults_of(experiment, manifest, prompts)
            else:
                questions = used_questions(questions, manifest)
            if source is not None and not faults:
                plans = {i.row.clip_id: i.plan for i in result.inspections if i.plan is not None}
                fitted = _fit(experiment, manifest, plans.__getitem__, prompts, source, encoders, questions=questions)
                faults += fitted.faults
                memory = fitted.plan.lines()
    except UserError as error:
        if isinstance(error, CheckpointError) and is_on_hub(experiment.model):  # a run fetches what is missing
            notes += [f"{fault}; the memory that a run needs is not known" for fault in error.faults]
        else:
            faults += error.faults
    return replace(result, faults=(*result.faults, *faults), notes=(*result.notes, *notes), memory=tuple(memory))


def _encoders_here(experiment: Experiment, notes: list[str], faults: list[str]) -> dict[str, EncoderFiles]:
    """The encoders of the rewards that are on this machine; what is said of the others goes to notes and faults."""
    encoders: dict[str, EncoderFiles] = {}
    for name in experiment.encoders:
        if is_on_hub(name):  # a run fetches it
            notes.append(
                f"reinforce.encoder {name} is looked up by a run; the memory that it needs is not counted here"
            )
            continue
        try:
            encoders[name] = find_encoder(name)
        except CheckpointError as error:
            faults += error.faults
    return encoders


def _fit(
    experiment: Experiment, manifest: Manifest, plan: Callable[[str], FramePlan], prompts: Prompts, source: Source,
    encoders: Mapping[str, EncoderFiles], *, questions: QuestionSet | None = None, lora: bool | None = None,
) -> Fit:  # fmt: skip
    """What fits this device of an experiment's work."""
    shape = model_shape(source, allow_remote_code=experiment.allow_remote_code)
    counter = TokenCounter(source, allow_remote_code=experiment.allow_remote_code)
    if questions is None:
        work = work_of(experiment, manifest, plan, prompts, shape, counter)
    else:
        work = question_work(experiment, manifest, plan, prompts, questions, shape, counter)
    beside = {name: files.num_parameters for name, files in encoders.items()}
    return fit(experiment, source.name, shape, work, this_device(experiment.memory_gib), lora=lora, encoders=beside)


def faults_of(experiment: Experiment, manifest: Manifest, prompts: Prompts) -> list[str]:
    """Why these clips cannot be measured, or what an arm or a share of the curve lacks of them."""
    if not any(clip.label is not None for clip in manifest.clips):
        return [f"{experiment.clips}: no clip has a label; fill a column named `label`"]
    try:
        dataset_report(manifest)
    except ManifestError as error:
        return list(error.faults)
    faults = _stage_faults(experiment.arms, manifest, prompts)
    shares = experiment.evaluation.learning_curve
    faults += curve_faults(manifest, shares)
    for share in shares if not faults else ():
        few = [with_share(manifest, share, seed) for seed in experiment.seeds]
        found = dict.fromkeys(fault for part in few for fault in _stage_faults(experiment.curve_arms, part, prompts))
        faults += [f"evaluation.learning_curve: share {share:g}: {fault}" for fault in found]
    return faults


def _stage_faults(arms: Sequence[Arm], manifest: Manifest, prompts: Prompts) -> list[str]:
    train = manifest.of("train")
    return [
        f"arm {arm.name!r}, stage {number} ({stage.kind}): {fault}"
        for arm in arms
        for number, stage in enumerate(arm.stages, 1)
        for fault in stage_faults(train, stage, prompts)
    ]


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
