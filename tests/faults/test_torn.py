"""JSONL files of real runs, cut anywhere in their last line as killed writers leave them: mended to the same bytes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from killing import At, ForkServer, same
from rbft.files import JsonlAppender, read_jsonl
from rbft.records import Answered, Prediction, Rationale, Record, StepAnswer
from victims import REINFORCE, VICTIMS, Victim, write_questions

pytestmark = [pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"), pytest.mark.nightly]

TORN = {
    "run": ("made/rationales/*.jsonl", "made/predictions/*.jsonl"),
    "curate": ("made/represent.jsonl", "made/reason.jsonl", "made/revise.jsonl"),
    "questions": ("made/answers/*.jsonl",),
    "ask": ("asked/answers.jsonl",),
}
KINDS: dict[str, type[Record]] = {
    "rationales": Rationale, "predictions": Prediction, "made": StepAnswer, "answers": Answered, "asked": Answered,
}  # fmt: skip
CUTS = 12


@pytest.fixture(scope="module", autouse=True)
def questions(base: Path) -> None:
    write_questions(base)


def last_line(path: Path) -> tuple[int, int]:
    """Where the last line of a file begins, and the length of the file."""
    text = path.read_bytes()
    return text.rfind(b"\n", 0, len(text) - 1) + 1, len(text)


@pytest.mark.parametrize("verb", TORN)
def test_cut_in_the_last_line_the_same_command_mends_it(verb: str, forks: ForkServer, base: Path) -> None:
    """All files of a finished command at once: read and appended to after a cut at every byte; the command, at some."""
    victim, whole = VICTIMS[verb], base / f"{verb}-whole"
    whole.mkdir()
    assert forks.run(whole, *victim.arguments).code == 0
    files = [path for pattern in TORN[verb] for path in sorted((whole / "runs").glob(pattern))]
    assert len(files) >= len(TORN[verb])
    for path in files:
        _cut_at_every_byte(path, base / "cut.jsonl")
    places = [last_line(path) for path in files]
    longest = max(end - start for start, end in places)
    cuts = sorted({round(longest * number / CUTS) for number in range(CUTS)} | {1, longest - 1})
    for cut in cuts:
        folder = base / f"{verb}-cut"
        shutil.copytree(whole, folder)
        for path, (start, end) in zip(files, places, strict=True):
            os.truncate(folder / path.relative_to(whole), min(start + cut, end - 1))
        assert forks.run(folder, *victim.arguments).code == 0
        same(folder, whole)
        shutil.rmtree(folder)
    print(f"{verb}: {len(files)} files cut at {len(cuts)} places")


def _cut_at_every_byte(path: Path, copy: Path) -> None:
    text, kind = path.read_bytes(), KINDS[path.parent.name]
    start, end = last_line(path)
    *before, last = read_jsonl(path, kind)
    for cut in range(start, end):
        copy.write_bytes(text[:cut])
        assert read_jsonl(copy, kind) == before
        with JsonlAppender(copy) as file:
            file.append([last])
        assert copy.read_bytes() == text


def test_rollouts_cut_in_the_last_line_are_sampled_again(forks: ForkServer, base: Path) -> None:
    """Killed after a step's answers are on disk, with a torn last one: the step is sampled again, the file the same."""
    victim: Victim = VICTIMS["run"]
    whole, killed = base / "run-whole", base / "killed"
    if not whole.exists():
        whole.mkdir()
        assert forks.run(whole, *victim.arguments).code == 0
    killed.mkdir()
    steps = 2 * REINFORCE["batch_size"] - 1  # the answers of the first step are learnt from, those of the second not
    assert forks.run(killed, *victim.arguments, at=At("rbft.training.reinforce:grpo_loss", steps)).was_killed
    [rollouts] = killed.glob("runs/made/logs/*/rollouts.jsonl")
    start, end = last_line(rollouts)
    for number in range(6):
        folder = base / "again"
        shutil.copytree(killed, folder)
        os.truncate(folder / rollouts.relative_to(killed), start + max(1, (end - start) * number // 6))
        assert forks.run(folder, *victim.arguments).code == 0
        same(folder, whole)
        shutil.rmtree(folder)
