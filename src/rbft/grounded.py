"""`rbft explain RUN`: what the arms of a finished run look at, and what they lose without the objects.

Nothing is trained here. Objects, attention and masked predictions are kept in the run directory by fingerprint, clip by
clip, so that the same command continues where it was interrupted and redoes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rbft.chains import describing_of, run_arm
from rbft.errors import UserError
from rbft.evaluation.grounding import focus_of, summarise
from rbft.evaluation.masks import (
    MAX_OBJECTS,
    IntArray,
    ManifestObjects,
    MaskedClips,
    MovingRegions,
    ObjectSource,
    box_array,
    clip_rng,
    covered_share,
    listed,
    load_object_words,
    noun_phrases,
    random_patches,
    rectangles,
    touched_share,
)
from rbft.evaluation.metrics import FloatArray
from rbft.evaluation.predict import LabelQuery, predict_clips
from rbft.evaluation.verdict import Runs
from rbft.experiment import Experiment
from rbft.files import JsonlAppender, R, held, read_jsonl, read_record, write_record, written_whole
from rbft.findings import ArmRun
from rbft.models.attention import VisualAttention, scaled, visual_attention
from rbft.preparing import look_up, prepare
from rbft.progress import Reporter
from rbft.prompts import Describing, Reasoning
from rbft.records import Checkpoint, Clip, Manifest, Prediction, fingerprint
from rbft.results import ArmMap, Focus, FoundObjects, Grounding
from rbft.serving.overlay import StripRow, strip_png
from rbft.session import Session
from rbft.stopping import check
from rbft.store import RunStore

NUM_EXAMPLES = 6


@dataclass(frozen=True)
class GroundedRun:
    """What `rbft explain RUN` leaves: the numbers, the file they are in, and a picture for each example clip."""

    grounding: Grounding
    path: Path
    pictures: tuple[Path, ...]


def explain_run(
    root: Path, *, masks: bool, attention: bool, objects: str = "auto", reporter: Reporter | None = None
) -> GroundedRun:
    """Measure every arm and seed on the test clips; write `grounding.json` and `grounding/*.png` into the run.

    `objects`: `boxes` of the manifest, `motion`, the name or folder of a detector, or `auto` (boxes where test clips
    have them, else motion). Raises UserError where the run is not finished or has no objects.
    """
    experiment = _experiment(root)
    if experiment.questions is not None:
        raise UserError(f"{root}: a run about questions has no labels to explain; its report shows answers with frames")
    reporter = reporter or Reporter()
    with held(root):
        session, arms = _finished(root, experiment, reporter)
        test = session.manifest.of("test", labelled=True)
        source = _source(session, test, objects)
        found = _objects(session, source, test)
        clips = [clip for clip in test if not np.isnan(found[clip.clip_id]).all()]
        if not clips:
            raise UserError(f"{root}: {source.name} found no object in {len(test)} test clips; try another --objects")
        work = _Work(session, arms, clips, {clip.clip_id: found[clip.clip_id] for clip in clips}, source.name)
        grounding = summarise(
            experiment.name,
            {name: {seed: work.kept(p) for seed, p in run.predictions.items()} for name, run in arms.items()},
            focus={name: _focus(work, run) for name, run in arms.items()} if attention else {},
            masked=_masked_predictions(work) if masks else {},
            covered=_covered(work) if masks else (None, None),
            labels=list(session.manifest.labels),
            resamples=experiment.evaluation.resamples,
        ).model_copy(update={"objects": source.name, "clips_without_objects": len(test) - len(clips)})
        pictures = _pictures(work) if attention else ()
        path = root / "grounding.json"
        write_record(path, grounding)
    return GroundedRun(grounding, path, tuple(pictures))


@dataclass(frozen=True)
class _Work:
    """What is measured: arms with their predictions, test clips that have objects, and their boxes [T, objects, 4]."""

    session: Session
    arms: Mapping[str, ArmRun]
    clips: Sequence[Clip]
    boxes: Mapping[str, FloatArray]
    source: str

    @property
    def key(self) -> str:
        """Fingerprint of the clips, what they are asked, and their objects."""
        session = self.session
        return fingerprint(
            self.source, session.prompts.label(), list(session.prompts.labels),
            session.experiment.evaluation.length_normalisation,
            [(c.clip_id, c.label, session.frame_keys[c.clip_id], listed(self.boxes[c.clip_id])) for c in self.clips],
        )  # fmt: skip

    def describing(self, run: ArmRun) -> Describing | Reasoning | None:
        """How an arm describes a clip before it answers, covered or not; None where it answers at once."""
        return describing_of(self.session, run.arm.stages[-1]) if run.arm.stages else None

    def kept(self, predictions: Sequence[Prediction]) -> list[Prediction]:
        """The predictions of these clips, in their order."""
        by_clip = {p.clip_id: p for p in predictions}
        return [by_clip[clip.clip_id] for clip in self.clips]


# -- the finished run ----------------------------------------------------------------------------------------------


class _Finished(RunStore):
    """A run directory in which nothing of the run itself may be left to do."""

    @contextmanager
    def timed(self, step: str, key: str) -> Iterator[Callable[[], None]]:
        """Refuse work."""

        def refuse() -> None:
            raise UserError(
                f"{self.root}: the run is not finished, or was made by another version of rbft: `{step}` is still to "
                "do. Run the experiment again (what is done is not redone), then explain it"
            )

        yield refuse


def _experiment(root: Path) -> Experiment:
    """The experiment of a run directory, at the place where it lies now."""
    missing = [name for name in ("experiment.json", "manifest.json", "report.json") if not (root / name).is_file()]
    if missing:
        raise UserError(
            f"{root}: no {', '.join(missing)}: the run is not finished; run its experiment again, then explain it"
        )
    path = root / "experiment.json"
    try:
        experiment = Experiment.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise UserError(
            f"{path}: not an experiment of this version: {str(error).splitlines()[0]}; run the experiment again, which "
            "writes it anew, then explain it"
        ) from None
    if (Path(experiment.output) / experiment.name).resolve() == root.resolve():
        return experiment
    here = root.resolve()
    return experiment.model_copy(update={"output": str(here.parent), "name": here.name})


def _finished(root: Path, experiment: Experiment, reporter: Reporter) -> tuple[Session, dict[str, ArmRun]]:
    """The run's session and its arms, from what lies on disk; raises UserError where something is still to do."""
    before = read_record(root / "manifest.json", Manifest, "move it away and run the experiment again, then explain it")
    session = prepare(experiment, look_up(experiment), _Finished(root), Reporter(quiet=True), finished=True)
    if session.manifest != before:
        raise UserError(f"{root}: the clips have changed since the run; run the experiment again, then explain it")
    arms = {arm.name: run_arm(session, arm) for arm in experiment.arms}
    session.store, session.reporter = RunStore(root), reporter
    return session, arms


