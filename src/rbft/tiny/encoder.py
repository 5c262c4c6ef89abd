"""The embedded encoder of clips and texts: a small SigLIP, its tokenizer, its texts, and its training from scratch.

It learns which descriptions are true of which clips of the world, half of them seen through the night yard's camera.
Texts differ from true ones by one word as often as not, so that every word counts. The model is transformers' own
`SiglipModel`: a frame is an image, a clip the mean of its frames' embeddings, as `rbft.models.encoder` reads any.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, logsigmoid, normalize
from torch.optim import AdamW
from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipProcessor

from rbft.tiny import schedule
from rbft.tiny.augment import augmented
from rbft.tiny.language import Clause, clause_text, describe_words, words_of
from rbft.tiny.pool import NUM_FRAMES, SIDE, Pool, Severities
from rbft.tiny.schedule import Progress
from rbft.tiny.train import epoch_rows, generator_for
from rbft.tiny.world import DIMENSIONS, sample_spec

SEEN_SEVERITIES: Severities = (0.1, 0.9)
"""Of the domain shift in half of the training clips."""
TEXT_LIMIT = 48
"""Tokens of a text that the text tower reads; a description has about 20."""
SCALE, BIAS = 25.0, -10.0
"""Fixed, so that a cosine of 0.4 is where a description is as likely right as wrong: a semantic reward of 0.8."""
_WIDTH = 128
_PATCH = 14
_WRONG = 3
_HEAD_SHARES = {"subject": 3.0, "size": 1.5, "colour": 1.5, "action": 2.0, "scene": 1.0, "light": 1.0}
_PAD = "<|pad|>"
_LOG_EVERY = 25


@dataclass(frozen=True)
class Settings:
    """How long and how wide: the steps that made the committed weights."""

    seed: int = 0
    steps: int = 2200
    batch: int = 32
    rate: float = 1e-3
    head_weight: float = 4.0
    seeing_share: float = 0.2
    """Of the steps, over which the weight of texts rises from 0 to 1: seeing comes before comparing."""
    save_every_seconds: float = 120.0


# -- the model -----------------------------------------------------------------------------------------------------


def build_config(vocabulary: int, pad: int) -> SiglipConfig:
    """Four layers that see, two that read, all of width 128."""
    shared = {"hidden_size": _WIDTH, "intermediate_size": 3 * _WIDTH, "num_attention_heads": 4}
    text = {
        "num_hidden_layers": 2, "vocab_size": vocabulary, "max_position_embeddings": TEXT_LIMIT,
        "projection_size": _WIDTH, "pad_token_id": pad, "bos_token_id": pad, "eos_token_id": pad,
    }  # fmt: skip
    vision = {"num_hidden_layers": 4, "image_size": SIDE, "patch_size": _PATCH}
    return SiglipConfig(text_config=shared | text, vision_config=shared | vision)


def build_model(config: SiglipConfig, seed: int) -> SiglipModel:
    """Random weights; scale and bias as `SCALE` and `BIAS` say, and not learnt."""
    torch.manual_seed(seed)
    model = SiglipModel(config)
    with torch.no_grad():
        model.logit_scale.fill_(float(np.log(SCALE)))
        model.logit_bias.fill_(BIAS)
    model.logit_scale.requires_grad_(False)
    model.logit_bias.requires_grad_(False)
    return model


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words and marks in lower case, an end of text behind them; other words are one unknown token."""
    rng = np.random.default_rng(4243)
    words = [words_of(sample_spec(rng)) for _ in range(2000)]
    raw = Tokenizer(models.WordPiece(unk_token="<|unknown|>", max_input_chars_per_word=40))
    raw.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), behavior="removed")
    raw.pre_tokenizer = pre_tokenizers.Sequence([raw.pre_tokenizer, pre_tokenizers.Punctuation()])
    trainer = trainers.WordPieceTrainer(
        vocab_size=256, special_tokens=[_PAD, "<|unknown|>"], show_progress=False,
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz0123456789.,:;!?-'"),
    )  # fmt: skip
    raw.train_from_iterator([describe_words(w) for w in words] + [clause_text(w) + "." for w in words], trainer)
    pad = int(raw.token_to_id(_PAD))
    raw.post_processor = processors.TemplateProcessing(single=f"$A {_PAD}", special_tokens=[(_PAD, pad)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token=_PAD, eos_token=_PAD, unk_token="<|unknown|>", padding_side="right",
        model_max_length=TEXT_LIMIT, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def build_processor(tokenizer: PreTrainedTokenizerFast) -> SiglipProcessor:
    """SigLIP's own: frames to 84 × 84 by the bicubic filter, values to -1..1."""
    return SiglipProcessor(
        image_processor=SiglipImageProcessor(size={"height": SIDE, "width": SIDE}, resample=3), tokenizer=tokenizer
    )


def save_encoder(model: SiglipModel, tokenizer: PreTrainedTokenizerFast, folder: Path, card: str) -> None:
    """Weights in float16, configuration, tokenizer, processor and model card."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = SiglipModel(model.config)
    stored.load_state_dict(model.state_dict())
    stored.to(torch.float16).save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")


# -- texts ---------------------------------------------------------------------------------------------------------


def text_of(words: Clause, form: int) -> str:
    """The words as a description along the headings (form 0, all six) or as one plain sentence."""
    if form == 0 and len(words) == len(DIMENSIONS):
        return describe_words(words)
    phrase = clause_text(words)
    return f"{phrase[0].upper()}{phrase[1:]}."


def with_one_wrong(words: Clause, name: str, rng: np.random.Generator) -> dict[str, str]:
    """The words with another one in dimension `name`."""
    others = [word for word in DIMENSIONS[name] if word != words[name]]
    return {**words, name: str(rng.choice(others))}


def draw_texts(clips: Sequence[Clause], rng: np.random.Generator) -> tuple[list[dict[str, str]], list[str]]:
    """For each clip a true text and `_WRONG` with one word changed; half along the headings, a third incomplete."""
    every: list[dict[str, str]] = []
    texts: list[str] = []
    for words in clips:
        form = int(rng.random() < 0.5)
        kept = dict(words)
        if form and rng.random() < 0.6:
            names = rng.permutation(list(DIMENSIONS))[: int(rng.integers(2, 6))]
            kept = {name: words[name] for name in DIMENSIONS if name in names}
        changed = rng.choice(list(kept), size=_WRONG, replace=len(kept) < _WRONG)
        variants = [kept, *(with_one_wrong(kept, str(name), rng) for name in changed)]
        every += variants
        texts += [text_of(variant, form) for variant in variants]
    return every, texts


def holds(texts: Sequence[Clause], clips: Sequence[Clause]) -> Tensor:
    """Whether every word of a text is true of a clip: bool `[clips, texts]`."""
    return torch.tensor([[all(clip[n] == word for n, word in text.items()) for text in texts] for clip in clips])


# -- training ------------------------------------------------------------------------------------------------------


class WordHeads(nn.Module):
    """Which word holds in each dimension, from the patches of every frame; thrown away after training."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(_WIDTH)
        wide = NUM_FRAMES * _WIDTH
        self.answers = nn.ModuleDict({name: nn.Linear(wide, len(words)) for name, words in DIMENSIONS.items()})

    def loss(self, patches_BTPD: Tensor, truth: Sequence[Clause]) -> tuple[Tensor, dict[str, float]]:
        """Weighted mean of the cross entropies, and the share that is right in each dimension."""
        pooled = self.norm(patches_BTPD.mean(2)).flatten(1)
        losses, right = [], {}
        for name, words in DIMENSIONS.items():
            target = torch.tensor([words.index(clip[name]) for clip in truth])
            logits = self.answers[name](pooled)
            losses.append(_HEAD_SHARES[name] * cross_entropy(logits, target))
            right[name] = float((logits.argmax(-1) == target).float().mean())
        return torch.stack(losses).sum() / sum(_HEAD_SHARES.values()), right


def scaled(frames: Tensor) -> Tensor:
    """0..255 `[B, T, H, W, 3]` as SigLIP's processor gives images: -1..1 `[B·T, 3, H, W]`."""
    return (frames.float() / 127.5 - 1).permute(0, 1, 4, 2, 3).flatten(0, 1)


@dataclass
class Learner:
    """What is trained, and on what."""

    model: SiglipModel
    heads: WordHeads
    tokenizer: PreTrainedTokenizerFast
    pool: Pool

    def modules(self) -> dict[str, nn.Module]:
        """What has parameters, by the name it is saved under."""
        return {"model": self.model, "heads": self.heads}


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
    """SigLIP's sigmoid loss over all clips and texts of a batch, and the word heads'."""
    generator = generator_for(settings.seed, "encoder", step)
    rows = epoch_rows(len(learner.pool), settings.batch, settings.seed, step)
    rng = np.random.default_rng([settings.seed, 79, step])
    truth = [words_of(learner.pool.specs[row]) for row in rows]
    frames = augmented(torch.from_numpy(learner.pool.frames[rows]).float(), generator)
    clips_BD, patches_BTPD = clip_embeddings(learner.model, frames)
    meant, texts = draw_texts(truth, rng)
    cosines = clips_BD @ text_embeddings(learner.model, learner.tokenizer, texts).T
    true = holds(meant, truth)
    sides = torch.where(true, 1.0, -1.0)
    loss = -logsigmoid(sides * (SCALE * cosines + BIAS)).sum() / len(rows)
    heads, right = learner.heads.loss(patches_BTPD, truth)
    own = cosines.detach().unflatten(1, (len(rows), 1 + _WRONG))[torch.arange(len(rows)), torch.arange(len(rows))]
    notes = {
        "pairs": float(loss.detach()), "heads": float(heads.detach()), "right_cosine": float(own[:, 0].mean()),
        "wrong_cosine": float(own[:, 1:].mean()), "ordered": float((own[:, :1] > own[:, 1:]).float().mean()),
    }  # fmt: skip
    weight = min(1.0, step / max(1, settings.seeing_share * settings.steps))
    return weight * loss + settings.head_weight * heads, notes | right


def train_encoder(out: Path, pool: Pool, settings: Settings, resume: bool = False) -> Learner:
    """All steps; the state, from which `resume` goes on to the same weights, and the log lie in `out`."""
    progress = schedule.read_progress(out) if resume else None
    if progress and progress.seed != settings.seed:
        raise ValueError(f"{out} holds a run with seed {progress.seed}, not {settings.seed}; choose another --out")
    if not resume:
        (out / "log.jsonl").unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    model = build_model(build_config(len(tokenizer), int(tokenizer.pad_token_id)), settings.seed)
    learner = Learner(model, WordHeads(), tokenizer, pool)
    parameters = [p for module in learner.modules().values() for p in module.parameters() if p.requires_grad]
    optimizer = AdamW(parameters, lr=0.0, betas=(0.9, 0.98), weight_decay=0.02)
    progress = progress or Progress("encoder", 0, settings.steps, settings.seed)
    if progress.step:
        schedule.load_weights(out, learner.modules())
        schedule.load_moments(out, optimizer)
    saved = started = time.monotonic()
    while progress.step < progress.total:
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * schedule.rate_at(progress.step, progress.total)
        loss, notes = step_loss(learner, settings, progress.step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        progress.step += 1
        now, last = time.monotonic(), progress.step == progress.total
        if progress.step % _LOG_EVERY == 0 or last:
            _log(out, {"step": progress.step, "loss": float(loss.detach()), **notes, "seconds": now - started})
        if now - saved >= settings.save_every_seconds or last:
            schedule.save_state(out, learner.modules(), optimizer, progress)
            saved = now
    return learner


def _log(out: Path, row: dict[str, float]) -> None:
    line = json.dumps({key: round(value, 4) for key, value in row.items()})
    with (out / "log.jsonl").open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)
