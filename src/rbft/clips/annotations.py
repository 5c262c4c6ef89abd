"""The annotation files of published benchmarks, as their authors write them: ids, labels, categories and human text."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbft.clips.manifest import show
from rbft.errors import ManifestError
from rbft.files import why_unread
from rbft.records import Split

_ID_COLUMNS = ("Title", "Video_ID", "video_id", "clip_id", "id")
_SIDES: dict[str, Split] = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_CONCLUSION = re.compile(r"(?:\A|.*\bClassification:)\s*([^:]+?)\s*[.]?\s*\Z", re.IGNORECASE | re.DOTALL)
_MAX_CELL = 1_000_000


@dataclass(frozen=True)
class Benchmark:
    """Where a benchmark's table keeps what. `labels` maps its tags to the labels that a model learns."""

    name: str
    title: str
    id_column: str
    label_column: str
    category_column: str
    labels: dict[str, str]
    vague: str | None = None
    """The tag of clips that annotators were not sure about."""
    rationale_columns: tuple[str, ...] = ()
    """Columns of human text; joined by a space they are a clip's rationale."""


BENCHMARKS = {
    b.name: b
    for b in (
        Benchmark(
            name="smarthome",
            title="SmartHome-Bench",
            id_column="Title",
            label_column="Label",
            category_column="Category",
            labels={"Normal": "normal", "Abnormal": "abnormal", "Vague Abnormal": "abnormal"},
            vague="Vague Abnormal",
            rationale_columns=("Video Description", "Reasoning behind Normality/Anomalies"),
        ),
        Benchmark(
            name="multihateclip",
            title="MultiHateClip",
            id_column="Video_ID",
            label_column="Majority_Voting",
            category_column="Target_Victim",
            labels={"Normal": "normal", "Offensive": "offensive", "Hateful": "hateful"},
        ),
    )
}


@dataclass(frozen=True)
class Annotated:
    """One annotated clip; `tag` is the benchmark's own word for its label, `where` the place in its file."""

    clip_id: str
    tag: str
    label: str
    where: str
    category: tuple[str, ...] = ()
    rationale: str | None = None


@dataclass(frozen=True)
class Listed:
    """A clip that a list of ids names; `answer` is the label that a conversation ends with, where it does."""

    clip_id: str
    where: str
    answer: str | None = None


def read_annotation(path: Path, benchmark: Benchmark) -> list[Annotated]:
    """Every clip of an annotation file: the benchmark's table, or a JSON of conversations that end with the label.

    Raises ManifestError with every fault of the file.
    """
    if path.suffix.lower() == ".json":
        return _of_conversations(path, benchmark)
    needed = (benchmark.id_column, benchmark.label_column, benchmark.category_column, *benchmark.rationale_columns)
    found, faults = [], []
    for where, row in _rows(path, needed, f"the annotation of {benchmark.title}"):
        clip_id, tag = row[benchmark.id_column].strip(), row[benchmark.label_column].strip()
        if not clip_id:
            faults.append(f"{where}: {benchmark.id_column} is empty")
            continue
        label = benchmark.labels.get(tag)
        if label is None:
            allowed = ", ".join(benchmark.labels)
            faults.append(f"{where}: {benchmark.label_column} {show(repr(tag))} is not one of {allowed}")
            continue
        try:
            category = _categories(row[benchmark.category_column])
        except ValueError as error:
            faults.append(f"{where}: {benchmark.category_column} {error}")
            continue
        text = " ".join(" ".join(row[name].split()) for name in benchmark.rationale_columns).strip()
        found.append(Annotated(clip_id, tag, label, where, category, text or None))
    _stop_at(faults)
    return found


def _of_conversations(path: Path, benchmark: Benchmark) -> list[Annotated]:
    """The true label is what the conversation ends with: a field beside it may hold the same word on every row."""
    labels = {label.casefold(): label for label in benchmark.labels.values()}
    found, faults = [], []
    for listed in _conversations(path):
        label = labels.get((listed.answer or "").casefold())
        if label is None:
            allowed = ", ".join(dict.fromkeys(benchmark.labels.values()))
            faults.append(f"{listed.where}: ends with {show(repr(listed.answer))}, which is not one of {allowed}")
            continue
        found.append(Annotated(listed.clip_id, label, label, listed.where))
    _stop_at(faults)
    return found


