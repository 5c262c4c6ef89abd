"""One supervised stage: `transformers.Trainer` with learning rates per module and a loss over answer tokens only."""

from __future__ import annotations

import math
import multiprocessing
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from torch.utils.tensorboard import SummaryWriter
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from rbft.errors import CheckpointError, RbftError
from rbft.files import write_jsonl
from rbft.models.packing import can_pack, packed_language
from rbft.models.vlm import VLM, FrameSource
from rbft.recipe import Lora, Recipe, Training
from rbft.records import Example, LossPoint
from rbft.store import is_sealed, seal
from rbft.training.batches import IGNORED, Collator, ExampleDataset, LikeLengths, example_lengths

LORA_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TRAINED_FILE = "trained.safetensors"
READERS = 2
"""Processes that read frames and tokenise while a GPU works."""


def num_steps(num_examples: int, recipe: Training) -> int:
    """Optimizer steps of a stage: epochs x ceil(examples / batch_size), rounded up, at least one."""
    if num_examples == 0:
        return 0
    return max(1, math.ceil(recipe.epochs * math.ceil(num_examples / recipe.batch_size)))


def train(
    vlm: VLM,
    examples: Sequence[Example],
    frames: FrameSource,
    recipe: Recipe,
    *,
    steps: int,
    seed: int,
    work: Path,
    logs: Path,
    packed: bool | None = None,
) -> list[LossPoint]:
    """Train `vlm` in place for `steps` optimizer steps; continue from the newest whole checkpoint in `work`.

    `packed`: the clips of a micro-batch share one row without padding (None: on a GPU, where the model allows it).
    Writes TensorBoard files and `losses.jsonl` to `logs`. Raises RbftError where the loss or a weight is not a
    number.
    """
    on_gpu = vlm.device.type == "cuda"
    packed = on_gpu and can_pack(vlm) if packed is None else packed
    base = vlm.model
    if recipe.compile and on_gpu:
        compile_layers(base)
    if recipe.lora is not None:
        vlm.model = with_adapters(vlm, recipe.lora)
    args = trainer_arguments(vlm, recipe, steps=steps, seed=seed, work=work)
    writer = SummaryWriter(str(logs))
    trainer = AnswerTrainer(
        vlm=vlm,
        recipe=recipe,
        model=vlm.model,
        args=args,
        train_dataset=ExampleDataset(examples),
        data_collator=Collator(vlm, frames, packed=packed),
        lengths=example_lengths(vlm, examples, frames),
        callbacks=[SealSaves(), TensorBoardCallback(writer)],
    )
    quiet(trainer)
    with packed_language(base) if packed else nullcontext():
        trainer.train_from(newest_whole(work))
    trainer.check_weights()
    writer.close()
    points = [
        LossPoint(step=entry["step"], loss=entry["loss"], learning_rate=entry["learning_rate"])
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    write_jsonl(logs / "losses.jsonl", points)
    if recipe.lora is not None:
        vlm.model = vlm.model.merge_and_unload()
    vlm.model.eval()
    return points


class StageTrainer(Trainer):
    """The Trainer of every stage: parameter groups by module, and saves that hold what is trained, no more."""

    optimizer: torch.optim.Optimizer | None

    def __init__(self, *, vlm: VLM, recipe: Recipe, **arguments: Any) -> None:
        self._vlm = vlm
        self._recipe = recipe
        super().__init__(**arguments)

    def train_from(self, save: str | None) -> None:
        """Train, from a save where there is one; raises CheckpointError for one with more in it than tensors."""
        try:
            self.train(resume_from_checkpoint=save)
        except UnpicklingError as error:
            raise CheckpointError(
                f"{save}: its optimizer.pt, scheduler.pt or rng_state.pth holds what could run code; "
                "it is not loaded: delete the folder and give the same command again"
            ) from error

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW over four groups: vision tower or the rest, each with and without weight decay."""
        if self.optimizer is None:
            model = self.model if model is None else model
            groups = parameter_groups(self._vlm, model, self._recipe, self.get_decay_parameter_names(model))
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Only what is trained, under the model's own names.

        The Trainer's way renames parameters on saving and, on resuming, silently keeps the base weights of those that
        it then cannot find (transformers 5.23, Qwen2.5-VL).
        """
        self.check_weights()
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(_trained(self.model), folder / TRAINED_FILE)

    def check_weights(self) -> None:
        """Raises RbftError for weights that are no numbers, which a step of finite loss may leave behind."""
        trained = _trained(self.model)
        broken = next((name for name, tensor in trained.items() if not torch.isfinite(tensor).all()), None)
        if broken is not None:
            raise RbftError(
                f"the weights are no numbers any more after step {self.state.global_step} (first {broken}), and are "
                "not saved. Lower the learning rate of this stage, or look at its clips"
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Put back what `_save` wrote; every trained parameter must be there, and no other."""
        saved = load_file(Path(resume_from_checkpoint) / TRAINED_FILE)
        parameters = _trained(self.model if model is None else model)
        if saved.keys() != parameters.keys():
            raise CheckpointError(f"{resume_from_checkpoint}: holds other parameters than this stage trains; delete it")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(saved[name])


class AnswerTrainer(StageTrainer):
    """Supervised: logits for answer rows only, and micro-batches of like length."""

    loss_is_scaled_for_ga = True

    def __init__(self, *, lengths: Sequence[int], **arguments: Any) -> None:
        self._lengths = lengths
        super().__init__(**arguments)
        self.model_accepts_loss_kwargs = True  # so that the Trainer counts the answer tokens of a whole step

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """The Trainer's order, with examples of like length in a micro-batch where a step has several of several."""
        batch, micro = self._recipe.batch_size, self._recipe.micro_batch_size
        if not 1 < micro < batch:
            return super()._get_train_sampler(train_dataset)
        return LikeLengths(self._lengths, batch_size=batch, seed=self.args.data_seed)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Weighted negative log-likelihood of the answer tokens / answer tokens of the whole optimizer step."""
        labels, weights = inputs.pop("labels"), inputs.pop("weights")
        kept = inputs.pop("answer_rows", labels.shape[1])
        outputs = model(**self._vlm.to_model(inputs), logits_to_keep=kept, use_cache=False)
        loss = answer_loss(outputs.logits, labels, weights, num_items_in_batch)
        if not torch.isfinite(loss):
            raise RbftError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}; nothing was saved after it. "
                "Lower learning_rate, or look at the clips of this stage"
            )
        return (loss, outputs) if return_outputs else loss


def answer_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    num_tokens: torch.Tensor | float | None = None,
) -> torch.Tensor:
    """Sum over rows of weight x negative log-likelihood of the answer's tokens, divided by `num_tokens`.

    logits [B, A, V], labels int64 [B, A], weights [B] or [B, A]; the logits at position i predict the label at i + 1.
    `num_tokens` is the number of answer tokens in the optimizer step (None: in these labels), so that accumulated
    micro-batches add up to the loss of the whole batch.
    """
    targets = labels[:, 1:]
    flat = logits[:, :-1].float().flatten(0, 1)
    losses = cross_entropy(flat, targets.flatten(), ignore_index=IGNORED, reduction="none")
    per_token = weights[:, 1:] if weights.ndim == 2 else weights[:, None]
    weighted = losses.view(targets.shape) * per_token.to(losses.device)
    return weighted.sum() / (num_tokens if num_tokens is not None else (targets != IGNORED).sum())


def parameter_groups(vlm: VLM, model: Any, recipe: Training, decayed: Sequence[str]) -> list[dict[str, Any]]:
    """Parameters by module and by decay; a vision rate of 0 freezes the vision tower (not the merger)."""
    family, with_decay = vlm.family, set(decayed)
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        in_vision = name.startswith(family.vision) and not name.startswith(family.merger)
        if in_vision and recipe.vision_learning_rate == 0:
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            groups.setdefault((in_vision, name in with_decay), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": recipe.vision_learning_rate if in_vision else recipe.learning_rate,
            "weight_decay": recipe.weight_decay if is_decayed else 0.0,
        }
        for (in_vision, is_decayed), parameters in sorted(groups.items(), key=lambda group: group[0])
    ]


def compile_layers(model: Any) -> None:
    """Compile every language layer where it stands: they are alike, so one compilation serves all of them."""
    for layer in model.model.language_model.layers:
        layer.compile(dynamic=True)


def _trained(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def trainer_arguments(vlm: VLM, recipe: Recipe, *, steps: int, seed: int, work: Path) -> TrainingArguments:
    """The Trainer's arguments of a stage."""
    on_gpu = vlm.device.type == "cuda"
    args = TrainingArguments(
        output_dir=str(work),
        max_steps=steps,
        per_device_train_batch_size=recipe.micro_batch_size,
        gradient_accumulation_steps=recipe.accumulated,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.scheduler,
        warmup_steps=math.ceil(recipe.warmup_ratio * steps),
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        bf16=on_gpu,
        optim="adamw_torch_fused",
        activation_checkpointing=recipe.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if recipe.gradient_checkpointing else None,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=recipe.save_every_steps,
        save_total_limit=2,
        report_to=[],
        seed=seed,
        data_seed=seed,
        remove_unused_columns=False,
        dataloader_pin_memory=on_gpu,
        **(reading_ahead(recipe) if on_gpu else {}),
        disable_tqdm=not sys.stderr.isatty(),
        use_cpu=not on_gpu,
    )
    if args.n_gpu > 1:
        args._n_gpu = 1  # one process, one GPU: nn.DataParallel would cut a batch of clips in the wrong places
    return args


def reading_ahead(recipe: Recipe) -> dict[str, Any]:
    """Trainer arguments for processes that keep the micro-batches of one step ready; none where there is no fork.

    For a GPU: beside training on a processor they would take its cores.
    """
    if "fork" not in multiprocessing.get_all_start_methods():
        return {}
    return {
        "dataloader_num_workers": READERS,
        "dataloader_prefetch_factor": max(1, math.ceil(recipe.accumulated / READERS)),
        "dataloader_multiprocessing_context": "fork",
    }


def with_adapters(vlm: VLM, lora: Lora) -> Any:
    """The model with low-rank adapters on its language layers; all else is frozen."""
    from peft import LoraConfig, get_peft_model

    language = "|".join(prefix.rstrip(".").replace(".", r"\.") for prefix in vlm.family.language)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=rf"(?:{language})\..*\.(?:{'|'.join(LORA_LAYERS)})",
    )
    with warnings.catch_warnings():  # peft reads a name that transformers has just renamed
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        return get_peft_model(vlm.model, config)


class SealSaves(TrainerCallback):
    """Checksums for every checkpoint that the Trainer writes, so that a damaged one is never resumed from.

    None is written after the last step: the stage's child is, and optimizer states of a large model take minutes.
    """

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        """No save after the last step."""
        if state.global_step >= state.max_steps:
            control.should_save = False

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        """Checksums for what was just saved."""
        seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def quiet(trainer: Trainer) -> None:
    """The loss on the progress bar of a terminal, and no lines of the Trainer's own."""
    trainer.remove_callback(PrinterCallback)
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(_LossOnTheBar())


class _LossOnTheBar(ProgressCallback):
    """The Trainer's progress bar with the loss beside it instead of a line for every step."""

    def on_log(self, args: TrainingArguments, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if state.is_world_process_zero and self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{float(logs['loss']):.4f}")


def newest_whole(work: Path) -> str | None:
    """The newest save of a stage that is whole, to go on from; None where there is none."""
    saves = sorted(work.glob("checkpoint-*"), key=lambda folder: int(folder.name.rpartition("-")[2]), reverse=True)
    return next((str(folder) for folder in saves if is_sealed(folder)), None)
