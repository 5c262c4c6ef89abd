"""General clips with human descriptions, read beside an experiment's own, to measure what its arms forget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rbft.clips.cache import FrameCache
from rbft.clips.ingest import build_manifest, clip_frames, inspect_clips
from rbft.clips.inspection import Inspection
from rbft.clips.manifest import Listing, read_manifest
from rbft.errors import ManifestError
from rbft.evaluation.retention import retention_report
from rbft.experiment import Experiment
from rbft.findings import ArmRun
from rbft.progress import Reporter
from rbft.records import Checkpoint, FramePlan, Grid, Manifest
from rbft.results import Retention
from rbft.session import Session


def list_general(experiment: Experiment) -> Listing | None:
    """The list of `evaluation.retention`, where one is named; raises ManifestError with its faults."""
    if experiment.evaluation.retention is None:
        return None
    path = Path(experiment.evaluation.retention).expanduser()
    listing = read_manifest(path, labels={}, allow_outside=experiment.allow_outside)
    faults = [f"evaluation.retention: {fault}" for fault in listing.faults]
    if not faults and not any(row.rationale for row in listing.rows):
        faults.append(f"evaluation.retention: {path}: no clip has a human description; fill a column named `rationale`")
    if faults:
        raise ManifestError(faults)
    return listing


@dataclass(frozen=True)
class GeneralClips:
    """Those with a human description, and what was learned about every listed one."""

    manifest: Manifest
    inspections: Sequence[Inspection]

    @property
    def plans(self) -> list[FramePlan]:
        """The frames of every clip that is described."""
        used = {clip.clip_id for clip in self.manifest.clips}
        return [i.plan for i in self.inspections if i.plan is not None and i.row.clip_id in used]


def read_general(
    experiment: Experiment, listing: Listing, own: Manifest, grid: Grid, reporter: Reporter,
    cache: FrameCache | None = None,
) -> GeneralClips:  # fmt: skip
    """Read the general clips beside the experiment's own.

    Raises ManifestError for clips that cannot be read, and for those that are training clips of the experiment.
    """
    with reporter.counted("Reading general clips", len(listing.rows)) as advance:
        inspections = inspect_clips(
            listing,
            sampling=experiment.sampling,
            grid=grid,
            limits=experiment.limits,
            workers=experiment.workers,
            cache=cache,
            progress=advance,
        )
    try:
        read = build_manifest(listing, inspections, split_rule=experiment.split, on_bad_clip=experiment.on_bad_clip)
    except ManifestError as error:
        raise ManifestError([f"evaluation.retention: {fault}" for fault in error.faults]) from None
    trained = {clip.sha256: clip.path for clip in own.of("train")}
    faults = [
        f"evaluation.retention: {clip.path} holds the same bytes as the training clip {trained[clip.sha256]}; "
        "what is forgotten shows on other clips"
        for clip in read.clips
        if clip.sha256 in trained
    ]
    if faults:
        raise ManifestError(faults)
    described = tuple(clip for clip in read.clips if clip.rationale)
    return GeneralClips(read.model_copy(update={"clips": described}), inspections)


def general_session(session: Session, general: GeneralClips, cache: FrameCache) -> Session:
    """The session over the general clips."""
    return replace(
        session,
        manifest=general.manifest,
        frames=clip_frames(cache, general.inspections),
        frame_keys={i.row.clip_id: i.key for i in general.inspections if i.key is not None},
        clips={clip.clip_id: clip for clip in general.manifest.clips},
        texts={},
    )


def retention(session: Session, arms: Mapping[str, ArmRun]) -> Retention:
    """How the base and every arm's last checkpoints describe the general clips, against the human descriptions."""
    clips = session.manifest.clips

    def described(checkpoint: Checkpoint, who: str) -> dict[str, str]:
        what = f"{who}: describing general clips"
        told = session.ask(checkpoint, session.greedy, clips, what=what, step="retention")
        return {clip_id: rationale.text for clip_id, rationale in told.items()}

    before = described(session.base, "zero-shot")
    after = {
        name: {seed: described(chain[-1], f"{name}, seed {seed}") for seed, chain in run.checkpoints.items()}
        for name, run in arms.items()
        if run.arm.stages
    }
    session.release()
    return retention_report(
        before,
        after,
        {clip.clip_id: str(clip.rationale) for clip in clips},
        dimensions=session.prompts.templates.dimensions,
        resamples=session.experiment.evaluation.resamples,
    )
