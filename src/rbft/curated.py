"""`rbft curate`: clips or questions go through the chain; rows to learn, and a page that says what became of them."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from string import ascii_uppercase

from rbft.answers import load_thresholds
from rbft.asking import label_question, prompt_faults
from rbft.clips.cache import FrameCache
from rbft.clips.grouped import Bad, by_reason, counted, first_of
from rbft.clips.ingest import bad_clip_faults, clip_frames, inspect_clips
from rbft.clips.inspection import Inspection
from rbft.clips.manifest import ClipFolder, Listing, Row, read_manifest
from rbft.clips.videorft import VideoRFTRow, read_videorft, row_of, write_videorft
from rbft.curation import CurationPrompts
from rbft.errors import ManifestError
from rbft.files import held, sweep, write_jsonl, write_text
from rbft.models.sources import Source
from rbft.models.vlm import VLM
from rbft.progress import Reporter, plural
from rbft.prompts import Prompts, load_prompts
from rbft.rationales.crew import Crew, gather
from rbft.rationales.curate import Curation, Item, curate
from rbft.rationales.job import CurationJob
from rbft.rationales.tally import tally
from rbft.records import Grid, Question
from rbft.report.curation import write_curation
from rbft.results import CurationReport
from rbft.rewards import ungradable


@dataclass(frozen=True)
class CurationOutcome:
    """What a curation leaves."""

    report: CurationReport
    folder: Path
    page: Path


@dataclass(frozen=True)
class _Asked:
    """The questions of a job, their clips, and of published questions the rows."""

    questions: list[Question]
    listing: Listing
    rows: dict[str, VideoRFTRow]
    notes: list[str]

    @cached_property
    def listed(self) -> dict[str, str]:
        """By clip id the path as it is listed."""
        return {row.clip_id: row.listed for row in self.listing.rows}


def run_curation(job: CurationJob, reporter: Reporter | None = None) -> CurationOutcome:
    """Everything, in order: questions, clips, the chain, rows and report; continues where it was interrupted."""
    reporter = reporter or Reporter()
    crew = gather(job, job.prompts, allow_remote_code=job.allow_remote_code)
    asked, prompts = _asked(job)
    folder = Path(job.output) / job.name
    with held(folder):
        sweep(folder)
        for note in asked.notes:
            reporter.say(f"note: {note}")
        write_text(folder / "curation-settings.json", job.model_dump_json(indent=2) + "\n")
        made, report, chain = _chained(job, crew, asked, prompts, folder, reporter)
        write_jsonl(folder / "curated.jsonl", made.items)
        kept = [item for item in made.items if item.verdict.kept]
        write_videorft(
            folder / "cot.jsonl", [_row(job, asked, chain, i.question, f"<think>{i.think}</think>") for i in kept]
        )
        write_videorft(folder / "rl.jsonl", [_row(job, asked, chain, item.question, None) for item in made.items])
        page = write_curation(folder, report, made.items)
    return CurationOutcome(report, folder, page)


def _chained(
    job: CurationJob, crew: Crew, asked: _Asked, prompts: Prompts, folder: Path, reporter: Reporter
) -> tuple[Curation, CurationReport, CurationPrompts]:
    cache = FrameCache(Path(job.output) / "cache" / "frames")
    sweep(cache.root)
    inspections = _inspected(job, crew, asked.listing, cache, reporter)
    frames = clip_frames(cache, inspections)
    usable = {i.row.clip_id: i for i in inspections if i.problem is None}
    items = [_item(question, usable[question.clip_id]) for question in asked.questions if question.clip_id in usable]
    models = _Models(job.allow_remote_code)
    chain = crew.chain(prompts, job.prompts, frames, load_thresholds(None), models.load)
    made = curate(items, chain, folder, frames, reporter)
    left_out = len(asked.questions) - len(items)
    notes = [
        *asked.notes,
        *([f"{plural(left_out, 'question is', 'questions are')} about clips that cannot be read"] if left_out else []),
    ]
    return made, tally(job.name, made, job, notes), chain.prompts


# -- questions -----------------------------------------------------------------------------------------------------


def _asked(job: CurationJob) -> tuple[_Asked, Prompts]:
    """What the job asks; raises ManifestError with every fault of its list and of the prompts."""
    if job.questions is None:
        return _of_clips(job)
    prompts = load_prompts(job.prompts, persona=job.domain, labels={})
    asked, faults = _of_rows(job, Path(job.questions).expanduser())
    faults = prompt_faults(prompts) + faults + ungradable(asked.questions)
    if not asked.questions and not faults:
        faults.append(f"{job.questions}: holds no question about a video")
    if faults:
        raise ManifestError(faults)
    return asked, prompts


def _of_clips(job: CurationJob) -> tuple[_Asked, Prompts]:
    """Which label each clip has: clips of the test split and without a label are left out."""
    listing = read_manifest(Path(str(job.clips)).expanduser(), labels=job.labels, allow_outside=job.allow_outside)
    prompts = load_prompts(job.prompts, persona=job.domain, labels=listing.labels)
    faults = list(listing.faults)
    if prompts.templates.reasoned is None:
        faults.append(
            f"the prompts {prompts.templates.name!r} have no template `reasoned`, which labels are asked with"
        )
    rows = tuple(row for row in listing.rows if row.label is not None and row.split != "test")
    if not rows and not faults:
        faults.append(f"{job.clips}: no training clip has a label; fill a column named `label`")
    if len(listing.labels) > len(ascii_uppercase):
        faults.append(
            f"{len(listing.labels)} labels cannot be options of a row; at most {len(ascii_uppercase)} have a letter"
        )
    if faults:
        raise ManifestError(faults)
    questions = [label_question(prompts, row.clip_id, str(row.label), row.category) for row in rows]
    hidden = len(listing.rows) - len(rows)
    notes = [
        *listing.notes,
        *([f"{plural(hidden, 'clip', 'clips')} without a label or of the test split: not asked"] if hidden else []),
    ]
    kept = Listing(listing.source, rows, listing.labels, listing.notes)
    return _Asked(questions, kept, {}, notes), prompts


def _of_rows(job: CurationJob, path: Path) -> tuple[_Asked, list[str]]:
    """Published rows; those that are not about a video are left out, every other fault stops."""
    read = read_videorft(path)
    other = [bad for bad in read.bad if bad.reason == "not_video"]
    faults = by_reason([bad for bad in read.bad if bad.reason != "not_video"], "mend the file")
    inside, outside = ClipFolder(path.parent, "allow it with allow_outside: true"), list[str]()
    clips: dict[str, Row] = {}
    for row in read.rows:
        real = os.path.realpath(path.parent / row.path)
        if not job.allow_outside and (fault := inside.fault(row.path, real)):
            outside.append(f"problem {row.problem_id!r}: {fault}")
        clips.setdefault(row.path, Row(row.path, Path(real), row.path, f"problem {row.problem_id!r}"))
    faults += first_of(outside, "clips outside the folder of the questions")
    notes = [f"{path.name}: {counted(other)}: rows that are not about a video are left out"] if other else []
    questions = [row.question for row in read.rows]
    alike = [name for name, count in Counter(str(row.problem_id) for row in read.rows).items() if count > 1]
    faults += [f"problem_id {name} stands there as a number and as text; give each row its own" for name in alike]
    rows = {str(row.problem_id): row for row in read.rows}
    return _Asked(questions, Listing(path, tuple(clips.values()), {}), rows, notes), faults


def _row(
    job: CurationJob, asked: _Asked, prompts: CurationPrompts, question: Question, process: str | None
) -> VideoRFTRow:
    """The row that a question came from, with its thought; of a label question one with the labels as options."""
    found = asked.rows.get(question.question_id)
    if found is not None:
        fields = {name: getattr(found, name) for name in found.model_fields_set if name != "process"}
        return VideoRFTRow(**fields if process is None else fields | {"process": process})
    labels = list(question.options)
    told = asked.listing.labels
    options = [
        f"{letter}. {label}" + (f": {told[label]}" if told[label] else "")
        for letter, label in zip(ascii_uppercase, labels, strict=False)
    ]
    choice = question.model_copy(
        update={
            "kind": "multiple choice", "text": prompts.label_problem, "options": tuple(options),
            "answer": ascii_uppercase[labels.index(question.answer)],
        }
    )  # fmt: skip
    return row_of(choice, path=asked.listed[question.clip_id], data_source=job.name, process=process)


# -- clips ---------------------------------------------------------------------------------------------------------


def _inspected(
    job: CurationJob, crew: Crew, listing: Listing, cache: FrameCache, reporter: Reporter
) -> list[Inspection]:
    with reporter.counted("Reading clips", len(listing.rows)) as advance:
        inspections = inspect_clips(
            listing,
            sampling=job.sampling,
            grid=crew.grid() or Grid(),
            limits=job.limits,
            workers=job.workers,
            cache=cache,
            progress=advance,
        )
    bad = [i for i in inspections if i.problem is not None]
    if bad and (job.on_bad_clip == "stop" or len(bad) == len(inspections)):
        raise ManifestError(bad_clip_faults(bad, f"{listing.source} lists them"))
    left = [Bad(i.row.listed, i.problem.reason, i.problem.detail) for i in bad if i.problem]
    for line in by_reason(left, f"{listing.source} lists them"):
        reporter.say(f"left out: {line}")
    return inspections


def _item(question: Question, inspection: Inspection) -> Item:
    assert inspection.probe is not None and inspection.key is not None
    row, end = inspection.row, inspection.probe.duration_seconds
    return Item(question, inspection.key, row.start or 0.0, end if row.end is None else min(row.end, end))


class _Models:
    """One local model in memory at a time."""

    def __init__(self, allow_remote_code: bool) -> None:
        self._allow_remote_code = allow_remote_code
        self._held: tuple[Source, VLM] | None = None

    def load(self, source: Source) -> VLM:
        """The model there, loaded where it is not the one at hand."""
        if self._held is None or self._held[0] != source:
            self._held = None
            vlm = VLM.load(source.folder, revision=source.revision, allow_remote_code=self._allow_remote_code)
            self._held = (source, vlm)
        return self._held[1]
