"""Model families differ by values, not by subclasses: one `Family` row each, chosen by `config.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from pydantic import ValidationError

from rbft.errors import CheckpointError
from rbft.records import Grid


@dataclass(frozen=True)
class VisionBytes:
    """Bytes that one layer of a vision tower keeps of one patch for its gradient, per unit of its two widths.

    (hidden, intermediate), under float32 and under bfloat16 autocast; measured, see tests/models/test_memory.py.
    """

    float32: tuple[int, int]
    bfloat16: tuple[int, int]


@dataclass(frozen=True)
class Family:
    """What rbft must know about a family of checkpoints.

    `vision`, `merger` and `language` are parameter-name prefixes (the merger may lie inside the vision tower; the
    longest prefix wins). `pixels` says who turns frames into model input: `patches` (ours: uint8 patches, one affine)
    or `processor` (the checkpoint's own video processor, for towers of a fixed frame size). `tokens_around_frames`:
    at most so many tokens of text stand at every temporal patch. `vision_bytes`: what the tower keeps for its gradient.
    """

    model_type: str
    vision: tuple[str, ...]
    merger: tuple[str, ...]
    language: tuple[str, ...]
    pixels: Literal["patches", "processor"]
    time: Literal["none", "seconds_per_grid", "text"]
    mrope: bool
    tokens_around_frames: int
    vision_bytes: VisionBytes

    def grid(self, config: Any) -> Grid:
        """How this checkpoint cuts frames, from its configuration."""
        vision = config.vision_config
        if self.pixels == "processor":
            size = vision.patch_size[0] if isinstance(vision.patch_size, list | tuple) else vision.patch_size
            return Grid(patch_size=size, merge_size=round(1 / config.downsample_ratio), temporal_patch_size=1)
        return Grid(
            patch_size=vision.patch_size,
            merge_size=vision.spatial_merge_size,
            temporal_patch_size=vision.temporal_patch_size,
        )


FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family(
            model_type="qwen2_vl",
            vision=("model.visual.",),
            merger=("model.visual.merger.",),
            language=("model.language_model.", "lm_head."),
            pixels="patches",
            time="none",
            mrope=True,
            tokens_around_frames=0,
            vision_bytes=VisionBytes((44, 12), (22, 6)),
        ),
        Family(
            model_type="qwen2_5_vl",
            vision=("model.visual.",),
            merger=("model.visual.merger.",),
            language=("model.language_model.", "lm_head."),
            pixels="patches",
            time="seconds_per_grid",
            mrope=True,
            tokens_around_frames=0,
            vision_bytes=VisionBytes((52, 16), (32, 8)),
        ),
        Family(
            model_type="qwen3_vl",
            vision=("model.visual.",),
            merger=("model.visual.merger.", "model.visual.deepstack_merger_list."),
            language=("model.language_model.", "lm_head."),
            pixels="patches",
            time="text",
            mrope=True,
            tokens_around_frames=16,
            vision_bytes=VisionBytes((44, 8), (22, 4)),
        ),
        Family(
            model_type="internvl",
            vision=("model.vision_tower.",),
            merger=("model.multi_modal_projector.",),
            language=("model.language_model.", "lm_head."),
            pixels="processor",
            time="none",
            mrope=False,
            tokens_around_frames=16,
            vision_bytes=VisionBytes((40, 8), (28, 4)),
        ),
    )
}


def family_of(config: Any, name: str) -> Family:
    """The family of a loaded configuration; raises CheckpointError naming the known ones."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise CheckpointError(
            f"{name}: models of type {config.model_type!r} are not known; known types: {', '.join(FAMILIES)}. "
            "A new type is one row in rbft/models/family.py and its vision tower in rbft/models/shape.py"
        )
    return family


def stated_grid(folder: Path) -> Grid | None:
    """The frame grid that the `config.json` of a model states, read without transformers.

    None where it does not state all of it, or is not one of the known families: transformers knows what it means.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"), object_hook=_attributes)
        return None if hasattr(config, "auto_map") else FAMILIES[config.model_type].grid(config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, ValidationError):
        return None


def _attributes(document: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(**document)
