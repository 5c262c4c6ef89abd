"""Everything that a GPU runs, on one that is not there: no tensor stands on another device, in every family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from noise import noise_clip
from pretend import GPU, OnGpu, a_gpu, on_gpu, waits
from rbft.models.attention import answer_rows
from rbft.models.generate import generate, generate_text
from rbft.models.packing import can_pack, pack, packed_language
from rbft.models.rollout import draws_of, sample_groups
from rbft.models.score import score_answers, score_group
from rbft.models.vlm import VLM, Encoded
from factories import FAMILY_NAMES

FAMILIES = pytest.mark.parametrize("family", FAMILY_NAMES)
ANSWERS = ("cat", "a catalogue of puppies", "dog")


def batch_of(vlm: VLM) -> list[Encoded]:
    prompts = ("Which?", "Which label fits the clip best?", "cat or dog?")
    return [vlm.encode(*noise_clip(i, vlm.grid, frames=4, rows=2, columns=2 + i), p) for i, p in enumerate(prompts)]


def loaded(folder: Path, dtype: torch.dtype = torch.bfloat16) -> VLM:
    vlm = VLM.load(folder, device=torch.device("cpu"))
    on_gpu(vlm.model.to(dtype))
    return vlm


@FAMILIES
def test_scoring(family: str, checkpoints: dict[str, Path]) -> None:
    vlm = loaded(checkpoints[family])
    assert vlm.device == GPU
    batch = batch_of(vlm)
    answers = [vlm.answer_ids(a) for a in ANSWERS]
    with a_gpu():
        print(score_answers(vlm, batch, answers), waits)
        waits.clear()
        got = score_group(vlm, batch[0], answers, temperature=1.0)
        print(waits)
        waits.clear()
        got.log_probabilities.sum().backward()
        print(waits)


@FAMILIES
def test_gen(family: str, checkpoints: dict[str, Path]) -> None:
    vlm = loaded(checkpoints[family])
    batch = batch_of(vlm)
    with a_gpu():
        print(generate(vlm, batch, max_new_tokens=5), waits)
        waits.clear()
        print(generate(vlm, batch, max_new_tokens=10), waits)
        print(generate_text(vlm, [vlm.encode_text("Is it?"), vlm.encode_text("Is it a dog?")], max_new_tokens=5))
        print(generate(vlm, batch, max_new_tokens=5, temperature=0.7, top_p=0.9))


@FAMILIES
def test_rollout(family: str, checkpoints: dict[str, Path]) -> None:
    vlm = loaded(checkpoints[family])
    batch = batch_of(vlm)
    with a_gpu():
        for n in (6, 16):
            waits.clear()
            print(
                sample_groups(vlm, batch, [draws_of((1, i), 2, n) for i in range(3)], temperature=1.0, top_p=0.9), waits
            )


@FAMILIES
def test_attention(family: str, checkpoints: dict[str, Path]) -> None:
    vlm = loaded(checkpoints[family])
    batch = batch_of(vlm)
    with a_gpu():
        print(answer_rows(vlm, batch[0], ANSWERS[1]))