# -- objects -------------------------------------------------------------------------------------------------------


def _source(session: Session, test: Sequence[Clip], objects: str) -> ObjectSource:
    boxed = sum(bool(clip.boxes) for clip in test)
    if objects == "auto":
        objects = "boxes" if boxed else "motion"
    match objects:
        case "boxes" if not boxed:
            raise UserError(
                "--objects boxes: no test clip has boxes; add a column `boxes` to the list of clips, or use "
                "--objects motion, or the name of a detector"
            )
        case "boxes":
            return ManifestObjects()
        case "motion":
            return MovingRegions()
    from rbft.models.detect import Detector

    words = load_object_words()
    told = session.ask(session.base, session.request, test, what="Explaining test clips", step="grounding")
    phrases = {clip_id: noun_phrases(rationale.text, words) for clip_id, rationale in told.items()}
    return Detector.load(objects, phrases, count=MAX_OBJECTS)


def _objects(session: Session, source: ObjectSource, test: Sequence[Clip]) -> dict[str, FloatArray]:
    """Boxes [T, objects, 4] of every test clip, found once for a source."""
    key = fingerprint(
        "objects", source.name, session.base.fingerprint, session.prompts.rationale(),
        [(clip.clip_id, session.frame_keys[clip.clip_id], list(clip.boxes)) for clip in test],
    )  # fmt: skip
    with session.reporter.counted("Finding objects", len(test)) as advance:
        found = _resumed(
            session.store.root / "grounding" / f"objects-{key}.jsonl",
            FoundObjects,
            test,
            lambda clip: FoundObjects(
                clip_id=clip.clip_id, boxes=listed(source.find(clip, session.frames.read(clip.clip_id)))
            ),
            advance,
        )
    return {one.clip_id: box_array(one) for one in found}


