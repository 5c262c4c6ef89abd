"""One supervised stage: `transformers.Trainer` with learning rates per module and a loss over answer tokens only."""

from __future__ import annotations

import math
import multiprocessing
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from torch.utils.tensorboard import SummaryWriter
from transformers import Trainer, TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from rbft.errors import CheckpointError, RbftError
from rbft.files import write_jsonl
from rbft.models.packing import can_pack, packed_language
from rbft.models.vlm import VLM, FrameSource
from rbft.progress import Reporter, Say
from rbft.recipe import Lora, Recipe, Training
from rbft.records import Example, LossPoint
from rbft.store import MANIFEST
from rbft.training.batches import IGNORED, Collator, ExampleDataset, LikeLengths, example_lengths
from rbft.training.ending import EndsWhenAsked, RoomForSaves, check_finished
from rbft.training.saves import TRAINED_FILE, SealSaves, newest_whole
from rbft.training.skips import SKIPPED, Skips

LORA_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CLIPS = "clip_ids"
"""Of a batch, for the Trainer alone: which clips a loss is of."""
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
    say: Say | None = None,
) -> list[LossPoint]:
    """Train `vlm` in place for `steps` optimizer steps; continue from the newest whole checkpoint in `work`.

    `packed`: the clips of a micro-batch share one row without padding (None: on a GPU, where the model allows it).
    Writes TensorBoard files and `losses.jsonl` to `logs`; says which saves are passed over and which steps are skipped
    (None: on standard error). Raises RbftError where too many steps have no number for a loss, or a weight is none.
    """
    say = say or Reporter().say
    on_gpu = vlm.device.type == "cuda"
    packed = on_gpu and can_pack(vlm) if packed is None else packed
    base = vlm.model
    if recipe.compile and on_gpu:
        compile_layers(base)
    if recipe.lora is not None:
        vlm.model = with_adapters(vlm, recipe.lora, seed)
    args = trainer_arguments(vlm, recipe, steps=steps, seed=seed, work=work)
    writer = SummaryWriter(str(logs))
    resumed, collate = newest_whole(work, say), Collator(vlm, frames, packed=packed)
    trainer = AnswerTrainer(
        vlm=vlm,
        recipe=recipe,
        model=vlm.model,
        args=args,
        train_dataset=ExampleDataset(examples),
        data_collator=lambda batch: collate(batch) | {CLIPS: [example.clip_id for example in batch]},
        lengths=example_lengths(vlm, examples, frames),
        skips=Skips(say, steps=steps, updates=1, setting="training.learning_rate"),
        callbacks=[RoomForSaves(), SealSaves(resumed), EndsWhenAsked(), TensorBoardCallback(writer)],
    )
    quiet(trainer)
    with packed_language(base) if packed else nullcontext():
        trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
    check_finished(trainer.state)
    trainer.check_weights()
    writer.close()
    points = [
        LossPoint(learning_rate=entry["learning_rate"], **loss_of(entry))
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    write_jsonl(logs / "losses.jsonl", points)
    if recipe.lora is not None:
        vlm.model = vlm.model.merge_and_unload()
    vlm.model.eval()
    return points


def loss_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Of an entry of the Trainer's log the step, its loss, and the clips for which it was skipped."""
    loss = entry["loss"] if math.isfinite(entry["loss"]) else None
    return {"step": entry["step"], "loss": loss, "skipped": tuple(entry.get(SKIPPED, ()))}


class StageTrainer(Trainer):
    """The Trainer of every stage: parameter groups by module, steps that are skipped where their loss or gradients are
    no numbers, and saves that hold what is trained, no more.
    """

    optimizer: torch.optim.Optimizer | None

    def __init__(self, *, vlm: VLM, recipe: Recipe, skips: Skips, **arguments: Any) -> None:
        self._vlm = vlm
        self._recipe = recipe
        self._skips = skips
        super().__init__(**arguments)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW over four groups: vision tower or the rest, each with and without weight decay."""
        if self.optimizer is None:
            model = self.model if model is None else model
            groups = parameter_groups(self._vlm, model, self._recipe, self.get_decay_parameter_names(model))
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def _clip_grad_norm(self, model: Any) -> Any:
        """The norm of the step's gradients; where it or the loss is no number they are taken away.

        An optimizer leaves a parameter without a gradient as it is, and its state too; one with a gradient of zero
        still moves.
        """
        norm = super()._clip_grad_norm(model)
        if not self._skips.is_sound(norm, self.state.log_history, self.state.global_step + 1):
            model.zero_grad(set_to_none=True)
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the Trainer's, with what was skipped."""
        if "loss" not in logs:
            super().log(logs, start_time)
            return
        has_loss, skipped = self._skips.ended()
        super().log(logs if has_loss else logs | {"loss": math.nan}, start_time)
        if skipped:
            self.state.log_history[-1][SKIPPED] = skipped

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Only what is trained, under the model's own names.

        The Trainer's way renames parameters on saving and, on resuming, silently keeps the base weights of those that
        it then cannot find (transformers 5.23, Qwen2.5-VL).
        """
        self.check_weights()
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)  # of a save that was passed over
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

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """As the Trainer's, with a look at the loss of the micro-batch."""
        clips = inputs.pop(CLIPS)
        return self._skips.seen(super().training_step(model, inputs, num_items_in_batch), clips)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Weighted negative log-likelihood of the answer tokens / answer tokens of the whole optimizer step."""
        labels, weights = inputs.pop("labels"), inputs.pop("weights")
        kept = inputs.pop("answer_rows", labels.shape[1])
        outputs = model(**self._vlm.to_model(inputs), logits_to_keep=kept, use_cache=False)
        loss = answer_loss(outputs.logits, labels, weights, num_items_in_batch)
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


def with_adapters(vlm: VLM, lora: Lora, seed: int) -> Any:
    """The model with low-rank adapters on its language layers; all else is frozen.

    Their first weights are drawn by the seed, whatever was drawn before in this process.
    """
    from peft import LoraConfig, get_peft_model

    language = "|".join(prefix.rstrip(".").replace(".", r"\.") for prefix in vlm.family.language)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=rf"(?:{language})\..*\.(?:{'|'.join(LORA_LAYERS)})",
    )
    torch.manual_seed(seed)
    with warnings.catch_warnings():  # peft reads a name that transformers has just renamed
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        return get_peft_model(vlm.model, config)


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
