"""Whole stages on a GPU that is not there: packed clips, readers, saves, adapters, a reference, a reward's encoder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from noise import NoiseClips
from pretend import OnGpu, a_gpu, on_gpu, waits
from rbft.experiment import Lora, Recipe, Reinforce
from rbft.files import read_jsonl
from rbft.models.vlm import VLM
from rbft.prompts import load_prompts
from rbft.records import Example, Question, RolloutRecord
from rbft.training.reinforce import reinforce
from rbft.training.rollouts import Grader, Written
from rbft.training.supervised import AnswerTrainer, train

NIGHTLY = pytest.mark.nightly
RECIPE = Recipe(
    learning_rate=1e-2, vision_learning_rate=1e-3, batch_size=4, micro_batch_size=2, gradient_checkpointing=False,
    scheduler="constant", warmup_ratio=0.0, save_every_steps=1,
)  # fmt: skip
EXAMPLES = [
    Example(clip_id=str(i), prompt="cat or dog?", answer=("cat", "puppy")[i % 2], source="label") for i in range(8)
]
QUESTIONS = [
    Question(
        question_id=str(i), clip_id=str(i), kind="label", text="cat or dog?", options=("cat", "dog"),
        answer=("cat", "dog")[i % 2],
    )
    for i in range(4)
]  # fmt: skip


def loaded(folder: Path, lora: Lora | None = None) -> VLM:
    """As a stage loads it there: what adapters stand beside is bfloat16."""
    vlm = VLM.load(folder, device=torch.device("cpu"), for_training=True)
    on_gpu(vlm.model, torch.float32 if lora is None else torch.bfloat16)
    return vlm


def learn(vlm: VLM, recipe: Recipe, folder: Path, steps: int) -> list[float]:
    points = train(
        vlm, EXAMPLES, NoiseClips(vlm.grid), recipe, steps=steps, seed=0, work=folder / "work", logs=folder / "logs"
    )
    return [math.nan if point.loss is None else point.loss for point in points]


@pytest.mark.parametrize(
    ("family", "checkpointing", "lora"),
    [
        ("qwen2_5_vl", False, None),
        ("internvl", True, Lora(dropout=0.0)),
        pytest.param("qwen2_vl", True, None, marks=NIGHTLY),
        pytest.param("qwen2_vl", False, Lora(dropout=0.0), marks=NIGHTLY),
        pytest.param("qwen2_5_vl", True, Lora(dropout=0.0), marks=NIGHTLY),
        pytest.param("qwen3_vl", True, None, marks=NIGHTLY),
        pytest.param("qwen3_vl", False, Lora(dropout=0.0), marks=NIGHTLY),
        pytest.param("internvl", False, None, marks=NIGHTLY),
    ],
)
def test_a_stage_learns_what_it_learns_on_a_processor(
    family: str, checkpointing: bool, lora: Lora | None, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """Under autocast; clips in one row where the family can; made by forked readers, which touch no GPU."""
    recipe = RECIPE.model_copy(update={"gradient_checkpointing": checkpointing, "lora": lora})
    vlm = loaded(checkpoints[family], lora)
    with a_gpu():
        losses = learn(vlm, recipe, tmp_path / "gpu", steps=2)
        kernel = waits["varlen"]
    layers = 0 if family == "internvl" else 4
    assert kernel == 2 * 2 * layers * (2 if checkpointing else 1), "one call a layer, and again where it is recomputed"
    assert all(isinstance(parameter, OnGpu) for parameter in vlm.model.parameters())
    plain = VLM.load(checkpoints[family], device=torch.device("cpu"), for_training=True)
    assert losses == pytest.approx(learn(plain, recipe, tmp_path / "cpu", steps=2), rel=5e-3 if lora is None else 1e-2)
    assert {p.dtype for p in vlm.model.parameters()} == {torch.float32 if lora is None else torch.bfloat16}


def test_an_interrupted_stage_goes_on_with_its_optimizer_on_the_gpu(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut, resumed = (loaded(checkpoints["qwen2_5_vl"]) for _ in range(3))
    with a_gpu():
        losses = learn(whole, RECIPE, tmp_path / "whole", steps=3)
        step = AnswerTrainer.training_step

        def failing(self: Any, *given: Any) -> torch.Tensor:
            if self.state.global_step == 2:
                raise KeyboardInterrupt
            return step(self, *given)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(AnswerTrainer, "training_step", failing)
            learn(cut, RECIPE, tmp_path / "cut", steps=3)
        assert learn(resumed, RECIPE, tmp_path / "cut", steps=3) == losses
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one.inner, other.inner)


class Letters(Grader):
    """Rewards by letters, so that a random model's groups have a signal."""

    def rewards(self, question: Question, answer: Written) -> dict[str, float | None]:
        return {"format": 0.0, "accuracy": float(sum(map(ord, answer.text)) % 5)}


@pytest.mark.parametrize(
    ("family", "lora", "updates"),
    [
        ("qwen2_5_vl", Lora(), 2),
        pytest.param("qwen2_5_vl", None, 1, marks=NIGHTLY),
        pytest.param("internvl", None, 2, marks=NIGHTLY),
    ],
)
def test_a_stage_reinforces(
    family: str, lora: Lora | None, updates: int, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """Sampling, the reference as a copy or with adapters off, several updates, and the held-out curve."""
    settings = Reinforce(samples=3, max_new_tokens=6, batch_size=2, cut_off="scored", updates=updates, beta=0.04)
    judge: Any = Grader.of(settings, load_prompts("brief", persona="Expert", labels={"cat": "", "dog": ""}))
    judge = Letters(settings, judge.prompts, judge.thresholds)
    vlm, recipe = loaded(checkpoints[family], lora), RECIPE.model_copy(update={"batch_size": 2, "lora": lora})
    before = [parameter.inner.clone() for parameter in vlm.model.parameters()]
    with a_gpu():
        points = reinforce(
            vlm, QUESTIONS, NoiseClips(vlm.grid), recipe, judge, steps=2, seed=5, work=tmp_path / "work",
            logs=tmp_path / "logs", held_out=QUESTIONS[:2],
        )  # fmt: skip
    assert len(points) == 2 and all(point.loss is not None and point.kl is not None for point in points)
    assert any(not torch.equal(a, b.inner) for a, b in zip(before, vlm.model.parameters(), strict=True))
    assert {record.step for record in read_jsonl(tmp_path / "logs" / "held_out.jsonl", RolloutRecord)} == {0, 1, 2}
