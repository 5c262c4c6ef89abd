"""From a listing to a manifest: every clip read once by a bounded child process, its frames put into the cache.

What was learned about a file is remembered beside the cache by the hash of its bytes, so the same command again opens
no video: it hashes the files and finds everything there.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal, cast

from rbft.clips.cache import FrameCache, cache_key
from rbft.clips.child import Request
from rbft.clips.container import check_file
from rbft.clips.duplicates import split_and_leaks
from rbft.clips.frames import Frames, plan_frames
from rbft.clips.grouped import Bad, by_reason, counted
from rbft.clips.inspection import Inspection, Problem
from rbft.clips.manifest import Listing, Row, listing_of_files, show
from rbft.clips.pool import Reader, readers
from rbft.clips.split import split_notes
from rbft.errors import ClipError, ManifestError, StoreError
from rbft.experiment import ClipLimits, Sampling, SplitRule
from rbft.files import read_record, sha256_of, write_record
from rbft.records import Clip, ClipProblem, FramePlan, Grid, LeftOut, Manifest, Probe, Split

Advance = Callable[[int], None]
"""Called with how many clips were just finished."""


class ClipFrames:
    """The frames of the clips of a manifest, from the cache: all that training and evaluation read of a video."""

    def __init__(self, cache: FrameCache, plans: Mapping[str, tuple[str, FramePlan]]) -> None:
        self._cache, self._plans = cache, plans

    def read(self, clip_id: str) -> Frames:
        """Frames of one clip, mapped from disk; raises StoreError, naming it, where they are not there, or damaged."""
        key = self._entry(clip_id)[0]
        try:
            return self._cache.read(key)
        except StoreError as error:
            raise StoreError(f"clip {show(clip_id)}: {error}") from None

    def plan(self, clip_id: str) -> FramePlan:
        """The plan that a clip's frames were read by; raises StoreError for a clip that was not read."""
        return self._entry(clip_id)[1]

    def _entry(self, clip_id: str) -> tuple[str, FramePlan]:
        if clip_id not in self._plans:
            raise StoreError(f"{show(repr(clip_id))}: no frames were read for this clip; is it in the manifest?")
        return self._plans[clip_id]


def clip_frames(cache: FrameCache, inspections: Sequence[Inspection]) -> ClipFrames:
    """The frames of every inspected clip that has them."""
    return ClipFrames(cache, {i.row.clip_id: (i.key, i.plan) for i in inspections if i.key and i.plan})


class Reading:
    """Listed clips that child processes read, from the moment that this is made; `finish` waits for the last.

    With a cache, frames go into it, and what is there is not done again; without one they are decoded and dropped.
    `workers` at a time (0: one for each processor).
    """

    def __init__(
        self,
        listing: Listing,
        *,
        sampling: Sampling,
        grid: Grid,
        limits: ClipLimits,
        workers: int = 0,
        cache: FrameCache | None = None,
    ) -> None:
        def inspect(reader: Reader, row: Row) -> Inspection:
            return _inspect(reader, row, sampling, grid, limits, cache)

        self.listing, self.grid, self.since = listing, grid, time.monotonic()
        self._readers = ExitStack()
        run = self._readers.enter_context(readers(min(workers, len(listing.rows)) if workers else 0))
        self._coming = run(inspect, listing.rows)

    def finish(self, progress: Advance | None = None) -> list[Inspection]:
        """Every clip in the order of the listing; one that cannot be read has a `problem`.

        Raises StoreError where the cache cannot be written.
        """
        found = []
        with self._readers:
            for inspection in self._coming:
                found.append(inspection)
                if progress is not None:
                    progress(1)
        assert len(found) == len(self.listing.rows), "a reading is finished once"
        return found

    def close(self) -> None:
        """End what still reads; nothing where it is finished."""
        self._readers.close()


def inspect_clips(
    listing: Listing,
    *,
    sampling: Sampling,
    grid: Grid,
    limits: ClipLimits,
    workers: int = 0,
    cache: FrameCache | None = None,
    progress: Advance | None = None,
) -> list[Inspection]:
    """Read every listed clip, as `Reading` does, and wait for the last."""
    reading = Reading(listing, sampling=sampling, grid=grid, limits=limits, workers=workers, cache=cache)
    return reading.finish(progress)


def read_files(
    files: Sequence[str | Path], cache: FrameCache, *, sampling: Sampling, grid: Grid, limits: ClipLimits | None = None
) -> tuple[Listing, ClipFrames]:
    """The files that a command names, with their frames; raises ManifestError naming all that cannot be read."""
    listing = listing_of_files([Path(file) for file in files])
    inspections = inspect_clips(listing, sampling=sampling, grid=grid, limits=limits or ClipLimits(), cache=cache)
    bad = [Bad(show(i.row.listed), i.problem.reason, show(i.problem.detail)) for i in inspections if i.problem]
    if bad:
        lines = by_reason(bad, "mend these, and the next run lists the rest")
        told = f"{len(bad):,} of {len(inspections):,} clips cannot be read"
        if len(bad) < len(inspections):
            lines.append(f"{told}, and nothing was done with the others: mend these files, or name the others alone")
        elif len(bad) > 1:
            lines.append(f"{told}: mend these files")
        raise ManifestError(lines)
    return listing, clip_frames(cache, inspections)


