"""Sizes read off a configuration: every parameter is counted, for every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForImageTextToText

from factories import FAMILY_NAMES, build_checkpoint
from noise import noise_clip
from rbft.models.family import FAMILIES, family_of
from rbft.models.memory import GIB, Method, training_peak
from rbft.models.shape import ModelShape, shape_of
from rbft.models.sources import resolve
from rbft.models.vlm import VLM, TokenCounter, model_shape
from shapes import SEVEN_B, seven_b

UNEVEN: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 100, "num_hidden_layers": 3, "head_dim": 16}


def shape_in(folder: Path) -> ModelShape:
    config = AutoConfig.from_pretrained(folder)
    return shape_of(config, family_of(config, folder.name))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_every_parameter_is_counted(family: str, tied: bool, tmp_path: Path) -> None:
    text = UNEVEN | {"tie_word_embeddings": tied, "num_attention_heads": 3, "num_key_value_heads": 1}
    folder = build_checkpoint(family, tmp_path, text=text)
    config = AutoConfig.from_pretrained(folder)
    config.tie_word_embeddings = tied
    model = AutoModelForImageTextToText.from_config(config)
    shape = shape_of(config, FAMILIES[family])
    named = {name: parameter.numel() for name, parameter in model.named_parameters()}
    row = FAMILIES[family]
    merger = sum(n for name, n in named.items() if name.startswith(row.merger))
    tower = sum(n for name, n in named.items() if name.startswith(row.vision) and not name.startswith(row.merger))
    assert shape.parameters == sum(named.values())
    assert shape.language.parameters == sum(n for name, n in named.items() if name.startswith(row.language))
    assert (shape.vision.tower_parameters, shape.vision.merger_parameters) == (tower, merger)


@pytest.mark.parametrize(
    "change",
    [
        {"norm_type": "rms_norm"}, {"attention_bias": True}, {"use_qk_norm": True}, {"use_mask_token": True},
        {"use_absolute_position_embeddings": False}, {"use_mean_pooling": False},
    ],
)  # fmt: skip
def test_every_kind_of_internvl_tower_is_counted(change: dict[str, Any], tmp_path: Path) -> None:
    folder = build_checkpoint("internvl", tmp_path, vision=change)
    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_config(config)
    assert shape_of(config, FAMILIES["internvl"]).parameters == sum(p.numel() for p in model.parameters())


def test_the_7b_has_the_published_state() -> None:
    """Full fine-tuning of Qwen2.5-VL-7B: weights, gradients and two moments in float32 are 123.6 GiB."""
    shape = seven_b()
    assert shape.parameters == 8_292_166_656
    peak = training_peak(shape, SEVEN_B, Method(None, checkpointing=True), "cuda")
    assert (peak.weights + peak.state) / GIB == pytest.approx(123.6, abs=0.05)


def test_adapters_are_counted(checkpoints: dict[str, Path]) -> None:
    from rbft.experiment import Lora
    from rbft.training.supervised import with_adapters

    vlm = VLM.load(checkpoints["qwen3_vl"])
    shape = shape_in(checkpoints["qwen3_vl"])
    adapted = with_adapters(vlm, Lora(rank=3), 0)
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert shape.language.adapter_parameters(3) == trained


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_patches_and_tokens_are_those_of_the_model(family: str, checkpoints: dict[str, Path]) -> None:
    vlm = VLM.load(checkpoints[family])
    shape = model_shape(resolve(checkpoints[family]))
    counter = TokenCounter(resolve(checkpoints[family]))
    frames, plan = noise_clip(0, vlm.grid, frames=6, rows=2, columns=2)
    encoded = vlm.encode(frames, plan, "Which label? cat. dog.")
    assert shape.visual_tokens(plan) == vlm.visual_tokens(plan)
    expected = shape.visual_tokens(plan) + counter.prompt("Which label? cat. dog.")
    assert expected - 1 <= len(encoded.input_ids) <= expected + shape.time_tokens(plan)
    assert counter.answer("cat") == len(vlm.answer_ids("cat"))
    pixels = encoded.visual.pixels
    values = pixels.numel() // (shape.patches(plan) - 6 * (family == "internvl"))
    assert values == shape.vision.patch_values


def test_a_known_configuration_needs_no_weights() -> None:
    assert seven_b().language.layer_matrices == 2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944
