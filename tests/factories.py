"""Small random checkpoints of every family, built from their configurations and saved to disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

QWEN_SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
]  # fmt: skip
INTERNVL_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
QWEN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INTERNVL_TEMPLATE = QWEN_TEMPLATE.replace("<|vision_start|><|video_pad|><|vision_end|>", "<video>\n")
FAMILY_NAMES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl")


def build_checkpoint(family: str, folder: Path, *, seed: int = 0, text: Any = None, vision: Any = None) -> Path:
    """Write a random checkpoint of a family (about 100,000 parameters, or of the given sizes) and return its folder."""
    torch.manual_seed(seed)
    model, processor = {"internvl": _internvl}.get(family, _qwen)(family, text or {}, vision or {})
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def byte_tokenizer(special: list[str], **extra: Any) -> PreTrainedTokenizerFast:
    """One token a byte, after the special tokens; any string survives the round trip."""
    letters = sorted(ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*special, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", **extra
    )


def _text(vocab_size: int, **extra: Any) -> dict[str, Any]:
    return {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
    } | extra


def _qwen(family: str, sizes: Any, vision_sizes: Any) -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(QWEN_SPECIAL)
    eighth = sizes.get("head_dim", 8) // 8
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2 * eighth, eighth, eighth]}
    text = _text(len(tokenizer), rope_parameters=rope) | sizes
    ids = {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 3, "vision_end_token_id": 4}
    common = {"patch_size": 14, "temporal_patch_size": 2, "spatial_merge_size": 2, "depth": 2, "num_heads": 4}
    out = text["hidden_size"]
    if family == "qwen2_vl":
        vision = common | {"embed_dim": 32, "hidden_size": out, "mlp_ratio": 2} | vision_sizes
        config: Any = Qwen2VLConfig(text_config=text, vision_config=vision, **ids)
        model: Any = Qwen2VLForConditionalGeneration(config)
        processor: Any = Qwen2VLProcessor(
            Qwen2VLImageProcessor(), tokenizer, Qwen2VLVideoProcessor(), chat_template=QWEN_TEMPLATE
        )
    elif family == "qwen2_5_vl":
        vision = common | {
            "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": out, "fullatt_block_indexes": [1],
        } | vision_sizes  # fmt: skip
        config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
        model = Qwen2_5_VLForConditionalGeneration(config)
        processor = Qwen2_5_VLProcessor(
            Qwen2VLImageProcessor(), tokenizer, Qwen2VLVideoProcessor(), chat_template=QWEN_TEMPLATE
        )
    else:
        vision = common | {
            "patch_size": 16, "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": out,
            "num_position_embeddings": 64, "deepstack_visual_indexes": [0],
        } | vision_sizes  # fmt: skip
        rope3 = rope | {"mrope_interleaved": True}
        config = Qwen3VLConfig(
            text_config={"head_dim": 8} | text | {"rope_parameters": rope3}, vision_config=vision, **ids
        )
        model = Qwen3VLForConditionalGeneration(config)
        processor = Qwen3VLProcessor(
            Qwen2VLImageProcessor(patch_size=16), tokenizer, Qwen3VLVideoProcessor(), chat_template=QWEN_TEMPLATE
        )
    return model, processor


def _internvl(family: str, sizes: Any, vision_sizes: Any) -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(
        INTERNVL_SPECIAL,
        extra_special_tokens={
            "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )  # fmt: skip
    text = _text(len(tokenizer), model_type="qwen2") | sizes
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "image_size": [56, 56], "patch_size": [14, 14],
    } | vision_sizes  # fmt: skip
    config = InternVLConfig(
        text_config=text, vision_config=vision, image_token_id=5, image_seq_length=4, downsample_ratio=0.5
    )
    size = {"height": 56, "width": 56}
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size=size), tokenizer, InternVLVideoProcessor(size=size),
        image_seq_length=4, chat_template=INTERNVL_TEMPLATE,
    )  # fmt: skip
    return InternVLForConditionalGeneration(config), processor
