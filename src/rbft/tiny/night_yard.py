"""The night yard: labelled clips from a few infrared cameras around a house, as real H.264 files with a manifest.

The labels follow a rule over subject, action and scene together, so no single attribute gives them away; the clips are
the general world's, seen through `Shift`. `YardDials` turns either.
"""

import csv
import io
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import yaml
from pydantic import ValidationError

from rbft.errors import UserError
from rbft.files import JsonlAppender, held, read_jsonl, write_record, write_text
from rbft.machine import available_processors
from rbft.records import Record, fingerprint
from rbft.stopping import check
from rbft.tiny.language import words_of
from rbft.tiny.shift import SEVERITIES
from rbft.tiny.world import SceneSpec
from rbft.tiny.yard_clips import (
    CRF,
    DEFAULT_DIALS,
    YardClip,
    YardRow,
    frame_seconds,
    plan_yard,
    sample_yard_spec,
    write_clip,
    yard_frames,
)
from rbft.tiny.yard_dials import YardDials
from rbft.tiny.yard_pool import render_rows

__all__ = [
    "DEFAULT_SEVERITY",
    "LABELS",
    "LABEL_DEFINITIONS",
    "PERSONA",
    "SEVERITIES",
    "YardClip",
    "YardDials",
    "experiment_lines",
    "frame_seconds",
    "label_of",
    "label_of_words",
    "plan_yard",
    "sample_yard_spec",
    "write_clip",
    "write_night_yard",
    "yard_frames",
]

PERSONA = "Night Yard Security Expert"
LABELS = DEFAULT_DIALS.label_rule.labels
LABEL_DEFINITIONS: dict[str, str] = DEFAULT_DIALS.label_rule.definitions
DEFAULT_SEVERITY = DEFAULT_DIALS.severity
_VERSION = 2
_NOTE, _ROWS = "night-yard.json", "night-yard.jsonl"


def label_of_words(words: Mapping[str, str], dials: YardDials = DEFAULT_DIALS) -> str:
    """The rule behind the definitions of the labels, on the words of a description."""
    return dials.label_rule.label_of(words)


def label_of(spec: SceneSpec, dials: YardDials = DEFAULT_DIALS) -> str:
    """The true label of a clip."""
    return label_of_words(words_of(spec), dials)


def experiment_lines(manifest: Path, dials: YardDials = DEFAULT_DIALS) -> str:
    """The lines of an experiment file that name these clips, their domain and what the labels mean, as YAML."""
    lines = {"clips": str(manifest), "domain": PERSONA, "labels": dials.label_rule.definitions}
    return yaml.safe_dump(lines, sort_keys=False, allow_unicode=True, width=1_000)


class _Note(Record):
    """What a folder holds: one yard, and the manifests that were written of it."""

    fingerprint: str
    dials: YardDials
    seed: int
    manifests: tuple[str, ...] = ()


def write_night_yard(
    folder: Path,
    dials: YardDials = DEFAULT_DIALS,
    *,
    num_train: int,
    num_test: int,
    num_unlabelled: int = 0,
    seed: int = 0,
    manifest: str = "clips.csv",
    workers: int | None = None,
) -> Path:
    """Writes `clips/*.mp4` and a manifest into `folder` and returns the manifest's path.

    Columns: path, label, split, group, boxes (JSON: seconds, and x0, y0, x1, y1 in 0..1) and rationale (the renderer's
    truth). Unlabelled clips belong to train and have an empty label.

    A folder holds one yard: dials and a seed. Clips that are there already, from a smaller, larger or interrupted set,
    are not rendered again, and manifests of several sizes may share them. Other dials or another seed replace the yard,
    with its manifests. About 90 ms a clip and process. What `render`
    did not write is not replaced. Raises UserError, StoreError or RenderError.
    """
    _refuse(num_train, num_test, num_unlabelled, seed, manifest)
    _refuse_strangers(folder, manifest)
    clips = plan_yard(num_train, num_test, num_unlabelled, seed, dials)
    with held(folder):
        return _written(folder, dials, clips, seed=seed, manifest=manifest, workers=workers)


def _written(
    folder: Path, dials: YardDials, clips: list[YardClip], *, seed: int, manifest: str, workers: int | None
) -> Path:
    note = _opened(folder, dials, seed)
    known = {row.path: row for row in read_jsonl(folder / _ROWS, YardRow)} if (folder / _ROWS).is_file() else {}
    missing = [clip for clip in clips if clip.path not in known or not (folder / clip.path).is_file()]
    if missing:
        (folder / "clips").mkdir(exist_ok=True)
        workers = workers or min(available_processors(), 8)
        with JsonlAppender(folder / _ROWS) as rows, closing(render_rows(folder, missing, dials, workers)) as rendered:
            for row in rendered:
                rows.append([row])
                known[row.path] = row
                check()
    path = folder / manifest
    text = _csv([known[clip.path] for clip in clips])
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    if manifest not in note.manifests:
        write_record(folder / _NOTE, note.model_copy(update={"manifests": (*note.manifests, manifest)}))
    return path


def _refuse(num_train: int, num_test: int, num_unlabelled: int, seed: int, manifest: str) -> None:
    counts = {"num_train": num_train, "num_test": num_test, "num_unlabelled": num_unlabelled, "seed": seed}
    faults = [f"{name} is {value}; give 0 or more" for name, value in counts.items() if value < 0]
    if Path(manifest).name != manifest or not manifest.endswith(".csv") or manifest.startswith("."):
        faults.append(f"manifest is {manifest!r}; give a file name that ends with .csv, without a folder")
    if faults:
        raise UserError(faults)


def _refuse_strangers(folder: Path, manifest: str) -> None:
    """Stop before the user's own files are replaced: a manifest of that name, or clips in a folder without a note."""
    path, clips = folder / manifest, folder / "clips"
    noted = (folder / _NOTE).is_file()
    found = _read_note(folder / _NOTE)
    known = noted and (found is None or manifest in found.manifests)
    faults = []
    if path.exists() and not known and not (path.is_file() and path.read_bytes().startswith(_csv([]).encode())):
        faults.append(f"{path}: is there already and was not written by `render`; name another manifest or folder")
    if not noted and clips.exists() and (not clips.is_dir() or any(path.is_file() for path in clips.iterdir())):
        faults.append(f"{clips}: is there already and was not written by `render`; name another folder")
    if faults:
        raise UserError(faults)


def _opened(folder: Path, dials: YardDials, seed: int) -> _Note:
    """The note of this yard's folder. What another yard left there is removed, the manifests first."""
    wanted = _Note(fingerprint=fingerprint("night-yard", _VERSION, CRF, asdict(dials), seed), dials=dials, seed=seed)
    path, rows = folder / _NOTE, folder / _ROWS
    found = _read_note(path)
    if found is not None and found.fingerprint == wanted.fingerprint:
        return found
    for name in found.manifests if found is not None else ():
        (folder / name).unlink(missing_ok=True)
    if rows.is_file():
        for row in read_jsonl(rows, YardRow):
            (folder / row.path).unlink(missing_ok=True)
        rows.unlink()
    write_record(path, wanted)
    return wanted


def _read_note(path: Path) -> _Note | None:
    """The note, or None where there is none of this version."""
    if not path.is_file():
        return None
    try:
        return _Note.model_validate_json(path.read_bytes())
    except ValidationError:
        return None


def _csv(rows: list[YardRow]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(YardRow.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.model_dump() for row in rows)
    return text.getvalue()
