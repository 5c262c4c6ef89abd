"""The loss by hand, the Trainer's accumulation, learning rates by module, resume, adapters."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from factories import FAMILY_NAMES
from noise import NoiseClips
from rbft.errors import RbftError
from rbft.experiment import Lora, Recipe, Training
from rbft.files import read_jsonl
from rbft.models.vlm import VLM
from rbft.records import Example, LossPoint
from rbft.training import supervised
from rbft.training.batches import IGNORED, Collator
from rbft.training.skips import Skips
from rbft.training.supervised import answer_loss, compile_layers, num_steps, parameter_groups, reading_ahead, train

RECIPE = Recipe(
    learning_rate=1e-2,
    vision_learning_rate=1e-3,
    batch_size=4,
    micro_batch_size=2,
    epochs=2,
    gradient_checkpointing=False,
    scheduler="constant",
    warmup_ratio=0.0,
)


def examples(number: int = 10) -> list[Example]:
    return [
        Example(clip_id=str(i), prompt="cat or dog?", answer=("cat", "puppy")[i % 2], source="label")
        for i in range(number)
    ]


def run(
    vlm: VLM, recipe: Recipe, folder: Path, *, steps: int | None = None, seed: int = 0, number: int = 10
) -> list[LossPoint]:
    return train(
        vlm,
        examples(number),
        NoiseClips(vlm.grid),
        recipe,
        steps=num_steps(number, recipe) if steps is None else steps,
        seed=seed,
        work=folder / "work",
        logs=folder / "logs",
    )


def weights(vlm: VLM) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in vlm.model.named_parameters()}


def test_loss_by_hand() -> None:
    """Two answers over a vocabulary of two: p = 3/4 for both tokens of the first, 1/4 for the one of the second."""
    row = torch.tensor([math.log(3.0), 0.0])
    logits = row.repeat(2, 3, 1)
    labels = torch.tensor([[IGNORED, 0, 0], [IGNORED, IGNORED, 1]])
    first, second = 2 * -math.log(0.75), -math.log(0.25)
    loss = answer_loss(logits, labels, torch.tensor([1.0, 1.0]))
    assert loss.item() == pytest.approx((first + second) / 3, rel=1e-6)
    weighted = answer_loss(logits, labels, torch.tensor([0.5, 2.0]), num_tokens=6)
    assert weighted.item() == pytest.approx((0.5 * first + 2 * second) / 6, rel=1e-6)


@pytest.mark.parametrize(
    ("number", "batch", "epochs", "steps"),
    [(400, 16, 1, 25), (401, 16, 1, 26), (10, 16, 1, 1), (32, 16, 0.5, 1), (0, 16, 1, 0), (48, 16, 2.5, 8)],
)
def test_number_of_steps(number: int, batch: int, epochs: float, steps: int) -> None:
    assert num_steps(number, Training(batch_size=batch, epochs=epochs)) == steps


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_first_loss_equals_the_plain_forward_and_training_lowers_it(
    family: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    vlm = VLM.load(checkpoints[family])
    recipe = RECIPE.model_copy(update={"batch_size": 10, "micro_batch_size": 2, "epochs": 12})
    total, tokens = 0.0, 0
    for example in examples():
        encoded = vlm.encode(*NoiseClips(vlm.grid).read_with_plan(example.clip_id), example.prompt)
        answer = vlm.answer_ids(example.answer)
        with torch.inference_mode():
            logits = vlm.model(**vlm.inputs([encoded], [answer])).logits[0].log_softmax(-1)
        total -= logits[-len(answer) - 1 : -1].gather(-1, answer[:, None]).sum().item()
        tokens += len(answer)
    points = run(vlm, recipe, tmp_path)
    assert points[0].learning_rate == recipe.learning_rate
    assert points[0].loss == pytest.approx(total / tokens, rel=1e-4)
    assert points[-1].loss < points[0].loss - 0.5
    assert read_jsonl(tmp_path / "logs" / "losses.jsonl", LossPoint) == points
    assert list((tmp_path / "logs").glob("events.out.tfevents.*"))


def test_micro_batches_add_up_to_the_whole_batch(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    made = []
    for micro in (1, 2, 4):
        vlm = VLM.load(checkpoints["qwen2_5_vl"])
        points = run(vlm, RECIPE.model_copy(update={"micro_batch_size": micro}), tmp_path / str(micro), steps=2)
        made.append((points, weights(vlm)))
    for points, after in made[1:]:
        assert [p.loss for p in points] == pytest.approx([p.loss for p in made[0][0]], rel=1e-4)
        for name, parameter in after.items():
            torch.testing.assert_close(parameter, made[0][1][name], atol=2e-3, rtol=0, msg=name)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_every_parameter_is_in_one_group_at_its_rate(family: str, checkpoints: dict[str, Path]) -> None:
    vlm = VLM.load(checkpoints[family])
    decayed = [name for name, p in vlm.model.named_parameters() if p.ndim > 1]
    groups = parameter_groups(vlm, vlm.model, RECIPE, decayed)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    named = dict(vlm.model.named_parameters())
    assert len(rate) == len(named) == sum(len(group["params"]) for group in groups)
    for part, expected in ((vlm.family.merger, 1e-2), (vlm.family.language, 1e-2)):
        chosen = [name for name in named if name.startswith(part)]
        assert chosen, f"{family} has no parameter under {part}"
        assert {rate[id(named[name])] for name in chosen} == {expected}
    vision = [n for n in named if n.startswith(vlm.family.vision) and not n.startswith(vlm.family.merger)]
    assert {rate[id(named[name])] for name in vision} == {1e-3}
    known = vlm.family.vision + vlm.family.merger + vlm.family.language
    assert [name for name in named if not name.startswith(known)] == []


def test_a_vision_rate_of_zero_freezes_the_tower_and_not_the_merger(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    before = weights(vlm)
    run(vlm, RECIPE.model_copy(update={"vision_learning_rate": 0.0}), tmp_path, steps=2)
    changed = {name for name, p in weights(vlm).items() if not torch.equal(p, before[name])}
    assert any(name.startswith(vlm.family.merger) for name in changed)
    assert not {n for n in changed if n.startswith(vlm.family.vision) and not n.startswith(vlm.family.merger)}


def test_interrupted_training_ends_with_the_same_weights(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPE.model_copy(update={"save_every_steps": 2, "scheduler": "cosine"})
    whole = VLM.load(checkpoints["qwen2_5_vl"])
    run(whole, recipe, tmp_path / "whole")

    class PulledPlugError(Exception):
        pass

    original, calls = Collator.__call__, []

    def failing(self: Collator, batch: list[Example]) -> dict[str, torch.Tensor]:
        calls.append(len(batch))
        if len(calls) == 9:
            raise PulledPlugError
        return original(self, batch)

    monkeypatch.setattr(Collator, "__call__", failing)
    with pytest.raises(PulledPlugError):
        run(VLM.load(checkpoints["qwen2_5_vl"]), recipe, tmp_path / "cut")
    before = len(calls)
    resumed = VLM.load(checkpoints["qwen2_5_vl"])
    run(resumed, recipe, tmp_path / "cut")
    assert len(calls) - before == 3, "only the two steps after the last save are done again"
    for name, parameter in weights(whole).items():
        assert torch.equal(parameter, weights(resumed)[name]), name


def test_interrupted_training_goes_on_with_other_micro_batches(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a move to another device, where more fits: the same examples in the same steps."""
    recipe = RECIPE.model_copy(update={"save_every_steps": 2, "scheduler": "cosine"})
    whole = VLM.load(checkpoints["qwen2_5_vl"])
    expected = run(whole, recipe, tmp_path / "whole")
    monkeypatch.setattr("rbft.training.supervised.Collator.__call__", _failing_at(9, Collator.__call__))
    with pytest.raises(KeyboardInterrupt):
        run(VLM.load(checkpoints["qwen2_5_vl"]), recipe, tmp_path / "cut")
    monkeypatch.undo()
    resumed = VLM.load(checkpoints["qwen2_5_vl"])
    other = recipe.model_copy(update={"micro_batch_size": 4, "gradient_checkpointing": True})
    points = run(resumed, other, tmp_path / "cut")
    assert [point.loss for point in points] == pytest.approx([point.loss for point in expected], rel=1e-4)
    for name, parameter in weights(whole).items():
        torch.testing.assert_close(parameter, weights(resumed)[name], atol=2e-3, rtol=0, msg=name)