def _inspect(
    reader: Reader, row: Row, sampling: Sampling, grid: Grid, limits: ClipLimits, cache: FrameCache | None
) -> Inspection:
    try:
        check_file(row.path)
        sha256 = sha256_of(row.path)
    except ClipError as error:
        return Inspection(row, problem=_problem(error.reason, error.detail))
    except OSError as error:
        return Inspection(row, problem=Problem("unreadable", f"cannot be read: {error.strerror}"))
    remembered = None if cache is None else _remembered(cache, sha256)
    if cache is not None and remembered is not None:
        try:
            plan = plan_frames(remembered, sampling, grid, start=row.start, end=row.end)
        except ClipError as error:
            return Inspection(row, sha256, remembered, problem=_problem(error.reason, error.detail))
        key = cache_key(sha256, plan)
        with suppress(StoreError):  # absent or damaged: decoded
            return Inspection(row, sha256, remembered, plan, key, thumbnails=cache.thumbnails(key))
    reply = reader.ask(
        Request(
            path=str(row.path),
            sha256=sha256,
            sampling=sampling,
            grid=grid,
            limits=limits,
            start=row.start,
            end=row.end,
            cache=None if cache is None else str(cache.root.resolve()),
        )
    )
    problem = None if reply.problem is None else _problem(*reply.problem)
    if cache is not None and reply.probe is not None and problem is None:
        write_record(_memory(cache, sha256), reply.probe)
    small = None if reply.thumbnails is None else base64.b64decode(reply.thumbnails)
    if cache is not None and reply.key is not None:
        small = cache.thumbnails(reply.key)
    return Inspection(row, sha256, reply.probe, reply.plan, reply.key, problem, reply.decoded, small)


def _problem(reason: str, detail: str) -> Problem:
    return Problem(cast(ClipProblem, reason), detail)


def _memory(cache: FrameCache, sha256: str) -> Path:
    return cache.root / "probes" / sha256[:2] / f"{sha256}.json"


def _remembered(cache: FrameCache, sha256: str) -> Probe | None:
    """What an earlier run learned about these bytes; a note that is damaged or cannot be read is as good as none."""
    try:
        return read_record(_memory(cache, sha256), Probe)
    except StoreError:
        return None


def build_manifest(
    listing: Listing,
    inspections: Sequence[Inspection],
    *,
    split_rule: SplitRule,
    on_bad_clip: Literal["stop", "leave-out"] = "stop",
) -> Manifest:
    """The clips of an experiment, split. Used + left out = listed.

    Raises ManifestError with every fault of the listing, of clips that cannot be read (unless `leave-out`), of equal
    and nearly equal contents across splits or under different labels, and of the split.
    """
    bad = [i for i in inspections if i.problem is not None]
    good = [i for i in inspections if i.problem is None]
    faults = list(listing.faults)
    if on_bad_clip == "stop":
        faults += bad_clip_faults(bad, f"`rbft check {show(listing.source)} --json` lists every clip")
    splits, leaks, notes = split_and_leaks(good, split_rule)
    if good:
        faults += [f"label {show(repr(label))} has no clip" for label in _unused(listing, good)]
    elif inspections:
        faults.append("not one listed clip can be read")
    faults += leaks
    if faults:
        raise ManifestError(faults)
    notes = [*listing.notes, *notes, *split_notes([i.row for i in good], splits)]
    return manifest_of(listing, inspections, splits, notes)


def manifest_of(
    listing: Listing, inspections: Sequence[Inspection], splits: Mapping[str, Split], notes: Sequence[str]
) -> Manifest:
    """The manifest of clips whose split is known and without faults; one that cannot be read is left out."""
    return Manifest(
        labels=listing.labels,
        clips=tuple(_clip(i, splits[i.row.clip_id]) for i in inspections if i.problem is None),
        left_out=tuple(_left_out(i) for i in inspections if i.problem is not None),
        notes=tuple(notes),
    )


def bad_clip_faults(bad: Sequence[Inspection], rest: str) -> list[str]:
    """Clips that cannot be read, ten of each reason, and a line with the next step; `rest`: where the others stand."""
    found = [
        Bad(f"{show(i.row.listed)} ({i.row.where})", i.problem.reason, show(i.problem.detail)) for i in bad if i.problem
    ]
    lines = by_reason(found, rest)
    if found:
        lines.append(
            f"{len(found):,} clip{'s' if len(found) > 1 else ''} cannot be used ({counted(found)}): mend or remove the "
            "files, or go on without them with on_bad_clip: leave-out"
        )
    return lines


def _unused(listing: Listing, good: Sequence[Inspection]) -> list[str]:
    used = {i.row.label for i in good}
    return [label for label in listing.labels if label not in used and used != {None}]


def _clip(inspection: Inspection, split: Split) -> Clip:
    row, probe = inspection.row, inspection.probe
    assert probe is not None and inspection.sha256 is not None
    return Clip(
        clip_id=row.clip_id,
        path=str(row.path),
        sha256=inspection.sha256,
        duration_seconds=probe.duration_seconds,
        label=row.label,
        split=split,
        group=row.group,
        start=row.start,
        end=row.end,
        rationale=row.rationale,
        boxes=row.boxes,
        category=row.category,
    )


def _left_out(inspection: Inspection) -> LeftOut:
    assert inspection.problem is not None
    reason, detail = inspection.problem
    return LeftOut(clip_id=inspection.row.clip_id, path=str(inspection.row.path), reason=reason, detail=detail)
