"""The forms a manifest comes in, each read into cells: CSV and TSV, JSONL, LLaVA/ShareGPT JSON, a folder of folders."""

from __future__ import annotations

import csv
import difflib
import io
import itertools
import json
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rbft.clips.grouped import first_of
from rbft.files import why_unread
from rbft.progress import plural, printable

COLUMNS = ("path", "label", "clip_id", "split", "group", "start", "end", "rationale", "boxes", "category")
VIDEO_SUFFIXES = frozenset(
    (".3g2", ".3gp", ".asf", ".avi", ".flv", ".gif", ".ivf", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg",
     ".mts", ".mxf", ".ogg", ".ogv", ".ts", ".vob", ".webm", ".wmv")
)  # fmt: skip
MANIFEST_SUFFIXES = frozenset((".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json"))
ARCHIVE_SUFFIXES = frozenset((".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".txz", ".xz", ".zip", ".zst"))
_SPLIT_FOLDERS = {"train", "test"}
_MAX_CELL = 10_000_000
_END = "\N{END OF TEXT} end of table"
"""A last line of our own: if it is not read back as a row, an open quote has swallowed it."""


@dataclass(frozen=True, slots=True)
class Cells:
    """One row as it stands in its source: `where` for messages, `values` by column."""

    where: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """Everything a source holds. `folder` is where paths start, `root` the real folder that they must not leave.

    `cells` are taken off one by one as they become rows: a million rows are not held twice.
    """

    name: str
    folder: Path
    root: Path
    cells: deque[Cells] = field(default_factory=deque)
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


class _RefusedError(Exception):
    """The source cannot be read at all; the message says why."""


def read_source(source: Path) -> Source:
    """Read a manifest file or a folder of clips; what is wrong with it is in `faults`."""
    folder = source if source.is_dir() else source.parent
    root = Path(os.path.realpath(folder))
    name = source.name or str(source)
    notes: list[str] = []
    faults: list[str] = []
    try:
        cells = _cells(source, notes, faults)
    except _RefusedError as refusal:
        cells, faults = [], [f"{name}: {refusal}"]
    return Source(name, folder, root, deque(cells), tuple(f"{name}: {note}" for note in notes), tuple(faults))


def _cells(source: Path, notes: list[str], faults: list[str]) -> list[Cells]:
    if source.is_dir():
        return list(_folder(source, notes))
    match source.suffix.lower():
        case ".csv" | ".tsv" | ".txt":
            return _table(source, notes, faults)
        case ".jsonl" | ".ndjson":
            return _json_lines(source, notes, faults)
        case ".json":
            return _json_list(source, notes, faults)
        case suffix if suffix in ARCHIVE_SUFFIXES and source.is_file():
            raise _RefusedError("archives are not read; unpack it, and name the manifest or the folder that was in it")
        case _:
            _text(source)
            raise _RefusedError(
                "a manifest is a .csv, .tsv, .jsonl or .json file, or a folder with one folder per label"
            )


def _text(source: Path) -> str:
    if source.exists() and not source.is_file():
        raise _RefusedError("a device or a pipe, which may have no end; write the list into a file")
    try:
        raw = source.read_bytes()
    except OSError as error:
        raise _RefusedError(why_unread(source, error)) from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        kind = " (it looks like UTF-16)" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise _RefusedError(f"not UTF-8 at byte {error.start}, line {line}{kind}; save it as UTF-8") from None


# -- tables --------------------------------------------------------------------------------------------------------


def _table(source: Path, notes: list[str], faults: list[str]) -> list[Cells]:
    text = _text(source)
    before = csv.field_size_limit(_MAX_CELL)
    try:
        return _table_cells(source, text, notes, faults)
    finally:
        csv.field_size_limit(before)


def _table_cells(source: Path, text: str, notes: list[str], faults: list[str]) -> list[Cells]:
    first_line = text.split("\n", 1)[0]
    delimiter = max(",\t;", key=first_line.count)
    lines = itertools.chain(io.StringIO(text, newline=""), ["\n", _END])
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(header, notes)
        uneven: list[str] = []
        cells = list(_table_rows(source, header, reader, faults, uneven))
        faults += first_of(uneven, f"rows of {source.name} with another number of cells")
        return cells
    except csv.Error as error:
        raise _RefusedError(f"line {reader.line_num}: not readable as a table: {error}") from None


def _table_rows(
    source: Path, header: list[str], rows: Iterable[list[str]], faults: list[str], uneven: list[str]
) -> Iterator[Cells]:
    """The rows below a header, numbered as a spreadsheet does: the header is row 1."""
    row, number = header, 1
    for number, row in enumerate(rows, 2):
        if not any(cell.strip() for cell in row):
            continue
        if row == [_END]:
            return
        if _END in row[-1]:
            break
        if len(row) > len(header) and not any(cell.strip() for cell in row[len(header) :]):
            row = row[: len(header)]
        if len(row) != len(header):
            uneven.append(f"{source.name}: row {number}: {len(row)} cells under a header of {len(header)}")
            continue
        yield Cells(f"row {number}", {n: v for n, v in zip(header, row, strict=True) if n in COLUMNS})
    faults.append(f"{source.name}: row {number}: a quote is opened here and never closed")


def _check_header(header: list[str], notes: list[str]) -> None:
    if not any(header) or header == [_END]:
        raise _RefusedError("is empty; the first line names the columns: " + ", ".join(COLUMNS))
    twice = sorted(name for name, count in Counter(header).items() if count > 1 and name)
    if twice:
        raise _RefusedError(f"the header names {', '.join(map(repr, twice))} twice; keep one")
    _note_unknown(header, notes)
    renames = _renames(header)
    if "path" not in header:
        raise _RefusedError(f"there is no column 'path'; the header has {', '.join(map(repr, header))}{renames}")
    if renames:
        raise _RefusedError(f"columns look misspelt{renames}; or give them names that are less alike")


_ALIASES = ("file", "filename", "file_name", "filepath", "video", "video_path", "clip")


def _renames(names: Iterable[str]) -> str:
    """`; rename 'Path' to 'path', 'lable' to 'label'` for columns that are known but for case or a slip, or nothing."""
    names = list(names)
    free = [column for column in COLUMNS if column not in names]
    found: dict[str, str] = {}
    for name in names:
        alike = [column for column in free if abs(len(column) - len(_plain(name))) <= 1]
        close = [] if name in COLUMNS else difflib.get_close_matches(_plain(name), alike, n=1, cutoff=0.8)
        if close and close[0] not in found.values():
            found[name] = close[0]
    if "path" in free and "path" not in found.values():
        found |= dict.fromkeys([name for name in names if _plain(name) in _ALIASES][:1], "path")
    said = ", ".join(f"{name!r:.60} to {column!r}" for name, column in found.items())
    return f"; rename {said}" if said else ""


def _plain(name: str) -> str:
    """A column's name as rbft would spell it: `Clip ID` is `clip_id`."""
    return "_".join(name.casefold().replace("-", " ").replace("_", " ").split())


def _note_unknown(names: list[str], notes: list[str]) -> None:
    unknown = [name for name in names if name not in COLUMNS and name]
    if unknown:
        notes.append(f"columns that rbft does not know are ignored: {', '.join(unknown)} (known: {', '.join(COLUMNS)})")


# -- JSON ----------------------------------------------------------------------------------------------------------


def _json_lines(source: Path, notes: list[str], faults: list[str]) -> list[Cells]:
    items, broken = [], []
    for number, line in enumerate(_text(source).split("\n"), 1):
        if not line.strip():
            continue
        try:
            items.append((f"line {number}", json.loads(line)))
        except (ValueError, RecursionError) as error:
            broken.append(f"{source.name}: line {number}: not readable as JSON: {error}")
    faults += first_of(broken, f"lines of {source.name} that are not readable as JSON")
    return _objects(source, items, notes, faults)


def _json_list(source: Path, notes: list[str], faults: list[str]) -> list[Cells]:
    try:
        document = json.loads(_text(source))
    except (ValueError, RecursionError) as error:
        raise _RefusedError(f"not readable as JSON: {error}") from None
    if not isinstance(document, list):
        raise _RefusedError(
            f"holds a {type(document).__name__}; a list of items is needed, as LLaVA and ShareGPT write it"
        )
    return _objects(source, [(f"item {number}", item) for number, item in enumerate(document, 1)], notes, faults)


def _objects(source: Path, items: list[tuple[str, Any]], notes: list[str], faults: list[str]) -> list[Cells]:
    cells, names, conversations = [], dict[str, None](), 0
    strange: list[str] = []
    for where, item in items:
        if not isinstance(item, dict):
            strange.append(f"{source.name}: {where}: holds {item!r:.60}; an object with a path is needed")
            continue
        turns = item.get("conversations", item.get("messages"))
        if turns is None:
            names.update(dict.fromkeys(item))
            cells.append(Cells(where, {name: value for name, value in item.items() if name in COLUMNS}))
            continue
        try:
            cells.append(Cells(where, _conversation(item, turns)))
            conversations += 1
        except _RefusedError as refusal:
            strange.append(f"{source.name}: {where}: {refusal}")
    faults += first_of(strange, f"items of {source.name} that are no clip")
    _note_unknown(list(names), notes)
    renames = _renames(names)
    if renames:
        faults.append(f"{source.name}: fields look misspelt{renames}; or give them names that are less alike")
    if conversations and not any(c.values.get("split") for c in cells):
        notes.append("has no split of its own: rbft makes one; a field 'split' with train or test in each item sets it")
    return cells


def _conversation(item: dict[str, Any], turns: Any) -> dict[str, Any]:
    """Columns from an item of LLaVA, ShareGPT, LLaMA-Factory or ms-swift: one video, the last answer as label."""
    videos = item.get("video", item.get("videos", item.get("path")))
    videos = videos if isinstance(videos, list) else [videos]
    if len(videos) != 1 or not isinstance(videos[0], str):
        raise _RefusedError(f"needs one video, and names {videos!r:.80}")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise _RefusedError(f"a conversation is a list of turns, this is {turns!r:.60}")
    answers = [
        _content(turn.get("value", turn.get("content")))
        for turn in turns
        if turn.get("from", turn.get("role")) in ("gpt", "assistant")
    ]
    columns = {name: item[name] for name in COLUMNS if name in item}
    columns["path"] = videos[0]
    columns.setdefault("clip_id", item.get("id"))
    columns.setdefault("label", answers[-1].strip() if answers else None)
    return columns


def _content(value: Any) -> str:
    """Text of a turn: a string, or parts of which those of type text count."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(part.get("text", "") for part in value if isinstance(part, dict) and part.get("type") == "text")
    raise _RefusedError(f"an answer is text, this is {value!r:.60}")


# -- folders -------------------------------------------------------------------------------------------------------


def _folder(folder: Path, notes: list[str]) -> Iterator[Cells]:
    """Clips below one folder per label, or below train/LABEL and test/LABEL."""
    tops = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    loose = [entry.name for entry in folder.iterdir() if entry.is_file() and is_video_name(entry)]
    if loose:
        lie = plural(
            len(loose), "video lies beside the label folders and is", "videos lie beside the label folders and are"
        )
        notes.append(f"{lie} not listed, {sorted(loose)[0]!r} first")
    split_tops = bool(tops) and {top.name for top in tops} == _SPLIT_FOLDERS
    strangers: list[str] = []
    for top in tops:
        for path in files_below(top, strangers):
            parts = path.relative_to(folder).parts
            if split_tops and len(parts) < 3:
                strangers.append(path.name)
                continue
            split, label = (parts[0], parts[1]) if split_tops else (None, parts[0])
            listed = path.relative_to(folder).as_posix()
            yield Cells(printable(listed), {"path": listed, "label": label, "split": split})
    notes += stranger_notes(strangers)


def stranger_notes(strangers: list[str]) -> list[str]:
    """A note about files that are not listed, where there are any."""
    if not strangers:
        return []
    found = plural(
        len(strangers), "file is not a video by its name and is", "files are not videos by their name and are"
    )
    return [f"{found} not listed, {strangers[0]!r} first"]


def files_below(folder: Path, strangers: list[str]) -> Iterator[Path]:
    """Videos at any depth, sorted; names that are no video's go to `strangers`. Hidden ones are passed over."""
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith("."):
                continue
            path = Path(base, name)
            if is_video_name(path):
                yield path
            else:
                strangers.append(name)


def is_video_name(path: Path) -> bool:
    """Whether a file's suffix is one of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES
