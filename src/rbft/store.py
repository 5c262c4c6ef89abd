"""The run directory: artifacts by fingerprint, checkpoints that verify, timings that survive a restart.

runs/NAME/
  experiment.json   what was asked for, whole
  manifest.json     the clips, their splits, what was left out
  memory.json       the memory that was expected, and what was chosen to fit it
  rationales/KEY.jsonl
  checkpoints/KEY/  Hugging Face layout + card.json (labels, prompts, sampling, lineage) + manifest.json (checksums)
  predictions/KEY.jsonl
  answers/KEY.jsonl  of a run about questions
  logs/KEY/         TensorBoard files, losses.jsonl of a stage; of a reinforce stage rollouts.jsonl, reinforce.jsonl
  report.json  report.html
  .lock             held by the process that works here
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from rbft.errors import CheckpointError, LineageError, StoreError
from rbft.experiment import Sampling
from rbft.files import JsonlAppender, R, address_hint, finished_lines, read_record, refused, sha256_of, write_record
from rbft.prompts import Describing, Prompts, QuestionTemplates, Reasoning
from rbft.records import Checkpoint, Record

CARD = "card.json"
MANIFEST = "manifest.json"
INCOMPLETE = f"incomplete: it has no {MANIFEST}, which is written last"
TRAIN_AGAIN = "move the folder away and run its experiment again, which trains it again"
"""What to do about a checkpoint that cannot be used."""


class Card(Record):
    """What a fine-tuned checkpoint carries, so that prediction cannot differ from training."""

    checkpoint: Checkpoint
    prompts: Prompts
    sampling: Sampling
    length_normalisation: str
    describing: Describing | Reasoning | None = None
    """Set where the label is scored after the checkpoint's own description, or after its own thinking."""
    questions: QuestionTemplates | None = None
    """How it is asked questions; None where its prompts ask none, and in cards of versions that did not keep them."""


class FileManifest(Record):
    """Checksums of a folder's files, written last: a folder is complete when this is there and agrees."""

    sha256: dict[str, str]


class Timing(Record):
    """Wall seconds that one piece of work took, whenever it was done."""

    step: str
    key: str
    seconds: float


class RunStore:
    """One run directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def rationales(self, key: str) -> Path:
        """Where the rationales of that fingerprint are."""
        return self.root / "rationales" / f"{key}.jsonl"

    def predictions(self, key: str) -> Path:
        """Where the predictions of that fingerprint are."""
        return self.root / "predictions" / f"{key}.jsonl"

    def answers(self, key: str) -> Path:
        """Where the answers to questions of that fingerprint are."""
        return self.root / "answers" / f"{key}.jsonl"

    def checkpoint(self, key: str) -> Path:
        """The folder of the checkpoint of that fingerprint."""
        return self.root / "checkpoints" / key

    def logs(self, key: str) -> Path:
        """The folder of a stage's logs."""
        return self.root / "logs" / key

    @contextmanager
    def timed(self, step: str, key: str) -> Iterator[Callable[[], None]]:
        """Note how long a piece of work took, once it ends well; call what is given when there is work to do."""
        start = time.monotonic()
        worked: list[bool] = []
        yield lambda: worked.append(True)
        if worked:
            with JsonlAppender(self.root / "timing.jsonl") as file:
                file.append([Timing(step=step, key=key, seconds=round(time.monotonic() - start, 3))])

    def timings(self) -> tuple[dict[str, float], list[str]]:
        """Seconds by step, summed over everything that this run directory ever did; a note where lines are damaged.

        These are left out: nothing but the report's times depends on them, and no work makes them again.
        """
        path = self.root / "timing.jsonl"
        total: dict[str, float] = {}
        damaged: list[int] = []
        for number, line in enumerate(
            finished_lines(path, "move it away, and give the same command again") if path.exists() else [], 1
        ):
            try:
                timing = Timing.model_validate_json(line)
            except ValidationError:
                damaged.append(number)
                continue
            total[timing.step] = round(total.get(timing.step, 0.0) + timing.seconds, 3)
        lines = ", ".join(map(str, damaged[:3])) + (", …" if damaged[3:] else "")
        return total, [f"{path.name}, damaged in line {lines}: the times are without that"] if damaged else []


def seal(folder: Path) -> None:
    """Write the checksums of every file of a folder, last."""
    write_record(folder / MANIFEST, FileManifest(sha256=_checksums(folder)))


def verify(folder: Path) -> None:
    """Raise CheckpointError, naming the files, where a sealed folder is incomplete, changed or added to.

    Libraries read whatever lies in a model's folder, so an added file can change its answers. Hidden files are let be.
    """
    added = _added(folder)
    if added:
        raise CheckpointError(
            f"{folder}: holds files that were not there when it was finished ({', '.join(added)}); move them elsewhere"
        )


def is_sealed(folder: Path) -> bool:
    """Whether every file of a sealed folder is there and unchanged; one that was only added to is not made again."""
    return seal_fault(folder) is None


