"""One stage's optimizer steps, ours and theirs, in turn on copies of one model, after their losses were found equal."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.speed.measuring import Row, check_close, in_turn
from benchmarks.speed.model import fresh, stock
from benchmarks.speed.plain import train_plainly, train_with_trl

from rbft.experiment import Recipe
from rbft.models.vlm import VLM, FrameSource
from rbft.records import Example
from rbft.training.supervised import train

Trained = Callable[..., list[float]]
STEPS = 3
"""Optimizer steps a turn. A Trainer's start counts on both sides."""


def step_rows(
    phase: str,
    case: str,
    promised: float,
    vlm: VLM,
    examples: Sequence[Example],
    frames: FrameSource,
    recipe: Recipe,
    root: Path,
    repeats: int,
) -> list[Row]:
    """Processor milliseconds a step, over `STEPS` steps; losses agree to 1e-5 at the first one. `promised`: to HF's."""
    rows = []
    library = stock(vlm)

    def ours() -> list[float]:
        shutil.rmtree(root / "work", ignore_errors=True)
        points = train(
            fresh(vlm), examples, frames, recipe, steps=STEPS, seed=0, work=root / "work", logs=root / "logs"
        )
        return [point.loss for point in points]

    for against, promise, trained in (
        ("HF Trainer, padded, full logits", promised, train_plainly),
        ("TRL SFTTrainer, padded", None, train_with_trl),
    ):

        def theirs(trained: Trained = trained) -> list[float]:
            return trained(fresh(library), examples, frames, recipe, steps=STEPS, seed=0, work=root / "theirs")

        equal = check_close("loss", abs(ours()[0] - theirs()[0]), 1e-5)
        our_ms, their_ms = in_turn(ours, theirs, repeats=repeats, warm_up=0, cpu=True)
        rows.append(Row(phase=phase, case=case, against=against, ours=our_ms / STEPS, theirs=their_ms / STEPS,
                        unit="CPU ms", promised=promise, equal=equal))  # fmt: skip
    return rows
