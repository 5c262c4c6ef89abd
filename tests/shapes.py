"""The shape of Qwen2.5-VL-7B and one published batch of it: 18 frames of 280 x 504."""

from __future__ import annotations

from transformers import Qwen2_5_VLConfig

from rbft.models.family import FAMILIES
from rbft.models.memory import Load
from rbft.models.shape import ModelShape, shape_of

SEVEN_B = Load(rows=1, patches=9 * 20 * 36, tokens=1770, answer=4)
"""One clip under a label query: 6,480 patches, 1,620 visual tokens."""


def seven_b() -> ModelShape:
    """Qwen/Qwen2.5-VL-7B-Instruct, as its configuration describes it."""
    text = {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064,
    }  # fmt: skip
    vision = {"hidden_size": 1280, "out_hidden_size": 3584, "intermediate_size": 3420, "depth": 32}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)
    return shape_of(config, FAMILIES["qwen2_5_vl"])