def seal_fault(folder: Path) -> str | None:
    """Why a folder is not sealed and unchanged, in words; None where it is."""
    try:
        return _examined(folder)[0]
    except CheckpointError as error:  # of a file that cannot be read
        return str(error)


def publish(temporary: Path, folder: Path) -> None:
    """Seal a finished folder and move it into place; what stood there incomplete is removed."""
    seal(temporary)
    try:
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except OSError as error:
        raise refused(folder, error) from error


def read_card(folder: Path) -> Card:
    """The card of a verified checkpoint, at the path where it lies now (a run can be moved); raises CheckpointError."""
    faults = checkpoint_faults(folder)
    if faults:
        raise CheckpointError(faults)
    verify(folder)
    card = _read(folder / CARD, Card)
    return card.model_copy(update={"checkpoint": card.checkpoint.model_copy(update={"path": str(folder)})})


def read_classifier(folder: Path) -> Card:
    """`read_card` of a checkpoint that gives labels; raises CheckpointError for one that answers questions."""
    card = read_card(folder)
    if not card.prompts.labels:
        raise CheckpointError(
            f"{folder}: answers questions and knows no labels; ask it with `rbft ask {folder} QUESTIONS.jsonl`"
        )
    return card


def checkpoint_faults(folder: Path) -> list[str]:
    """Why a folder is no checkpoint, by its names alone: one line, or none. Nothing is read."""
    if not folder.is_dir():
        return [f"{folder}: no such folder{address_hint(folder)}; give the folder of a checkpoint that rbft trained"]
    if is_run(folder):
        inside = ", ".join(sorted(f.name for f in (folder / "checkpoints").glob("*") if not f.name.startswith(".")))
        if inside:
            return [f"{folder}: a run directory; name one of its checkpoints: checkpoints/ holds {inside}"]
        return [
            f"{folder}: a run directory without a finished checkpoint; run its experiment again, which trains what its "
            "arms still lack"
        ]
    if not (folder / CARD).is_file():
        return [f"{folder}: no {CARD}: not a checkpoint that rbft trained, so it has no labels or prompts"]
    return []


def is_run(folder: Path) -> bool:
    """Whether a folder is a run directory, finished or not, by its names alone."""
    is_model = any((folder / name).is_file() for name in (CARD, "config.json"))
    return not is_model and any(
        (folder / name).exists() for name in ("experiment.json", "report.json", "timing.jsonl", "checkpoints")
    )


def folder_faults(folder: Path, option: str) -> list[str]:
    """Why nothing can be written into a folder, there or to be made: one line, or none. Nothing is written."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if there.is_dir():
        return []
    return [f"{option} {folder}: {there} is a file; give a folder, there or to be made"]


def check_lineage(parent: Checkpoint, expected: Checkpoint) -> None:
    """Raise LineageError, naming both sides, where a stage would start from another checkpoint than the one meant."""
    faults = [
        f"{parent.path}: its {name.replace('_', ' ')} is {getattr(parent, name)}, the stage expects "
        f"{getattr(expected, name)} ({expected.path})"
        for name in ("fingerprint", "base", "sampling_fingerprint", "prompts_fingerprint")
        if getattr(parent, name) != getattr(expected, name)
    ]
    if faults:
        raise LineageError(faults)


def _added(folder: Path) -> list[str]:
    """The files that were added since a folder was sealed; raises CheckpointError where it is incomplete or changed."""
    fault, added = _examined(folder)
    if fault is not None:
        raise CheckpointError(f"{folder}: {fault}; {TRAIN_AGAIN}")
    return added


def _examined(folder: Path) -> tuple[str | None, list[str]]:
    """What is missing or changed of a sealed folder, in words, and the files that were added to it."""
    path = folder / MANIFEST
    if not path.is_file():
        return INCOMPLETE, []
    try:
        told = read_record(path, FileManifest, step="").sha256
    except StoreError as error:
        return str(error).removeprefix(f"{folder}{os.sep}"), []
    found = _checksums(folder)
    gone = sorted(told.keys() - found.keys())
    changed = sorted(name for name in told.keys() & found.keys() if told[name] != found[name])
    if gone or changed:
        what = [f"missing: {', '.join(gone)}"] * bool(gone) + [f"changed: {', '.join(changed)}"] * bool(changed)
        return f"damaged ({'; '.join(what)})", []
    return None, sorted(name for name in found.keys() - told.keys() if not Path(name).name.startswith("."))


def _read(path: Path, kind: type[R]) -> R:
    """A record of a checkpoint; one that is not readable is the checkpoint's fault, not the run directory's."""
    try:
        return read_record(path, kind, TRAIN_AGAIN)
    except StoreError as error:
        raise CheckpointError(str(error)) from None


def _checksums(folder: Path) -> dict[str, str]:
    try:
        files = sorted(f for f in folder.rglob("*") if f.is_file() and f != folder / MANIFEST)
        return {f.relative_to(folder).as_posix(): sha256_of(f) for f in files}
    except OSError as error:
        raise CheckpointError(f"{error.filename or folder}: cannot be read: {error.strerror or error}") from error
