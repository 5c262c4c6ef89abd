"""Training from scratch: the vision tower learns to see, then the whole model learns to speak.

Every batch is a function of seed, phase and step, so a run that was interrupted continues to the same weights.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from rbft.tiny import schedule
from rbft.tiny.augment import augmented, regridded
from rbft.tiny.heads import Heads, head_accuracy, head_loss
from rbft.tiny.lessons import answer_loss, draw_batch
from rbft.tiny.marks import Probes, mark_loss
from rbft.tiny.model import build_config, build_model, normalised, patchify, see
from rbft.tiny.pool import Pool
from rbft.tiny.schedule import Progress
from rbft.tiny.tasks import Scene, level_at
from rbft.tiny.tokenizer import SPACE, VOCABULARY, build_tokenizer, special_ids, world_texts

_TIMED_STEPS = 12
_LOG_EVERY = 25


@dataclass(frozen=True)
class Settings:
    """How long and how wide: the steps that made the committed weights.

    `*_steps` of 0 mean: as many as fit into `*_minutes`, by the measured step time.
    """

    seed: int = 0
    vision_minutes: float = 25.0
    language_minutes: float = 45.0
    vision_steps: int = 3300
    language_steps: int = 3400
    vision_batch: int = 32
    language_batch: int = 16
    vision_rate: float = 1e-3
    language_rate: float = 1.5e-3
    late_vision_rate: float = 3e-4
    head_weight: float = 0.3
    mark_weight: float = 1.0
    save_every_seconds: float = 240.0
    tokens_per_clip: int = 130


@dataclass
class Trainee:
    """The model in training, its tokenizer, the heads and probes beside it, and the clips it learns from."""

    tokenizer: PreTrainedTokenizerFast
    model: Qwen2_5_VLForConditionalGeneration
    heads: Heads
    probes: Probes
    pool: Pool
    targets: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.targets = torch.from_numpy(self.pool.targets())

    def speak(self, hidden: Tensor) -> Tensor:
        """Hidden states `[N, H]` between layers to logits over the vocabulary."""
        return self.model.lm_head(self.model.model.language_model.norm(hidden))

    def modules(self) -> dict[str, nn.Module]:
        """What has parameters, by the name it is saved under."""
        return {"model": self.model, "heads": self.heads, "probes": self.probes}


def generator_for(seed: int, phase: str, step: int) -> torch.Generator:
    """The source of randomness of one step."""
    words = np.random.SeedSequence([seed, sum(phase.encode()), step]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(words[0]) << 32 | int(words[1]))


def epoch_rows(num: int, batch: int, seed: int, step: int) -> np.ndarray:
    """The clips of one step: a new order every epoch, in which every clip comes once (a rest waits)."""
    steps_an_epoch = max(1, num // batch)
    epoch, place = divmod(step, steps_an_epoch)
    order = np.random.default_rng([seed, epoch]).permutation(num)
    return np.sort(order[place * batch : (place + 1) * batch])


def clip_batch(trainee: Trainee, rows: np.ndarray, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Augmented patches and grid of the pool's clips `rows`."""
    frames = torch.from_numpy(trainee.pool.frames[rows]).float()
    return patchify(normalised(regridded(augmented(frames, generator), generator)))


def vision_loss(trainee: Trainee, settings: Settings, step: int, _total: int) -> tuple[Tensor, dict[str, float]]:
    """One batch of the first phase: the heads' answers from what the vision tower sees."""
    generator = generator_for(settings.seed, "vision", step)
    rows = epoch_rows(len(trainee.pool), settings.vision_batch, settings.seed, step)
    patches, grid = clip_batch(trainee, rows, generator)
    logits = trainee.heads(see(trainee.model.model.visual, patches, grid))
    targets = trainee.targets[rows]
    return head_loss(logits, targets), head_accuracy(logits, targets)


def language_loss(trainee: Trainee, settings: Settings, step: int, total: int) -> tuple[Tensor, dict[str, float]]:
    """One batch of the second phase: answers to several questions about each clip; heads and probes learn with it."""
    generator = generator_for(settings.seed, "language", step)
    rows = epoch_rows(len(trainee.pool), settings.language_batch, settings.seed + 1, step)
    patches, grid = clip_batch(trainee, rows, generator)
    scenes = [Scene(trainee.pool.specs[row], int(trainee.pool.middles[row])) for row in rows]
    rng = np.random.default_rng([settings.seed, 77, step])
    level = level_at(step / total)
    packed = draw_batch(trainee.tokenizer, scenes, rng, level, settings.tokens_per_clip)
    tokens = see(trainee.model.model.visual, patches, grid)
    loss, right, states = answer_loss(trainee.model, trainee.tokenizer, tokens, grid, packed)
    heads = head_loss(trainee.heads(tokens), trainee.targets[rows])
    marks, marked = mark_loss(trainee.probes, trainee.speak, states, packed.marks)
    notes = {"answers": float(loss.detach()), "tokens": float(right), "heads": float(heads.detach()), "level": level}
    return loss + settings.head_weight * heads + settings.mark_weight * marks, notes | marked


def vision_optimizer(trainee: Trainee, settings: Settings) -> AdamW:
    """Only the vision tower, its merger and the heads."""
    parameters = [*trainee.model.model.visual.parameters(), *trainee.heads.parameters()]
    return AdamW([{"params": parameters, "peak": settings.vision_rate}], lr=0.0, betas=(0.9, 0.98), weight_decay=0.02)


