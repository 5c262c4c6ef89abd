"""Packed rows: the loss and gradients of a padded batch, positions of each clip alone, and no padding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from noise import noise_clip
from rbft.models.packing import can_pack, pack, packed_language
from rbft.models.vlm import VLM, Encoded

FAMILIES = pytest.mark.parametrize("family", ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"))
ANSWERS = ("cat", "a catalogue of puppies", "dog")


def mixed_batch(vlm: VLM) -> list[Encoded]:
    sizes = [(4, 2, 3), (6, 2, 2), (2, 5, 6)]
    prompts = ("Which?", "Which label fits the clip best?", "cat or dog?")
    return [
        vlm.encode(*noise_clip(i, vlm.grid, frames=f, rows=r, columns=c), prompts[i])
        for i, (f, r, c) in enumerate(sizes)
    ]


@FAMILIES
def test_every_clip_computes_what_it_computes_alone(family: str, checkpoints: dict[str, Path]) -> None:
    vlm = VLM.load(checkpoints[family])
    assert can_pack(vlm)
    batch, answers = mixed_batch(vlm), [vlm.answer_ids(a) for a in ANSWERS]
    row = pack(vlm, batch, answers)
    with torch.inference_mode():
        with packed_language(vlm.model):
            together = vlm.model(**vlm.to_model(row), use_cache=False).logits[0]
        alone = [
            vlm.model(**vlm.inputs([e], [a]), use_cache=False).logits[0] for e, a in zip(batch, answers, strict=True)
        ]
    assert row["cu_seq_lens_q"].tolist() == [0, *torch.tensor([len(a) for a in alone]).cumsum(0).tolist()]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


@FAMILIES
def test_positions_are_the_models_own_and_start_again_for_every_clip(family: str, checkpoints: dict[str, Path]) -> None:
    vlm = VLM.load(checkpoints[family])
    batch, answers = mixed_batch(vlm), [vlm.answer_ids(a) for a in ANSWERS]
    row = pack(vlm, batch, answers)
    bounds = row["cu_seq_lens_q"].tolist()
    assert row["position_ids"].shape == (4, 1, row["input_ids"].shape[1])
    for i, (encoded, answer) in enumerate(zip(batch, answers, strict=True)):
        part = row["position_ids"][:, 0, bounds[i] : bounds[i + 1]]
        one = vlm.collate([encoded], [answer])
        del one["pixels"]
        expected, _ = vlm.model.model.get_rope_index(**one)
        assert part[0].tolist() == list(range(len(encoded.input_ids) + len(answer)))
        assert torch.equal(part[1:], expected[:, 0])


def test_the_language_model_is_left_as_it_was_loaded(checkpoints: dict[str, Path]) -> None:
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    with packed_language(vlm.model):
        assert vlm.model.config.text_config._attn_implementation == "rbft_flash_varlen"
    assert vlm.model.config.text_config._attn_implementation == "sdpa"
    assert vlm.model.config._attn_implementation == "sdpa"


def test_families_without_m_rope_and_sliding_windows_are_not_packed(checkpoints: dict[str, Path]) -> None:
    assert not can_pack(VLM.load(checkpoints["internvl"]))
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    vlm.model.config.text_config.layer_types = ["full_attention", "sliding_attention"]
    assert not can_pack(vlm)
