"""What a GPU is asked for, on one that is not there: no tensor stands on another device, whatever the family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encoders import ENCODERS, build_encoder
from factories import FAMILY_NAMES
from noise import NoiseClips, noise_clip
from pretend import GPU, OnGpu, a_gpu, on_gpu, waits
from rbft.models.attention import visual_attention
from rbft.models.encoder import ClipTextEncoder, find_encoder
from rbft.models.generate import generate, generate_text
from rbft.models.rollout import draws_of, sample_groups
from rbft.models.score import score_answers, score_group
from rbft.models.varlen import chunked_attention
from rbft.models.vlm import VLM, Encoded

LATE = ("qwen2_vl", "qwen3_vl")
FAMILIES = pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[pytest.mark.nightly] if name in LATE else []) for name in FAMILY_NAMES]
)
PATCHES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
ANSWERS = ("cat", "a catalogue of puppies", "dog")


def batch_of(vlm: VLM) -> list[Encoded]:
    prompts = ("Which?", "Which label fits the clip best?", "cat or dog?")
    return [vlm.encode(*noise_clip(i, vlm.grid, frames=4, rows=2, columns=2 + i), p) for i, p in enumerate(prompts)]


def loaded(folder: Path, dtype: torch.dtype = torch.bfloat16) -> VLM:
    vlm = VLM.load(folder, device=torch.device("cpu"))
    on_gpu(vlm.model, dtype)
    assert vlm.device == GPU and vlm.model.dtype == dtype
    return vlm


# -- the pretence itself ---------------------------------------------------------------------------------------------


def test_what_a_gpu_refuses_is_refused() -> None:
    with a_gpu():
        there, here = torch.ones(3).to(GPU), torch.ones(3)
        assert there.device == GPU and (there + 1).is_cuda and isinstance(there[[0, 2]], OnGpu)
        assert (there.cpu() + here).tolist() == [2, 2, 2] and float(there.sum()) == 3
        with pytest.raises(RuntimeError, match=r"a tensor \[3\] of the processor meets one of the GPU"):
            there + here
        with pytest.raises(RuntimeError, match="expected a 'cuda' device type for generator"):
            torch.rand(3, device=GPU, generator=torch.Generator())
        with pytest.raises((TypeError, RuntimeError)):
            there.numpy()


@pytest.mark.parametrize("causal", [False, True])
def test_the_stand_in_for_the_kernel_has_its_gradients(causal: bool) -> None:
    torch.manual_seed(0)
    parts = [torch.randn(1, heads, 7, 8, dtype=torch.bfloat16) for heads in (4, 2, 2)]
    bounds = torch.tensor([0, 3, 7], dtype=torch.int32)
    made = []
    for move in (lambda part: part, OnGpu):
        given = [move(part.clone()).requires_grad_() for part in parts]
        with a_gpu():
            out, _ = chunked_attention(
                torch.nn.Module(), *given, None,
                scaling=0.3, cu_seq_lens_q=move(bounds), max_length_q=4, is_causal=causal,
            )  # fmt: skip
            out.float().square().sum().backward()
            made.append([part.cpu().float().detach() for part in (out, *(part.grad for part in given))])
        assert waits["varlen"] == (1 if move is OnGpu else 0)
    for ours, expected in zip(made[1], made[0], strict=True):
        torch.testing.assert_close(ours, expected, atol=0.06, rtol=0.03)


# -- answers ---------------------------------------------------------------------------------------------------------


@FAMILIES
def test_labels_are_scored_as_on_a_processor(family: str, checkpoints: dict[str, Path]) -> None:
    vlm, plain = loaded(checkpoints[family]), VLM.load(checkpoints[family], device=torch.device("cpu"))
    answers = [vlm.answer_ids(answer) for answer in ANSWERS]
    with a_gpu():
        scores = score_answers(vlm, batch_of(vlm), answers)
        assert waits["varlen"] == (2 if family in PATCHES else 0), "one call of the kernel a layer"
        assert waits["item"] <= 10
    expected = score_answers(plain, batch_of(plain), answers)
    torch.testing.assert_close(scores, expected, atol=0.0, rtol=0.02)


@FAMILIES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_group_is_scored_with_gradients(family: str, dtype: torch.dtype, checkpoints: dict[str, Path]) -> None:
    """In float32 as in training, under autocast."""
    vlm = loaded(checkpoints[family], dtype)
    answers = [vlm.answer_ids(answer) for answer in ANSWERS]
    with a_gpu():
        with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.float32):
            made = score_group(vlm, batch_of(vlm)[0], answers, temperature=0.9)
        made.log_probabilities.sum().backward()  # type: ignore[no-untyped-call]
        assert all(torch.isfinite(p.grad).all() for p in vlm.model.parameters() if p.grad is not None)
    assert made.log_probabilities.dtype == torch.float32


@FAMILIES
def test_texts_are_written(family: str, checkpoints: dict[str, Path]) -> None:
    """Greedily and sampled, with clips and without; the processor waits for the GPU a few times a token, no more."""
    vlm = loaded(checkpoints[family])
    batch, asked = batch_of(vlm), [vlm.encode_text("Is it?"), vlm.encode_text("Is it a dog?")]
    with a_gpu():
        counted = []
        for length in (4, 8):
            waits.clear()
            assert all(g.num_tokens <= length for g in generate(vlm, batch, max_new_tokens=length))
            counted.append(waits.total())
        assert counted[1] - counted[0] <= 4 * 3
        assert len(generate(vlm, batch, max_new_tokens=3, temperature=0.7, top_p=0.9)) == 3
        assert len(generate_text(vlm, asked, max_new_tokens=3)) == 2


@FAMILIES
def test_groups_are_sampled(family: str, checkpoints: dict[str, Path]) -> None:
    vlm = loaded(checkpoints[family], torch.float32)
    draws = [draws_of((1, clip), 2, 6) for clip in range(3)]
    with a_gpu(), torch.autocast("cuda", torch.bfloat16):
        groups = sample_groups(vlm, batch_of(vlm), draws, temperature=1.0, top_p=0.9)
    assert [len(group) for group in groups] == [2, 2, 2]
    for answer in (answer for group in groups for answer in group):
        assert answer.tokens.device.type == answer.log_probabilities.device.type == "cpu"
        assert answer.log_probabilities.dtype == torch.float32 and answer.log_probabilities.isfinite().all()


@FAMILIES
def test_where_an_answer_looks(family: str, checkpoints: dict[str, Path]) -> None:
    vlm = loaded(checkpoints[family])
    with a_gpu():
        maps = visual_attention(vlm, batch_of(vlm)[0], "cat")
    assert np.isfinite(maps.attention).all() and np.isfinite(maps.gradient).all()


# -- beside the model ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ENCODERS)
def test_an_encoder_compares_texts_with_clips(family: str, tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    grid = VLM.load(checkpoints["qwen2_5_vl"]).grid
    files, frames = find_encoder(str(build_encoder(family, tmp_path))), NoiseClips(grid)
    encoder: Any = ClipTextEncoder.load(files, frames, device=torch.device("cpu"))
    expected = encoder.similarities("0", ["a b c", "x"])
    encoder = ClipTextEncoder.load(files, frames, device=torch.device("cpu"))
    on_gpu(encoder._model, torch.bfloat16)
    with a_gpu(), torch.autocast("cuda", torch.bfloat16):
        assert encoder.similarities("0", ["a b c", "x"]) == pytest.approx(expected, abs=0.05)
