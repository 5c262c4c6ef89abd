"""A whole run: arms x seeds, from an experiment to a report. The only place that knows the order of things.

(The module is `runs`, because `rbft.run` is the function.)
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rbft.answers import AuditThresholds, load_thresholds
from rbft.clips.cache import FrameCache
from rbft.clips.grouped import Bad, by_reason, counted
from rbft.clips.ingest import ClipFrames, build_manifest, clip_frames, inspect_clips
from rbft.clips.manifest import Listing, read_manifest
from rbft.errors import ExperimentError, ManifestError
from rbft.evaluation.predict import predict_clips
from rbft.evaluation.verdict import dataset_report
from rbft.experiment import Arm, Experiment, Stage, load_experiment
from rbft.files import held, sweep, write_record, write_text
from rbft.findings import ArmRun, Findings, write_findings
from rbft.models.sources import Source, resolve
from rbft.models.vlm import VLM, device_name, grid_of
from rbft.progress import Reporter
from rbft.prompts import Prompts, load_prompts
from rbft.rationales.generate import rationale_key, write_rationales
from rbft.records import (
    Checkpoint,
    Clip,
    Example,
    Grid,
    Manifest,
    Prediction,
    Probe,
    Rationale,
    Report,
    fingerprint,
)
from rbft.store import RunStore
from rbft.training.examples import label_examples, rationale_examples, stage_faults
from rbft.training.stages import StageJob, finished_stage, train_stage
from rbft.training.supervised import num_steps

NUM_EXAMPLE_CLIPS = 8


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: the report, its page, and the checkpoint to classify with (None: only zero-shot ran)."""

    report: Report
    page: Path
    classifier: Path | None


def run(experiment: Experiment | str | Path, *overrides: str, quiet: bool = False) -> Outcome:
    """Run an experiment, or an experiment file with `key=value` overrides; continues where it was interrupted."""
    if not isinstance(experiment, Experiment):
        experiment = load_experiment(experiment, overrides)
    elif overrides:
        raise ExperimentError("overrides belong to an experiment file; change the Experiment itself with model_copy")
    return run_experiment(experiment, Reporter(quiet=quiet))


def run_demo(output: Path, overrides: Sequence[str], reporter: Reporter | None = None) -> Outcome:
    """Render the night-yard clips, where they are not there yet, and run the demo's experiment on them."""
    from rbft.tiny import demo

    reporter = reporter or Reporter()
    return run_experiment(demo.experiment(output, overrides, reporter), reporter)


def run_experiment(experiment: Experiment, reporter: Reporter | None = None) -> Outcome:
    """Everything, in order: clips, frames, rationales, stages, predictions, report.

    Raises StoreError where another process works in the same run directory.
    """
    reporter = reporter or Reporter()
    found = _look_up(experiment)
    store = RunStore(Path(experiment.output) / experiment.name)
    with held(store.root):
        session = _prepare(experiment, found, store, reporter)
        arms = {arm.name: _run_arm(session, arm) for arm in experiment.arms}
        return _report(session, arms)


# -- clips and frames ----------------------------------------------------------------------------------------------


@dataclass
class _Session:
    """What all arms share. Models are loaded when first needed, and only one is held at a time."""

    experiment: Experiment
    store: RunStore
    reporter: Reporter
    manifest: Manifest
    frames: ClipFrames
    frame_keys: dict[str, str]
    probes: dict[str, Probe]
    prompts: Prompts
    thresholds: AuditThresholds
    base: Checkpoint
    held: tuple[str, VLM] | None = None
    rationales: dict[str, Rationale] | None = None
    clips: dict[str, Clip] = field(default_factory=dict)
    stages: dict[str, Checkpoint] = field(default_factory=dict)

    def vlm(self, path: str, working: Callable[[], None]) -> VLM:
        """The model at that path, for inference; says through `working` that there is work."""
        working()
        if self.held is None or self.held[0] != path:
            self.release()
            loaded = VLM.load(path, allow_remote_code=self.experiment.allow_remote_code)
            self.held = (path, loaded)
        return self.held[1]

    def release(self) -> None:
        """Let go of the model in memory, before another one is loaded or trained."""
        self.held = None
        gc.collect()


@dataclass(frozen=True)
class _Found:
    """What an experiment names, found before anything is written."""

    listing: Listing
    prompts: Prompts
    thresholds: AuditThresholds
    source: Source
    grid: Grid


