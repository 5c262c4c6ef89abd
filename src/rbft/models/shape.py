"""How large a model is, read off its configuration: sizes of its layers and exact counts of parameters. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rbft.models.family import Family
from rbft.records import FramePlan, Grid

_QKV_BIAS = ("qwen2", "qwen2_vl_text", "qwen2_5_vl_text")
_QK_NORM = ("qwen3", "qwen3_vl_text")


@dataclass(frozen=True)
class Language:
    """The language model: `query` and `key` are the widths of its queries, and of its keys or values, over all heads.

    `qk_norm`: queries and keys are normalised; `tied`: the head is the embedding; `qkv_bias`: they have a bias.
    """

    hidden: int
    intermediate: int
    layers: int
    query: int
    key: int
    vocabulary: int
    tied: bool
    qkv_bias: bool
    qk_norm: int
    """Width of a normalised head; 0: queries and keys are not normalised."""

    @property
    def layer_matrices(self) -> int:
        """Parameters in the matrices of one layer."""
        attention = 2 * self.hidden * self.query + 2 * self.hidden * self.key
        return attention + 3 * self.hidden * self.intermediate

    @property
    def parameters(self) -> int:
        """All of the language model, with embedding and head."""
        small = (self.query + 2 * self.key) * self.qkv_bias + 2 * self.qk_norm + 2 * self.hidden
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * (self.layer_matrices + small) + self.hidden

    def adapter_parameters(self, rank: int) -> int:
        """Parameters of LoRA adapters of that rank on the seven matrices of every layer."""
        attention = 2 * (self.hidden + self.query) + 2 * (self.hidden + self.key)
        return rank * self.layers * (attention + 3 * (self.hidden + self.intermediate))


@dataclass(frozen=True)
class Vision:
    """The vision tower and the merger behind it. `patch_values` are the numbers that one patch is made of."""

    hidden: int
    intermediate: int
    layers: int
    patch_values: int
    tower_parameters: int
    merger_parameters: int


@dataclass(frozen=True)
class ModelShape:
    """What the memory of a model depends on."""

    family: Family
    grid: Grid
    language: Language
    vision: Vision
    frame_patches: int = 0
    """Patches of a frame where the family's processor fixes its size; 0: the frame plan says."""
    frame_tokens: int = 0
    """The same in tokens of the language model."""

    @property
    def parameters(self) -> int:
        """All parameters, each once."""
        return self.language.parameters + self.vision.tower_parameters + self.vision.merger_parameters

    def visual_tokens(self, plan: FramePlan) -> int:
        """Tokens that stand for the pixels of a clip."""
        return plan.num_frames * self.frame_tokens if self.frame_tokens else plan.visual_tokens(self.grid)

    def patches(self, plan: FramePlan) -> int:
        """Patches that the vision tower sees of a clip."""
        if self.frame_patches:
            return plan.num_frames * self.frame_patches
        return plan.visual_tokens(self.grid) * self.grid.merge_size**2

    def time_tokens(self, plan: FramePlan) -> int:
        """At most so many tokens of text around the frames of a clip: their times, their numbers."""
        return self.family.tokens_around_frames * -(-plan.num_frames // self.grid.temporal_patch_size)


def shape_of(config: Any, family: Family) -> ModelShape:
    """The shape of a model from its loaded configuration."""
    grid = family.grid(config)
    vision = config.vision_config
    match family.model_type:
        case "qwen2_vl":
            tower = _qwen2(vision, grid)
        case "qwen2_5_vl":
            tower = _qwen2_5(vision, grid)
        case "qwen3_vl":
            tower = _qwen3(vision, grid)
        case "internvl":
            side_y, side_x = (size // grid.patch_size for size in _pair(vision.image_size))
            return ModelShape(
                family, grid, _language(config), _internvl(config, grid, side_y * side_x),
                frame_patches=side_y * side_x + 1, frame_tokens=config.image_seq_length,
            )  # fmt: skip
        case _:
            raise AssertionError(family.model_type)
    return ModelShape(family, grid, _language(config), tower)


def _language(config: Any) -> Language:
    text = config.text_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    keys = text.num_key_value_heads or text.num_attention_heads
    return Language(
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        layers=text.num_hidden_layers,
        query=text.num_attention_heads * head,
        key=keys * head,
        vocabulary=text.vocab_size,
        tied=bool(config.tie_word_embeddings),
        qkv_bias=text.model_type in _QKV_BIAS,
        qk_norm=head if text.model_type in _QK_NORM else 0,
    )


# -- vision towers -------------------------------------------------------------------------------------------------


def _attention(hidden: int) -> int:
    """One projection to queries, keys and values and one back, with biases."""
    return 4 * hidden * hidden + 4 * hidden


def _patch_values(grid: Grid, channels: int = 3) -> int:
    return channels * grid.temporal_patch_size * grid.patch_size**2


def _two_matrices(wide: int, out: int) -> int:
    """A merger's two matrices with biases: `wide` to `wide` to `out`."""
    return wide * wide + wide + wide * out + out


def _qwen2(vision: Any, grid: Grid) -> Vision:
    hidden, inner = vision.embed_dim, int(vision.embed_dim * vision.mlp_ratio)
    block = _attention(hidden) + 2 * hidden * inner + inner + hidden + 4 * hidden
    values = _patch_values(grid, vision.in_channels)
    merger = 2 * hidden + _two_matrices(hidden * grid.merge_size**2, vision.hidden_size)
    return Vision(hidden, inner, vision.depth, values, values * hidden + vision.depth * block, merger)


def _qwen2_5(vision: Any, grid: Grid) -> Vision:
    hidden, inner = vision.hidden_size, vision.intermediate_size
    block = _attention(hidden) + 3 * hidden * inner + 2 * inner + hidden + 2 * hidden
    values = _patch_values(grid, vision.in_channels)
    merger = hidden + _two_matrices(hidden * grid.merge_size**2, vision.out_hidden_size)
    return Vision(hidden, inner, vision.depth, values, values * hidden + vision.depth * block, merger)


def _qwen3(vision: Any, grid: Grid) -> Vision:
    hidden, inner = vision.hidden_size, vision.intermediate_size
    block = _attention(hidden) + 2 * hidden * inner + inner + hidden + 4 * hidden
    values = _patch_values(grid, vision.in_channels)
    places = vision.num_position_embeddings * hidden
    wide = hidden * grid.merge_size**2
    tower = values * hidden + hidden + places + vision.depth * block
    merger = _two_matrices(wide, vision.out_hidden_size)
    deep = len(vision.deepstack_visual_indexes)
    return Vision(hidden, inner, vision.depth, values, tower, merger * (1 + deep) + 2 * hidden + deep * 2 * wide)


def _internvl(config: Any, grid: Grid, num_patches: int) -> Vision:
    vision = config.vision_config
    hidden, inner, out = vision.hidden_size, vision.intermediate_size, config.text_config.hidden_size
    norm = 2 if vision.norm_type == "layer_norm" else 1
    biases = 3 * hidden * vision.attention_bias + 2 * hidden * vision.use_qk_norm
    attention = 4 * hidden * hidden + hidden + biases
    block = attention + 2 * hidden * inner + inner + hidden + 2 * norm * hidden + 2 * hidden
    values = _patch_values(grid, vision.num_channels)
    places = (num_patches + 1) * hidden * vision.use_absolute_position_embeddings
    last = 0 if vision.use_mean_pooling else norm * hidden
    tower = values * hidden + hidden + hidden * (1 + vision.use_mask_token) + places + last
    wide = hidden * grid.merge_size**2
    projector = 2 * wide + wide * out + out + out * out + out
    return Vision(hidden, inner, vision.num_hidden_layers, values, tower + vision.num_hidden_layers * block, projector)


def _pair(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
