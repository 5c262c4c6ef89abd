"""Files of questions about clips: rows of rbft's own, which lose nothing of a benchmark, or VideoRFT's; JSON lines."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, ValidationError, model_validator

from rbft.clips.grouped import Bad
from rbft.clips.manifest import ClipFolder, Listing, Row, show
from rbft.clips.videorft import check_path, json_lines, read_videorft
from rbft.files import write_jsonl
from rbft.records import Question, QuestionKind, Record


class QuestionRow(Record):
    """A question and where its clip is; `start` and `end` are seconds from the file's first frame."""

    question_id: str = Field(min_length=1)
    path: str = Field(min_length=1)
    start: float | None = Field(None, ge=0)
    end: float | None = Field(None, ge=0)
    kind: QuestionKind
    text: str = Field(min_length=1)
    options: tuple[str, ...] = ()
    answer: str
    category: tuple[str, ...] = ()
    """Kinds of question as its benchmark names them; the first is what the mean over categories is taken over."""

    @model_validator(mode="after")
    def _path_can_be_one(self) -> QuestionRow:
        check_path(self.path)
        return self

    @model_validator(mode="after")
    def _window_has_a_length(self) -> QuestionRow:
        if self.end is not None and self.end <= (self.start or 0.0):
            raise ValueError(f"end {self.end:g} is not after start {self.start or 0:g}")
        return self

    @property
    def clip_id(self) -> str:
        """The path, and the window where there is one: questions about the same part of a file share a clip."""
        if self.start is None and self.end is None:
            return self.path
        return f"{self.path}@{self.start or 0:g}-{'' if self.end is None else f'{self.end:g}'}"

    @property
    def question(self) -> Question:
        """The row without its clip's place."""
        return Question(
            question_id=self.question_id,
            clip_id=self.clip_id,
            kind=self.kind,
            text=self.text,
            options=self.options,
            answer=self.answer,
            category=self.category,
        )


class LeftOutQuestion(Record):
    """A published question that is not used: its id (or its place in the file), one word, and an explanation."""

    question_id: str
    reason: str
    detail: str


class QuestionRows(NamedTuple):
    """What a file holds: the rows that can be used, and the others by line, with a reason."""

    rows: tuple[QuestionRow, ...]
    bad: tuple[Bad, ...]


def read_questions(path: Path) -> QuestionRows:
    """Read rows of the layout that the first line has. Bad rows are listed; raises ManifestError for no UTF-8 text."""
    if _is_videorft(path):
        found = read_videorft(path)
        made, unfit = [], list(found.bad)
        for published in found.rows:
            try:
                made.append(_of(published.question))
            except ValidationError as error:
                place = f"{path.name}: problem {published.problem_id!r}"
                unfit += [Bad(place, "fields", _fault(fault["loc"], fault["msg"])) for fault in error.errors()]
        return QuestionRows(tuple(made), tuple(unfit))
    rows: dict[str, QuestionRow] = {}
    places: dict[str, str] = {}
    bad: list[Bad] = []
    for place, line in json_lines(path):
        try:
            row = QuestionRow.model_validate_json(line)
        except ValidationError as error:
            bad += [Bad(place, "fields", _fault(fault["loc"], fault["msg"])) for fault in error.errors()]
            continue
        if row.question_id in rows:
            first = places[row.question_id]
            bad.append(Bad(place, "twice", f"question_id {row.question_id!r} stands in {first} too; give each its own"))
            continue
        rows[row.question_id], places[row.question_id] = row, place
    return QuestionRows(tuple(rows.values()), tuple(bad))


def write_questions(path: Path, rows: Iterable[QuestionRow]) -> None:
    """Write rows one a line, whole or not at all."""
    write_jsonl(path, rows)


def _is_videorft(path: Path) -> bool:
    """Whether the first row goes by a `problem_id`."""
    _, first = next(json_lines(path), ("", ""))
    try:
        row = json.loads(first)
    except (ValueError, RecursionError):  # told with its line, as a row of our own
        return False
    return isinstance(row, dict) and "problem_id" in row


def _of(question: Question) -> QuestionRow:
    """A VideoRFT question, whose clip goes by its path."""
    return QuestionRow(
        question_id=question.question_id,
        path=question.clip_id,
        kind=question.kind,
        text=question.text,
        options=question.options,
        answer=question.answer,
    )


def _fault(loc: tuple[int | str, ...], message: str) -> str:
    plain = message.removeprefix("Value error, ")
    return f"{'.'.join(map(str, loc))}: {plain[0].lower()}{plain[1:]}" if loc else plain


class Videos(NamedTuple):
    """The clips of questions in a folder, each once, the rows whose clip is not there, and faults of those outside."""

    listing: Listing
    missing: tuple[QuestionRow, ...]
    outside: tuple[str, ...]


def find_videos(source: Path, rows: Sequence[QuestionRow], folder: Path) -> Videos:
    """Find every row's clip by its path below a folder, links resolved; nothing is opened."""
    inside = ClipFolder(folder, "name its folder with --videos")
    clips: dict[str, Row] = {}
    missing, outside = [], []
    for row in rows:
        place = os.path.realpath(folder / row.path)
        if fault := inside.fault(row.path, place):
            outside.append(f"question {show(repr(row.question_id))}: {fault}")
        elif not os.path.isfile(place):  # noqa: PTH113 - a name that is too long is no file, and no error
            missing.append(row)
        else:
            clip = Row(row.clip_id, Path(place), row.path, f"question {row.question_id}", start=row.start, end=row.end)
            clips.setdefault(row.clip_id, clip)
    return Videos(Listing(source, tuple(clips.values()), {}), tuple(missing), tuple(outside))
