"""One optimizer step on labels: logits for the answer's rows alone, against HF `Trainer` with all of them, and TRL.

    python -m benchmarks.speed.label_step

The embedded body with a head of 152,064 rows, as the 7B has, trained in full on 8 clips of 16 frames under the query of
`prompts/default.yaml`.
"""

from __future__ import annotations

import argparse
import sys

import torch
from benchmarks.speed.clips import folder
from benchmarks.speed.measuring import Row, main
from benchmarks.speed.model import LABELS, PERSONA, big_head, random_clips
from benchmarks.speed.training import step_rows

from rbft.experiment import Recipe
from rbft.models.vlm import VLM
from rbft.prompts import load_prompts
from rbft.records import Example

BATCH = 8
RECIPE = Recipe(batch_size=BATCH, micro_batch_size=BATCH, gradient_checkpointing=False, warmup_ratio=0.0)


def rows(options: argparse.Namespace) -> list[Row]:
    torch.set_num_threads(1)
    clips = random_clips([16] * BATCH)
    prompt = load_prompts("default", persona=PERSONA, labels=LABELS).label()
    examples = [
        Example(clip_id=clip_id, prompt=prompt, answer=list(LABELS)[number % 2], source="label")
        for number, clip_id in enumerate(clips.clips)
    ]
    with folder() as root:
        vlm = VLM.load(big_head(root / "model"), for_training=True)
        case = f"{BATCH} clips, head of 152,064 rows"
        return step_rows("label step", case, 3.0, vlm, examples, clips, RECIPE, root, options.repeats)


if __name__ == "__main__":
    sys.exit(main(__doc__, rows))
