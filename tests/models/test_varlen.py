"""Attention within chunks: what the library computes chunk by chunk, in one call for every length of chunk."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForImageTextToText

from noise import noise_clip
from pretend import OnGpu
from rbft.models import varlen
from rbft.models.varlen import NAME, chunked_attention
from rbft.models.vlm import VLM, Encoded

MROPE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
FAMILIES = pytest.mark.parametrize("family", MROPE)


def mixed_batch(vlm: VLM) -> list[Encoded]:
    """Three clips, two frame sizes, three lengths; Qwen2.5's windows are cut off at the frames' edges."""
    sizes = [(4, 2, 3), (6, 2, 2), (2, 5, 6)]
    return [
        vlm.encode(*noise_clip(i, vlm.grid, frames=f, rows=r, columns=c), "Which?") for i, (f, r, c) in enumerate(sizes)
    ]


@FAMILIES
def test_outputs_and_gradients_are_the_librarys(family: str, checkpoints: dict[str, Path]) -> None:
    vlm = VLM.load(checkpoints[family])
    library = AutoModelForImageTextToText.from_pretrained(checkpoints[family], attn_implementation="sdpa")
    inputs = vlm.inputs(mixed_batch(vlm))
    for model in (vlm.model, library):
        model(**inputs).logits.sum().backward()
    assert vlm.model.model.visual.config._attn_implementation == NAME
    assert library.model.visual.config._attn_implementation == "sdpa"
    with torch.no_grad():
        torch.testing.assert_close(vlm.model(**inputs).logits, library(**inputs).logits, atol=1e-5, rtol=0)
    theirs = dict(library.named_parameters())
    for name, parameter in vlm.model.named_parameters():
        scale = max(float(theirs[name].grad.abs().max()), 1.0)
        torch.testing.assert_close(parameter.grad / scale, theirs[name].grad / scale, atol=1e-5, rtol=0, msg=name)


@FAMILIES
def test_a_layer_calls_attention_once_for_every_length_of_chunk(
    family: str, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[torch.Size] = []

    def counted(query: torch.Tensor, *rest: torch.Tensor, **options: Any) -> torch.Tensor:
        calls.append(query.shape)
        return scaled_dot_product_attention(query, *rest, **options)

    vlm = VLM.load(checkpoints[family])
    monkeypatch.setattr(varlen, "scaled_dot_product_attention", counted)
    same = [vlm.encode(*noise_clip(i, vlm.grid, frames=8, rows=2, columns=2), "Which?") for i in range(5)]
    with torch.inference_mode():
        vlm.model(**vlm.inputs(same))
    assert [(shape[0], shape[2]) for shape in calls] == [(20, 16)] * 2, "20 frame pairs of 16 patches, two layers"
    calls.clear()
    with torch.inference_mode():
        vlm.model(**vlm.inputs(mixed_batch(vlm)))
    full = [(3, 16), (2, 24), (1, 120)]
    windows = [(1, 8), (4, 16), (2, 24), (1, 32), (1, 64)]  # of 8 x 8 patches: 10 x 12 leaves 2 x 8, 8 x 4 and 2 x 4
    first_layer = windows if family == "qwen2_5_vl" else full
    assert [(shape[0], shape[2]) for shape in calls] == first_layer + full


def chunks(lengths: Sequence[int], heads: int = 4, groups: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (sum(lengths), 8)
    return tuple(torch.randn(1, n, *shape, generator=generator) for n in (heads, groups, groups))  # type: ignore[return-value]


@pytest.mark.parametrize("lengths", [[5], [3, 3, 3], [4, 2, 7, 2, 4], [1, 6]])
@pytest.mark.parametrize("causal", [False, True])
def test_every_chunk_sees_itself_alone(lengths: list[int], causal: bool) -> None:
    query, key, value = chunks(lengths)
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    made, _ = chunked_attention(
        torch.nn.Module(), query, key, value, None,
        scaling=0.3, cu_seq_lens_q=bounds, max_length_q=max(lengths), is_causal=causal,
    )  # fmt: skip
    allowed = torch.block_diag(*[torch.ones(n, n) for n in lengths]).bool()
    if causal:
        allowed = allowed.tril()
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key.repeat_interleave(2, dim=1)) * 0.3
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
    expected = torch.einsum("bhqk,bhkd->bqhd", weights, value.repeat_interleave(2, dim=1))
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("causal", [False, True])
def test_a_gpu_is_given_one_call_of_its_kernel(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel itself runs on a GPU alone; here a stand-in takes its arguments, by its own signature."""
    asked: list[dict[str, Any]] = []

    def kernel(*given: Any, **options: Any) -> torch.Tensor:
        asked.append(inspect.signature(varlen_attn).bind(*given, **options).arguments)
        return torch.full_like(given[0], 7.0)

    monkeypatch.setattr(varlen, "_one_kernel", lambda query: True)
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    query, key, value = chunks([3, 4])
    bounds = torch.tensor([0, 3, 7], dtype=torch.int32)
    made, _ = chunked_attention(
        torch.nn.Module(), query, key, value, None,
        scaling=0.3, cu_seq_lens_q=bounds, max_length_q=4, is_causal=causal,
    )  # fmt: skip
    assert made.shape == (1, 7, 4, 8) and bool((made == 7).all())
    (call,) = asked
    assert torch.equal(call["query"], query[0].transpose(0, 1))
    assert torch.equal(call["value"], value[0].transpose(0, 1))
    assert call["cu_seq_q"] is call["cu_seq_k"], "the kernel's causal mask needs one tensor for both"
    assert (call["max_q"], call["max_k"], call["scale"], call["enable_gqa"]) == (4, 4, 0.3, True)
    assert call["window_size"] == ((-1, 0) if causal else (-1, -1))