def _resumed(
    path: Path, kind: type[R], clips: Sequence[Clip], make: Callable[[Clip], R], advance: Callable[[int], None]
) -> list[R]:
    """A record for every clip, in their order: those that `path` holds, and the rest made and appended one by one."""
    there: list[Any] = read_jsonl(path, kind) if path.exists() else []
    done: dict[str, R] = {record.clip_id: record for record in there}
    advance(len(done))
    waiting = [clip for clip in clips if clip.clip_id not in done]
    if waiting:
        with JsonlAppender(path) as file:
            for clip in waiting:
                check()
                done[clip.clip_id] = made = make(clip)
                file.append([made])
                advance(1)
    return [done[clip.clip_id] for clip in clips]


# -- attention -----------------------------------------------------------------------------------------------------


def _focus(work: _Work, run: ArmRun) -> dict[int, list[Focus]]:
    """Every clip's focus by seed, for the label that the arm answered with."""
    return {seed: _focus_of_seed(work, run, seed) for seed in run.predictions}


def _focus_of_seed(work: _Work, run: ArmRun, seed: int) -> list[Focus]:
    session, checkpoint = work.session, _last(work, run, seed)
    answers = {p.clip_id: str(p.label) for p in run.predictions[seed]}
    key = fingerprint("focus", checkpoint.fingerprint, work.key, work.describing(run))
    name = f"{run.arm.name}, seed {seed}" if run.arm.stages else run.arm.name

    with (
        session.store.timed("attention", key) as working,
        session.reporter.counted(f"{name}: attention", len(work.clips)) as advance,
    ):

        def measure(clip: Clip) -> Focus:
            seen = _seen(work, run, checkpoint, clip, answers[clip.clip_id], working)
            return focus_of(
                clip.clip_id, checkpoint.fingerprint, seen.attention, seen.gradient, work.boxes[clip.clip_id]
            )

        path = session.store.root / "grounding" / f"focus-{key}.jsonl"
        return _resumed(path, Focus, work.clips, measure, advance)


def _seen(
    work: _Work, run: ArmRun, checkpoint: Checkpoint, clip: Clip, answer: str, working: Callable[[], None]
) -> VisualAttention:
    session = work.session
    vlm = session.vlm(checkpoint.path, working)
    query = LabelQuery(vlm, session.prompts, session.experiment.evaluation, work.describing(run))
    frames, plan = session.frames.read(clip.clip_id), session.frames.plan(clip.clip_id)
    return visual_attention(vlm, query.encode(frames, plan), answer)


def _last(work: _Work, run: ArmRun, seed: int) -> Checkpoint:
    return run.checkpoints[seed][-1] if run.checkpoints[seed] else work.session.base


# -- masks ---------------------------------------------------------------------------------------------------------


def _masked_predictions(work: _Work) -> dict[str, dict[str, Runs]]:
    """Predictions by what is covered (`objects`, `random`), arm and seed."""
    places = _places(work)
    return {
        covered: {
            name: {seed: _predict(work, run, seed, covered, where) for seed in run.predictions}
            for name, run in work.arms.items()
        }
        for covered, where in places.items()
    }


