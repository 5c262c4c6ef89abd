"""Micro-batches: of like length within a step, and packed without padding to the same loss and gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import DataLoaderShard, SeedableRandomSampler
from torch.utils.data import BatchSampler, DataLoader

from noise import noise_clip
from rbft.clips.frames import Frames
from rbft.experiment import Recipe
from rbft.models.packing import packed_language
from rbft.models.vlm import VLM
from rbft.records import Example, FramePlan, Grid
from rbft.training.batches import IGNORED, Collator, ExampleDataset, LikeLengths, example_lengths
from rbft.training.supervised import answer_loss, train

MROPE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
ANSWERS = ("cat", "a puppy", "neither of them", "dog")


class MixedClips:
    """Noise of many sizes; a clip's id is its seed."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def _clip(self, clip_id: str) -> tuple[Frames, FramePlan]:
        number = int(clip_id)
        return noise_clip(number, self._grid, frames=2 + 2 * (number % 4), rows=2, columns=2 + number % 3)

    def read(self, clip_id: str) -> Frames:
        return self._clip(clip_id)[0]

    def plan(self, clip_id: str) -> FramePlan:
        return self._clip(clip_id)[1]


def examples(number: int) -> list[Example]:
    return [
        Example(clip_id=str(i), prompt="cat or dog?", answer=ANSWERS[i % 4], source="label", weight=1 + i % 2)
        for i in range(number)
    ]


# -- packing -------------------------------------------------------------------------------------------------------


def loss_and_gradients(vlm: VLM, batch: dict[str, Any]) -> tuple[float, dict[str, torch.Tensor]]:
    labels, weights = batch.pop("labels"), batch.pop("weights")
    kept = batch.pop("answer_rows", labels.shape[1])
    vlm.model.zero_grad(set_to_none=True)
    loss = answer_loss(vlm.model(**vlm.to_model(batch), logits_to_keep=kept, use_cache=False).logits, labels, weights)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in vlm.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", MROPE)
def test_a_packed_batch_has_the_loss_and_gradients_of_the_padded_one(family: str, checkpoints: dict[str, Path]) -> None:
    vlm = VLM.load(checkpoints[family])
    clips = MixedClips(vlm.grid)
    padded_loss, padded = loss_and_gradients(vlm, Collator(vlm, clips)(examples(5)))
    with packed_language(vlm.model):
        loss, gradients = loss_and_gradients(vlm, Collator(vlm, clips, packed=True)(examples(5)))
    assert loss == pytest.approx(padded_loss, rel=1e-5)
    assert gradients.keys() == padded.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, padded[name], atol=1e-5, rtol=0, msg=name)


def test_a_packed_batch_has_no_padding_and_learns_the_answers_alone(checkpoints: dict[str, Path]) -> None:
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    batch = Collator(vlm, MixedClips(vlm.grid), packed=True)(examples(3))
    answers = [vlm.answer_ids(answer) for answer in ANSWERS[:3]]
    labels = [token for answer in answers for token in (IGNORED, *answer.tolist())]
    assert batch["labels"].tolist() == [labels]
    kept = batch["input_ids"][0, batch["answer_rows"]]
    assert [k for k, label in zip(kept.tolist(), labels, strict=True) if label != IGNORED] == [
        label for label in labels if label != IGNORED
    ]
    assert batch["weights"].tolist() == [
        [1.0] * (len(answers[0]) + 1) + [2.0] * (len(answers[1]) + 1) + [1.0] * (len(answers[2]) + 1)
    ]
    assert "attention_mask" not in batch
    assert batch["pixels"].dtype == torch.uint8


