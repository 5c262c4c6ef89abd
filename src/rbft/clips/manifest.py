"""The list of clips: rows from CSV, JSONL, a folder or LLaVA/ShareGPT JSON, checked whole, all faults at once.

Formats are read by `clips.sources` into cells; here cells become rows. Nothing is opened but the manifest itself.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import posixpath
import re
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from rbft.clips.grouped import first_of
from rbft.clips.sources import Cells, Source, read_source
from rbft.progress import is_utf8, printable
from rbft.records import Box, Split

_SPLITS: dict[str, Split] = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_ADDRESS = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")
_NOT_UTF8 = ("write it anew", "rename the file or its folder, then list it by its new name")
"""What to do about text, and about a path."""
_LOOKALIKES = str.maketrans("аеорсухіјѕһ", "aeopcyxijsh")
"""Cyrillic letters, and the Latin ones that they look like."""
_BOXES = TypeAdapter(tuple[Box, ...])


@dataclass(frozen=True, slots=True)
class Row:
    """One listed clip. `path` is real and absolute, `listed` as the manifest has it, `where` its place there."""

    clip_id: str
    path: Path
    listed: str
    where: str
    label: str | None = None
    split: Split | None = None
    group: str | None = None
    start: float | None = None
    end: float | None = None
    rationale: str | None = None
    boxes: tuple[Box, ...] = ()
    category: tuple[str, ...] = ()

    @property
    def window(self) -> tuple[float | None, float | None]:
        """`start` and `end`."""
        return self.start, self.end


@dataclass(frozen=True, slots=True)
class Refused:
    """A listed clip that did not become a row, and the faults of its own."""

    clip_id: str
    listed: str
    where: str
    reason: Literal["outside", "manifest"]
    detail: str


@dataclass(frozen=True)
class Listing:
    """What a manifest lists. Rows are those that could be read; `faults` say what could not, `notes` what was odd."""

    source: Path
    rows: tuple[Row, ...]
    labels: dict[str, str]
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    refused: tuple[Refused, ...] = ()


def read_manifest(source: Path, *, labels: Mapping[str, str], allow_outside: bool = False) -> Listing:
    """Read a manifest; never raises for what is in it, but lists every fault in the result.

    `labels` are the ones allowed, with definitions; empty means those that are found, in order of first appearance.
    Clips lie in the manifest's folder, links resolved, unless `allow_outside`.
    """
    raw = read_source(source)
    reading = _Reading(raw, dict(labels), allow_outside)
    if not raw.cells and not raw.faults:
        reading.faults.append(f"{show(raw.name)}: lists no clip; give it at least two a label")
    while raw.cells:
        reading.add(raw.cells.popleft())
    reading.compare()
    found = {row.label: "" for row in reading.rows if row.label is not None}
    return Listing(
        source=source,
        rows=tuple(reading.rows),
        labels=dict(labels) or found,
        notes=raw.notes,
        faults=raw.faults + tuple(reading.faults),
        refused=tuple(reading.refused),
    )


def show(text: object) -> str:
    """Text for a terminal: control characters, direction marks and lone surrogates escaped, at most 200 characters."""
    safe = printable(str(text))
    return safe if len(safe) <= 200 else f"{safe[:197]}..."


class ClipFolder:
    """The folder that listed clips lie in, links resolved. `otherwise`: what can be done but to move a clip there."""

    def __init__(self, folder: Path, otherwise: str = "allow it with allow_outside: true (--allow-outside)") -> None:
        self.folder, self.otherwise = folder, otherwise
        self._root = os.path.join(os.path.realpath(folder), "")  # noqa: PTH118

    def fault(self, listed: str, real: str) -> str | None:
        """What is said of a clip by its path as listed and its real path; None where it lies in the folder."""
        if f"{real}{os.sep}".startswith(self._root):
            return None
        return f"path {show(repr(listed))} leads outside {show(self.folder)}; move the clip there, or {self.otherwise}"


def nearest_spelling(word: str, allowed: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the allowed word that is spelled most like `word`, or nothing."""
    folded = {_fold(name): name for name in reversed(list(allowed))}
    close = difflib.get_close_matches(_fold(word), folded, n=1)
    odd = next((f" (its {c!r} is {unicodedata.name(c)})" for c in word.casefold() if ord(c) in _LOOKALIKES), "")
    return f"; did you mean {folded[close[0]]!r}?{odd}" if close else ""


def _fold(text: str) -> str:
    seen = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    return " ".join(seen.casefold().translate(_LOOKALIKES).split())


