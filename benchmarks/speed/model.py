"""The model and clips of the compute benchmarks: the embedded body under a head of real size, clips in memory."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging as hf_logging

from rbft.clips.frames import Frames
from rbft.models.vlm import VLM
from rbft.records import FramePlan
from rbft.tiny.model import build_config, build_model

HEAD_ROWS = 152_064
"""Rows of the 7B's head, so that what a head costs is what it costs in practice."""
PERSONA = "Smart Home Security Expert"
LABELS = {"normal": "routine household activity", "abnormal": "a threat to people, pets or property"}
EMBEDDED = Path(__file__).parents[2] / "src" / "rbft" / "tiny" / "checkpoint"


@dataclass(frozen=True)
class ClipsInMemory:
    """Clips by id, as the frame cache gives them: frames uint8 [T, H, W, 3] and their plans."""

    clips: Mapping[str, tuple[Frames, FramePlan]]

    def read(self, clip_id: str) -> Frames:
        """The frames of one clip."""
        return self.clips[clip_id][0]

    def plan(self, clip_id: str) -> FramePlan:
        """The plan of one clip."""
        return self.clips[clip_id][1]


def random_clips(num_frames: list[int], *, height: int = 84, width: int = 84, seed: int = 0) -> ClipsInMemory:
    """Clips of so many frames each, of noise."""
    random = np.random.default_rng(seed)
    made = {}
    for number, count in enumerate(num_frames):
        seconds = np.arange(count, dtype=np.float64)
        frames = Frames(random.integers(0, 256, (count, height, width, 3), np.uint8), seconds)
        plan = FramePlan(
            times_seconds=tuple(seconds), width=width, height=height, frames_per_second=1.0, short_clip_policy="error"
        )
        made[f"clip-{number}"] = (frames, plan)
    return ClipsInMemory(made)


def like_real_lengths(count: int, *, median: float, cap: int, least: int = 4, seed: int = 0) -> list[int]:
    """Even numbers that are log-normal about a median, as clips' lengths are."""
    random = np.random.default_rng(seed)
    drawn = np.clip(random.lognormal(np.log(median), 0.6, count), least, cap)
    return [int(2 * round(value / 2)) for value in drawn]


def big_head(folder: Path) -> Path:
    """A checkpoint with the embedded body, random weights and `HEAD_ROWS` rows in its tied head."""
    config = json.loads((EMBEDDED / "config.json").read_text(encoding="utf-8"))
    names = {"<|image_pad|>": "image_token_id", "<|video_pad|>": "video_token_id",
             "<|vision_start|>": "vision_start_token_id", "<|vision_end|>": "vision_end_token_id"}  # fmt: skip
    ids = {token: config[name] for token, name in names.items()}
    processor = AutoProcessor.from_pretrained(EMBEDDED)
    for token in ("<|im_end|>", "<|endoftext|>"):
        ids[token] = processor.tokenizer.convert_tokens_to_ids(token)
    hf_logging.disable_progress_bar()
    build_model(build_config(HEAD_ROWS, ids), seed=0).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def fresh(vlm: VLM) -> VLM:
    """A copy with weights of its own, to be trained."""
    return VLM(copy.deepcopy(vlm.model), vlm.processor, vlm.source)


def stock(vlm: VLM) -> VLM:
    """The same checkpoint as transformers loads it, with none of our layers in it."""
    model = AutoModelForImageTextToText.from_pretrained(
        vlm.source.folder, dtype=torch.float32, attn_implementation="sdpa"
    )
    return VLM(model.eval(), vlm.processor, vlm.source)


def largest_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest absolute difference of two tensors of one shape."""
    return float((ours.double() - theirs.double()).abs().max())
