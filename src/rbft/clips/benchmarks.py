"""`rbft import`: a published benchmark's annotation, its split by ids and a folder of videos become a manifest."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rbft.clips.annotations import BENCHMARKS, Annotated, Benchmark, Listed, read_annotation, read_ids
from rbft.clips.manifest import nearest_spelling, show
from rbft.clips.question_benchmarks import QUESTION_BENCHMARKS
from rbft.clips.sources import files_below
from rbft.errors import ManifestError
from rbft.files import address_hint, write_text
from rbft.progress import plural
from rbft.records import Split

COLUMNS = ("path", "label", "clip_id", "split", "category", "rationale")
_SPLITS: tuple[Split, ...] = ("train", "test")
_FIRST = 10


@dataclass(frozen=True)
class Imported:
    """Clips in the order of the annotation, each with its side (None: no split was given) and its video, if found."""

    benchmark: Benchmark
    clips: tuple[tuple[Annotated, Split | None], ...]
    videos: Mapping[str, Path]
    notes: tuple[str, ...]

    def manifest(self, folder: Path) -> str:
        """The text of a manifest that lies in `folder`: the clips that have a video.

        Cells stand as they are, for rbft to read: an id that begins with `-`, as YouTube's do, would with an apostrophe
        before it, which keeps a spreadsheet from running it, name another file.
        """
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        for clip, split in self.clips:
            if clip.clip_id in self.videos:
                path = Path(os.path.relpath(self.videos[clip.clip_id], folder)).as_posix()
                cells = (path, clip.label, clip.clip_id, split or "", ";".join(clip.category), clip.rationale or "")
                writer.writerow(cells)
        return out.getvalue()


def import_benchmark(
    name: str,
    annotation: Sequence[Path],
    *,
    train: Sequence[Path] = (),
    test: Sequence[Path] = (),
    videos: Path | None = None,
    drop_vague: bool = False,
    drop_leaks: bool = False,
    leave_out_missing: bool = False,
) -> Imported:
    """Read a benchmark; raises ManifestError with every fault.

    `train` and `test` list the ids of each side; without `annotation` they are also where labels are read. An id on
    both sides is listed on both, with a note, unless `drop_leaks` keeps it in test alone. With `videos`, every clip
    must have one, named by its id, unless `leave_out_missing`.
    """
    benchmark = _benchmark(name)
    if bool(train) != bool(test):
        given, other = ("--train", "--test") if train else ("--test", "--train")
        raise ManifestError(f"{given} was given without {other}; give both sides of the split, or neither")
    if not annotation and not train:
        raise ManifestError(f"{name}: name the annotation file of {benchmark.title}, or --train and --test files")
    notes: list[str] = []
    clips = _annotated([clip for file in annotation or (*train, *test) for clip in read_annotation(file, benchmark)])
    lists: dict[Split, Sequence[Path]] = {"train": train, "test": test}
    sides = {side: [i for file in files for i in read_ids(file, side)] for side, files in lists.items()}
    if train:
        _check_lists(sides, clips)
    if drop_vague:
        clips = _without_vague(clips, benchmark, notes)
    placed = _placed(clips, sides, notes, drop_leaks) if train else [(clip, None) for clip in clips.values()]
    if not placed:
        raise ManifestError(f"{name}: no clip is left of {len(clips)}")
    found = {} if videos is None else _videos(videos, list(dict.fromkeys(c.clip_id for c, _ in placed)), notes,
                                              leave_out_missing)  # fmt: skip
    return Imported(benchmark, tuple(placed), found, tuple(notes))


def _benchmark(name: str) -> Benchmark:
    if name not in BENCHMARKS:
        names = (*BENCHMARKS, *QUESTION_BENCHMARKS)
        hint = nearest_spelling(name, names) or "."
        raise ManifestError(f"no benchmark {show(repr(name))}{hint} Benchmarks: {', '.join(names)}")
    return BENCHMARKS[name]


def _annotated(rows: Sequence[Annotated]) -> dict[str, Annotated]:
    """Annotation by id; the same id again must say the same label."""
    clips: dict[str, Annotated] = {}
    faults = []
    for row in rows:
        first = clips.setdefault(row.clip_id, row)
        if first.label != row.label:
            faults.append(
                f"{show(row.clip_id)} is annotated twice, "
                f"as {first.label} ({first.where}) and {row.label} ({row.where})"
            )
    _stop_at(faults)
    return clips


def _check_lists(sides: Mapping[Split, Sequence[Listed]], clips: Mapping[str, Annotated]) -> None:
    """Every listed id is annotated, and where its list also gives an answer, it is the annotation's label."""
    faults = []
    for side, listed in sides.items():
        if not listed:
            faults.append(f"--{side}: the files name no clip of this side")
        strangers = [i.clip_id for i in listed if i.clip_id not in clips]
        if strangers:
            faults.append(
                f"{plural(len(strangers), f'id of --{side} is', f'ids of --{side} are')} not in the annotation: "
                f"{_some(strangers)}"
            )
        for i in listed:
            clip = clips.get(i.clip_id)
            if clip is not None and i.answer is not None and i.answer.casefold() != clip.label.casefold():
                faults.append(f"{i.where}: ends with {show(repr(i.answer))}, but {clip.where} says {clip.label}")
    _stop_at(faults)