def _failing_at(number: int, original: Any) -> Any:
    calls: list[int] = []

    def call(self: Collator, batch: list[Example]) -> dict[str, torch.Tensor]:
        calls.append(len(batch))
        if len(calls) == number:
            raise KeyboardInterrupt
        made: dict[str, torch.Tensor] = original(self, batch)
        return made

    return call


def test_a_damaged_save_is_passed_over(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"save_every_steps": 2})
    whole = VLM.load(checkpoints["qwen2_5_vl"])
    run(whole, recipe, tmp_path)
    newest = max((tmp_path / "work").glob("checkpoint-*"), key=lambda f: int(f.name.rpartition("-")[2]))
    (newest / "optimizer.pt").unlink()
    again = VLM.load(checkpoints["qwen2_5_vl"])
    run(again, recipe, tmp_path)
    for name, parameter in weights(whole).items():
        assert torch.equal(parameter, weights(again)[name]), name


def test_adapters_are_merged_into_a_plain_model(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    before = weights(vlm)
    run(vlm, RECIPE.model_copy(update={"lora": Lora(rank=2, alpha=4)}), tmp_path, steps=3)
    after = weights(vlm)
    assert set(after) == set(before)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed
    assert all(name.startswith("model.language_model.") and "_proj" in name for name in changed)


def test_checkpointing_activations_changes_nothing(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    losses = []
    for on in (False, True):
        vlm = VLM.load(checkpoints["qwen2_5_vl"])
        recipe = RECIPE.model_copy(update={"gradient_checkpointing": on})
        losses.append([p.loss for p in run(vlm, recipe, tmp_path / str(on), steps=3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_language_layers_are_compiled_one_by_one_and_on_a_gpu_alone(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, *, dynamic: compiled.append(self))
    for family in FAMILY_NAMES:
        vlm = VLM.load(checkpoints[family])
        compile_layers(vlm.model)
        assert compiled == list(vlm.model.model.language_model.layers)
        compiled.clear()
    run(vlm, RECIPE.model_copy(update={"compile": True}), tmp_path, steps=1)
    assert compiled == []


@pytest.mark.parametrize(("batch", "micro", "each"), [(16, 1, 8), (16, 8, 1), (6, 2, 2), (4, 4, 1)])
def test_readers_keep_one_step_ready(batch: int, micro: int, each: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = reading_ahead(Recipe(batch_size=batch, micro_batch_size=micro, gradient_checkpointing=False))
    assert asked["dataloader_num_workers"] == 2
    assert asked["dataloader_prefetch_factor"] == each
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: ["spawn"])
    assert reading_ahead(Recipe(micro_batch_size=1, gradient_checkpointing=False)) == {}


def test_training_with_readers_has_the_same_losses(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run(VLM.load(checkpoints["qwen2_5_vl"]), RECIPE, tmp_path / "plain", steps=4)
    original = supervised.trainer_arguments

    def ahead(vlm: VLM, recipe: Training, **rest: Any) -> Any:
        made = original(vlm, recipe, **rest)
        for name, value in reading_ahead(recipe).items():
            setattr(made, name, value)
        return made

    monkeypatch.setattr(supervised, "trainer_arguments", ahead)
    read_ahead = run(VLM.load(checkpoints["qwen2_5_vl"]), RECIPE, tmp_path / "ahead", steps=4)
    assert [p.loss for p in read_ahead] == [p.loss for p in plain]


def with_readers(body: str, *, readers: int = 2, stuck_at: int = 40) -> subprocess.CompletedProcess[str]:
    """A command in a session of its own, with forked readers of 40 clips and the process group to itself."""
    script = (
        "import os, signal, sys, time\nimport torch\nfrom torch.utils.data import DataLoader\n"
        "from rbft import __main__ as command, stopping\n"
        "class Clips(torch.utils.data.Dataset):\n"
        "    def __len__(self):\n        return 40\n"
        "    def __getitem__(self, number):\n"
        f"        time.sleep(0.01 if number < {stuck_at} else 1000)\n        return number\n"
        "def main():\n"
        "    with stopping.stoppable():\n"
        f"        loader = DataLoader(Clips(), 2, num_workers={readers}, multiprocessing_context='fork')\n"
        "        for number, _ in enumerate(loader):\n"
        f"            {body}\n"
        "        print(number + 1, stopping.asked())\n"
        "command.main = main\ncommand.command()\n"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, start_new_session=True,
                          check=False, timeout=300)  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_ends_no_reader(number: signal.Signals) -> None:
    """Ctrl-C and job schedulers reach readers too; the step in hand still needs their clips."""
    done = with_readers(f"number == 2 and os.killpg(0, {number})")
    assert (done.returncode, done.stdout) == (0, "20 True\n"), done.stderr
    assert done.stderr.count("stopping at the next safe point") == 1


def test_a_reader_that_is_stuck_is_not_waited_for_at_the_end() -> None:
    assert with_readers("number == 1 and sys.exit(75)", readers=1, stuck_at=8).returncode == 75


def test_weights_that_are_no_numbers_are_never_saved(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    with torch.no_grad():
        next(vlm.model.parameters()).fill_(float("nan"))
    with pytest.raises(RbftError, match=r"the weights are no numbers any more after step 1 \(first .*\), and are not"):
        run(vlm, RECIPE.model_copy(update={"save_every_steps": 1}), tmp_path)
    assert not list((tmp_path / "work").glob("checkpoint-*"))


def test_weights_that_a_last_step_breaks_are_not_saved(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Had the step been taken: the next loss would tell, but there is none."""
    monkeypatch.setattr(Skips, "is_sound", lambda *_: True)
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    next(vlm.model.parameters()).register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(RbftError, match=r"no numbers any more after step 1 \(first .*\), and are not saved\. Lower"):
        run(vlm, RECIPE, tmp_path, steps=1)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_answers_end_together_and_prompts_are_not_learnt(checkpoints: dict[str, Path]) -> None:
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    batch = Collator(vlm, NoiseClips(vlm.grid))(examples(2))
    cat, puppy = vlm.answer_ids("cat"), vlm.answer_ids("puppy")
    assert batch["labels"].shape == (2, len(puppy) + 1)
    assert batch["labels"][0].tolist() == [IGNORED] * (len(puppy) + 1 - len(cat)) + cat.tolist()
    assert batch["labels"][1].tolist() == [IGNORED, *puppy.tolist()]
    assert batch["input_ids"][:, -1].tolist() == [vlm.end_of_turn] * 2
    assert batch["pixels"].dtype == torch.uint8
