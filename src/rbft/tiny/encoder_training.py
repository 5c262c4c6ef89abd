"""Training of the embedded encoder: which descriptions are true of which clips of the world.

Every clip is shown plainly or through the night yard's camera; texts differ from true ones by one word as often as
not, so that every word counts. The embedded model's vision tower, which sees the plain clip, teaches what patches
show, and heads ask for single words: both are thrown away afterwards. Every batch is a function of seed and step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, layer_norm, logsigmoid, mse_loss, normalize
from torch.optim import AdamW
from transformers import PreTrainedTokenizerFast, SiglipModel

from rbft.tiny import CHECKPOINT, schedule
from rbft.tiny.augment import augmented
from rbft.tiny.checkpoint import load_checkpoint
from rbft.tiny.encoder import (
    BIAS,
    PATCH,
    SCALE,
    WIDTH,
    WRONG,
    build_config,
    build_model,
    build_tokenizer,
    draw_texts,
    holds,
)
from rbft.tiny.language import Clause, words_of
from rbft.tiny.model import MERGE, TEMPORAL_PATCH, normalised, patchify, see
from rbft.tiny.pool import NUM_FRAMES, SIDE, Pool, Severities, open_pool
from rbft.tiny.schedule import Progress
from rbft.tiny.train import epoch_rows, generator_for
from rbft.tiny.world import DIMENSIONS

SEEN_SEVERITIES: Severities = (0.2, 0.8)
"""Of the camera through which half of the clips are seen."""
_HEAD_SHARES = {"subject": 3.0, "size": 1.5, "colour": 1.5, "action": 2.0, "scene": 1.0, "light": 1.0}
_LOG_EVERY = 25


@dataclass(frozen=True)
class Settings:
    """How long and how wide: the steps that made the committed weights."""

    seed: int = 0
    steps: int = 1700
    batch: int = 32
    rate: float = 1e-3
    head_weight: float = 2.0
    teacher_weight: float = 5.0
    seeing_share: float = 0.2
    """Of the steps, the first ones, in which no texts are read: seeing comes before comparing."""
    save_every_seconds: float = 120.0


class WordHeads(nn.Module):
    """Which word holds in each dimension, from the patches of every frame."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        wide = NUM_FRAMES * WIDTH
        self.answers = nn.ModuleDict({name: nn.Linear(wide, len(words)) for name, words in DIMENSIONS.items()})

    def loss(self, patches: Tensor, truth: Sequence[Clause]) -> tuple[Tensor, dict[str, float]]:
        """Weighted mean of the cross entropies, and the share that is right; `patches` are `[B, T, P, D]`."""
        pooled = self.norm(patches.mean(2)).flatten(1)
        losses, right = [], {}
        for name, words in DIMENSIONS.items():
            target = torch.tensor([words.index(clip[name]) for clip in truth])
            logits = self.answers[name](pooled)
            losses.append(_HEAD_SHARES[name] * cross_entropy(logits, target))
            right[name] = float((logits.argmax(-1) == target).float().mean())
        return torch.stack(losses).sum() / sum(_HEAD_SHARES.values()), right


class Teacher:
    """What the embedded model's vision tower makes of plain clips, each token scaled to variance 1."""

    def __init__(self) -> None:
        self._tower = load_checkpoint(CHECKPOINT)[0].model.visual

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> Tensor:
        """Merged tokens `[B, V, H]` of frames 0..255 `[B, T, S, S, 3]`."""
        tokens = see(self._tower, *patchify(normalised(frames)))
        return layer_norm(tokens, tokens.shape[-1:])


class Pupil(nn.Module):
    """From the patches of the encoder to the teacher's tokens."""

    def __init__(self, teacher_width: int = 192) -> None:
        super().__init__()
        self.answer = nn.Linear(TEMPORAL_PATCH * MERGE * MERGE * WIDTH, teacher_width)

    def loss(self, patches: Tensor, told: Tensor) -> Tensor:
        """Mean squared error; a token of the teacher is `MERGE` x `MERGE` patches of two frames in a row."""
        side = SIDE // PATCH // MERGE
        steps = NUM_FRAMES // TEMPORAL_PATCH
        grid = patches.view(len(told), steps, TEMPORAL_PATCH, side, MERGE, side, MERGE, WIDTH)
        joined = grid.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(len(told), steps * side * side, -1)
        return mse_loss(self.answer(joined), told)


def scaled(frames: Tensor) -> Tensor:
    """0..255 `[B, T, H, W, 3]` as SigLIP's processor gives images: -1..1 `[B·T, 3, H, W]`."""
    return (frames.float() / 127.5 - 1).permute(0, 1, 4, 2, 3).flatten(0, 1)


@dataclass
class Learner:
    """What is trained, and on what: the same clips plain and through the camera."""

    model: SiglipModel
    tokenizer: PreTrainedTokenizerFast
    plain: Pool
    shifted: Pool
    teacher: Teacher = field(default_factory=Teacher)
    heads: WordHeads = field(default_factory=WordHeads)
    pupil: Pupil = field(default_factory=Pupil)

    def modules(self) -> dict[str, nn.Module]:
        """What has parameters that are trained, by the name it is saved under."""
        return {"model": self.model, "heads": self.heads, "pupil": self.pupil}