def _look_up(experiment: Experiment) -> _Found:
    """The list of clips, the prompts and the model; raises UserError for what is wrong with them."""
    listing = read_manifest(
        Path(experiment.clips).expanduser(), labels=experiment.labels, allow_outside=experiment.allow_outside
    )
    if listing.faults:
        raise ManifestError(listing.faults)
    prompts = load_prompts(experiment.prompts, persona=experiment.domain, labels=listing.labels)
    source = resolve(experiment.model, revision=experiment.revision, allow_remote_code=experiment.allow_remote_code)
    grid = grid_of(source, allow_remote_code=experiment.allow_remote_code)
    return _Found(listing, prompts, load_thresholds(None), source, grid)


def _prepare(experiment: Experiment, found: _Found, store: RunStore, reporter: Reporter) -> _Session:
    """Read every clip into the cache, and write down what is run."""
    listing, source, prompts = found.listing, found.source, found.prompts
    cache = FrameCache(Path(experiment.output) / "cache" / "frames")
    sweep(store.root)
    sweep(cache.root)
    with reporter.counted("Reading clips", len(listing.rows)) as advance:
        inspections = inspect_clips(
            listing,
            sampling=experiment.sampling,
            grid=found.grid,
            limits=experiment.limits,
            workers=experiment.workers,
            cache=cache,
            progress=advance,
        )
    manifest = build_manifest(listing, inspections, split_rule=experiment.split, on_bad_clip=experiment.on_bad_clip)
    _refuse_impossible(experiment, manifest)
    left_out = [Bad(left.path, left.reason, left.detail) for left in manifest.left_out]
    for line in by_reason(left_out, f"{store.root / 'manifest.json'} lists every clip"):
        reporter.say(f"left out: {line}")
    if left_out:
        reporter.say(f"left out: {len(left_out):,} of {len(listing.rows):,} clips ({counted(left_out)})")
    for note in manifest.notes:
        reporter.say(f"note: {note}")
    write_text(store.root / "experiment.json", experiment.model_dump_json(indent=2) + "\n")
    write_record(store.root / "manifest.json", manifest)
    base = Checkpoint(
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
    return _Session(
        experiment=experiment,
        store=store,
        reporter=reporter,
        manifest=manifest,
        frames=clip_frames(cache, inspections),
        frame_keys={i.row.clip_id: i.key for i in inspections if i.key is not None},
        probes={i.row.clip_id: i.probe for i in inspections if i.probe is not None},
        prompts=prompts,
        thresholds=found.thresholds,
        base=base,
        clips={clip.clip_id: clip for clip in manifest.clips},
    )


def _refuse_impossible(experiment: Experiment, manifest: Manifest) -> None:
    """Raise ManifestError where the clips cannot be measured, or an arm lacks what it needs from them."""
    if not any(clip.label is not None for clip in manifest.clips):
        raise ManifestError(f"{experiment.clips}: no clip has a label; fill a column named `label`")
    dataset_report(manifest)
    train = manifest.of("train")
    faults = [
        f"arm {arm.name!r}, stage {number} ({stage.kind}): {fault}"
        for arm in experiment.arms
        for number, stage in enumerate(arm.stages, 1)
        for fault in stage_faults(train, stage)
    ]
    if faults:
        raise ManifestError(faults)


# -- rationales ----------------------------------------------------------------------------------------------------


def _rationales(session: _Session) -> dict[str, Rationale]:
    """The base model's rationales of all training clips, labelled or not, written once for all arms and seeds."""
    if session.rationales is None:
        train = session.manifest.of("train")
        session.rationales = _write_rationales(session, train, "Writing rationales", "rationales")
    return session.rationales


def _write_rationales(session: _Session, clips: Sequence[Clip], what: str, step: str) -> dict[str, Rationale]:
    settings = session.experiment.rationales
    key = rationale_key(session.base, session.prompts, settings, session.thresholds, session.experiment.sampling)
    with session.store.timed(step, key) as working, session.reporter.counted(what, len(clips)) as advance:
        written = write_rationales(
            lambda: session.vlm(session.base.path, working),
            clips,
            session.frames,
            session.frame_keys,
            session.prompts,
            settings,
            session.thresholds,
            session.store.rationales(key),
            advance=advance,
        )
    return {rationale.clip_id: rationale for rationale in written}


# -- arms ----------------------------------------------------------------------------------------------------------


def _run_arm(session: _Session, arm: Arm) -> ArmRun:
    """All seeds of an arm: its stages, then its predictions of the test clips. Zero-shot has nothing to seed."""
    seeds = session.experiment.seeds if arm.stages else session.experiment.seeds[:1]
    checkpoints: dict[int, list[Checkpoint]] = {}
    predictions: dict[int, list[Prediction]] = {}
    for seed in seeds:
        chain = [session.base]
        for number, stage in enumerate(arm.stages, 1):
            chain.append(_run_stage(session, arm, number, stage, chain[-1], seed))
        checkpoints[seed] = chain[1:]
        predictions[seed] = _predict(session, arm, chain[-1], seed)
    return ArmRun(arm=arm, checkpoints=checkpoints, predictions=predictions)


def _run_stage(session: _Session, arm: Arm, number: int, stage: Stage, parent: Checkpoint, seed: int) -> Checkpoint:
    examples = _examples(session, stage, seed)
    if not examples:
        raise ExperimentError(
            f"arm {arm.name!r}, stage {number} ({stage.kind}): no training example is left"
            + ("; every rationale was dropped, see the rationales folder" if stage.kind == "rationale" else "")
        )
    recipe = session.experiment.stage_training(stage)
    steps = num_steps(len(examples), recipe)
    if stage.match_steps_of is not None:
        steps = _steps_of(session, session.experiment.arm(stage.match_steps_of), seed)
    job = StageJob(
        stage=stage,
        parent=parent,
        examples=examples,
        recipe=recipe,
        steps=steps,
        seed=seed,
        prompts=session.prompts,
        sampling=session.experiment.sampling,
        length_normalisation=session.experiment.evaluation.length_normalisation,
        clips=session.clips,
        frame_keys=session.frame_keys,
    )
    if job.key not in session.stages:
        title = f"{arm.name}, seed {seed}, stage {number} ({stage.kind}): {len(examples)} examples, {steps} steps"
        session.stages[job.key] = finished_stage(job, session.store) or _train(session, arm, job, title)
    return session.stages[job.key]


def _train(session: _Session, arm: Arm, job: StageJob, title: str) -> Checkpoint:
    session.release()
    session.reporter.say(title)
    with session.store.timed(f"train {arm.name}: {job.stage.kind}", job.key) as working:
        working()
        return train_stage(job, session.store, session.frames, allow_remote_code=session.experiment.allow_remote_code)


def _examples(session: _Session, stage: Stage, seed: int) -> list[Example]:
    train = session.manifest.of("train")
    if stage.kind == "label":
        balanced = session.experiment.stage_training(stage).class_weights == "balanced"
        return label_examples(train, session.prompts, balanced=balanced)
    written = _rationales(session) if stage.self_share > 0 else {}
    return rationale_examples(train, stage, session.prompts, written, seed=seed)


def _steps_of(session: _Session, arm: Arm, seed: int) -> int:
    """Optimizer steps of a whole arm under one seed."""
    return sum(
        num_steps(len(_examples(session, stage, seed)), session.experiment.stage_training(stage))
        for stage in arm.stages
    )


def _predict(session: _Session, arm: Arm, checkpoint: Checkpoint, seed: int) -> list[Prediction]:
    test = session.manifest.of("test", labelled=True)
    settings = session.experiment.evaluation
    key = fingerprint(
        "predict", checkpoint.fingerprint, session.prompts.label(), list(session.prompts.labels),
        settings.length_normalisation, settings.generate,
        [(clip.clip_id, clip.label, session.frame_keys[clip.clip_id]) for clip in test],
    )  # fmt: skip
    what = f"{arm.name}, seed {seed}: test clips" if arm.stages else f"{arm.name}: test clips"
    step = f"predict {arm.name}"
    with session.store.timed(step, key) as working, session.reporter.counted(what, len(test)) as advance:
        return predict_clips(
            lambda: session.vlm(checkpoint.path, working),
            checkpoint.fingerprint,
            test,
            session.frames,
            session.prompts,
            settings,
            session.store.predictions(key),
            advance=advance,
        )


# -- report --------------------------------------------------------------------------------------------------------


def _report(session: _Session, arms: Mapping[str, ArmRun]) -> Outcome:
    examples = _example_clips(session)
    explained = _write_rationales(session, examples, "Explaining example clips", "examples")
    findings = Findings(
        experiment=session.experiment,
        store=session.store,
        manifest=session.manifest,
        frames=session.frames,
        probes=session.probes,
        arms=arms,
        rationales=list((session.rationales or {}).values()),
        thresholds=session.thresholds,
        examples=examples,
        explained=explained,
        fingerprints={
            "base": session.base.fingerprint,
            "prompts": session.base.prompts_fingerprint,
            "sampling": session.base.sampling_fingerprint,
            "clips": fingerprint(session.manifest),
        },
        device=device_name(),
    )
    report, page, classifier = write_findings(findings)
    return Outcome(report=report, page=page, classifier=classifier)


def _example_clips(session: _Session) -> list[Clip]:
    """A few test clips of every label in turn, in manifest order."""
    by_label = {
        label: [c for c in session.manifest.of("test", labelled=True) if c.label == label]
        for label in session.manifest.labels
    }
    rounds = [clips[i] for i in range(NUM_EXAMPLE_CLIPS) for clips in by_label.values() if i < len(clips)]
    return rounds[:NUM_EXAMPLE_CLIPS]
