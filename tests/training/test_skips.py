"""Losses and gradients that are no numbers: the step is skipped whole, told and counted, and three in a row stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from noise import NoiseClips
from rbft.errors import RbftError
from rbft.experiment import Lora, Recipe, Reinforce
from rbft.files import read_jsonl, write_jsonl
from rbft.models.vlm import VLM
from rbft.prompts import load_prompts
from rbft.records import Example, LossPoint, Question, ReinforcePoint
from rbft.training import reinforce as reinforcing
from rbft.training import supervised
from rbft.training.rollouts import Grader, Written
from rbft.training.skips import Skips
from rbft.training.supervised import StageTrainer

RECIPE = Recipe(
    learning_rate=1e-2, vision_learning_rate=1e-3, batch_size=4, micro_batch_size=2, weight_decay=0.5,
    gradient_checkpointing=False, scheduler="cosine", warmup_ratio=0.0, save_every_steps=2,
)  # fmt: skip
NAN, INFINITE = float("nan"), float("inf")


def examples(number: int = 12) -> list[Example]:
    return [
        Example(clip_id=str(i), prompt="cat or dog?", answer=("cat", "puppy")[i % 2], source="label")
        for i in range(number)
    ]


def train(vlm: VLM, folder: Path, said: list[str], *, steps: int = 6, recipe: Recipe = RECIPE) -> list[LossPoint]:
    return supervised.train(
        vlm, examples(), NoiseClips(vlm.grid), recipe, steps=steps, seed=3, work=folder / "work",
        logs=folder / "logs", say=said.append,
    )  # fmt: skip


def weights(vlm: VLM) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in vlm.model.named_parameters()}


def state_of(trainer: StageTrainer) -> list[torch.Tensor]:
    """Everything that a step may change: weights, and for each of them what the optimizer keeps."""
    assert trainer.optimizer is not None
    kept = [tensor for one in trainer.optimizer.state.values() for tensor in one.values()]
    return [tensor.detach().clone() for tensor in [*trainer.model.parameters(), *kept]]


def same(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> bool:
    return len(before) == len(after) and all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def changed_by_steps(monkeypatch: pytest.MonkeyPatch) -> dict[int, bool]:
    """Of every step from now on, whether it changed anything that `state_of` has."""
    changed: dict[int, bool] = {}
    states: list[list[torch.Tensor]] = []
    clip, log = StageTrainer._clip_grad_norm, StageTrainer.log

    def clipped(self: StageTrainer, model: Any) -> Any:
        states.append(state_of(self))
        return clip(self, model)

    def logged(self: StageTrainer, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            changed[self.state.global_step] = not same(states.pop(), state_of(self))
        log(self, logs, start_time)

    monkeypatch.setattr(StageTrainer, "_clip_grad_norm", clipped)
    monkeypatch.setattr(StageTrainer, "log", logged)
    return changed


def spoil(monkeypatch: pytest.MonkeyPatch, spoilt: Callable[[int], float | None]) -> None:
    """Losses of micro-batches, counted from 1, become what is given; None leaves one as it is."""
    original, calls = supervised.answer_loss, []

    def loss(*given: Any) -> torch.Tensor:
        calls.append(1)
        value = spoilt(len(calls))
        plain = original(*given)
        return plain if value is None else plain * value

    monkeypatch.setattr(supervised, "answer_loss", loss)


# -- what may be skipped ---------------------------------------------------------------------------------------------


def history(*skipped: bool) -> list[dict[str, Any]]:
    return [{"loss": 1.0} | ({"skipped": [str(n)]} if bad else {}) for n, bad in enumerate(skipped, 1)]


def judged(steps: int, before: Sequence[bool], *, updates: int = 1) -> bool:
    """Whether a stage goes on where one more step has no loss."""
    skips = Skips(lambda _: None, steps=steps, updates=updates, setting="x")
    skips.seen(torch.tensor(NAN), ["a"])
    try:
        assert not skips.is_sound(1.0, history(*before), len(before) + 1)
    except RbftError:
        return False
    return True


@pytest.mark.parametrize(
    ("steps", "updates", "before", "goes_on"),
    [
        (100, 1, [], True),
        (100, 1, [True], True),
        (100, 1, [True, True], False),
        (100, 1, [True, True, False, True], True),
        (100, 1, [True, False] * 9, True),
        (100, 1, [True, False] * 10, False),
        (25, 1, [True, False], True),
        (25, 1, [True, False, True, False], False),
        (1, 1, [], False),
        (2, 1, [True], False),
        (100, 2, [True] * 4, True),
        (100, 2, [True] * 5, False),
    ],
)
def test_three_in_a_row_or_more_than_a_tenth_stop(steps: int, updates: int, before: list[bool], goes_on: bool) -> None:
    """With two updates on a batch three batches are six steps. A stage never ends without a single step taken."""
    assert judged(steps, before, updates=updates) == goes_on


def test_the_words_name_step_clips_and_what_to_do() -> None:
    said: list[str] = []
    skips = Skips(said.append, steps=40, updates=1, setting="training.learning_rate")
    skips.seen(torch.tensor(1.0), ["good"])
    assert skips.seen(torch.tensor(NAN), list("abcdefg")).item() == 0
    with pytest.raises(RbftError) as caught:
        skips.is_sound(1.0, history(False, True, True), 4)
    assert said == ["step 4 is skipped: its loss is no number; clips: a, b, c, d, e and 2 more"]
    assert str(caught.value) == (
        "step 4: its loss or gradients are no numbers (in a row: 3, in all: 3); a stage of 40 steps can skip 2 in a "
        "row and 4 in all. Nothing was learnt from such steps. Lower training.learning_rate, or look at these clips "
        "and leave them out: a, b, c, d, e and 4 more"
    )
    assert skips.ended() == (False, list("abcdefg"))
    skips.seen(torch.tensor(1.0), ["x"])
    assert not skips.is_sound(INFINITE, [], 5)
    assert said[1:] == ["step 5 is skipped: its gradient is no number; clips: x"]
    assert skips.ended() == (True, ["x"])
    skips.seen(torch.tensor(1.0), ["x"])
    assert skips.is_sound(1.0, [], 6)
    assert skips.ended() == (True, [])


# -- a supervised stage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [NAN, INFINITE])
def test_a_micro_batch_without_a_loss_skips_its_whole_step(
    value: float, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sixth micro-batch is half of step 3: nothing changes in that step, not even by decay or momentum."""
    spoil(monkeypatch, lambda call: value if call == 6 else None)
    changed = changed_by_steps(monkeypatch)
    said: list[str] = []
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    points = train(vlm, tmp_path, said)
    assert changed == {step: step != 3 for step in range(1, 7)}
    [bad] = [point for point in points if point.skipped]
    assert (bad.step, bad.loss, len(bad.skipped)) == (3, None, 2)
    assert said == [f"step 3 is skipped: its loss is no number; clips: {', '.join(bad.skipped)}"]
    assert all(point.loss is not None and math.isfinite(point.loss) for point in points if point.step != 3)
    assert read_jsonl(tmp_path / "logs" / "losses.jsonl", LossPoint) == points
    rates = [1e-2 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]
    assert [point.learning_rate for point in points] == pytest.approx(rates), "a skipped step counts as a step"
    assert all(torch.isfinite(p).all() for p in vlm.model.parameters())


