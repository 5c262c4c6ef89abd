"""`rbft import` of a question benchmark: its files and a folder of videos become a file of questions for `rbft ask`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rbft.clips.grouped import Bad, by_reason, counted, first_of
from rbft.clips.manifest import show
from rbft.clips.question_benchmarks import QUESTION_BENCHMARKS, read_benchmark
from rbft.clips.questions import LeftOutQuestion, QuestionRow, write_questions
from rbft.clips.sources import VIDEO_SUFFIXES, files_below
from rbft.errors import ManifestError
from rbft.files import address_hint, write_jsonl
from rbft.progress import plural


@dataclass(frozen=True)
class ImportedQuestions:
    """Questions of a benchmark, those that are not used, and the videos that were found, by the rows' paths."""

    name: str
    rows: tuple[QuestionRow, ...]
    left_out: tuple[LeftOutQuestion, ...]
    videos: Mapping[str, Path]

    def rows_in(self, folder: Path) -> list[QuestionRow]:
        """The rows with the paths of their videos from the folder that they were found in."""
        return [
            row.model_copy(update={"path": self.videos[row.path].relative_to(folder).as_posix()}) for row in self.rows
        ]


def import_questions(
    name: str, files: Sequence[Path], *, videos: Path | None = None, leave_out_missing: bool = False
) -> ImportedQuestions:
    """Read a benchmark's files; raises ManifestError with every fault.

    With `videos`, every question must have its clip below that folder, at the end of a path as the benchmark has it and
    with any video suffix, unless `leave_out_missing`.
    """
    benchmark = QUESTION_BENCHMARKS[name]
    if not files:
        raise ManifestError(f"{name}: name the question files of {benchmark.title}")
    rows, left = read_benchmark(benchmark, files)
    if not rows:
        raise ManifestError([f"{name}: not one of {len(left):,} rows is a question", *_lines(left, "…")])
    found: dict[str, Path] = {}
    if videos is not None:
        found, missing = _videos(rows, videos, leave_out_missing)
        left += [
            LeftOutQuestion(question_id=row.question_id, reason="missing", detail=f"no video {row.path}")
            for row in missing
        ]
        rows = [row for row in rows if row.path in found]
    return ImportedQuestions(name, tuple(rows), tuple(left), found)


def _videos(
    rows: Sequence[QuestionRow], folder: Path, leave_out_missing: bool
) -> tuple[dict[str, Path], list[QuestionRow]]:
    """The video of every path, and the rows without one; raises ManifestError."""
    if not folder.is_dir():
        raise ManifestError(f"--videos {show(folder)}: is not a folder{address_hint(folder)}")
    files: dict[str, list[Path]] = defaultdict(list)
    for path in files_below(folder, []):
        files[path.stem].append(path)
    found: dict[str, Path] = {}
    faults = []
    for wanted in dict.fromkeys(row.path for row in rows):
        same = _at_end(PurePosixPath(wanted), files)
        if len(same) > 1:
            places = ", ".join(show(path.relative_to(folder)) for path in same)
            faults.append(f"{show(wanted)} may be each of {places}; keep one, or name a folder that holds one")
        elif same:
            found[wanted] = same[0]
    missing = [row for row in rows if row.path not in found] if not faults else []
    if missing and (not leave_out_missing or not found):
        paths = first_of(list(dict.fromkeys(show(row.path) for row in missing)), "files")
        faults.append(
            f"{len(missing):,} of {len(rows):,} questions have no video in {show(folder)}: {', '.join(paths)}. Put "
            "them there, at the end of such a path, or leave these questions out with --leave-out-missing"
        )
    if faults:
        raise ManifestError(first_of(faults, "faults of this kind"))
    return found, missing


def _at_end(wanted: PurePosixPath, files: Mapping[str, Sequence[Path]]) -> list[Path]:
    """The files whose path ends as the wanted one does, whatever the video suffix; the same suffix goes first."""
    stem = wanted.stem if wanted.suffix.lower() in VIDEO_SUFFIXES else wanted.name
    folders = wanted.parent.parts
    same = [p for p in files.get(stem, ()) if p.parts[len(p.parts) - 1 - len(folders) : -1] == folders]
    exact = [path for path in same if path.name == wanted.name]
    return exact or same


def write_imported(imported: ImportedQuestions, out: Path, videos: Path) -> None:
    """Write the questions, with paths that start in `videos`, and beside them what was left out, now and not before.

    A different file of that name is not replaced.
    """
    rows = imported.rows_in(videos)
    text = "".join(row.model_dump_json() + "\n" for row in rows)
    if out.exists() and (not out.is_file() or out.read_bytes() != text.encode()):
        raise ManifestError(f"{show(out)}: is there already and differs; remove it, or name another with --out")
    write_questions(out, rows)
    if imported.left_out:
        write_jsonl(left_out_file(out), imported.left_out)
    elif left_out_file(out).is_file():
        left_out_file(out).unlink()


def left_out_file(out: Path) -> Path:
    """Where the questions that are not used are listed."""
    return out.with_name(f"{out.stem}.left-out.jsonl")


# -- people --------------------------------------------------------------------------------------------------------


def render_imported(imported: ImportedQuestions, console: Console, rest: str) -> None:
    """Questions by kind and by first category, and what was left out; `rest` says where all of that stands."""
    rows = imported.rows
    for heading, tally in (
        ("kind", Counter(str(row.kind) for row in rows)),
        ("category", Counter(row.category[0] for row in rows if row.category)),
    ):
        table = Table(heading, "questions", box=box.SIMPLE_HEAD, pad_edge=False)
        for name, number in tally.most_common():
            table.add_row(Text(show(name)), f"{number:,}")
        console.print(table)
    for line in _lines(imported.left_out, rest):
        console.print(Text(f"left out: {line}"), soft_wrap=True)


def _lines(left: Sequence[LeftOutQuestion], rest: str) -> list[str]:
    bad = [Bad(f"question {show(repr(q.question_id))}", q.reason, show(q.detail)) for q in left]
    return [*by_reason(bad, rest), f"{plural(len(bad), 'question', 'questions')} ({counted(bad)})"] if bad else []
