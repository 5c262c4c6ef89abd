"""One stage's optimizer steps, ours and plain, in turn on copies of one model, after their losses were found equal."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.speed.measuring import Row, check_close, in_turn
from benchmarks.speed.model import fresh, stock
from benchmarks.speed.plain import train_plainly

from rbft.experiment import Recipe
from rbft.models.vlm import VLM, FrameSource
from rbft.records import Example
from rbft.training.supervised import train

STEPS = 3
"""Optimizer steps a turn. A Trainer's start counts on both sides."""


def step_row(
    phase: str,
    case: str,
    promised: float,
    vlm: VLM,
    examples: Sequence[Example],
    frames: FrameSource,
    recipe: Recipe,
    root: Path,
    repeats: int,
) -> Row:
    """Processor milliseconds a step, over `STEPS` steps; the losses of both agree to 1e-5 at the first one."""

    library = stock(vlm)

    def ours() -> list[float]:
        shutil.rmtree(root / "work", ignore_errors=True)
        points = train(
            fresh(vlm), examples, frames, recipe, steps=STEPS, seed=0, work=root / "work", logs=root / "logs"
        )
        return [point.loss for point in points]

    def theirs() -> list[float]:
        return train_plainly(fresh(library), examples, frames, recipe, steps=STEPS, seed=0, work=root / "plain")

    equal = check_close("loss", abs(ours()[0] - theirs()[0]), 1e-5)
    our_ms, their_ms = in_turn(ours, theirs, repeats=repeats, warm_up=0, cpu=True)
    return Row(phase=phase, case=case, against="HF Trainer, padded, full logits", ours=our_ms / STEPS,
               theirs=their_ms / STEPS, unit="CPU ms", promised=promised, equal=equal)  # fmt: skip