def test_a_gradient_without_a_number_is_seen_where_the_loss_is_finite(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = changed_by_steps(monkeypatch)
    vlm, calls, said = VLM.load(checkpoints["qwen2_5_vl"]), [], []

    def hook(gradient: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return gradient * NAN if len(calls) == 3 else gradient

    next(vlm.model.parameters()).register_hook(hook)
    points = train(vlm, tmp_path, said)
    assert changed == {step: step != 2 for step in range(1, 7)}
    assert [(p.step, len(p.skipped)) for p in points if p.skipped] == [(2, 4)], "all clips of the step"
    assert all(point.loss is not None for point in points)
    assert said[0].startswith("step 2 is skipped: its gradient is no number; clips: ")


def test_three_in_a_row_stop_before_a_step_and_good_saves_stay(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, lambda call: NAN if call > 6 else None)
    changed = changed_by_steps(monkeypatch)
    said: list[str] = []
    with pytest.raises(RbftError, match=r"^step 6: its loss or gradients are no numbers \(in a row: 3, in all: 3\)"):
        train(VLM.load(checkpoints["qwen2_5_vl"]), tmp_path, said, steps=8)
    assert changed == {1: True, 2: True, 3: True, 4: False, 5: False}, "the sixth never came to its step"
    assert [line.split(":")[0] for line in said] == [f"step {step} is skipped" for step in (4, 5, 6)]
    assert sorted(save.name for save in (tmp_path / "work").iterdir()) == ["checkpoint-2", "checkpoint-4"]


@pytest.mark.parametrize("lora", [None, Lora(rank=2, alpha=4)])
def test_what_was_skipped_is_known_to_a_stage_that_goes_on(
    lora: Lora | None, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 4 is skipped, saved, and the plug is pulled: points and weights end as without; and two more still stop."""
    recipe = RECIPE.model_copy(update={"lora": lora, "micro_batch_size": 4})
    whole = VLM.load(checkpoints["qwen2_5_vl"])
    with monkeypatch.context() as patch:
        spoil(patch, lambda step: NAN if step == 4 else None)
        points = train(whole, tmp_path / "whole", [], recipe=recipe)

    def pulled(step: int) -> float | None:
        if step == 5:
            raise KeyboardInterrupt
        return NAN if step == 4 else None

    for folder in ("cut", "worse"):
        with monkeypatch.context() as patch:
            spoil(patch, pulled)
            with pytest.raises(KeyboardInterrupt):
                train(VLM.load(checkpoints["qwen2_5_vl"]), tmp_path / folder, [], recipe=recipe)
    again = VLM.load(checkpoints["qwen2_5_vl"])
    assert train(again, tmp_path / "cut", [], recipe=recipe) == points
    assert [point.step for point in points if point.skipped] == [4]
    for name, parameter in weights(whole).items():
        assert torch.equal(parameter, weights(again)[name]), name
    spoil(monkeypatch, lambda _: NAN)
    with pytest.raises(RbftError, match=r"^step 6: .* \(in a row: 3, in all: 3\)"):
        train(VLM.load(checkpoints["qwen2_5_vl"]), tmp_path / "worse", [], recipe=recipe)


def test_points_of_skipped_steps_are_read_as_written(tmp_path: Path) -> None:
    points = [LossPoint(step=1, loss=None, learning_rate=0.1, skipped=("a", "b"))]
    write_jsonl(tmp_path / "losses.jsonl", points)
    assert read_jsonl(tmp_path / "losses.jsonl", LossPoint) == points
    (tmp_path / "old.jsonl").write_text('{"step":1,"loss":2.5,"learning_rate":0.1}\n', encoding="utf-8")
    assert read_jsonl(tmp_path / "old.jsonl", LossPoint)[0].skipped == ()


# -- a reinforce stage -----------------------------------------------------------------------------------------------

PROMPTS = load_prompts("brief", persona="Expert", labels={"cat": "", "dog": ""})


class Lengths(Grader):
    """Rewards by length, so that random models earn something."""

    def rewards(self, question: Question, answer: Written) -> dict[str, float | None]:
        return {"format": 0.0, "accuracy": float(len(answer.text) % 3)}


def learn(vlm: VLM, folder: Path, said: list[str], *, steps: int = 5, updates: int = 1) -> list[ReinforcePoint]:
    settings = Reinforce(samples=3, max_new_tokens=8, batch_size=2, cut_off="scored", updates=updates, held_out=0)
    plain = Grader.of(settings, PROMPTS)
    questions = [
        Question(question_id=str(i), clip_id=str(i), kind="label", text="cat or dog?", options=("cat", "dog"),
                 answer=("cat", "dog")[i % 2])
        for i in range(6)
    ]  # fmt: skip
    recipe = RECIPE.model_copy(update={"batch_size": 2, "micro_batch_size": 1, "learning_rate": 3e-3})
    return reinforcing.reinforce(
        vlm, questions, NoiseClips(vlm.grid), recipe, Lengths(settings, PROMPTS, plain.thresholds), steps=steps, seed=5,
        work=folder / "work", logs=folder / "logs", say=said.append,
    )  # fmt: skip


def spoil_groups(monkeypatch: pytest.MonkeyPatch, spoilt: Callable[[int], bool]) -> None:
    """Losses of groups, counted from 1, become no numbers."""
    original, calls = reinforcing.grpo_loss, []

    def loss(*given: Any) -> torch.Tensor:
        calls.append(1)
        return original(*given) * NAN if spoilt(len(calls)) else original(*given)

    monkeypatch.setattr(reinforcing, "grpo_loss", loss)


@pytest.mark.parametrize("updates", [1, 2])
def test_a_group_without_a_loss_skips_its_step(
    updates: int, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third group is the first of step 2. With two updates that is the second on the same answers."""
    spoil_groups(monkeypatch, lambda call: call == 3)
    changed = changed_by_steps(monkeypatch)
    said: list[str] = []
    points = learn(VLM.load(checkpoints["qwen2_5_vl"]), tmp_path, said, steps=4, updates=updates)
    assert changed[2] is False
    assert changed[1] is changed[3] is True
    [bad] = [point for point in points if point.skipped]
    assert (bad.step, bad.loss, len(bad.skipped)) == (2, None, 1)
    assert said == [f"step 2 is skipped: its loss is no number; clips: {bad.skipped[0]}"]
    assert all(point.entropy is not None and math.isfinite(point.entropy) for point in points)
    assert read_jsonl(tmp_path / "logs" / "reinforce.jsonl", ReinforcePoint) == points


def test_three_batches_in_a_row_stop_a_reinforce_stage(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_groups(monkeypatch, lambda call: call > 4)
    vlm, said = VLM.load(checkpoints["qwen2_5_vl"]), []
    with pytest.raises(RbftError, match=r"^step 5: .*in a row: 3.* Lower reinforce\.learning_rate, or look at these"):
        learn(vlm, tmp_path, said, steps=6)
    assert [line.split(":")[0] for line in said] == [f"step {step} is skipped" for step in (3, 4, 5)]
    assert sorted(save.name for save in (tmp_path / "work").iterdir()) == ["checkpoint-2", "checkpoint-4"]


def test_a_reinforce_stage_that_goes_on_counts_on(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps 1 and 2 are skipped and saved; after the plug is pulled in step 3, its loss decides."""
    with monkeypatch.context() as patch:
        spoil_groups(patch, lambda call: True)
        patch.setattr(reinforcing.ReinforceTrainer, "_check_scored", _pulled_at(3))
        with pytest.raises(KeyboardInterrupt):
            learn(VLM.load(checkpoints["qwen2_5_vl"]), tmp_path, [])
    spoil_groups(monkeypatch, lambda call: call == 1)
    with pytest.raises(RbftError, match=r"^step 3: .*in a row: 3, in all: 3"):
        learn(VLM.load(checkpoints["qwen2_5_vl"]), tmp_path, [])


def _pulled_at(step: int) -> Any:
    def check(self: Any, groups: Any, number: int) -> None:
        if number == step:
            raise KeyboardInterrupt

    return check
