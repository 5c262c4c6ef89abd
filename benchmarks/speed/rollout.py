"""Groups of eight sampled answers to 8 clips: each clip read once, against `generate` once for each answer.

    python -m benchmarks.speed.rollout

The embedded model thinks and answers about rendered night-camera clips at temperature 1. The two sides draw other
numbers, so their texts differ; the log-probabilities of ours are compared with a plain forward of the library, and
times are for equal numbers of tokens.
"""

from __future__ import annotations

import argparse
import statistics
import sys

import torch
from benchmarks.speed.clips import folder
from benchmarks.speed.generate import encoded
from benchmarks.speed.measuring import Row, in_turn, main
from benchmarks.speed.model import PERSONA, stock

from rbft.experiment import load_experiment
from rbft.models.rollout import Sampled, draws_of, sample_groups
from rbft.models.vlm import VLM, Encoded
from rbft.prompts import load_prompts
from rbft.tiny.demo import EXPERIMENT

CLIPS, SAMPLES, MAX_NEW_TOKENS = 8, 8, 48


@torch.inference_mode()
def one_by_one(vlm: VLM, clips: list[Encoded]) -> int:
    """transformers' `generate` for every answer, the clip read anew; the tokens that it wrote."""
    written = 0
    for clip in clips:
        for sample in range(SAMPLES):
            torch.manual_seed(sample)
            inputs = vlm.inputs([clip])
            made = vlm.model.generate(
                **inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=True, temperature=1.0, top_p=0.95, top_k=0,
                suppress_tokens=vlm.visual_token_ids,
            )  # fmt: skip
            written += made.shape[1] - inputs["input_ids"].shape[1]
    return written


def grouped(vlm: VLM, clips: list[Encoded]) -> list[list[Sampled]]:
    draws = [draws_of((0, n), SAMPLES, MAX_NEW_TOKENS) for n in range(len(clips))]
    return sample_groups(vlm, clips, draws, temperature=1.0, top_p=0.95)


@torch.inference_mode()
def apart(library: VLM, clips: list[Encoded], groups: list[list[Sampled]]) -> float:
    """The largest difference between our log-probabilities and those of a plain forward of each answer."""
    most = 0.0
    for clip, group in zip(clips, groups, strict=True):
        for one in group:
            logits = library.model(**library.inputs([clip], [one.tokens])).logits[0, -len(one.tokens) - 1 : -1]
            expected = logits.log_softmax(-1).gather(-1, one.tokens[:, None])[:, 0]
            most = max(most, float((expected - one.log_probabilities).abs().max()))
    return most


def rows(options: argparse.Namespace) -> list[Row]:
    torch.set_num_threads(1)
    with folder() as root:
        vlm = VLM.load("embedded")
        experiment = load_experiment(EXPERIMENT)
        asked = load_prompts(experiment.prompts, persona=PERSONA, labels=experiment.labels).reasoned()
        clips = encoded(vlm, root, asked)[:CLIPS]
        library = stock(vlm)
        groups = grouped(vlm, clips)
        difference = apart(library, clips, groups)
        if difference > 1e-3:
            raise SystemExit(f"log-probabilities are {difference:.1e} apart; nothing was timed")
        ours = sum(len(one.tokens) for group in groups for one in group)
        theirs = one_by_one(library, clips)
        pair = (lambda: grouped(vlm, clips), lambda: one_by_one(library, clips))
        mine, other = in_turn(*pair, repeats=options.repeats, warm_up=0, cpu=True)
        mean = statistics.fmean((ours, theirs))
        return [
            Row(phase="rollouts", case=f"{CLIPS} clips, {SAMPLES} answers each, embedded model",
                against="generate, one answer at a time", ours=mine / ours * mean, theirs=other / theirs * mean,
                unit="CPU ms", promised=3.0,
                equal=f"log-probabilities within {difference:.0e}; {ours} and {theirs} tokens, times for their mean")
        ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(__doc__, rows))
