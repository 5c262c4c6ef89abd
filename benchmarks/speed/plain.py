"""What users run today: HF `Trainer` with a plain collator, full logits, padding, and the processor's own input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.video_utils import VideoMetadata

from rbft.experiment import Recipe
from rbft.models.vlm import VLM, FrameSource
from rbft.records import Example
from rbft.training.batches import ExampleDataset


class PlainCollator:
    """Chat template, processor, padding on the right, labels on the answer: as in the tutorials.

    The frames are given, decoded and sized, so that neither reading nor resizing counts.
    """

    def __init__(self, vlm: VLM, frames: FrameSource) -> None:
        self._processor, self._frames, self._vlm = vlm.processor, frames, vlm

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """One batch."""
        prompts, videos = [], []
        for example in examples:
            turn = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": example.prompt}]}
            prompts.append(self._processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True))
            videos.append(torch.from_numpy(self._frames.read(example.clip_id).data).permute(0, 3, 1, 2))
        end = self._vlm.tokenizer.decode([self._vlm.end_of_turn])
        texts = [prompt + example.answer + end for prompt, example in zip(prompts, examples, strict=True)]
        self._processor.tokenizer.padding_side = "right"
        metadata = [
            VideoMetadata(total_num_frames=len(video), fps=self._frames.plan(example.clip_id).frames_per_second)
            for video, example in zip(videos, examples, strict=True)
        ]
        made = self._processor(
            text=texts, videos=videos, padding=True, return_tensors="pt",
            videos_kwargs={"do_sample_frames": False, "do_resize": False, "video_metadata": metadata},
        )  # fmt: skip
        labels = torch.full_like(made["input_ids"], -100)
        for row, example in enumerate(examples):
            length = int(made["attention_mask"][row].sum())
            answer = len(self._vlm.answer_ids(example.answer))
            labels[row, length - answer : length] = made["input_ids"][row, length - answer : length]
        return dict(made) | {"labels": labels}


def train_plainly(
    vlm: VLM, examples: Sequence[Example], frames: FrameSource, recipe: Recipe, *, steps: int, seed: int, work: Path
) -> list[float]:
    """Train `vlm` in place with the stock Trainer; returns the loss of every step."""
    args = TrainingArguments(**arguments(recipe, steps=steps, seed=seed, work=work))
    vlm.model.train()
    trainer = Trainer(
        model=vlm.model, args=args, train_dataset=ExampleDataset(examples), data_collator=PlainCollator(vlm, frames)
    )
    return losses_of(trainer)


def train_with_trl(
    vlm: VLM, examples: Sequence[Example], frames: FrameSource, recipe: Recipe, *, steps: int, seed: int, work: Path
) -> list[float]:
    """The same with TRL's `SFTTrainer`, which computes the loss of answer tokens without all logits at once.

    Its own collator reads images and no videos, so it is given the plain one.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    args = SFTConfig(
        **arguments(recipe, steps=steps, seed=seed, work=work), gradient_checkpointing=False, max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    collate = PlainCollator(vlm, frames)
    vlm.model.train()
    trainer = SFTTrainer(
        model=vlm.model, args=args, processing_class=vlm.processor,
        train_dataset=Dataset.from_dict({"images": [[] for _ in examples], "number": list(range(len(examples)))}),
        data_collator=lambda rows: collate([examples[row["number"]] for row in rows]),
    )  # fmt: skip
    return losses_of(trainer)


def arguments(recipe: Recipe, *, steps: int, seed: int, work: Path) -> dict[str, Any]:
    """What the trainers are told."""
    return {
        "output_dir": str(work), "max_steps": steps, "per_device_train_batch_size": recipe.micro_batch_size,
        "gradient_accumulation_steps": recipe.accumulated, "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.scheduler, "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm, "logging_steps": 1, "save_strategy": "no", "report_to": [],
        "seed": seed, "data_seed": seed, "remove_unused_columns": False, "disable_tqdm": True, "bf16": False,
        "dataloader_pin_memory": False, "use_cpu": True,
    }  # fmt: skip


def losses_of(trainer: Trainer) -> list[float]:
    """Run a trainer; the loss of every step.

    Both would let accumulated micro-batches count alike, however many tokens they have.
    """
    trainer.model_accepts_loss_kwargs = True
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
