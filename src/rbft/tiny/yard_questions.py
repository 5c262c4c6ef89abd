"""Questions of five types about the clips of a night yard, with true answers, as VideoRFT rows."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rbft.clips.videorft import VideoRFTRow, row_of, write_videorft
from rbft.errors import UserError
from rbft.records import Question, QuestionKind
from rbft.tiny.language import describe
from rbft.tiny.night_yard import YardDials, write_night_yard
from rbft.tiny.tasks import Lesson, Scene, attribute, multiple_choice, numerical, ocr, regression
from rbft.tiny.world import middle_of
from rbft.tiny.yard_clips import DEFAULT_DIALS, YardClip, plan_yard

SOURCE = "night-yard"
TRAIN, COT, TEST = "train.jsonl", "cot.jsonl", "test.jsonl"
_ASKS: dict[QuestionKind, Callable[[Scene, np.random.Generator, float], Lesson]] = {
    "multiple choice": multiple_choice,
    "free-form": attribute,
    "numerical": numerical,
    "regression": regression,
    "OCR": ocr,
}
"""How each type is asked, in the embedded model's own words. A free-form answer is a word or two of the description."""
KINDS = tuple(_ASKS)


class YardQuestions(NamedTuple):
    """The files that were written: questions of training clips, those of them with a thought, and of test clips."""

    train: Path
    cot: Path
    test: Path


def write_yard_questions(
    folder: Path,
    dials: YardDials = DEFAULT_DIALS,
    *,
    num_train: int,
    num_test: int,
    num_cot: int,
    per_clip: int = 2,
    seed: int = 0,
    workers: int | None = None,
) -> YardQuestions:
    """Render the clips, where they are not there yet, and write `train.jsonl`, `cot.jsonl`, `test.jsonl` beside them.

    A clip has `per_clip` questions of different types; the types take turns over the clips. The rows of `cot.jsonl`
    are those of the first `num_cot` training clips, each with the renderer's true description as its thought. A set
    with fewer clips is the beginning of one with more. Raises UserError, StoreError or RenderError.
    """
    _refuse(num_train, num_test, num_cot, per_clip)
    manifest = write_night_yard(folder, dials, num_train=num_train, num_test=num_test, seed=seed, workers=workers)
    middles = _middles(manifest)
    clips = plan_yard(num_train, num_test, 0, seed, dials)
    train, test = ([clip for clip in clips if clip.split == split] for split in ("train", "test"))
    paths = YardQuestions(folder / TRAIN, folder / COT, folder / TEST)
    write_videorft(paths.train, _rows(yard_questions(train, middles, per_clip, seed)))
    told = {clip.path: f"<think>{describe(clip.spec)}</think>" for clip in train}
    write_videorft(paths.cot, _rows(yard_questions(train[:num_cot], middles, per_clip, seed), told))
    write_videorft(paths.test, _rows(yard_questions(test, middles, per_clip, seed)))
    return paths


def yard_questions(clips: Sequence[YardClip], middles: Mapping[str, int], per_clip: int, seed: int) -> list[Question]:
    """The questions of clips of one split, in their order; `middles` by path: where the subject is on the mean."""
    questions = []
    for index, clip in enumerate(clips):
        rng = np.random.default_rng([seed, len(clip.split), index, 41])
        scene = Scene(clip.spec, middles[clip.path])
        for number in range(per_clip):
            kind = KINDS[(index * per_clip + number) % len(KINDS)]
            lesson = _ASKS[kind](scene, rng, 1.0)
            text, options = _parted(lesson) if kind == "multiple choice" else (lesson.prompt, ())
            questions.append(
                Question(
                    question_id=f"{Path(clip.path).stem}-{kind.replace(' ', '-')}",
                    clip_id=clip.path,
                    kind=kind,
                    text=text,
                    options=options,
                    answer=lesson.answer,
                )
            )
    return questions


def _rows(questions: Sequence[Question], told: Mapping[str, str] | None = None) -> list[VideoRFTRow]:
    return [
        row_of(q, path=q.clip_id, data_source=SOURCE, process=None if told is None else told[q.clip_id])
        for q in questions
    ]


def _middles(manifest: Path) -> dict[str, int]:
    """By path, the subject's mean horizontal position, from the manifest's true boxes."""
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = [(row["path"], json.loads(row["boxes"])) for row in csv.DictReader(file)]
    return {path: middle_of(np.array([mark["box"] for mark in marks])) for path, marks in rows}


def _parted(lesson: Lesson) -> tuple[str, tuple[str, ...]]:
    """The question of a multiple choice, and its options as VideoRFT writes them: `A. a dog`."""
    problem, *options = lesson.prompt.replace("? ", "?\n", 1).replace(". ", ".\n").split("\n")
    return problem, tuple(option.replace(": ", ". ", 1).removesuffix(".") for option in options)


def _refuse(num_train: int, num_test: int, num_cot: int, per_clip: int) -> None:
    faults = [
        f"{name} is {value}; give 1 or more"
        for name, value in (("num_train", num_train), ("num_test", num_test))
        if value < 1
    ]
    if not 1 <= num_cot <= num_train:
        faults.append(f"num_cot is {num_cot}; give 1 to {num_train}: as many training clips as there are, at most")
    if not 1 <= per_clip <= len(KINDS):
        faults.append(f"per_clip is {per_clip}; give 1 to {len(KINDS)}: a clip has one question of a type, at most")
    if faults:
        raise UserError(faults)
