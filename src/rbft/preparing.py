"""What an experiment needs before its first stage: found, checked, its clips read, its work fitted to the device."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rbft.ahead import begin, frame_cache, listing_of
from rbft.answers import AuditThresholds, load_thresholds
from rbft.clips.changes import changed_clips
from rbft.clips.check import CheckResult, check_experiment
from rbft.clips.grouped import Bad, by_reason, counted
from rbft.clips.ingest import Reading, build_manifest, clip_frames, manifest_of
from rbft.clips.manifest import Listing
from rbft.clips.question_set import QuestionSet, read_question_set, used_questions
from rbft.errors import CheckpointError, ManifestError, UserError
from rbft.evaluation.curve import curve_faults, with_share
from rbft.evaluation.verdict import dataset_report
from rbft.experiment import Arm, Experiment
from rbft.files import MAKE_AGAIN, read_record, sweep, write_record, write_text
from rbft.general import GeneralClips, general_session, list_general, read_general
from rbft.models.encoder import EncoderFiles, find_encoder
from rbft.models.sources import Source, is_on_hub, resolve
from rbft.models.vlm import TokenCounter, grid_of, local_source, model_shape, this_device
from rbft.progress import Reporter
from rbft.prompts import Prompts, load_prompts
from rbft.rationales.crew import Crew, crew_of
from rbft.records import Checkpoint, FramePlan, Grid, Manifest, fingerprint
from rbft.session import Session
from rbft.store import CARD, RunStore, verify
from rbft.training.examples import stage_faults
from rbft.training.fit import Fit, fit
from rbft.training.plan import MemoryPlan
from rbft.training.work import question_work, work_of

_MEMORY = "memory.json"


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
        listing = listing_of(experiment)
        if listing.faults:
            raise ManifestError(listing.faults)
        prompts = load_prompts(experiment.prompts, persona=experiment.domain, labels=listing.labels)
    source = resolve(experiment.model, revision=experiment.revision, allow_remote_code=experiment.allow_remote_code)
    if (source.folder / CARD).is_file():  # what a run trained, and is the base of another
        verify(source.folder)
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
        ahead = begin(experiment, listing, found.grid)
    with reporter.counted("Reading clips", len(listing.rows), since=ahead.since) as advance:
        inspections = ahead.finish(advance)
    manifest = build_manifest(listing, inspections, split_rule=experiment.split, on_bad_clip=experiment.on_bad_clip)
    changed = _changed_clips(experiment, manifest)
    questions = None if found.questions is None else used_questions(found.questions, manifest)
    if questions is None and (faults := faults_of(experiment, manifest, prompts)):
        raise ManifestError(faults)
    frames = clip_frames(cache, inspections)
    general = None
    if found.general is not None:
        general = read_general(experiment, found.general, manifest, found.grid, reporter, cache)
    began = _began_with_lora(store, source)
    fitted = _fit(
        experiment, manifest, frames.plan, prompts, source, found.encoders, general=general, questions=questions,
        lora=began,
    )  # fmt: skip
    if not finished and not _reported(store, experiment):
        fitted.refuse()
    _tell(manifest, len(listing.rows), fitted, store, reporter)
    if unpinned := source.unpinned(experiment.revision):
        reporter.say(f"note: {unpinned}")
    if changed is not None:
        reporter.say(f"note: {changed}")
    if not finished:
        write_record(store.root / _MEMORY, fitted.plan)
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
    if general is not None:
        session.general = general_session(session, general, cache)
    return session


def _changed_clips(experiment: Experiment, manifest: Manifest) -> str | None:
    """What to note of clips that changed since this directory's last run; raises ManifestError where that stops it."""
    path, use = Path(experiment.output) / experiment.name / "manifest.json", experiment.on_changed_clip == "use"
    step = f"{MAKE_AGAIN}, as the clips are now"
    changed = changed_clips(read_record(path, Manifest, step), manifest, use=use) if path.is_file() else None
    if changed is not None and not use:
        raise ManifestError([changed])
    return changed


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
    path = store.root / _MEMORY
    before = read_record(path, MemoryPlan) if path.is_file() else None
    return None if before is None or before.model != source.name else before.why_lora is not None


def _reported(store: RunStore, experiment: Experiment) -> bool:
    """Whether this very experiment has its report: nothing is left that could need the memory."""
    asked = store.root / "experiment.json"
    same = asked.is_file() and asked.read_bytes() == (experiment.model_dump_json(indent=2) + "\n").encode()
    return same and (store.root / "report.json").is_file()


# -- what fits, and what is wrong ----------------------------------------------------------------------------------


def _fit(
    experiment: Experiment, manifest: Manifest, plan: Callable[[str], FramePlan], prompts: Prompts, source: Source,
    encoders: Mapping[str, EncoderFiles], *, general: GeneralClips | None = None,
    questions: QuestionSet | None = None, lora: bool | None = None,
) -> Fit:  # fmt: skip
    """What fits this device of an experiment's work."""
    shape = model_shape(source, allow_remote_code=experiment.allow_remote_code)
    counter = TokenCounter(source, allow_remote_code=experiment.allow_remote_code)
    if questions is None:
        work = work_of(experiment, manifest, plan, prompts, shape, counter, () if general is None else general.plans)
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


# -- rbft check ----------------------------------------------------------------------------------------------------


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
    general, described = None, None
    try:
        general = list_general(experiment)
        if grid is not None:
            crew_of(experiment, grid, find=local_source)
    except UserError as error:
        faults += error.faults
    encoders = _encoders_here(experiment, notes, faults)
    try:
        if result.exit_code == 0:
            manifest = manifest_of(result.listing, result.inspections, result.splits, result.notes)
            if (changed := _changed_clips(experiment, manifest)) is not None:
                notes.append(changed)
            prompts = load_prompts(experiment.prompts, persona=experiment.domain, labels=manifest.labels)
            if questions is None:
                faults += faults_of(experiment, manifest, prompts)
            else:
                questions = used_questions(questions, manifest)
            if general is not None:
                described = read_general(
                    experiment, general, manifest, grid or Grid(), Reporter(quiet=not sys.stderr.isatty())
                )
            if source is not None and not faults:
                plans = {i.row.clip_id: i.plan for i in result.inspections if i.plan is not None}
                fitted = _fit(
                    experiment, manifest, plans.__getitem__, prompts, source, encoders, general=described,
                    questions=questions,
                )  # fmt: skip
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
