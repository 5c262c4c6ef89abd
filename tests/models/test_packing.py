"""Packed rows: the loss and gradients of a padded batch, positions of each clip alone, and no padding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch._dynamo.utils
from torch.nn.functional import scaled_dot_product_attention

from noise import noise_clip
from rbft.models import varlen
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


# -- the branch of the GPU's kernel, with a stand-in for it ---------------------------------------------------------


def dense_kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: torch.Tensor, same: torch.Tensor,
    longest: int, longest_key: int, *, scale: float, window_size: tuple[int, int], enable_gqa: bool = False,
) -> torch.Tensor:  # fmt: skip
    """What `varlen_attn` computes, by a dense mask; rows are [S, H, D]."""
    assert bounds is same and longest == longest_key
    place = torch.arange(len(query))
    chunk = torch.bucketize(place, bounds, right=True)
    mask = chunk[:, None] == chunk[None]
    if window_size == (-1, 0):
        mask = mask & (place[:, None] >= place[None])
    q, k, v = (part.transpose(0, 1)[None] for part in (query, key, value))
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=enable_gqa)[0].transpose(0, 1)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "_one_kernel", lambda query: True)
    monkeypatch.setattr(varlen, "varlen_attn", dense_kernel)


@FAMILIES
def test_a_gpus_kernel_computes_the_same(
    family: str, checkpoints: dict[str, Path], request: pytest.FixtureRequest
) -> None:
    vlm = VLM.load(checkpoints[family])
    row = vlm.to_model(pack(vlm, mixed_batch(vlm), [vlm.answer_ids(a) for a in ANSWERS]))
    with packed_language(vlm.model), torch.inference_mode():
        grouped = vlm.model(**row, use_cache=False).logits
        request.getfixturevalue("stand_in")
        kernel = vlm.model(**row, use_cache=False).logits
    torch.testing.assert_close(kernel, grouped, atol=1e-5, rtol=0)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's own look
def test_compiled_language_layers_share_one_graph_for_rows_of_any_length(checkpoints: dict[str, Path]) -> None:
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    batch, answers = mixed_batch(vlm), [vlm.answer_ids(a) for a in ANSWERS]
    rows = [vlm.to_model(pack(vlm, batch[:n], answers[:n])) for n in (1, 2, 3)]
    with packed_language(vlm.model):
        plain = [vlm.model(**row, use_cache=False).logits.detach() for row in rows]
        for layer in vlm.model.model.language_model.layers:
            layer.compile(dynamic=True, backend="aot_eager")
        torch._dynamo.utils.counters.clear()
        for row, expected in zip(rows, plain, strict=True):
            torch.testing.assert_close(vlm.model(**row, use_cache=False).logits.detach(), expected, atol=1e-5, rtol=0)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]
    torch._dynamo.reset()


# -- what is left behind, and what is refused ------------------------------------------------------------------------


def test_the_language_model_is_left_as_it_was_loaded(checkpoints: dict[str, Path]) -> None:
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    with packed_language(vlm.model):
        assert vlm.model.config.text_config._attn_implementation == "rbft_flash_varlen"
    assert vlm.model.config.text_config._attn_implementation == "sdpa"
    assert vlm.model.config._attn_implementation == "sdpa"


def test_families_without_m_rope_are_not_packed(checkpoints: dict[str, Path]) -> None:
    assert not can_pack(VLM.load(checkpoints["internvl"]))
    assert can_pack(VLM.load(checkpoints["qwen2_5_vl"]))