def clip_embeddings(model: SiglipModel, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Clips `[B, D]` of length 1, the mean over frames of embeddings of length 1; and the patches `[B, T, P, D]`."""
    seen = model.vision_model(pixel_values=scaled(frames))
    clips = normalize(seen.pooler_output, dim=-1).unflatten(0, frames.shape[:2]).mean(1)
    return normalize(clips, dim=-1), seen.last_hidden_state.unflatten(0, frames.shape[:2])


def text_embeddings(model: SiglipModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Tensor:
    """Embeddings of length 1, `[N, D]`; padded to the limit as SigLIP is."""
    ids = tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")["input_ids"]
    return normalize(model.text_model(input_ids=ids).pooler_output, dim=-1)


def step_loss(learner: Learner, settings: Settings, step: int) -> tuple[Tensor, dict[str, float]]:
    """SigLIP's sigmoid loss over all clips and texts of a batch, the word heads' and the teacher's."""
    generator = generator_for(settings.seed, "encoder", step)
    rng = np.random.default_rng([settings.seed, 79, step])
    rows = epoch_rows(len(learner.plain), settings.batch, settings.seed, step)
    truth = [words_of(learner.plain.specs[row]) for row in rows]
    plain = torch.from_numpy(learner.plain.frames[rows]).float()
    through = torch.from_numpy(learner.shifted.frames[rows]).float()
    shown = torch.where(torch.rand(len(rows), 1, 1, 1, 1, generator=generator) < 0.5, plain, through)
    clips, patches = clip_embeddings(learner.model, augmented(shown, generator))
    heads, right = learner.heads.loss(patches, truth)
    taught = learner.pupil.loss(patches, learner.teacher(plain))
    loss = settings.head_weight * heads + settings.teacher_weight * taught
    notes = {"heads": float(heads.detach()), "taught": float(taught.detach())} | right
    if step < settings.seeing_share * settings.steps:
        return loss, notes
    pairs, compared = _pairs_loss(learner, clips, truth, rng)
    return loss + pairs, notes | compared


def _pairs_loss(
    learner: Learner, clips: Tensor, truth: Sequence[Clause], rng: np.random.Generator
) -> tuple[Tensor, dict[str, float]]:
    meant, texts = draw_texts(truth, rng)
    cosines = clips @ text_embeddings(learner.model, learner.tokenizer, texts).T
    sides = torch.where(holds(meant, truth), 1.0, -1.0)
    loss = -logsigmoid(sides * (SCALE * cosines + BIAS)).sum() / len(truth)
    own = cosines.detach().unflatten(1, (len(truth), 1 + WRONG)).diagonal().T
    return loss, {
        "pairs": float(loss.detach()),
        "right_cosine": float(own[:, 0].mean()),
        "wrong_cosine": float(own[:, 1:].mean()),
        "ordered": float((own[:, :1] > own[:, 1:]).float().mean()),
    }


def open_pools(out: Path, num: int, seed: int) -> tuple[Pool, Pool]:
    """The training clips, plain and through the camera."""
    return open_pool(out / "plain", num, seed), open_pool(out / "shifted", num, seed, severities=SEEN_SEVERITIES)


def new_learner(plain: Pool, shifted: Pool, seed: int) -> Learner:
    """Random weights from the seed."""
    tokenizer = build_tokenizer()
    model = build_model(build_config(len(tokenizer), int(tokenizer.pad_token_id)), seed)
    model.set_attn_implementation("eager")  # few tokens in bfloat16: faster on a processor than one call for all
    return Learner(model, tokenizer, plain, shifted)


def train_encoder(out: Path, learner: Learner, settings: Settings, resume: bool = False) -> None:
    """All steps; the state, from which `resume` goes on to the same weights, and the log lie in `out`."""
    progress = schedule.read_progress(out) if resume else None
    if progress and progress.seed != settings.seed:
        raise ValueError(f"{out} holds a run with seed {progress.seed}, not {settings.seed}; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    if not resume:
        (out / "log.jsonl").unlink(missing_ok=True)
    parameters = [p for module in learner.modules().values() for p in module.parameters() if p.requires_grad]
    optimizer = AdamW(parameters, lr=0.0, betas=(0.9, 0.98), weight_decay=0.02)
    progress = progress or Progress("encoder", 0, settings.steps, settings.seed)
    if progress.step:
        schedule.load_weights(out, learner.modules())
        schedule.load_moments(out, optimizer)
    saved = started = time.monotonic()
    while progress.step < progress.total:
        rate = settings.rate * schedule.rate_at(progress.step, progress.total)
        for group in optimizer.param_groups:
            group["lr"] = rate
        notes = _one_step(learner, settings, optimizer, parameters, progress.step)
        progress.step += 1
        now, last = time.monotonic(), progress.step == progress.total
        if progress.step % _LOG_EVERY == 0 or last:
            _log(out, {"step": progress.step, **notes, "seconds": now - started})
        if now - saved >= settings.save_every_seconds or last:
            schedule.save_state(out, learner.modules(), optimizer, progress)
            saved = now


def _one_step(
    learner: Learner, settings: Settings, optimizer: AdamW, parameters: Sequence[Any], step: int
) -> dict[str, float]:
    with torch.autocast("cpu", torch.bfloat16):
        loss, notes = step_loss(learner, settings, step)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    return {"loss": float(loss.detach()), **notes}


def _log(out: Path, row: dict[str, float]) -> None:
    line = json.dumps({key: round(value, 4) for key, value in row.items()})
    with (out / "log.jsonl").open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)
