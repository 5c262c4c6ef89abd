"""`rbft ask`: a file of questions put to a base model or a checkpoint, with the frames and prompts that belong to it.

All that is wrong with the questions, the videos and the model's name is told before a model is loaded. Answers are kept
one by one in the output folder, so that the same command continues where it was interrupted and redoes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rbft.asking import prompt_faults
from rbft.clips.cache import FrameCache
from rbft.clips.grouped import Bad, by_reason, first_of
from rbft.clips.ingest import clip_frames, inspect_clips
from rbft.clips.inspection import Inspection
from rbft.clips.manifest import Listing, show
from rbft.clips.questions import QuestionRow, find_videos, read_questions
from rbft.errors import ManifestError, UserError
from rbft.evaluation.questions import answer_questions, answers_key, summary
from rbft.experiment import ClipLimits, Sampling
from rbft.files import held, read_record, sweep, write_record
from rbft.models.sources import EMBEDDED, is_on_hub, resolve
from rbft.models.vlm import VLM, grid_of
from rbft.progress import Reporter, plural
from rbft.prompts import Prompts, Reasoning, load_prompts
from rbft.results import Asking, AskReport, QuestionScore
from rbft.rewards import ungradable
from rbft.store import CARD, checkpoint_faults, folder_faults, is_run, read_card

MAX_NEW_TOKENS = 1_024
"""As VideoRFT's rollouts."""
SAMPLING = Sampling(fps=2.0, max_pixels=256 * 28 * 28, max_frames=32)
"""VideoRFT's at evaluation: 32 frames of 256x28x28 pixels at most; two a second, as the reader of Qwen2.5-VL has it."""
EMBEDDED_SAMPLING = Sampling(fps=2.0, min_pixels=84 * 84, max_pixels=84 * 84, max_frames=32)
EMBEDDED_NEW_TOKENS = 96
ASKING, ANSWERS, SUMMARY = "asking.json", "answers.jsonl", "summary.json"


@dataclass(frozen=True)
class Choices:
    """What the user may say otherwise; None keeps what belongs to the model."""

    frames: int | None = None
    fps: float | None = None
    max_pixels: int | None = None
    prompts: str | None = None
    max_new_tokens: int | None = None
    batch_size: int = 8
    resamples: int = 2_000
    leave_out_missing: bool = False


@dataclass(frozen=True)
class Respondent:
    """Who is asked: a base model or a checkpoint, how it sees a clip, and how it is spoken to."""

    name: str
    path: str
    fingerprint: Callable[[], str]
    prompts: Prompts
    sampling: Sampling
    max_new_tokens: int
    train_clip_sha256: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Asked:
    """What `rbft ask` leaves: the numbers and the folder they are in."""

    report: AskReport
    folder: Path


def ask(
    model: str,
    file: Path,
    *,
    videos: Path | None = None,
    out: Path | None = None,
    choices: Choices | None = None,
    reporter: Reporter | None = None,
) -> Asked:
    """Answer every question of a file; write `answers.jsonl` and `summary.json` into `out`.

    `videos` is where paths of rows start (None: the file's folder). Raises UserError with every fault.
    """
    choices, reporter = choices or Choices(), reporter or Reporter()
    out = out or Path("runs") / f"{file.stem}-{Path(model).name}"
    respondent, rows, listing, left_out = _look_up(model, file, videos or file.parent, out, choices)
    with held(out):
        source = resolve(respondent.path)
        cache = FrameCache(out.parent / "cache" / "frames")
        sweep(out)
        sweep(cache.root)
        with reporter.counted("Reading clips", len(listing.rows)) as advance:
            inspections = inspect_clips(
                listing,
                sampling=respondent.sampling,
                grid=grid_of(source),
                limits=ClipLimits(),
                cache=cache,
                progress=advance,
            )
        rows, unread = _with_clips(rows, inspections, choices, reporter)
        left_out += unread
        if left_out:
            reporter.say(f"left out: {len(left_out):,} of {len(rows) + len(left_out):,} questions; {ASKING} names them")
        asking = _asking(respondent, file, rows, left_out, inspections)
        _same_as_before(out, asking)
        questions = [row.question for row in rows]
        with reporter.counted("Answering", len(questions), unit="questions") as advance:
            answered = answer_questions(
                lambda: VLM.load(respondent.path),
                asking.checkpoint,
                questions,
                clip_frames(cache, inspections),
                respondent.prompts,
                max_new_tokens=respondent.max_new_tokens,
                batch_size=choices.batch_size,
                path=out / ANSWERS,
                advance=advance,
            )
        report = AskReport(asking=asking, summary=summary(answered, resamples=choices.resamples))
        write_record(out / SUMMARY, report)
    return Asked(report, out)


