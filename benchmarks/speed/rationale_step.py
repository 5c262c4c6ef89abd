"""One optimizer step on rationales of mixed lengths, against HF `Trainer` that pads and computes all logits, and TRL.

    python -m benchmarks.speed.rationale_step

The embedded body with a head of 152,064 rows; 8 clips of log-normal length with answers of 30 to 200 tokens, in
micro-batches of 2. Both sides learn the same examples in every step; ours sorts them within it, so that clips of like
length stand together.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch
from benchmarks.speed.clips import folder
from benchmarks.speed.measuring import Row, main
from benchmarks.speed.model import LABELS, PERSONA, big_head, like_real_lengths, random_clips
from benchmarks.speed.training import step_rows

from rbft.experiment import Recipe
from rbft.models.vlm import VLM
from rbft.prompts import load_prompts
from rbft.records import Example

CLIPS, MICRO = 8, 2
RECIPE = Recipe(batch_size=CLIPS, micro_batch_size=MICRO, gradient_checkpointing=False, warmup_ratio=0.0)
WORDS = ("person", "walks", "door", "night", "small", "dog", "waits", "gate")


def rows(options: argparse.Namespace) -> list[Row]:
    torch.set_num_threads(1)
    clips = random_clips(like_real_lengths(CLIPS, median=12, cap=48))
    prompt = load_prompts("default", persona=PERSONA, labels=LABELS).rationale()
    random = np.random.default_rng(1)
    examples = [
        Example(clip_id=clip_id, prompt=prompt, source="self",
                answer=" ".join(random.choice(WORDS, int(length))))
        for clip_id, length in zip(clips.clips, random.integers(10, 60, CLIPS), strict=True)
    ]  # fmt: skip
    with folder() as root:
        vlm = VLM.load(big_head(root / "model"), for_training=True)
        case = f"{CLIPS} clips of mixed length, head of 152,064 rows"
        return step_rows("rationale step", case, 1.5, vlm, examples, clips, RECIPE, root, options.repeats)


if __name__ == "__main__":
    sys.exit(main(__doc__, rows))
