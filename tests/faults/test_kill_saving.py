"""Killed while a checkpoint is saved and while a stage's child is put in its place: the one before is used."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from killing import At, Ended, ForkServer, Survived
from rbft.store import is_sealed, read_card
from victims import RUN

pytestmark = [pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"), pytest.mark.nightly]

SAVE = "rbft.training.supervised:StageTrainer._maybe_log_save_evaluate"
WRITE = "rbft.models.vlm:VLM.save"
PUBLISH = "rbft.training.stages:publish"
KILLS = 30


def unsealed(run: Path) -> list[str]:
    """Saves and children that are on disk and not whole: what must not be loaded."""
    found = [*run.glob("checkpoints/.*.work/checkpoint-*"), *run.glob("checkpoints/.*.finished")]
    return [folder.name for folder in found if not is_sealed(folder)]


def test_thirty_kills_in_the_window_of_a_save(forks: ForkServer, base: Path) -> None:
    """Every kill comes at a random instant of a save, or of writing, sealing and renaming a stage's child."""
    noted = (*RUN.noted, SAVE, WRITE, PUBLISH)
    (base / "whole").mkdir()
    whole = forks.run(base / "whole", *RUN.arguments, noted=noted)
    windows = {SAVE: whole.longest(SAVE), WRITE: whole.longest(WRITE) + whole.longest(PUBLISH)}
    rng = random.Random(0)
    kills, torn, folders = 0, Counter[str](), 0
    while kills < KILLS:
        folders += 1
        folder = base / f"cut-{folders}"
        folder.mkdir()
        attempts: list[Ended] = []
        while not attempts or attempts[-1].was_killed:
            where = rng.choice([SAVE, SAVE, WRITE])
            at = At(where, seconds=rng.uniform(0.0005, windows[where])) if kills < KILLS else None
            attempts.append(forks.run(folder, *RUN.arguments, at=at, noted=noted))
            if attempts[-1].was_killed:
                kills += 1
                torn[where] += bool(unsealed(folder / "runs/made"))
            for child in (folder / "runs/made/checkpoints").glob("[!.]*"):
                read_card(child)  # raises where it is not whole
        survived = Survived(folder, tuple(attempts))
        survived.check(whole, base / "whole", but=(SAVE, WRITE, PUBLISH))
        shutil.rmtree(folder)
    print(f"{kills} kills in {folders} folders; windows {windows}; half-written things left {dict(torn)}")
    assert sum(torn.values()) > KILLS / 4, "most kills come too early or too late to show anything"
