"""Writing rationales for 64 clips: batches of like length, against `generate` clip by clip.

    python -m benchmarks.speed.generate

The embedded model under its own weights and prompts, greedy, on rendered night-camera clips. Both sides write the same
texts.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from benchmarks.speed.clips import folder
from benchmarks.speed.measuring import Row, in_turn, main
from benchmarks.speed.model import PERSONA, stock

from rbft.clips.cache import FrameCache
from rbft.clips.ingest import clip_frames, inspect_clips
from rbft.clips.manifest import read_manifest
from rbft.experiment import ClipLimits, Rationales, load_experiment
from rbft.models.generate import generate
from rbft.models.vlm import VLM, Encoded
from rbft.prompts import load_prompts
from rbft.tiny.demo import EXPERIMENT
from rbft.tiny.night_yard import write_night_yard

CLIPS = 64
MAX_NEW_TOKENS = 64


def encoded(vlm: VLM, root: Path, prompt: str | None = None) -> list[Encoded]:
    """The prompts of 64 rendered clips; None: the one that asks for a rationale."""
    manifest = write_night_yard(root / "clips", num_train=CLIPS, num_test=2)
    experiment = load_experiment(EXPERIMENT, [f"clips={manifest}"])
    listing = read_manifest(manifest, labels=experiment.labels)
    cache = FrameCache(root / "cache")
    found = inspect_clips(listing, sampling=experiment.sampling, grid=vlm.grid, limits=ClipLimits(), cache=cache)
    frames = clip_frames(cache, found)
    prompt = prompt or load_prompts(experiment.prompts, persona=PERSONA, labels=experiment.labels).rationale()
    ids = [inspection.row.clip_id for inspection in found][:CLIPS]
    return [vlm.encode(frames.read(clip_id), frames.plan(clip_id), prompt) for clip_id in ids]


@torch.inference_mode()
def clip_by_clip(vlm: VLM, clips: list[Encoded]) -> list[str]:
    """transformers' `generate` on one clip after another."""
    texts = []
    for clip in clips:
        inputs = vlm.inputs([clip])
        made = vlm.model.generate(
            **inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False, suppress_tokens=vlm.visual_token_ids
        )
        texts.append(vlm.tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip())
    return texts


def rows(options: argparse.Namespace) -> list[Row]:
    torch.set_num_threads(1)
    with folder() as root:
        vlm = VLM.load("embedded")
        clips = encoded(vlm, root)
        library = stock(vlm)
        size = Rationales().batch_size

        def ours() -> list[str]:
            batches = [clips[start : start + size] for start in range(0, CLIPS, size)]
            return [made.text for batch in batches for made in generate(vlm, batch, max_new_tokens=MAX_NEW_TOKENS)]

        same = sum(a == b for a, b in zip(ours(), clip_by_clip(library, clips), strict=True))
        if same < CLIPS:
            raise SystemExit(f"only {same} of {CLIPS} texts are equal; nothing was timed")
        mine, other = in_turn(ours, lambda: clip_by_clip(library, clips), repeats=options.repeats, warm_up=0, cpu=True)
        against = "generate, one clip at a time"
        case = f"{CLIPS} clips, embedded model"
        return [
            Row(phase="rationale generation", case=case, against=against, ours=mine, theirs=other, unit="CPU ms",
                promised=4.0, equal=f"{same} equal texts")
        ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(__doc__, rows))
