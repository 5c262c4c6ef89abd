"""The saved steps of a stage: which one is gone on from, and which are removed.

A save is used where it is sealed and unchanged, holds every file that going on needs and no other, and each of them can
be read without running code. The Trainer alone would go on without the states that it does not find.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerState
from transformers.trainer_pt_utils import safe_globals

from rbft.progress import Say
from rbft.store import MANIFEST, seal, seal_fault

TRAINED_FILE = "trained.safetensors"
OPTIMIZER, SCHEDULER, RANDOM, STATE = "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"
FILES = (TRAINED_FILE, OPTIMIZER, SCHEDULER, RANDOM, STATE)


class SealSaves(TrainerCallback):
    """Checksums for every save, written last; then all go but it and the one before.

    `resumed` is what the stage goes on from. None is saved after the last step: the stage's child is, and optimizer
    states of a large model take minutes.
    """

    def __init__(self, resumed: Path | None) -> None:
        self._before = resumed

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        """As often as is asked for now, and not as when the stage was begun."""
        state.save_steps = args.save_steps

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        """No save after the last step."""
        if state.global_step >= state.max_steps:
            control.should_save = False

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        """Seal what was just saved, and only then remove what is older or was passed over."""
        newest = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        seal(newest)
        for folder in _saves(newest.parent):
            if folder not in (newest, self._before):
                shutil.rmtree(folder, ignore_errors=True)
        self._before = newest


def newest_whole(work: Path, say: Say) -> Path | None:
    """The newest save of a stage that is whole, to go on from; None where there is none. Says what is passed over."""
    passed = 0
    for folder in _saves(work):
        fault = fault_of(folder)
        if fault is None:
            if passed:
                say(f"{folder}: whole; the stage goes on from here")
            return folder
        say(f"{folder}: passed over: {fault}")
        passed += 1
    if passed:
        say(f"{work}: no saved step is whole; the stage begins again")
    return None


def fault_of(folder: Path) -> str | None:
    """Why a save is not gone on from; None where it is whole."""
    return seal_fault(folder) or _other_files(folder) or _unreadable(folder)


def _saves(work: Path) -> list[Path]:
    """The newest first."""
    return sorted(work.glob("checkpoint-*"), key=_step, reverse=True)


def _step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _other_files(folder: Path) -> str | None:
    """A save that was sealed without a file, or with one that the Trainer would read as well."""
    there = {path.name for path in folder.iterdir() if not path.name.startswith(".")} - {MANIFEST}
    missing, more = sorted(set(FILES) - there), sorted(there - set(FILES))
    if missing:
        return f"was sealed without {', '.join(missing)}"
    return f"holds {', '.join(more)}, which no save has" if more else None


def _unreadable(folder: Path) -> str | None:
    """What the Trainer would fail to load. Nothing in a file is run: `weights_only` refuses all but tensors."""
    name = ""
    try:
        for name in (OPTIMIZER, SCHEDULER):
            torch.load(folder / name, map_location="cpu", weights_only=True, mmap=True)
        with safe_globals():
            torch.load(folder / (name := RANDOM), map_location="cpu", weights_only=True)
        with safe_open(folder / (name := TRAINED_FILE), "pt"):
            pass
        state = TrainerState.load_from_json(str(folder / (name := STATE)))
    except Exception as error:  # a file that anybody may have made fails in any way, and the way is told
        return f"{name} cannot be read: {(str(error).strip() or type(error).__name__).splitlines()[0][:200]}"
    return None if state.global_step == _step(folder) else f"{STATE} is of step {state.global_step}"
