"""Optimizer steps whose loss or gradients are no numbers: skipped, told with their clips, and few, or the stage stops.

A skipped step changes neither weights nor optimizer state. It counts as a step: learning rate and order of the
examples go on as if it had been taken, and a stage has the steps that it was to have. What was skipped is in the
Trainer's log, which every save holds, so that a stage that goes on counts like one that was never cut.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rbft.errors import RbftError
from rbft.progress import Say

IN_A_ROW = 3
"""So many batches, one behind the other, are no accident."""
SHARE = 0.1
"""Of a stage's steps that may be skipped in all; fewer than IN_A_ROW always may."""
NAMED = 5
"""Clips that a line names."""
SKIPPED = "skipped"
"""Under this name an entry of the Trainer's log lists the clips of a step that was skipped."""


class Skips:
    """What is known of the step in hand, and what may be skipped.

    `steps` of the stage, `updates` on one batch, `setting` that sets the learning rate.
    """

    def __init__(self, say: Say, *, steps: int, updates: int, setting: str) -> None:
        self._say, self._setting, self._steps = say, setting, steps
        self._in_a_row = min(IN_A_ROW * updates, steps)
        self._in_all = max(IN_A_ROW * updates - 1, int(SHARE * steps))
        self._clips: list[str] = []
        self._without_loss: list[str] = []
        self._skipped: list[str] = []

    def seen(self, loss: torch.Tensor, clips: Sequence[str]) -> torch.Tensor:
        """Note the clips of a part of the step. A loss that is no number is 0 in the sum of the parts."""
        self._clips += clips
        if torch.isfinite(loss):
            return loss
        self._without_loss += clips
        return torch.zeros_like(loss)

    def is_sound(self, norm: torch.Tensor | float, history: Sequence[Mapping[str, Any]], step: int) -> bool:
        """Whether the step, whose gradients have this norm, can be taken; says it where it cannot.

        `history`: the Trainer's log so far. Raises RbftError, naming clips, where it would be one skip too many.
        """
        if not self._without_loss and math.isfinite(float(norm)):
            return True
        self._skipped = self._without_loss or self._clips
        what = "loss is" if self._without_loss else "gradient is"
        self._say(f"step {step} is skipped: its {what} no number; clips: {_some(self._skipped)}")
        before = [entry.get(SKIPPED, ()) for entry in history if "loss" in entry]
        row = [self._skipped]
        while len(row) <= len(before) and before[-len(row)]:
            row.append(before[-len(row)])
        in_all = 1 + sum(map(bool, before))
        if len(row) >= self._in_a_row or in_all > self._in_all:
            raise RbftError(
                f"step {step}: its loss or gradients are no numbers (in a row: {len(row)}, in all: {in_all}); a stage "
                f"of {self._steps} steps can skip {self._in_a_row - 1} in a row and {self._in_all} in all. Nothing was "
                f"learnt from such steps. Lower {self._setting}, or look at these clips and leave them out: "
                f"{_some([clip for clips in row for clip in clips])}"
            )
        return False

    def ended(self) -> tuple[bool, list[str]]:
        """Whether the step's loss was a number, and the clips for which it was skipped; the next one begins."""
        told = not self._without_loss, self._skipped
        self._clips, self._without_loss, self._skipped = [], [], []
        return told


def _some(clips: Sequence[str]) -> str:
    """`a, b and 3 more`."""
    names = list(dict.fromkeys(clips))
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
