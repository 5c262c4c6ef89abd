"""Small random encoders of texts and images, built from their configurations and saved to disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    Siglip2Processor,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
)

ENCODERS = ("siglip", "siglip2", "clip")
LIMIT = 16
SIDE = 32
_WORDS = "abcdefghijklmnopqrstuvwxyz"
_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def build_encoder(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a random encoder of single letters (in siglip2 also of spaces) and small images; return its folder."""
    torch.manual_seed(seed)
    text = _SIZES | {
        "vocab_size": 40, "max_position_embeddings": LIMIT, "projection_size": 32,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    vision = _SIZES | {"patch_size": 8, "image_size": SIDE}
    model: Any
    processor: Any
    match family:
        case "siglip":
            model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
            processor = SiglipProcessor(SiglipImageProcessor(size={"height": SIDE, "width": SIDE}), _tokenizer())
        case "siglip2":
            naflex = _SIZES | {"patch_size": 8, "num_patches": 16}
            model = Siglip2Model(Siglip2Config(text_config=text, vision_config=naflex))
            processor = Siglip2Processor(Siglip2ImageProcessor(patch_size=8, max_num_patches=16), _siglip2_tokenizer())
        case _:
            model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
            size = {"shortest_edge": SIDE}
            crop = {"height": SIDE, "width": SIDE}
            processor = CLIPProcessor(CLIPImageProcessor(size=size, crop_size=crop), _tokenizer())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    """One token a letter that stands by itself."""
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<eos>", "<unk>", *_WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = _with_end()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>", padding_side="right"
    )


def _siglip2_tokenizer() -> Siglip2Tokenizer:
    """One token a letter, and one a space."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    vocabulary = {word: number for number, word in enumerate([*special, "▁", *_WORDS])}
    tokenizer = Siglip2Tokenizer(vocab=vocabulary, merges=[], padding_side="right")
    tokenizer.backend_tokenizer.post_processor = _with_end()
    return tokenizer


def _with_end() -> processors.TemplateProcessing:
    return processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
