"""Two prediction files on the same clips, from anywhere: `clip_id,label,predicted` in CSV.

Files are read exactly: spaces around a value, a BOM and either line ending are ignored, more columns are allowed, and
an answer that is not one of the labels, letter for letter, is unreadable: wrong, counted and noted.

A value that a spreadsheet would run as a formula (it begins with `=`, `+`, `-`, `@`) is written behind an apostrophe,
and read back without it.
"""

from __future__ import annotations

import csv
import difflib
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rbft.errors import UserError
from rbft.evaluation.metrics import UNREADABLE, Answers, accuracy, confusion, encode, f1_per_label, macro_f1
from rbft.evaluation.verdict import compare_answers, f1_by_label, p_words
from rbft.files import why_unread, write_text
from rbft.progress import plural
from rbft.records import Prediction

COLUMNS = ("clip_id", "label", "predicted")
RESAMPLES = 10_000
_FORMULA = re.compile(r"'*[=+\-@]")
_GUARDED = re.compile(r"'+[=+\-@]")


@dataclass(frozen=True)
class FilePair:
    """Two files' answers to the same labelled clips, and what a reader should know about them."""

    a: Answers
    b: Answers
    notes: tuple[str, ...]


def compare_files(a: Path, b: Path, *, labels: Sequence[str] | None = None) -> dict[str, Any]:
    """How much better B's answers are than A's: what `rbft compare --json` prints.

    `labels` are by default the true labels found in the files. p is McNemar's exact test, the interval the bootstrap's
    over clips. Raises UserError with every fault of both files.
    """
    return compare_pair(read_pair(a, b, labels=labels))


def compare_pair(pair: FilePair) -> dict[str, Any]:
    """`{a: {accuracy, macro_f1, f1 {LABEL}, n}, b: {…}, difference, low, high, p, verdict}`; no clips: F1 is None."""
    found = compare_answers(pair.a, pair.b, names=("a", "b"), resamples=RESAMPLES)
    return {
        "a": _scores(pair.a),
        "b": _scores(pair.b),
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "p": found.p,
        "verdict": found.verdict,
    }


def _scores(answers: Answers) -> dict[str, Any]:
    counts = confusion(answers)[0]
    return {
        "accuracy": float(accuracy(counts)),
        "macro_f1": float(macro_f1(f1_per_label(counts))),
        "f1": f1_by_label(answers),
        "n": answers.num_clips,
    }


# -- reading -------------------------------------------------------------------------------------------------------


def read_pair(a: Path, b: Path, *, labels: Sequence[str] | None = None) -> FilePair:
    """Read and match two files. Clips without a label in both are left out, with a note. Raises UserError."""
    faults: list[str] = []
    rows_a, rows_b = (_read(path, faults) for path in (a, b))
    if rows_a is None or rows_b is None:
        raise UserError(faults)
    for here, there, path in ((rows_a, rows_b, a), (rows_b, rows_a, b)):
        alone = [clip for clip in here if clip not in there]
        if alone:
            clips = plural(len(alone), "clip is", "clips are")
            faults.append(f"{clips} only in {path}: {_some(alone)}; both files need the same clips")
    shared = [clip for clip in rows_a if clip in rows_b]
    differing = [clip for clip in shared if rows_a[clip][0] != rows_b[clip][0]]
    if differing:
        pairs = [f"{clip} ({rows_a[clip][0] or 'none'!r} and {rows_b[clip][0] or 'none'!r})" for clip in differing]
        clips = plural(len(differing), "clip has", "clips have")
        faults.append(f"{clips} different true labels in {a} and {b}: {_some(pairs)}")
    judged = [clip for clip in shared if rows_a[clip][0]]
    known = sorted({rows_a[clip][0] for clip in judged}) if labels is None else list(labels)
    faults += _unknown_labels((rows_a[clip][0] for clip in judged), known)
    if shared and not judged:
        faults.append(f"{a}: no clip has a label; fill the column 'label'")
    if faults:
        raise UserError(faults)
    truth = [rows_a[clip][0] for clip in judged]
    answers = [encode(truth, [[rows[clip][1] for clip in judged]], known) for rows in (rows_a, rows_b)]
    notes = [note for path, given in zip((a, b), answers, strict=True) for note in _unreadable(path, given)]
    if len(judged) < len(shared):
        notes.append(
            f"{plural(len(shared) - len(judged), 'clip without a label is', 'clips without a label are')} left out"
        )
    return FilePair(answers[0], answers[1], tuple(notes))


def read_answers(path: Path) -> dict[str, tuple[str, str]]:
    """True label and answer by clip id, as `write_predictions_csv` wrote them; an unreadable answer is empty.

    Raises UserError with every fault.
    """
    faults: list[str] = []
    rows = _read(path, faults)
    if faults or rows is None:
        raise UserError(faults)
    return rows