@dataclass
class _Reading:
    """Cells become rows, one by one; then rows are compared with each other."""

    source: Source
    labels: dict[str, str]
    allow_outside: bool
    rows: list[Row] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    _row_faults: list[str] = field(default_factory=list)
    """Those of the row that is being read."""
    _by_column: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _outside: bool = False
    _folders: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._folder = f"{self.source.folder}/"
        self._clips = ClipFolder(self.source.root)

    def add(self, cells: Cells) -> None:
        """Turn the cells of one row into a Row, or into faults."""
        self._row_faults, self._outside = [], False
        row = self._row(cells)
        if row is not None and not self._row_faults:
            self.rows.append(row)
            return
        listed = str(cells.values.get("path") or "")
        clip_id = str(cells.values.get("clip_id") or listed)
        detail = "; ".join(self._row_faults)
        self.refused.append(Refused(clip_id, listed, cells.where, "outside" if self._outside else "manifest", detail))

    def _row(self, cells: Cells) -> Row | None:
        listed = self._text(cells, "path")
        if not listed:
            if not self._row_faults:
                self._fault(cells, "has no path", "path")
            return None
        path = self._path(cells, listed)
        start, end = self._seconds(cells, "start"), self._seconds(cells, "end")
        if start is not None and end is not None and end <= start:
            self._fault(cells, f"end {end:g} is not after start {start:g}")
        label, split = self._label(cells), self._split(cells)
        boxes, category = self._boxes(cells), self._category(cells)
        clip_id, group, rationale = (self._text(cells, name) for name in ("clip_id", "group", "rationale"))
        if path is None:
            return None
        return Row(
            clip_id=clip_id or _default_id(listed, start, end),
            path=path,
            listed=listed,
            where=cells.where,
            label=label,
            split=split,
            group=group,
            start=start,
            end=end,
            rationale=rationale,
            boxes=boxes,
            category=category,
        )

    def compare(self) -> None:
        """Put the faults of rows together; add those that show only between rows: ids or clips twice, labels alike."""
        for column, lines in self._by_column.items():
            rest = f"`rbft check {self._name} --json` lists every row"
            self.faults += first_of(lines, f"rows with a fault in {column}; {rest}")
        self._twice()
        sides: dict[str, dict[Split, str]] = defaultdict(dict)
        for row in self.rows:
            if row.group is not None and row.split is not None:
                sides[row.group].setdefault(row.split, row.where)
        torn = [
            f"{self._name}: group {show(repr(group))} is in train ({where['train']}) and in test "
            f"({where['test']}); a group is one source and stays in one split"
            for group, where in sides.items()
            if len(where) > 1
        ]
        self.faults += first_of(torn, "groups that are in train and in test")
        given = [row for row in self.rows if row.label is not None and row.split is not None]
        missing = [row for row in self.rows if row.label is not None and row.split is None]
        if given and missing:
            self.faults.append(
                f"{self._name}: {len(given)} labelled clips have a split and {len(missing)} have none (first: "
                f"{missing[0].where}); fill in train or test for all of them, or for none"
            )
        found: dict[str, str] = {}
        for row in self.rows:
            if row.label is not None and not self.labels:
                found.setdefault(row.label, row.where)
        alike: dict[str, dict[str, str]] = defaultdict(dict)
        for label, place in found.items():
            alike[_fold(label)][label] = place
        for spellings in alike.values():
            if len(spellings) > 1:
                self.faults.append(
                    f"{self._name}: labels "
                    + " and ".join(f"{show(repr(label))} ({where})" for label, where in spellings.items())
                    + " differ only in case, spaces or form of letters; spell them the same"
                )

    def _twice(self) -> None:
        ids: dict[str, Row] = {}
        pairs: list[str] = []
        clips: dict[tuple[Path, float | None, float | None], Row] = {}
        for row in self.rows:
            first = clips.setdefault((row.path, *row.window), row)
            if first is not row:
                pairs.append(
                    f"{self._name}: {show(row.listed)} is listed {_kind_of_pair(first, row)} "
                    f"({first.where} and {row.where}); keep one"
                )
            same = ids.setdefault(row.clip_id, row)
            if same is not row and first is row:
                pairs.append(
                    f"{self._name}: clip_id {show(repr(row.clip_id))} is used twice ({same.where} and {row.where}); "
                    "ids must differ"
                )
        self.faults += first_of(pairs, "clips or ids that are listed twice")

    @property
    def _name(self) -> str:
        return show(self.source.name)

    def _fault(self, cells: Cells, message: str, column: str | None = None) -> None:
        """Note a fault of a row; unless `column` is given, the message begins with the name of its column."""
        self._row_faults.append(message)
        self._by_column[column or message.split(" ", 1)[0]].append(f"{self._name}: {cells.where}: {message}")

    def _text(self, cells: Cells, name: str) -> str | None:
        """The cell's text without spaces around it; None where empty. Whole numbers are text, true and 1.5 are not."""
        value = cells.values.get(name)
        if isinstance(value, str) and not is_utf8(value):
            self._fault(cells, f"{name} {show(repr(value))} is not UTF-8 text; {_NOT_UTF8[name == 'path']}")
            return None
        if value is None or isinstance(value, str):
            return sys.intern((value or "").strip()) or None
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        self._fault(cells, f"{name} is {show(repr(value))}; it must be text")
        return None

    def _path(self, cells: Cells, listed: str) -> Path | None:
        """The real path of a clip, inside the manifest's folder."""
        if "\0" in listed:
            self._fault(cells, f"path {show(repr(listed))} holds a null character")
            return None
        real = self._real(listed)
        address = _ADDRESS.match(listed)
        if address and not os.path.lexists(real):
            self._outside = True
            self._fault(
                cells,
                f"path {show(repr(listed))} starts with {address[0]!r} like an address; rbft reads local files only: "
                "download it and list the file",
            )
            return None
        fault = None if self.allow_outside else self._clips.fault(listed, real)
        if fault is not None:
            self._outside = True
            self._fault(cells, fault)
            return None
        return Path(real)

    def _real(self, listed: str) -> str:
        """The real path, folders remembered; in text, since a million rows name few folders and pathlib is slow."""
        folder, name = os.path.split(f"{self._folder}{listed}" if not listed.startswith("/") else listed)
        if name in ("", ".", ".."):
            return os.path.realpath(f"{folder}/{name}")
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder).rstrip("/")
        joined = f"{self._folders[folder]}/{name}"
        return os.path.realpath(joined) if os.path.islink(joined) else joined  # noqa: PTH114

    def _label(self, cells: Cells) -> str | None:
        label = self._text(cells, "label")
        if label is not None and any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in label):
            self._fault(cells, f"label {show(repr(label))} holds a line break or another control character")
            return label
        if label is not None and self.labels and label not in self.labels:
            hint = nearest_spelling(label, self.labels) or "."
            allowed = ", ".join(map(show, self.labels))
            self._fault(cells, f"label {show(repr(label))} is not in the list{hint} Labels: {allowed}")
        return label

    def _split(self, cells: Cells) -> Split | None:
        word = self._text(cells, "split")
        if word is None:
            return None
        split = _SPLITS.get(word.casefold())
        if split is None:
            hint = nearest_spelling(word, ("train", "test"))
            if word.casefold() in ("val", "valid", "validation", "dev", "eval"):
                hint = "; rbft tunes nothing on a third split: call it test to measure on it, or leave the row out"
            self._fault(cells, f"split {show(repr(word))} is not train or test{hint}")
        return split

    def _seconds(self, cells: Cells, name: str) -> float | None:
        value = cells.values.get(name)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        try:
            number = math.nan if isinstance(value, bool | list | dict) else float(value)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number >= 0):
            self._fault(cells, f"{name} {show(repr(value))} is not a number of seconds, 0 or more")
            return None
        return number

    def _category(self, cells: Cells) -> tuple[str, ...]:
        """Names separated by `;` or `|`, or a list of them; none twice."""
        value = cells.values.get("category")
        names = re.split(r"[;|]", value) if isinstance(value, str) else value or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self._fault(cells, f"category {show(repr(value))} is not text; write names, separated by ';'")
            return ()
        return tuple(dict.fromkeys(sys.intern(" ".join(name.split())) for name in names if name.strip()))

    def _boxes(self, cells: Cells) -> tuple[Box, ...]:
        value = cells.values.get("boxes")
        if value is None or (isinstance(value, str) and not value.strip()):
            return ()
        try:
            boxes = _BOXES.validate_python(json.loads(value) if isinstance(value, str) else value)
        except (ValueError, RecursionError) as error:  # a ValidationError and a JSONDecodeError are ValueErrors
            first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            boxes, problem = (), first
        else:
            bad = [box for box in boxes if not _is_box(box)]
            problem = f"{bad[0].box} has no area inside 0 to 1" if bad else ""
        if problem:
            self._fault(
                cells,
                f'boxes {show(repr(value))[:80]}: {show(problem)}; write [{{"t": seconds, "box": [left, top, right, '
                "bottom]}], corners from 0 to 1",
            )
        return boxes


def _kind_of_pair(first: Row, row: Row) -> str:
    """How two rows of the same clip differ, the worst first."""
    if first.label != row.label:
        return f"with different labels, {show(repr(first.label))} and {show(repr(row.label))}"
    if first.split != row.split and first.split and row.split:
        return f"in {first.split} and in {row.split}, a leak between splits (clip_id {show(repr(row.clip_id))})"
    return "twice"


def _is_box(box: Box) -> bool:
    left, top, right, bottom = box.box
    return 0 <= left < right <= 1 and 0 <= top < bottom <= 1 and math.isfinite(box.t) and box.t >= 0


def _default_id(listed: str, start: float | None, end: float | None) -> str:
    """The path without its suffix, and the window where there is one."""
    name = posixpath.splitext(listed)[0]
    if start is None and end is None:
        return name
    return f"{name}@{start or 0:g}-{'' if end is None else f'{end:g}'}"


def listing_of_files(paths: Sequence[Path]) -> Listing:
    """Bare files as a listing: unlabelled, wherever they lie, named by their path."""
    rows = [
        Row(str(path), Path(os.path.realpath(path)), str(path), f"file {number}")
        for number, path in enumerate(paths, 1)
    ]
    return Listing(Path(), tuple(rows), {})
