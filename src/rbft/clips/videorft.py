"""Rows of VideoRFT-CoT and VideoRFT-RL (arXiv 2505.12434): JSON lines, read and written without losing anything."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import ConfigDict, ValidationError, model_validator

from rbft.clips.grouped import Bad
from rbft.errors import ManifestError
from rbft.files import why_unread, write_text
from rbft.records import Question, Record

_SOLUTION = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")


def check_path(path: str) -> None:
    """Raises ValueError for what no path can be."""
    if "\0" in path:
        raise ValueError("path holds a null character, which no path does")


class VideoRFTRow(Record):
    """One row, field by field as published. Only rows about a video: rbft learns from clips."""

    model_config = ConfigDict(strict=True)

    problem_id: int | str
    problem: str
    data_type: Literal["video"]
    problem_type: Literal["multiple choice", "numerical", "OCR", "free-form", "regression"]
    options: tuple[str, ...]
    process: str | None = None
    """The chain of thought, `<think>…</think>`; rows for reinforcement have none."""
    solution: str
    """`<answer>…</answer>`"""
    path: str
    data_source: str

    @model_validator(mode="after")
    def _path_can_be_one(self) -> Self:
        check_path(self.path)
        return self

    @model_validator(mode="after")
    def _has_one_answer(self) -> Self:
        if not _SOLUTION.fullmatch(self.solution):
            raise ValueError(f"solution {self.solution!r:.80} is not one <answer>…</answer> and nothing else")
        return self

    @property
    def question(self) -> Question:
        """The row as a question; its clip goes by the row's path."""
        found = _SOLUTION.fullmatch(self.solution)
        assert found is not None, "a row has one answer"
        return Question(
            question_id=str(self.problem_id),
            clip_id=self.path,
            kind=self.problem_type,
            text=self.problem,
            options=self.options,
            answer=found[1],
        )


class VideoRFTRows(NamedTuple):
    """What a file holds: the rows that can be used, and the others by line, with a reason."""

    rows: tuple[VideoRFTRow, ...]
    bad: tuple[Bad, ...]


def row_of(question: Question, *, path: str, data_source: str, process: str | None = None) -> VideoRFTRow:
    """The row of a question; the inverse of `VideoRFTRow.question`. A question_id in digits is written as a number.

    Raises ManifestError where a row cannot hold it: a label question, or an answer with an answer tag in it.
    """
    number = _NUMBER.fullmatch(question.question_id)
    fields: dict[str, Any] = {
        "problem_id": int(question.question_id) if number else question.question_id,
        "problem": question.text,
        "data_type": "video",
        "problem_type": question.kind,
        "options": question.options,
        "solution": f"<answer>{question.answer}</answer>",
        "path": path,
        "data_source": data_source,
    }
    try:
        return VideoRFTRow.model_validate(fields if process is None else fields | {"process": process})
    except ValidationError as error:
        raise ManifestError(
            [f"question {question.question_id!r}: {fault.detail}" for fault in _faults("", error)]
        ) from None


def read_videorft(path: Path) -> VideoRFTRows:
    """Read a file of rows. A row that cannot be used does not stop the others: it is in `bad` with its line.

    Reasons: `not_json`, `not_video`, `unknown_type`, `twice` (the problem_id of an earlier row), `fields`. Raises
    ManifestError where the file cannot be read as UTF-8 text.
    """
    rows: list[VideoRFTRow] = []
    bad: list[Bad] = []
    seen: dict[int | str, str] = {}
    for place, line in json_lines(path):
        row = _row(place, line)
        if not isinstance(row, VideoRFTRow):
            bad += row
        elif row.problem_id in seen:
            first = seen[row.problem_id]
            bad.append(
                Bad(place, "twice", f"problem_id {row.problem_id!r} stands in {first} too; give each row its own")
            )
        else:
            seen[row.problem_id] = place
            rows.append(row)
    return VideoRFTRows(tuple(rows), tuple(bad))


def write_videorft(path: Path, rows: Iterable[VideoRFTRow]) -> None:
    """Write rows one a line with the fields that they were read or made with, whole or not at all."""
    dumped = (row.model_dump(mode="json", exclude_unset=True) for row in rows)
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in dumped))


def json_lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines of a file that are not blank, each with its place; raises ManifestError where it is not UTF-8 text."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                if line.strip():
                    yield f"{path.name}:{number}", line
    except OSError as error:
        raise ManifestError(f"{path}: {why_unread(path, error)}") from None
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: line {number}: not UTF-8 at byte {error.start}; save it as UTF-8") from None


def _row(place: str, line: str) -> VideoRFTRow | list[Bad]:
    try:
        found = json.loads(line, object_pairs_hook=_once)
        return VideoRFTRow.model_validate_json(line)
    except ValidationError as error:
        return _faults(_named(place, found), error)
    except (ValueError, RecursionError) as error:
        return [Bad(place, "not_json", f"{' '.join(str(error).split())}; a row is one JSON object on one line")]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice!r} stands there twice")
    return made


def _named(place: str, found: Any) -> str:
    if isinstance(found, dict) and isinstance(found.get("problem_id"), int | str):
        return f"{place}: problem {found['problem_id']!r:.60}"
    return place


def _faults(place: str, error: ValidationError) -> list[Bad]:
    """One fault a field; where the row is not about a video, that alone."""
    faults = [_fault(place, fault["loc"], fault["type"], fault["msg"], fault["input"]) for fault in error.errors()]
    return [fault for fault in faults if fault.reason == "not_video"] or list(dict.fromkeys(faults))


def _fault(place: str, loc: tuple[int | str, ...], kind: str, message: str, value: Any) -> Bad:
    match loc, kind:
        case ("data_type",), "literal_error":
            return Bad(place, "not_video", f"data_type {value!r:.40} is not 'video'; rbft learns from clips alone")
        case ("problem_type",), "literal_error":
            return Bad(
                place, "unknown_type", f"problem_type {value!r:.40} is unknown; {message[0].lower()}{message[1:]}"
            )
        case ("problem_id", _), _:
            return Bad(place, "fields", f"problem_id {value!r:.40} is neither a number nor text")
        case (), _:
            return Bad(place, "fields", message.removeprefix("Value error, "))
        case _:
            return Bad(place, "fields", f"{'.'.join(map(str, loc))}: {message[0].lower()}{message[1:]}")