def _read(path: Path, faults: list[str]) -> dict[str, tuple[str, str]] | None:
    """True label and answer by clip id; appends faults, and gives None where there are no rows to go on with."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except IsADirectoryError:
        faults.append(f"{path}: a folder; name a CSV of predictions, as a run keeps in predictions/ARM-seedN.csv")
        return None
    except OSError as error:
        faults.append(f"{path}: {why_unread(path, error)}")
        return None
    except UnicodeDecodeError as error:
        faults.append(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8")
        return None
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        lines = [(reader.line_num, [field.strip() for field in fields]) for fields in reader]
    except csv.Error as error:
        faults.append(f"{path}: line {reader.line_num}: not readable as CSV: {error}")
        return None
    lines = [(number, fields) for number, fields in lines if any(fields)]
    if not lines:
        faults.append(f"{path}: the file is empty; it needs the columns {', '.join(COLUMNS)}")
        return None
    header = lines[0][1]
    if any(header.count(name) != 1 for name in COLUMNS):
        faults += _header_faults(path, header)
        return None
    if len(lines) == 1:
        faults.append(f"{path}: has a header and no rows")
        return None
    return _rows(path, header, lines[1:], faults)


def _header_faults(path: Path, header: Sequence[str]) -> list[str]:
    missing = [name for name in COLUMNS if name not in header]
    faults = [f"{path}: the column {name!r} stands twice" for name in COLUMNS if header.count(name) > 1]
    if missing:
        faults.append(f"{path}: lacks {', '.join(missing)}; it has {', '.join(header)}, and needs {', '.join(COLUMNS)}")
    return faults


def _rows(
    path: Path, header: Sequence[str], lines: Iterable[tuple[int, list[str]]], faults: list[str]
) -> dict[str, tuple[str, str]]:
    places = [header.index(name) for name in COLUMNS]
    rows: dict[str, tuple[str, str]] = {}
    seen: Counter[str] = Counter()
    for number, fields in lines:
        if len(fields) != len(header):
            faults.append(f"{path}: line {number}: {len(fields)} fields where the header has {len(header)}")
            continue
        clip, label, predicted = (_value(fields[place]) for place in places)
        if not clip:
            faults.append(f"{path}: line {number}: clip_id is empty")
            continue
        seen[clip] += 1
        rows[clip] = (label, predicted)
    twice = [clip for clip, count in seen.items() if count > 1]
    if twice:
        faults.append(f"{path}: {len(twice)} clip ids stand more than once: {_some(twice)}")
    return rows


def _value(field: str) -> str:
    return unicodedata.normalize("NFC", field[1:].strip() if _GUARDED.match(field) else field)


def _unknown_labels(truth: Iterable[str], labels: Sequence[str]) -> list[str]:
    faults = []
    for label, count in Counter(label for label in truth if label not in labels).items():
        close = difflib.get_close_matches(label, labels, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        faults.append(
            f"the true label {label!r} ({plural(count, 'clip', 'clips')}) is not one of {', '.join(labels)}{hint}"
        )
    return faults


def _unreadable(path: Path, answers: Answers) -> list[str]:
    count = int((answers.predicted == UNREADABLE).sum())
    return (
        [f"{path}: {count} of {answers.num_clips} answers are none of the labels and count as wrong"] if count else []
    )


def _some(items: Sequence[str]) -> str:
    return ", ".join(items[:5]) + (f" and {len(items) - 5} more" if len(items) > 5 else "")


# -- writing -------------------------------------------------------------------------------------------------------


def write_predictions_csv(path: Path, predictions: Iterable[Prediction], *, generated: bool = False) -> None:
    """Write predictions as `compare_files` reads them; an unreadable answer, and an unknown truth, is an empty field.

    `generated` writes the label read from the generated text. Raises StoreError where the disk refuses.
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for p in predictions:
        answer = p.text_label if generated else p.label
        writer.writerow([_guarded(value or "") for value in (p.clip_id, p.truth, answer)])
    write_text(path, buffer.getvalue())


def _guarded(value: str) -> str:
    return f"'{value}" if _FORMULA.match(value) else value


def render_comparison(
    result: Mapping[str, Any], console: Console, *, names: tuple[str, str] = ("A", "B"), notes: Sequence[str] = ()
) -> None:
    """Print a comparison as a table in percent, the difference with its interval and p, the verdict and any notes."""
    a, b = result["a"], result["b"]
    table = Table(title=Text(plural(a["n"], "clip", "clips")), title_justify="left")
    for heading in ("", *names, "difference"):
        table.add_column(Text(heading), justify="left" if not heading else "right")
    rows = [("accuracy", a["accuracy"], b["accuracy"]), ("macro F1", a["macro_f1"], b["macro_f1"])]
    rows += [(f"F1 {label}", a["f1"][label], b["f1"][label]) for label in a["f1"]]
    for name, one, other in rows:
        change = "n/a" if one is None or other is None else f"{100 * (other - one):+.1f}"
        table.add_row(Text(name), _percent(one), _percent(other), change)
    console.print(table)
    low, high = (f"{100 * result[end]:+.1f}" for end in ("low", "high"))
    lines = [
        f"{names[1]} against {names[0]}: {100 * result['difference']:+.1f} points in accuracy, "
        f"95 % interval {low} to {high}, {p_words(result['p'])} (exact McNemar)",
        f"Verdict: {result['verdict']}",
        *notes,
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}"