@pytest.mark.parametrize("lora", [None, {"rank": 2, "alpha": 4, "dropout": 0.0}])
def test_training_on_packed_rows_has_the_losses_of_padded_ones(
    lora: dict[str, Any] | None, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    recipe = Recipe.model_validate({
        "learning_rate": 1e-3, "batch_size": 4, "micro_batch_size": 2, "lora": lora, "scheduler": "constant",
            "gradient_checkpointing": False,
    })  # fmt: skip
    losses = []
    for packed in (False, True):
        vlm = VLM.load(checkpoints["qwen2_5_vl"])
        points = train(
            vlm, examples(10), MixedClips(vlm.grid), recipe, steps=4, seed=1,
            work=tmp_path / f"work-{packed}", logs=tmp_path / f"logs-{packed}", packed=packed,
        )  # fmt: skip
        losses.append([point.loss for point in points])
        assert vlm.model.config.text_config._attn_implementation == "sdpa"
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_processes_that_read_ahead_make_the_same_batches(checkpoints: dict[str, Path]) -> None:
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    collator = Collator(vlm, MixedClips(vlm.grid), packed=True)
    loaders = [
        DataLoader(ExampleDataset(examples(6)), 2, collate_fn=collator, num_workers=n, multiprocessing_context=context)
        for n, context in ((0, None), (2, "fork"))
    ]
    for ours, ahead in zip(*loaders, strict=True):
        assert ours.keys() == ahead.keys()
        assert all(torch.equal(ours[name], ahead[name]) for name in ours)


# -- order ---------------------------------------------------------------------------------------------------------

LENGTHS = [7, 3, 9, 1, 4, 4, 8, 2, 6, 5, 0]


def seeded_order(epoch: int, seed: int) -> list[int]:
    """The order of the Trainer's own sampler, as accelerate makes it."""
    sampler = SeedableRandomSampler(LENGTHS, data_seed=seed, generator=torch.Generator())
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_steps_hold_what_the_trainers_own_order_gives_them(epoch: int) -> None:
    sampler = LikeLengths(LENGTHS, batch_size=4, seed=3)
    sampler.set_epoch(epoch)
    order, plain = list(sampler), seeded_order(epoch, 3)
    assert sorted(order) == list(range(len(LENGTHS)))
    assert list(sampler) == order
    for start in range(0, len(LENGTHS), 4):
        step = order[start : start + 4]
        assert sorted(step) == sorted(plain[start : start + 4])
        assert [LENGTHS[i] for i in step] == sorted(LENGTHS[i] for i in step)


def test_an_epoch_continues_in_the_middle() -> None:
    def loader(epoch: int) -> DataLoaderShard:
        batches = BatchSampler(LikeLengths(LENGTHS, batch_size=4, seed=3), batch_size=2, drop_last=False)
        made = DataLoaderShard(list(range(len(LENGTHS))), batch_sampler=batches)
        made.set_epoch(epoch)
        return made

    whole = [batch.tolist() for batch in loader(2)]
    resumed = skip_first_batches(loader(2), 4)
    resumed.set_epoch(2)
    assert [batch.tolist() for batch in resumed] == whole[4:]


def test_micro_batches_of_like_length_leave_the_losses_of_steps_as_they_were(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, seen = [], []
    original = Collator.__call__

    def noted(self: Collator, batch: list[Example]) -> dict[str, Any]:
        seen[-1].append([e.clip_id for e in batch])
        return original(self, batch)

    monkeypatch.setattr(Collator, "__call__", noted)
    for micro in (1, 2):
        seen.append([])
        vlm = VLM.load(checkpoints["qwen2_5_vl"])
        recipe = Recipe(
            learning_rate=1e-3, batch_size=4, micro_batch_size=micro, gradient_checkpointing=False, scheduler="constant"
        )
        points = train(
            vlm, examples(10), MixedClips(vlm.grid), recipe, steps=5, seed=1,
            work=tmp_path / f"work-{micro}", logs=tmp_path / f"logs-{micro}",
        )  # fmt: skip
        losses.append([point.loss for point in points])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    lengths = example_lengths(vlm, examples(10), MixedClips(vlm.grid))
    for first, second in zip(seen[1][0::5], seen[1][1::5], strict=False):
        assert max(lengths[int(i)] for i in first) <= min(lengths[int(i)] for i in second)
    assert sorted(clip for batch in seen[1][:5] for clip in batch) == sorted(str(i) for i in range(10))


def test_lengths_count_clip_prompt_and_answer(checkpoints: dict[str, Path]) -> None:
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    clips = MixedClips(vlm.grid)
    lengths = example_lengths(vlm, examples(3), clips)
    for example, length in zip(examples(3), lengths, strict=True):
        whole = Collator(vlm, clips, packed=True)([example])["input_ids"].shape[1]
        empty = vlm.encode(clips.read(example.clip_id), clips.plan(example.clip_id), "")
        template = len(empty.input_ids) - vlm.visual_tokens(clips.plan(example.clip_id)) + 1  # and the end of turn
        assert length == whole - template