def _places(work: _Work) -> dict[str, dict[str, IntArray]]:
    """Rectangles [T, objects, 4] by what is covered and clip id."""
    places: dict[str, dict[str, IntArray]] = {"objects": {}, "random": {}}
    for clip in work.clips:
        plan = work.session.frames.plan(clip.clip_id)
        objects = rectangles(work.boxes[clip.clip_id], plan.height, plan.width)
        places["objects"][clip.clip_id] = objects
        places["random"][clip.clip_id] = random_patches(objects, plan.height, plan.width, clip_rng(0, clip.clip_id))
    return places


def _predict(work: _Work, run: ArmRun, seed: int, covered: str, places: Mapping[str, IntArray]) -> list[Prediction]:
    session, checkpoint = work.session, _last(work, run, seed)
    key = fingerprint("masked", covered, checkpoint.fingerprint, work.key, work.describing(run))
    name = f"{run.arm.name}, seed {seed}" if run.arm.stages else run.arm.name
    with (
        session.store.timed("masked predictions", key) as working,
        session.reporter.counted(f"{name}: {covered} covered", len(work.clips)) as advance,
    ):
        return predict_clips(
            lambda: session.vlm(checkpoint.path, working),
            checkpoint.fingerprint,
            work.clips,
            MaskedClips(session.frames, places),
            session.prompts,
            session.experiment.evaluation.model_copy(update={"generate": False}),
            session.store.root / "grounding" / f"masked-{key}.jsonl",
            advance=advance,
            describing=work.describing(run),
        )


def _covered(work: _Work) -> tuple[float, float]:
    """Mean over clips: the share of pixels that object masks cover, and of random patches that lie on an object."""
    places = _places(work)
    shares = []
    for clip_id, objects in places["objects"].items():
        plan = work.session.frames.plan(clip_id)
        shares.append(
            (
                covered_share(objects, plan.height, plan.width),
                touched_share(places["random"][clip_id], objects, plan.height, plan.width),
            )
        )
    covered, touched = np.mean(shares, axis=0)
    return float(covered), float(touched)


# -- pictures ------------------------------------------------------------------------------------------------------


def _pictures(work: _Work) -> list[Path]:
    """A film strip for a few clips: frames with their objects, and a row of attention for every arm's first seed."""
    clips = list(work.clips)[:NUM_EXAMPLES]
    maps = {name: _maps(work, run, clips) for name, run in work.arms.items()}
    paths = []
    for number, clip in enumerate(clips):
        rows = [StripRow("frames and objects", None)]
        rows += [
            StripRow(f"{name}: {made[clip.clip_id].label}", np.array(made[clip.clip_id].values))
            for name, made in maps.items()
        ]
        png = strip_png(
            work.session.frames.read(clip.clip_id), rows, title=f"{clip.clip_id}: {clip.label}",
            boxes=work.boxes[clip.clip_id],
        )  # fmt: skip
        path = work.session.store.root / "grounding" / f"example-{number + 1}.png"
        with written_whole(path) as temporary:
            temporary.write_bytes(png)
        paths.append(path)
    return paths


def _maps(work: _Work, run: ArmRun, clips: Sequence[Clip]) -> dict[str, ArmMap]:
    """Attention maps of the arm's first seed by clip id, made once."""
    seed = next(iter(run.predictions))
    checkpoint = _last(work, run, seed)
    answers = {p.clip_id: str(p.label) for p in run.predictions[seed]}
    key = fingerprint("maps", checkpoint.fingerprint, work.key, work.describing(run))
    with work.session.store.timed("attention", key) as working:

        def make(clip: Clip) -> ArmMap:
            seen = _seen(work, run, checkpoint, clip, answers[clip.clip_id], working)
            values = np.round(scaled(seen.attention.mean(axis=0)), 6).tolist()
            return ArmMap(
                clip_id=clip.clip_id, checkpoint=checkpoint.fingerprint, label=answers[clip.clip_id], values=values
            )

        path = work.session.store.root / "grounding" / f"maps-{key}.jsonl"
        made = _resumed(path, ArmMap, clips, make, lambda _: None)
    return {one.clip_id: one for one in made}
