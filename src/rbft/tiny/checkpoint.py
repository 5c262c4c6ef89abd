"""Writes the trained model as a complete Hugging Face folder, and loads it back."""

import copy
from pathlib import Path

import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from rbft.tiny.model import MERGE, PATCH, TEMPORAL_PATCH
from rbft.tiny.tokenizer import CHAT_TEMPLATE

_PIXELS = {"shortest_edge": 56 * 56, "longest_edge": 84 * 84}
"""Fewest and most pixels a frame; 168 x 168 becomes 84 x 84."""


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLProcessor:
    """The stock Qwen2.5-VL processor with small frames."""
    shared = {"size": dict(_PIXELS), "patch_size": PATCH, "temporal_patch_size": TEMPORAL_PATCH, "merge_size": MERGE}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**shared),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**shared, fps=2.0, cap_pixels_per_frame=True),
        chat_template=CHAT_TEMPLATE,
    )


def save_checkpoint(
    model: Qwen2_5_VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path, card: str
) -> None:
    """Weights in bfloat16, configuration, tokenizer, processors and model card; about 7 MB."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = copy.deepcopy(model).to(torch.bfloat16)
    ends = [int(tokenizer.convert_tokens_to_ids(token)) for token in ("<|im_end|>", "<|endoftext|>")]
    stored.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=ends[1], do_sample=False)
    stored.save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")


def load_checkpoint(folder: Path) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    """The model, computing in float32, and its processor."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval()
    return model, AutoProcessor.from_pretrained(folder)