# -- before any work -----------------------------------------------------------------------------------------------


def _look_up(
    model: str, file: Path, videos: Path, out: Path, choices: Choices
) -> tuple[Respondent, list[QuestionRow], Listing, list[QuestionRow]]:
    """Who is asked what about which clips, and the rows without one; raises UserError with every fault of all these."""
    faults: list[str] = []
    found: list[Respondent] = []
    rows: tuple[QuestionRow, ...] = ()
    try:
        found.append(respondent_of(model, choices))
        faults += [f"{fault}, or name others with --prompts" for fault in prompt_faults(found[0].prompts)]
    except UserError as error:
        faults += error.faults
    try:
        rows, bad = read_questions(file)
        faults += by_reason(bad, f"mend {show(file.name)}, and the next run lists the rest")
        faults += first_of(_ungradable(rows), "questions that cannot be graded")
        if not rows and not bad:
            faults.append(f"{show(file)}: holds no question")
    except ManifestError as error:
        faults += error.faults
    faults += folder_faults(out, "--out")
    if is_run(out):
        faults.append(f"--out {show(out)}: is the folder of a run; name another one, there or to be made")
    listing, missing, outside = find_videos(file, rows, videos)
    faults += first_of(outside, "clips outside the folder")
    if missing and (not choices.leave_out_missing or not listing.rows):
        faults += _missing(missing, rows, videos)
    if not faults and is_on_hub(found[0].path):
        resolve(found[0].path)
    if faults:
        raise UserError(faults)
    gone = {row.question_id for row in missing}
    return found[0], [row for row in rows if row.question_id not in gone], listing, list(missing)


def _ungradable(rows: Sequence[QuestionRow]) -> list[str]:
    return [show(fault) for fault in ungradable(row.question for row in rows)]


def _missing(missing: Sequence[QuestionRow], rows: Sequence[QuestionRow], videos: Path) -> list[str]:
    paths = ", ".join(first_of(list(dict.fromkeys(show(row.path) for row in missing)), "files"))
    return [
        f"{len(missing):,} of {len(rows):,} questions have no video in {show(videos)}: {paths}. Put them there, name "
        "their folder with --videos, or leave these questions out with --leave-out-missing"
    ]


def respondent_of(model: str, choices: Choices) -> Respondent:
    """A model by name with what belongs to it; raises UserError, with every fault, for none and for a run directory."""
    folder = Path(model).expanduser()
    if is_run(folder):
        raise UserError(checkpoint_faults(folder))
    respondent = _of_card(model, folder, choices) if (folder / CARD).is_file() else _of_base(model, choices)
    changes: dict[str, Any] = {"fps": choices.fps, "max_frames": choices.frames, "max_pixels": choices.max_pixels}
    return replace(
        respondent,
        sampling=_changed(respondent.sampling, {k: v for k, v in changes.items() if v is not None}),
        max_new_tokens=choices.max_new_tokens or respondent.max_new_tokens,
    )


def _of_card(model: str, folder: Path, choices: Choices) -> Respondent:
    card = read_card(folder)
    if choices.prompts is not None:
        prompts = load_prompts(choices.prompts, persona=card.prompts.persona, labels=card.prompts.labels)
    elif card.questions is not None:
        prompts = card.prompts.asking(card.questions)
    else:
        raise UserError(
            f"{model}: its card does not say how it is asked questions; name the prompts that it was trained with: "
            "--prompts default, brief or a file"
        )
    thinks = isinstance(card.describing, Reasoning)
    return Respondent(
        name=model,
        path=str(folder),
        fingerprint=lambda: card.checkpoint.fingerprint,
        prompts=prompts,
        sampling=card.sampling,
        max_new_tokens=card.describing.max_new_tokens if thinks and card.describing else MAX_NEW_TOKENS,
        train_clip_sha256=frozenset(card.checkpoint.train_clip_sha256),
    )


def _of_base(model: str, choices: Choices) -> Respondent:
    embedded = model == EMBEDDED
    if not is_on_hub(model):
        resolve(model)
    return Respondent(
        name=model,
        path=model,
        fingerprint=lambda: resolve(model).fingerprint(),
        prompts=load_prompts(choices.prompts or ("brief" if embedded else "default"), persona="", labels={}),
        sampling=EMBEDDED_SAMPLING if embedded else SAMPLING,
        max_new_tokens=EMBEDDED_NEW_TOKENS if embedded else MAX_NEW_TOKENS,
    )