def read_ids(path: Path, side: Split) -> list[Listed]:
    """The clips that a file gives to one side of a split.

    A table with a column of ids (and, where it has a column `split`, only the rows of this side), a JSON of
    conversations, or a text file with one id a line. Raises ManifestError where it is none of these.
    """
    match path.suffix.lower():
        case ".json":
            return _conversations(path)
        case ".txt":
            lines = enumerate(_text(path).splitlines(), 1)
            return [Listed(line.strip(), f"{show(path.name)}: line {n}") for n, line in lines if line.strip()]
        case _:
            return _of_table(path, side)


def _of_table(path: Path, side: Split) -> list[Listed]:
    found, faults = [], []
    for where, row in _rows(path, (), "a list of ids"):
        column = next((name for name in _ID_COLUMNS if name in row), None)
        if column is None:
            raise ManifestError(
                f"{show(path.name)}: has no column of ids ({', '.join(_ID_COLUMNS)}); its columns are "
                + ", ".join(map(show, row))
            )
        if "split" in row and _SIDES.get(row["split"].strip().casefold()) != side:
            continue
        if not row[column].strip():
            faults.append(f"{where}: {column} is empty")
            continue
        found.append(Listed(row[column].strip(), where))
    _stop_at(faults)
    return found


# -- conversations -------------------------------------------------------------------------------------------------


def _conversations(path: Path) -> list[Listed]:
    """LLaVA's form: a list of objects with `video` and `conversations`; the video's name is the id."""
    name = show(path.name)
    try:
        document = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{name}: not readable as JSON: {show(error)}") from None
    if not isinstance(document, list) or not document:
        raise ManifestError(f"{name}: a list of objects with `video` and `conversations` is needed")
    found, faults = [], []
    for number, item in enumerate(document, 1):
        where = f"{name}: item {number}"
        video = item.get("video") if isinstance(item, dict) else None
        if not isinstance(video, str) or not Path(video).stem:
            faults.append(f"{where}: needs `video`, the name of a file; this is {show(repr(item)):.80}")
            continue
        found.append(Listed(Path(video).stem, where, _last_answer(item.get("conversations"))))
    _stop_at(faults)
    return found


def _last_answer(turns: Any) -> str | None:
    """What the last turn of the model says, or what stands there after `Classification:`; None where it is no word."""
    said = [t.get("value") for t in turns if isinstance(t, dict) and t.get("from") == "gpt"] if turns else []
    conclusion = _CONCLUSION.match(said[-1]) if said and isinstance(said[-1], str) else None
    return conclusion[1] if conclusion else None


# -- tables --------------------------------------------------------------------------------------------------------


def _rows(path: Path, needed: Sequence[str], what: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Place and cells of every row below the header: commas or tabs, any line end, a byte-order mark or none."""
    text, name = _text(path), show(path.name)
    first_line = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in first_line else ",", strict=True)
    before = csv.field_size_limit(_MAX_CELL)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        missing = [column for column in needed if column not in header]
        if missing or not any(header):
            raise ManifestError(
                f"{name}: has no column {', '.join(map(repr, missing or needed))}, so it is not {what}; its columns "
                f"are {', '.join(map(show, header)) or 'none'}"
            )
        for number, cells in enumerate(reader, 2):
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise ManifestError(f"{name}: row {number}: {len(cells)} cells under a header of {len(header)}")
            yield f"{name}: row {number}", dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise ManifestError(f"{name}: line {reader.line_num}: not readable as a table: {error}") from None
    finally:
        csv.field_size_limit(before)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ManifestError(f"{show(path)}: {why_unread(path, error)}") from None
    except UnicodeDecodeError as error:
        raise ManifestError(f"{show(path.name)}: not UTF-8 at byte {error.start}; save it as UTF-8") from None


def _categories(cell: str) -> tuple[str, ...]:
    """Names of a cell that holds several: `Security, Wildlife`, or `['LGBTQ', 'Woman']`. Raises ValueError."""
    cell = cell.strip()
    names: Any = cell.split(",")
    if cell.startswith("["):
        try:
            names = ast.literal_eval(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{show(repr(cell)):.80} is not a list of names")
    return tuple(dict.fromkeys(" ".join(name.split()) for name in names if name.strip()))


def _stop_at(faults: Sequence[str], most: int = 10) -> None:
    if faults:
        rest = len(faults) - most
        raise ManifestError([*faults[:most], *([f"and {rest} more faults of this kind"] if rest > 0 else [])])
