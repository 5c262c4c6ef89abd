"""`rbft check`: would a run start on these clips? A table for people, one JSON object per clip for programs."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rbft.clips.duplicates import split_and_leaks
from rbft.clips.grouped import MAX_LINES, Bad, by_reason, first_of
from rbft.clips.ingest import inspect_clips
from rbft.clips.inspection import Inspection
from rbft.clips.manifest import ClipFolder, Listing, Refused, Row, listing_of_files, read_manifest, show
from rbft.clips.sources import ARCHIVE_SUFFIXES, MANIFEST_SUFFIXES, files_below, stranger_notes
from rbft.clips.split import split_notes
from rbft.experiment import ClipLimits, Experiment, Sampling, SplitRule
from rbft.progress import Reporter, plural, printable
from rbft.records import Grid, Split

MAX_GOOD_ROWS = 40
"""Clips without a problem that the table shows; the JSON has all."""


@dataclass(frozen=True)
class CheckResult:
    """What a check found. `faults` are those of the manifest and the split; clips that cannot be read are `bad`."""

    listing: Listing
    inspections: tuple[Inspection, ...]
    splits: Mapping[str, Split]
    faults: tuple[str, ...]
    notes: tuple[str, ...]
    grid: Grid
    leave_out: bool = False
    """Whether a run would go on without the clips that are bad."""
    memory: tuple[str, ...] = ()
    """Lines about the memory that a run would need; empty where that is not known."""

    @property
    def bad(self) -> list[Inspection]:
        """Clips that cannot be used."""
        return [i for i in self.inspections if i.problem is not None]

    @property
    def exit_code(self) -> int:
        """0 where a run could start, 2 where it could not."""
        bad = bool(self.bad) and not self.leave_out
        return 2 if self.faults or bad or len(self.bad) == len(self.inspections) else 0

    @property
    def summary(self) -> str:
        """One sentence."""
        listed = len(self.inspections) + len(self.listing.refused)
        clips = plural(listed, "clip", "clips")
        labels = plural(len(self.listing.labels), "label", "labels")
        if self.exit_code == 0 and self.bad:
            return f"{clips}, {labels}: a run could start without {len(self.bad)} of them."
        if self.exit_code == 0:
            if not self.listing.labels:
                return f"{clips}, no labels: every clip can be read."
            return f"{clips}, {labels}: every clip can be read, and a run could start."
        parts = []
        if self.bad:
            parts.append(f"{len(self.bad)} of {clips} cannot be used (a run goes on without them under leave-out)")
        if self.faults:
            parts.append(f"{plural(len(self.faults), 'fault', 'faults')} to mend first")
        return f"A run would stop: {'; '.join(parts) or 'there is no clip'}."


def check(
    source: Path,
    *,
    labels: Mapping[str, str],
    sampling: Sampling,
    grid: Grid,
    limits: ClipLimits,
    split: SplitRule | None = None,
    workers: int = 0,
    allow_outside: bool = False,
    leave_out: bool = False,
    listing: Listing | None = None,
) -> CheckResult:
    """Read every clip of a manifest, a folder, or a single video, and find what would stop a run. Writes nothing.

    `listing`: the clips that were found already, where they are not `source`'s.
    """
    listing = _listing(source, labels, allow_outside) if listing is None else listing
    reporter = Reporter(quiet=not sys.stderr.isatty())
    with reporter.counted("Reading clips", len(listing.rows)) as advance:
        inspections = inspect_clips(
            listing, sampling=sampling, grid=grid, limits=limits, workers=workers, progress=advance
        )
    good = [i for i in inspections if i.problem is None]
    splits, faults, notes = split_and_leaks(good, split or SplitRule())
    if any(i.row.label is not None for i in good):
        notes += split_notes([i.row for i in good], splits)
        used = {i.row.label for i in good}
        unused = [label for label in listing.labels if label not in used]
        faults += [f"label {show(repr(label))} has no clip that can be used" for label in unused]
    return CheckResult(
        listing=listing,
        inspections=tuple(inspections),
        splits=splits,
        faults=listing.faults + tuple(faults),
        notes=listing.notes + tuple(notes),
        grid=grid,
        leave_out=leave_out,
    )


def check_experiment(experiment: Experiment, grid: Grid | None, listing: Listing | None = None) -> CheckResult:
    """Check an experiment's clips as its run would read them; `grid` is its model's, None where it is not known.

    `listing` holds the clips of questions, where the experiment is about these.
    `rbft.preparing.check_run` adds what its arms need of them.
    """
    result = check(
        Path(experiment.clips).expanduser(),
        labels=experiment.labels,
        sampling=experiment.sampling,
        grid=grid or Grid(),
        limits=experiment.limits,
        split=experiment.split,
        workers=experiment.workers,
        allow_outside=experiment.allow_outside,
        leave_out=experiment.on_bad_clip == "leave-out",
        listing=listing,
    )
    faults, notes = result.faults, result.notes
    if listing is None and not faults and not any(i.row.label for i in result.inspections if i.problem is None):
        faults += (f"{experiment.clips}: no clip has a label; fill a column named `label`",)
    if grid is None:
        notes += (
            f"model {experiment.model!r} is not on this machine yet: visual tokens are counted by the frame grid of "
            "Qwen2.5-VL",
        )
    return replace(result, faults=faults, notes=notes)


def _listing(source: Path, labels: Mapping[str, str], allow_outside: bool) -> Listing:
    if source.is_file() and source.suffix.lower() not in MANIFEST_SUFFIXES | ARCHIVE_SUFFIXES:
        return listing_of_files([source])
    if source.is_dir() and not labels and not _has_label_folders(source):
        return _heap(source, allow_outside)
    return read_manifest(source, labels=labels, allow_outside=allow_outside)


def _heap(folder: Path, allow_outside: bool) -> Listing:
    """The videos of a folder without labels. Links stay inside it, as in any list."""
    inside, strangers = ClipFolder(Path(os.path.realpath(folder))), list[str]()
    rows: list[Row] = []
    refused: list[Refused] = []
    for number, path in enumerate(files_below(folder, strangers), 1):
        name, real = path.relative_to(folder).as_posix(), os.path.realpath(path)
        fault = None if allow_outside else inside.fault(name, real)
        if fault is None:
            rows.append(Row(name, Path(real), name, f"file {number}"))
        else:
            refused.append(Refused(name, name, f"file {number}", "outside", fault))
    faults = (
        [f"{show(r.listed)}: {r.detail}" for r in refused] if rows or refused else [f"{show(folder)}: holds no video"]
    )
    lines = tuple(first_of(faults, "clips outside the folder"))
    return Listing(folder, tuple(rows), {}, tuple(stranger_notes(strangers)), lines, tuple(refused))


def _has_label_folders(folder: Path) -> bool:
    """Whether two folders or more hold videos: then they are labels, else the folder is a heap of clips."""
    holding = [top for top in folder.iterdir() if top.is_dir() and next(files_below(top, []), None) is not None]
    return len(holding) > 1


# -- programs ------------------------------------------------------------------------------------------------------


def to_json_lines(result: CheckResult) -> str:
    """One JSON object a clip, one a line; what is not known is null."""
    lines = [_facts(i, result.grid) for i in result.inspections] + [_refused_facts(r) for r in result.listing.refused]
    return "".join(json.dumps(line, ensure_ascii=True) + "\n" for line in lines)


def _facts(inspection: Inspection, grid: Grid) -> dict[str, object]:
    probe, plan, problem = inspection.probe, inspection.plan, inspection.problem
    return {
        "clip_id": inspection.row.clip_id,
        "path": inspection.row.listed,
        "status": "ok" if problem is None else "error",
        "reason": None if problem is None else f"{problem.reason}: {problem.detail}",
        "duration_seconds": None if probe is None else probe.duration_seconds,
        "width": None if probe is None else probe.width,
        "height": None if probe is None else probe.height,
        "num_frames": None if probe is None else probe.num_frames,
        "average_fps": None if probe is None else probe.average_fps,
        "codec": None if probe is None else probe.codec,
        "sampled_frames": None if plan is None or problem is not None else plan.num_frames,
        "visual_tokens": None if plan is None or problem is not None else plan.visual_tokens(grid),
    }


def _refused_facts(refused: Refused) -> dict[str, object]:
    unknown = ("duration_seconds", "width", "height", "num_frames", "average_fps", "codec", "sampled_frames")
    return {
        "clip_id": refused.clip_id,
        "path": refused.listed,
        "status": "error",
        "reason": f"{refused.reason}: {refused.detail}",
        **dict.fromkeys((*unknown, "visual_tokens")),
    }


# -- people --------------------------------------------------------------------------------------------------------


def render_table(result: CheckResult, console: Console) -> None:
    """Clips, counts by label and split, faults, notes, and one sentence."""
    console.print(_clip_table(result, console.width))
    for line in _problem_lines(result):
        _say(console, line, "red")
    hidden = len(result.inspections) - len(result.bad) - MAX_GOOD_ROWS
    if hidden > 0:
        _say(console, f"and {plural(hidden, 'more clip', 'more clips')} without a problem (--json lists all)")
    if any(i.row.label is not None for i in result.inspections):
        console.print(_label_table(result))
    good = [i for i in result.inspections if i.problem is None]
    seconds = sum(i.probe.duration_seconds for i in good if i.probe)
    frames = sum(i.plan.num_frames for i in good if i.plan)
    tokens = [i.plan.visual_tokens(result.grid) for i in good if i.plan]
    _say(
        console,
        f"{plural(len(good), 'clip', 'clips')}, {seconds / 60:.1f} minutes, {frames} sampled frames, "
        f"{sum(tokens)} visual tokens" + (f" ({min(tokens)} to {max(tokens)} a clip)" if tokens else ""),
    )
    for line in result.memory:
        console.print(Text(line), soft_wrap=True)
    for note in result.notes:
        _say(console, f"note: {note}")
    for fault in result.faults:
        _say(console, f"fault: {fault}", "red")
    _say(console, result.summary, "bold red" if result.exit_code else "bold green")


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(printable(text), style=style))


_NARROW = 110
_DETAILS = ("frames", "fps", "codec")
"""Columns that a terminal narrower than `_NARROW` characters leaves out."""


def _clip_table(result: CheckResult, width: int) -> Table:
    """Bad clips first; what is wrong with each stands below the table in full."""
    headings = ("clip", "label", "split", "seconds", "size", "frames", "fps", "codec", "sampled", "tokens", "status")
    hidden = {"label", "split"} if all(i.row.label is None for i in result.inspections) else set()
    hidden |= set(_DETAILS) if width < _NARROW else set()
    shown = [heading for heading in headings if heading not in hidden]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in shown:
        left = heading in ("clip", "label", "split", "codec", "status")
        table.add_column(heading, justify="left" if left else "right", no_wrap=heading != "clip", overflow="fold")
    good = [i for i in result.inspections if i.problem is None]
    for inspection in _shown(result.bad) + good[:MAX_GOOD_ROWS]:
        cells = _table_cells(inspection, result)
        table.add_row(*[cells.get(heading, Text("")) for heading in shown])
    for refused in result.listing.refused[:MAX_LINES]:
        cells = {"clip": Text(show(refused.clip_id)), "status": Text(refused.reason, "red")}
        table.add_row(*[cells.get(heading, Text("")) for heading in shown])
    return table


def _shown(bad: Sequence[Inspection]) -> list[Inspection]:
    """The first ten of every reason, in their order."""
    seen: Counter[str] = Counter()
    shown = []
    for inspection in bad:
        assert inspection.problem is not None
        seen[inspection.problem.reason] += 1
        if seen[inspection.problem.reason] <= MAX_LINES:
            shown.append(inspection)
    return shown


def _table_cells(inspection: Inspection, result: CheckResult) -> dict[str, Text]:
    """Text by column; a column that is not there is not known."""
    row, probe, plan, problem = inspection.row, inspection.probe, inspection.plan, inspection.problem
    cells = {"clip": show(row.clip_id), "label": show(row.label or "-"), "split": result.splits.get(row.clip_id, "-")}
    if probe is not None:
        cells |= {
            "seconds": f"{probe.duration_seconds:.2f}",
            "size": f"{probe.width}x{probe.height}",
            "frames": str(probe.num_frames),
            "fps": f"{probe.average_fps:.2f}",
            "codec": probe.codec,
        }
    if plan is not None and problem is None:
        cells["sampled"] = f"{plan.num_frames} of {plan.width}x{plan.height}"
        cells["tokens"] = str(plan.visual_tokens(result.grid))
    status = Text("ok", "green") if problem is None else Text(problem.reason, "red")
    return {heading: Text(text) for heading, text in cells.items()} | {"status": status}


def _problem_lines(result: CheckResult) -> list[str]:
    bad = [Bad(show(i.row.listed), i.problem.reason, show(i.problem.detail)) for i in result.bad if i.problem]
    bad += [Bad(show(refused.listed), refused.reason, show(refused.detail)) for refused in result.listing.refused]
    return by_reason(bad, "--json lists every clip")


def _label_table(result: CheckResult) -> Table:
    table = Table("label", "train", "test", "cannot be used", box=box.SIMPLE_HEAD, pad_edge=False)
    good = [i for i in result.inspections if i.problem is None]
    counts = Counter((i.row.label, result.splits[i.row.clip_id]) for i in good)
    bad = Counter(i.row.label for i in result.bad)
    labels: list[str | None] = list(result.listing.labels)
    if any(i.row.label is None for i in result.inspections):
        labels.append(None)
    for label in labels:
        name = "(no label)" if label is None else show(label)
        table.add_row(Text(name), str(counts[label, "train"]), str(counts[label, "test"]), str(bad[label]))
    return table