def _changed(sampling: Sampling, changes: dict[str, Any]) -> Sampling:
    """The sampling with a user's changes; the smallest number of frames and of pixels give way to them."""
    given = sampling.model_dump() | changes
    given["min_frames"] = min(given["min_frames"], given["max_frames"] // 2 * 2)
    given["min_pixels"] = min(given["min_pixels"], given["max_pixels"])
    return Sampling.model_validate(given)


def _with_clips(
    rows: list[QuestionRow], inspections: Sequence[Inspection], choices: Choices, reporter: Reporter
) -> tuple[list[QuestionRow], list[QuestionRow]]:
    """The rows whose clip was read, and the others; raises ManifestError for these unless they may be left out."""
    unread = {i.row.clip_id for i in inspections if i.problem is not None}
    bad = [Bad(show(i.row.listed), i.problem.reason, show(i.problem.detail)) for i in inspections if i.problem]
    lines = by_reason(bad, "mend these, and the next run lists the rest")
    if bad and (not choices.leave_out_missing or len(unread) == len(inspections)):
        raise ManifestError(
            [*lines, f"{len(bad):,} of {len(inspections):,} clips cannot be read: mend the files, or leave their "
             "questions out with --leave-out-missing"]
        )  # fmt: skip
    for line in lines:
        reporter.say(f"left out: {line}")
    return [row for row in rows if row.clip_id not in unread], [row for row in rows if row.clip_id in unread]


def _asking(
    respondent: Respondent,
    file: Path,
    rows: Sequence[QuestionRow],
    left_out: Sequence[QuestionRow],
    inspections: Sequence[Inspection],
) -> Asking:
    keys = {i.row.clip_id: str(i.key) for i in inspections}
    learnt = {i.row.clip_id for i in inspections if i.sha256 in respondent.train_clip_sha256}
    checkpoint = respondent.fingerprint()
    limit = respondent.max_new_tokens
    questions = [row.question for row in rows]
    return Asking(
        model=respondent.name,
        checkpoint=checkpoint,
        questions=file.name,
        num_questions=len(rows),
        prompts=respondent.prompts.templates.name,
        max_new_tokens=limit,
        sampling=respondent.sampling.model_dump(mode="json"),
        left_out=tuple(row.question_id for row in left_out),
        trained_on=tuple(row.question_id for row in rows if row.clip_id in learnt),
        key=answers_key(checkpoint, questions, keys, respondent.prompts, max_new_tokens=limit),
    )


def _same_as_before(out: Path, asking: Asking) -> None:
    """Note what is asked; raises UserError where the folder holds the answers to something else."""
    path = out / ASKING
    step = f"move {show(out)} away, and the same command asks anew, or name another folder with --out"
    before = read_record(path, Asking, step) if path.is_file() else None
    if before is not None and before.key != asking.key:
        names = ("checkpoint", "questions", "num_questions", "prompts", "max_new_tokens", "sampling")
        differing = [name for name in names if getattr(before, name) != getattr(asking, name)]
        what = ", ".join(differing).replace("_", " ") or "the text of a question or the frames of a clip"
        raise UserError(f"{show(out)}: holds answers to something else ({what} differ); name another folder with --out")
    if before is None and (out / ANSWERS).exists():
        raise UserError(
            f"{show(out / ANSWERS)}: is there already, and without {ASKING} nobody knows what it answers; {step}"
        )
    write_record(path, asking)


# -- people --------------------------------------------------------------------------------------------------------


def render_asked(report: AskReport, console: Console) -> None:
    """The scores by kind and category with their intervals, and what the reader must know of them."""
    summed = report.summary
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("", overflow="fold")
    for heading in ("questions", "clips", "score", "95 %", "unreadable", "cut off"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row("all", *_cells(summed.overall))
    if summed.over_categories is not None:
        mean = summed.over_categories
        table.add_row("over categories", "", "", _percent(mean.mean), _range(mean.low, mean.high), "", "")
    for kind, score in summed.kinds.items():
        table.add_row(f"{kind} (MRA)" if kind == "regression" else kind, *_cells(score))
    for number, (name, score) in enumerate(summed.categories.items()):
        if number == 0:
            table.add_section()
        table.add_row(Text(show(name)), *_cells(score))
    console.print(table)
    learnt = len(report.asking.trained_on)
    if learnt:
        console.print(Text(f"note: the checkpoint was trained on the clips of {learnt:,} of these questions"))
    if summed.overall.ungraded:
        told = plural(
            summed.overall.ungraded, "question could not be graded and is", "questions could not be graded and are"
        )
        console.print(Text(f"note: {told} in no mean"))


def _cells(score: QuestionScore) -> tuple[str, ...]:
    mean = score.score
    shares = _percent(score.unreadable), _percent(score.cut_off)
    return f"{score.questions:,}", f"{score.clips:,}", _percent(mean.mean), _range(mean.low, mean.high), *shares


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _range(low: float, high: float) -> str:
    return f"{100 * low:.1f} to {100 * high:.1f}"