def _stop_at(faults: Sequence[str]) -> None:
    if faults:
        rest = len(faults) - _FIRST
        raise ManifestError([*faults[:_FIRST], *([f"and {rest} more faults of this kind"] if rest > 0 else [])])


def _without_vague(clips: dict[str, Annotated], benchmark: Benchmark, notes: list[str]) -> dict[str, Annotated]:
    kept = {clip_id: clip for clip_id, clip in clips.items() if clip.tag != benchmark.vague}
    if len(kept) == len(clips):
        tag = benchmark.vague or "vague"
        raise ManifestError(
            f"--drop-vague: no clip is tagged {tag!r}; only the annotation table of "
            f"{BENCHMARKS['smarthome'].title} has that tag"
        )
    notes.append(
        plural(len(clips) - len(kept), f"clip tagged {benchmark.vague} is", f"clips tagged {benchmark.vague} are")
        + " left out (--drop-vague)"
    )
    return kept


def _placed(
    clips: Mapping[str, Annotated], sides: Mapping[Split, Sequence[Listed]], notes: list[str], drop_leaks: bool
) -> list[tuple[Annotated, Split | None]]:
    """Annotated clips with their side; an id on both sides comes twice."""
    ids = {side: {i.clip_id for i in listed} for side, listed in sides.items()}
    leaks = [clip_id for clip_id in clips if all(clip_id in ids[side] for side in _SPLITS)]
    if leaks and drop_leaks:
        ids["train"] -= set(leaks)
        notes.append(f"in train and in test, kept in test alone (--drop-leaks): {_some(leaks)}")
    elif leaks:
        notes.append(f"in train and in test: {_some(leaks)}; --drop-leaks keeps them in test alone")
    outside = sum(not any(clip_id in ids[side] for side in _SPLITS) for clip_id in clips)
    if outside:
        notes.append(f"{outside} annotated clips are on neither side of the split and are left out")
    return [(clip, side) for clip in clips.values() for side in _SPLITS if clip.clip_id in ids[side]]


def _some(ids: Sequence[str]) -> str:
    rest = f" and {len(ids) - _FIRST} more" if len(ids) > _FIRST else ""
    return ", ".join(map(show, ids[:_FIRST])) + rest


# -- videos --------------------------------------------------------------------------------------------------------


def _videos(folder: Path, ids: Sequence[str], notes: list[str], leave_out_missing: bool) -> dict[str, Path]:
    """The video of every id: ID.mp4 or, as yt-dlp names it, TITLE [ID].mp4, at any depth below the folder."""
    if not folder.is_dir():
        raise ManifestError(f"--videos {show(folder)}: is not a folder{address_hint(folder)}")
    files: dict[str, list[Path]] = defaultdict(list)
    for path in files_below(folder, []):
        files[path.stem].append(path)
        if path.stem.endswith("]"):
            files[path.stem[:-1].rpartition("[")[2]].append(path)
    twice = [clip_id for clip_id in ids if len(files[clip_id]) > 1]
    _stop_at([f"{show(i)} has {len(files[i])} videos, {_names(files[i], folder)}; keep one" for i in twice])
    missing = [clip_id for clip_id in ids if not files[clip_id]]
    if len(missing) == len(ids):
        raise ManifestError(
            f"not one of {len(ids)} clips has a video in {show(folder)}: a video is named by its id, such as "
            f"{show(ids[0])}.mp4"
        )
    if missing and not leave_out_missing:
        raise ManifestError(
            f"{len(missing)} of {len(ids)} clips have no video in {show(folder)}: {_some(missing)}. Put them there, "
            "named by their ids, or leave these clips out with --leave-out-missing"
        )
    if missing:
        notes.append(f"{len(missing)} of {len(ids)} clips have no video and are left out: {_some(missing)}")
    return {clip_id: files[clip_id][0] for clip_id in ids if files[clip_id]}


def _names(paths: Sequence[Path], folder: Path) -> str:
    return " and ".join(show(path.relative_to(folder)) for path in paths)


def write_manifest(imported: Imported, out: Path) -> list[str]:
    """Write the manifest and return what the user should know; a different file of that name is not replaced."""
    text = imported.manifest(out.parent)
    if out.exists() and (not out.is_file() or out.read_bytes() != text.encode()):
        raise ManifestError(f"{show(out)}: is there already and differs; remove it, or name another with --out")
    write_text(out, text)
    folder = os.path.realpath(out.parent)
    if all(os.path.realpath(path).startswith(f"{folder}{os.sep}") for path in imported.videos.values()):
        return []
    return [f"clips lie outside {show(out.parent)}: use --allow-outside with check, allow_outside: true with run"]


# -- people --------------------------------------------------------------------------------------------------------


def render_counts(imported: Imported, console: Console) -> None:
    """Clips by label and by category in each split, and the notes."""
    splits: list[Split | None] = [*_SPLITS] if any(split for _, split in imported.clips) else [None]
    for heading, names_of in (("label", lambda c: (c.label,)), ("category", lambda c: c.category)):
        counts = Counter((name, split) for clip, split in imported.clips for name in names_of(clip))
        table = Table(heading, *(split or "clips" for split in splits), box=box.SIMPLE_HEAD, pad_edge=False)
        for name in sorted({name for name, _ in counts}, key=lambda n: -sum(counts[n, s] for s in splits)):
            table.add_row(Text(show(name)), *(str(counts[name, split]) for split in splits))
        if counts:
            console.print(table)
    for note in imported.notes:
        console.print(Text(f"note: {note}"))