def test_half_precision_on_a_gpu_with_flash_attention_goes_to_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A T4 (7.5) and a V100 (7.0) have none, and raise where they are asked; an A100 has 8.0, an RTX 5090 12.0."""
    for capability, kernel in (((7, 0), False), ((7, 5), False), ((8, 0), True), ((9, 0), True), ((12, 0), True)):
        varlen._has_flash.cache_clear()
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index, found=capability: found)
        for width, fits in ((64, True), (80, True), (256, True), (84, False), (264, False)):
            query = OnGpu(torch.zeros(3, 2, width, dtype=torch.bfloat16))
            assert varlen._one_kernel(query) == (kernel and fits), (capability, width)
        assert not varlen._one_kernel(OnGpu(torch.zeros(3, 2, 64)))
    varlen._has_flash.cache_clear()
    assert not varlen._one_kernel(torch.zeros(3, 2, 64, dtype=torch.bfloat16))


@pytest.mark.parametrize(("windows", "groups"), [(False, False), (True, False), (True, True)])
def test_an_older_torchs_kernel_is_not_told_what_it_does_not_know(
    windows: bool, groups: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of torch 2.10 takes no scale and no window, that of 2.11 no groups: then chunks are batches."""
    asked: list[dict[str, Any]] = []

    def kernel(query: torch.Tensor, *given: Any, **options: Any) -> torch.Tensor:
        asked.append(options)
        return query

    monkeypatch.setattr(varlen, "_one_kernel", lambda query: True)
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    monkeypatch.setattr(varlen, "TAKES_WINDOWS", windows)
    monkeypatch.setattr(varlen, "TAKES_GROUPS", groups)
    query, key, value = chunks([3, 4])
    bounds = torch.tensor([0, 3, 7], dtype=torch.int32)
    for keys, values in ((query, query), (key, value)):
        chunked_attention(
            torch.nn.Module(), query, keys, values, None,
            scaling=0.3, cu_seq_lens_q=bounds, max_length_q=4, is_causal=True,
        )  # fmt: skip
    alike = {"scale": 0.3, "window_size": (-1, 0)}
    assert asked == [alike] * windows + [alike | {"enable_gqa": True}] * groups


def test_under_autocast_attention_runs_in_half_precision() -> None:
    query, key, value = chunks([3, 4])
    bounds = torch.tensor([0, 3, 7], dtype=torch.int32)
    with torch.autocast("cpu", torch.bfloat16):
        made, _ = chunked_attention(
            torch.nn.Module(),
            query,
            key,
            value,
            None,
            scaling=0.3,
            cu_seq_lens_q=bounds,
            max_length_q=4,
            is_causal=False,
        )
    assert made.dtype == torch.bfloat16


def test_a_saved_checkpoint_does_not_name_it(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    for family in MROPE:
        vlm = VLM.load(checkpoints[family])
        vlm.save(tmp_path / family)
        for file in (tmp_path / family).glob("*.json"):
            assert "varlen" not in file.read_text(), file
        assert json.loads((tmp_path / family / "config.json").read_text())["vision_config"]
        plain = AutoModelForImageTextToText.from_pretrained(tmp_path / family)
        assert plain.model.visual.config._attn_implementation == "sdpa"


def test_eager_loads_and_fixed_towers_stay_as_they_are(checkpoints: dict[str, Path]) -> None:
    eager = VLM.load(checkpoints["qwen2_5_vl"], attention="eager")
    assert eager.model.model.visual.config._attn_implementation == "eager"
    fixed = VLM.load(checkpoints["internvl"])
    assert fixed.model.config.vision_config._attn_implementation == "sdpa"