def language_optimizer(trainee: Trainee, settings: Settings) -> AdamW:
    """Everything: language model and probes at their own rate, vision tower, merger and heads at a smaller one."""
    seeing = [*trainee.model.model.visual.parameters(), *trainee.heads.parameters()]
    speaking = [*trainee.model.model.language_model.parameters(), *trainee.probes.parameters()]
    groups = [
        {"params": speaking, "peak": settings.language_rate},
        {"params": seeing, "peak": settings.late_vision_rate},
    ]
    return AdamW(groups, lr=0.0, betas=(0.9, 0.98), weight_decay=0.02)


Loss = Callable[[Trainee, Settings, int, int], tuple[Tensor, dict[str, float]]]


@dataclass
class Phase:
    """One phase of the training: its loss, its optimizer, its budget."""

    name: str
    loss: Loss
    optimizer: AdamW
    minutes: float
    steps: int


def one_step(trainee: Trainee, phase: Phase, settings: Settings, step: int, total: int) -> dict[str, float]:
    """Forward, backward, clip, update; returns what to log."""
    share = schedule.rate_at(step, total)
    for group in phase.optimizer.param_groups:
        group["lr"] = share * group["peak"]
    loss, notes = phase.loss(trainee, settings, step, total)
    phase.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [p for group in phase.optimizer.param_groups for p in group["params"]]
    nn.utils.clip_grad_norm_(parameters, 1.0)
    phase.optimizer.step()
    return {"loss": float(loss.detach()), **notes}


def run_phase(trainee: Trainee, phase: Phase, settings: Settings, out: Path, progress: Progress) -> None:
    """Runs `phase` from where `progress` stands to its end, logging to `log.jsonl` and saving as it goes."""
    started = saved = time.monotonic()
    if not progress.total and phase.steps:
        progress.total = phase.steps
    first = progress.step
    while not progress.total or progress.step < progress.total:
        total = progress.total or 10**6
        notes = one_step(trainee, phase, settings, progress.step, total)
        progress.step += 1
        now = time.monotonic()
        if not progress.total and progress.step - first == _TIMED_STEPS:
            progress.total = max(_TIMED_STEPS, int(phase.minutes * 60 / ((now - started) / _TIMED_STEPS)))
            print(f"{phase.name}: {(now - started) / _TIMED_STEPS:.2f} s a step, {progress.total} steps", flush=True)
        if progress.step % _LOG_EVERY == 0 or progress.step == progress.total:
            _log(out, {"phase": phase.name, "step": progress.step, "of": progress.total, **notes}, now - started)
        if now - saved >= settings.save_every_seconds or progress.step == progress.total:
            schedule.save_state(out, trainee.modules(), phase.optimizer, progress)
            saved = time.monotonic()


def _log(out: Path, row: dict[str, float | str], seconds: float) -> None:
    rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
    rounded["seconds"] = round(seconds, 1)
    with (out / "log.jsonl").open("a") as file:
        file.write(json.dumps(rounded) + "\n")
    print(" ".join(f"{key}={value}" for key, value in rounded.items()), flush=True)


def pair_words(model: Qwen2_5_VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Lets a word with and without its leading space start as the same vector and one common step apart.

    A label stands behind a space in the prompt and without one at the start of the answer; copying it should not need
    to be learnt word by word.
    """
    vocabulary = tokenizer.get_vocab()
    vectors = model.model.language_model.embed_tokens.weight
    with torch.no_grad():
        step = torch.randn(vectors.shape[1], generator=torch.Generator().manual_seed(0)) * vectors.std()
        for word, index in vocabulary.items():
            if (spaced := vocabulary.get(SPACE + word)) is not None:
                vectors[spaced] = vectors[index] + step


def new_trainee(pool: Pool, seed: int) -> Trainee:
    """A fresh tokenizer, model, heads and probes."""
    tokenizer = build_tokenizer(world_texts())
    model = build_model(build_config(VOCABULARY, special_ids(tokenizer)), seed)
    pair_words(model, tokenizer)
    width = model.config.text_config.hidden_size
    return Trainee(tokenizer, model, Heads(width), Probes(width), pool)


def train(out: Path, pool: Pool, settings: Settings, resume: bool = False) -> Trainee:
    """Both phases; the state, from which `resume` goes on, and the log lie in `out`."""
    progress = schedule.read_progress(out) if resume else None
    if progress and progress.seed != settings.seed:
        raise ValueError(f"{out} holds a run with seed {progress.seed}, not {settings.seed}; choose another --out")
    if not resume:
        (out / "log.jsonl").unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    trainee = new_trainee(pool, settings.seed)
    phases = (
        Phase(
            "vision", vision_loss, vision_optimizer(trainee, settings), settings.vision_minutes, settings.vision_steps
        ),
        Phase(
            "language",
            language_loss,
            language_optimizer(trainee, settings),
            settings.language_minutes,
            settings.language_steps,
        ),
    )
    progress = progress or Progress(phases[0].name, 0, 0, settings.seed)
    if progress.step:
        schedule.load_weights(out, trainee.modules())
    for index, phase in enumerate(phases):
        if phase.name != progress.phase:
            continue
        if progress.step:
            schedule.load_moments(out, phase.optimizer)
        run_phase(trainee, phase, settings, out, progress)
        if index + 1 < len(phases):
            progress = Progress(phases[index + 1].name, 0, 0, settings.seed)
    return trainee
