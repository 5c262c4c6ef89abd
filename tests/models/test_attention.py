"""Attention of answers: exact against whole forwards of every family, placed by an oracle, blind to what is cut off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from factories import FAMILY_NAMES
from noise import noise_clip
from rbft.clips.frames import Frames
from rbft.errors import UserError
from rbft.models.attention import (
    answer_rows,
    scaled,
    visual_attention,
    visual_grid,
    visual_positions,
)
from rbft.models.score import score_answers
from rbft.models.vlm import VLM

FAMILIES = pytest.mark.parametrize("family", FAMILY_NAMES)
SHAPES = {"internvl": (4, 2, 2)}


@pytest.fixture(scope="module")
def vlms(checkpoints: dict[str, Path]) -> dict[str, VLM]:
    return {name: VLM.load(folder) for name, folder in checkpoints.items()}


@pytest.fixture(scope="module")
def eager(checkpoints: dict[str, Path]) -> dict[str, VLM]:
    return {name: VLM.load(folder, attention="eager") for name, folder in checkpoints.items()}


@FAMILIES
def test_rows_equal_those_of_one_whole_forward(family: str, vlms: dict[str, VLM], eager: dict[str, VLM]) -> None:
    """The reference: prompt and answer in one eager pass with the whole graph, as transformers does it unaided."""
    vlm, whole = vlms[family], eager[family]
    encoded = vlm.encode(*noise_clip(1, vlm.grid, frames=4, rows=2, columns=3), "Which? cat. dog.")
    rows = answer_rows(vlm, encoded, "cat")
    answer = whole.answer_ids("cat")[:-1]
    output = whole.model(**whole.inputs([encoded], [answer[:-1]]), output_attentions=True)
    total = output.logits[0, -3:].double().log_softmax(-1).gather(-1, answer[:, None]).sum()
    gradients = torch.autograd.grad(total, output.attentions)
    expected = torch.cat([a.detach()[:, :, -3:] for a in output.attentions]).double()
    assert rows.attention.shape == (2, 4, 3, len(encoded.input_ids) + 2)
    torch.testing.assert_close(rows.attention, expected, atol=2e-6, rtol=0)
    expected_gradient = torch.cat([g[:, :, -3:] for g in gradients]).double()
    assert expected_gradient.abs().max() > 1e-4
    torch.testing.assert_close(rows.gradient, expected_gradient, atol=1e-6, rtol=1e-3)
    assert rows.log_probability == pytest.approx(float(total.detach()), abs=1e-4)


@FAMILIES
def test_rows_sum_to_one_and_see_nothing_later(family: str, vlms: dict[str, VLM]) -> None:
    vlm = vlms[family]
    encoded = vlm.encode(*noise_clip(2, vlm.grid, frames=6), "Which label fits?")
    rows = answer_rows(vlm, encoded, "dog").attention
    torch.testing.assert_close(rows.sum(-1), torch.ones(rows.shape[:3], dtype=torch.float64), atol=1e-6, rtol=0)
    prompt = len(encoded.input_ids)
    assert rows[:, :, 0, prompt:].abs().max() == 0
    assert rows[:, :, 1, prompt + 1 :].abs().max() == 0


@FAMILIES
def test_shapes_signs_and_the_share_of_the_clip(family: str, vlms: dict[str, VLM]) -> None:
    vlm = vlms[family]
    encoded = vlm.encode(*noise_clip(3, vlm.grid, frames=4, rows=2, columns=3), "Which?")
    found = visual_attention(vlm, encoded, "cat")
    assert found.attention.shape == (2, *SHAPES.get(family, (2, 2, 3)))
    assert visual_grid(vlm, encoded) == found.attention.shape[1:]
    assert len(visual_positions(vlm, encoded)) == np.prod(found.attention.shape[1:])
    share = found.attention.sum(axis=(1, 2, 3))
    assert (share > 0).all()
    assert (share < 1).all()
    assert np.isfinite(found.gradient).all()
    assert (found.gradient >= 0).all()
    assert found.gradient.max() > 0


@FAMILIES
def test_every_place_is_the_one_whose_pixels_changed(family: str, eager: dict[str, VLM]) -> None:
    """The oracle: one merged patch is painted over; of the clip's input embeddings, its own changes most."""
    vlm = eager[family]
    side = 56 if family == "internvl" else 2 * vlm.grid.pixels
    grey = np.full((4, side, side + (0 if family == "internvl" else vlm.grid.pixels), 3), 90, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, grey.shape, dtype=np.uint8)
    plan = noise_clip(0, vlm.grid)[1]
    plain, grid = _embeddings(vlm, grey, plan)
    cell = side // grid[1]
    per_step = len(grey) // grid[0]
    for step, row, column in np.ndindex(*grid):
        painted = grey.copy()
        place = (slice(step * per_step, (step + 1) * per_step), slice(row * cell, (row + 1) * cell),
                 slice(column * cell, (column + 1) * cell))  # fmt: skip
        painted[place] = noise[place]
        changed = (_embeddings(vlm, painted, plan)[0] - plain).norm(dim=-1).reshape(grid)
        assert np.unravel_index(int(changed.argmax()), grid) == (step, row, column)


