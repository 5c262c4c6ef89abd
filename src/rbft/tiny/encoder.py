"""The embedded encoder of clips and texts: a small SigLIP with its tokenizer, and the texts that it learns from.

The model is transformers' own `SiglipModel`: a frame is an image, a clip the mean of its frames' embeddings, as
`rbft.models.encoder` reads any. How it is trained stands in `encoder_training`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipProcessor

from rbft.tiny.language import Clause, clause_text, describe_words
from rbft.tiny.pool import SIDE
from rbft.tiny.world import DIMENSIONS

TEXT_LIMIT = 32
"""Tokens of a text that the text tower reads; a description has about 20."""
SCALE, BIAS = 25.0, -10.0
"""Fixed, so that a cosine of 0.4 is where a description is as likely right as wrong: a semantic reward of 0.8."""
WIDTH = 128
PATCH = 14
WRONG = 2
_PAD, _UNKNOWN = "<|pad|>", "<|unknown|>"
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_MARKS = ".,:;!?-'"
_OTHER_WORDS = {"subjects", "attributes", "actions", "scenes", "a", "anything", "in", "on", "the", "at", "by"}


# -- the model -----------------------------------------------------------------------------------------------------


def build_config(vocabulary: int, pad: int) -> SiglipConfig:
    """Four layers that see, two that read, all of width 128."""
    shared = {"hidden_size": WIDTH, "intermediate_size": 3 * WIDTH, "num_attention_heads": 4}
    text = {
        "num_hidden_layers": 2, "vocab_size": vocabulary, "max_position_embeddings": TEXT_LIMIT,
        "projection_size": WIDTH, "pad_token_id": pad, "bos_token_id": pad, "eos_token_id": pad,
    }  # fmt: skip
    vision = {"num_hidden_layers": 4, "image_size": SIDE, "patch_size": PATCH}
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
    """The world's words and marks in lower case, an end of text behind them; other words letter by letter."""
    world = {word for words in DIMENSIONS.values() for phrase in words for word in phrase.split()}
    pieces = [
        _PAD,
        _UNKNOWN,
        *_LETTERS,
        *(f"##{letter}" for letter in _LETTERS),
        *_MARKS,
        *sorted(world | _OTHER_WORDS),
    ]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    raw = Tokenizer(models.WordPiece(vocabulary, unk_token=_UNKNOWN, max_input_chars_per_word=40))
    raw.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pad = vocabulary[_PAD]
    raw.post_processor = processors.TemplateProcessing(single=f"$A {_PAD}", special_tokens=[(_PAD, pad)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token=_PAD, eos_token=_PAD, unk_token=_UNKNOWN, padding_side="right",
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
    """For each clip a true text and `WRONG` with one word changed; half along the headings, a third incomplete."""
    every: list[dict[str, str]] = []
    texts: list[str] = []
    for words in clips:
        form = int(rng.random() < 0.5)
        kept = dict(words)
        if form and rng.random() < 0.6:
            names = rng.permutation(list(DIMENSIONS))[: int(rng.integers(2, 6))]
            kept = {name: words[name] for name in DIMENSIONS if name in names}
        changed = rng.choice(list(kept), size=WRONG, replace=len(kept) < WRONG)
        variants = [kept, *(with_one_wrong(kept, str(name), rng) for name in changed)]
        every += variants
        texts += [text_of(variant, form) for variant in variants]
    return every, texts


def holds(texts: Sequence[Clause], clips: Sequence[Clause]) -> Tensor:
    """Whether every word of a text is true of a clip: bool `[clips, texts]`."""
    return torch.tensor([[all(clip[n] == word for n, word in text.items()) for text in texts] for clip in clips])
