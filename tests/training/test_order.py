"""What a stage consumes, step by step: cut at ten steps, ends of epochs among them, it is the same to the last id."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from noise import NoiseClips
from rbft.experiment import Recipe, Reinforce
from rbft.models.vlm import VLM
from rbft.prompts import load_prompts
from rbft.records import Example, Question
from rbft.training import reinforce as reinforcing
from rbft.training import saves, supervised
from rbft.training.rollouts import Grader

Consumed = list[tuple[int, list[str]]]
"""Of every optimizer step, or forward pass, the step and the ids in their order."""
CUTS = range(1, 11)
NUM, BATCH = 10, 4
STEPS = 12
"""Four epochs of three steps, of which the last has two examples."""


@pytest.fixture(scope="module")
def vlm(checkpoints: dict[str, Path]) -> VLM:
    """Nothing is learnt here, so that one serves all."""
    return VLM.load(checkpoints["qwen2_5_vl"])


def recipe(batch: int, micro: int, folder: Path) -> Recipe:
    """Only the stage that is cut saves, after every step."""
    every = 1 if folder.name == "whole" else 99
    return Recipe(batch_size=batch, micro_batch_size=micro, gradient_checkpointing=False, save_every_steps=every)


def hash_of(consumed: Consumed) -> str:
    return hashlib.sha256(json.dumps(consumed).encode()).hexdigest()


def cut_everywhere(
    stage: Callable[[Path], Consumed], folder: Path, cuts: list[int], monkeypatch: pytest.MonkeyPatch
) -> Consumed:
    """What a stage consumes, after it was seen to be the same however it is cut."""
    with monkeypatch.context() as patch:
        patch.setattr(saves.shutil, "rmtree", lambda *_, **__: None)  # every save is kept
        whole = stage(folder / "whole")
    for cut in cuts:
        work = folder / f"cut-{cut}" / "work"
        shutil.copytree(folder / "whole" / "work" / f"checkpoint-{cut}", work / f"checkpoint-{cut}")
        rest = stage(work.parent)
        assert rest[0][0] == cut + 1, "no step is done twice, and none is skipped"
        assert hash_of([one for one in whole if one[0] <= cut] + rest) == hash_of(whole), f"cut after step {cut}"
    return whole


# -- supervised ------------------------------------------------------------------------------------------------------


def supervised_stage(vlm: VLM, micro: int, folder: Path) -> Consumed:
    answers = ["cat", "a puppy of some size", "neither"]
    examples = [
        Example(clip_id=str(i), prompt="cat or dog?", answer=answers[i % 3], source="label") for i in range(NUM)
    ]
    consumed: Consumed = []

    def step(self: Any, model: Any, inputs: dict[str, Any], *_: Any) -> torch.Tensor:
        consumed.append((self.state.global_step + 1, inputs[supervised.CLIPS]))
        return torch.zeros(())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervised.AnswerTrainer, "training_step", step)
        supervised.train(
            vlm, examples, NoiseClips(vlm.grid), recipe(BATCH, micro, folder), steps=STEPS, seed=7,
            work=folder / "work", logs=folder / "logs",
        )  # fmt: skip
    return consumed


@pytest.mark.parametrize("micro", [1, 2])
def test_a_supervised_stage_consumes_the_same_wherever_it_is_cut(
    micro: int, vlm: VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the Trainer's order, and sorted by length within a step where a pass has several of its examples."""
    whole = cut_everywhere(lambda folder: supervised_stage(vlm, micro, folder), tmp_path, list(CUTS), monkeypatch)
    steps = [sorted(id_ for at, ids in whole if at == step for id_ in ids) for step in range(1, STEPS + 1)]
    for epoch in range(4):
        ids = [id_ for step in steps[3 * epoch : 3 * epoch + 3] for id_ in step]
        assert sorted(ids) == sorted(map(str, range(NUM))), "an epoch has every example once"
    assert len({tuple(step) for step in steps}) == STEPS, "every epoch has an order of its own"
    other = supervised_stage(vlm, 4, tmp_path / "other")
    assert steps == [sorted(ids) for _, ids in other], "a step has the same examples, however it is cut into passes"


# -- reinforce -------------------------------------------------------------------------------------------------------


def reinforce_stage(vlm: VLM, updates: int, folder: Path) -> Consumed:
    prompts = load_prompts("brief", persona="Expert", labels={"cat": "", "dog": ""})
    questions = [
        Question(question_id=str(i), clip_id=str(i), kind="label", text="cat or dog?", options=("cat", "dog"),
                 answer="cat")
        for i in range(5)
    ]  # fmt: skip
    consumed: Consumed = []

    def step(self: Any, model: Any, inputs: dict[str, Any], *_: Any) -> torch.Tensor:
        consumed.append((self.state.global_step + 1, [questions[n].question_id for n in inputs["numbers"].tolist()]))
        return torch.zeros(())

    settings = Reinforce(samples=2, max_new_tokens=4, batch_size=2, beta=0.0, updates=updates)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reinforcing.ReinforceTrainer, "training_step", step)
        patch.setattr(reinforcing, "_points", lambda *_: [])
        reinforcing.reinforce(
            vlm, questions, NoiseClips(vlm.grid), recipe(2, 1, folder), Grader.of(settings, prompts),
            steps=12 * updates, seed=7, work=folder / "work", logs=folder / "logs",
        )  # fmt: skip
    return consumed


@pytest.mark.parametrize("updates", [1, 2])
def test_a_reinforce_stage_consumes_the_same_wherever_it_is_cut(
    updates: int, vlm: VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three batches an epoch, the last of one question; with two updates each comes twice, and saves fall between."""
    cuts = [updates * cut for cut in CUTS]
    whole = cut_everywhere(lambda folder: reinforce_stage(vlm, updates, folder), tmp_path, cuts, monkeypatch)
    assert [step for step, _ in whole] == list(range(1, 12 * updates + 1))
    batches = [ids for _, ids in whole[::updates]]
    assert all(ids == batches[n // updates] for n, (_, ids) in enumerate(whole))
    assert [len(ids) for ids in batches] == [2, 2, 1] * 4
    for epoch in range(4):
        assert sorted(map(int, "".join(map("".join, batches[3 * epoch : 3 * epoch + 3])))) == list(range(5))
    assert len({str(batches[3 * epoch : 3 * epoch + 3]) for epoch in range(4)}) > 1, "in an order of its own"