def _embeddings(vlm: VLM, data: np.ndarray, plan: object) -> tuple[torch.Tensor, tuple[int, int, int]]:
    plan = plan.model_copy(update={"height": data.shape[1], "width": data.shape[2]})  # type: ignore[attr-defined]
    encoded = vlm.encode(Frames(data, np.arange(len(data)) * 0.5), plan, "Which?")
    with torch.inference_mode():
        hidden = vlm.model(**vlm.inputs([encoded]), output_hidden_states=True).hidden_states[0][0]
    return hidden[visual_positions(vlm, encoded)], visual_grid(vlm, encoded)


@FAMILIES
def test_pixels_that_are_not_attended_to_change_nothing(family: str, checkpoints: dict[str, Path]) -> None:
    """Cut off from the clip by its mask, the model's map of it is zero, and another clip gives the same scores."""
    vlm = VLM.load(checkpoints[family])
    first, other = (vlm.encode(*noise_clip(seed, vlm.grid), "Which?") for seed in (1, 2))
    answers = [vlm.answer_ids("cat"), vlm.answer_ids("dog")]
    scores = [score_answers(vlm, [clip], answers) for clip in (first, other)]
    assert not torch.allclose(scores[0], scores[1], atol=1e-6)
    assert visual_attention(vlm, first, "cat").attention.max() > 1e-3
    places = visual_positions(vlm, first)
    original = vlm.model.forward

    def blind(*args: object, **kwargs: torch.Tensor) -> object:
        mask = kwargs["attention_mask"].clone()
        mask[..., places] = torch.finfo(mask.dtype).min if mask.ndim == 4 else 0  # of scoring, of attention
        return original(*args, **{**kwargs, "attention_mask": mask})

    vlm.model.forward = blind
    blinded = [score_answers(vlm, [clip], answers) for clip in (first, other)]
    assert visual_attention(vlm, first, "cat").attention.max() < 1e-12
    torch.testing.assert_close(blinded[0], blinded[1], atol=1e-6, rtol=0)


@FAMILIES
def test_the_models_attention_is_left_as_it_was_loaded(family: str, vlms: dict[str, VLM]) -> None:
    vlm = vlms[family]
    encoded = vlm.encode(*noise_clip(4, vlm.grid), "Which?")
    answers = [vlm.answer_ids("cat")]
    before = score_answers(vlm, [encoded], answers)
    visual_attention(vlm, encoded, "cat")
    assert vlm.model.config._attn_implementation == "sdpa"
    assert torch.equal(score_answers(vlm, [encoded], answers), before)
    assert all(p.grad is None for p in vlm.model.parameters())


def test_an_answer_without_tokens_is_refused(vlms: dict[str, VLM]) -> None:
    vlm = vlms["qwen2_5_vl"]
    with pytest.raises(UserError, match=r"^'' has no tokens; name one of the labels$"):
        answer_rows(vlm, vlm.encode(*noise_clip(0, vlm.grid), "Which?"), "")


def test_scaling_reaches_from_zero_to_one() -> None:
    assert scaled(np.array([[2.0, 4.0], [3.0, 6.0]])).tolist() == [[0.0, 0.5], [0.25, 1.0]]
    assert scaled(np.full((2, 2), 0.7)).tolist() == [[0.0, 0.0], [0.0, 0.0]]
