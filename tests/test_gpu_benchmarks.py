"""The benchmarks for a GPU: operations by hand, and every script whole on a processor with the tiny model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.gpu import generate, measure, score, train
from benchmarks.gpu.flops import (
    TRAINING,
    Clip,
    forward_flops,
    generation_flops,
    head_flops,
    language_flops,
    vision_flops,
    visual_tokens,
)
from benchmarks.gpu.measure import Setting, main
from benchmarks.gpu.model import SHAPES, build, librarys_tower, questions, seven_billion

from pretend import a_gpu, on_gpu, waits
from rbft.models.patches import PatchProjection
from rbft.models.vlm import VLM

LABEL = Clip(18, 280, 504, text_tokens=150, head_rows=4)
RATIONALE = Clip(18, 280, 504, text_tokens=320, head_rows=170)


def real_config() -> object:
    return seven_billion(VLM.load("embedded", device=torch.device("cpu")).model.config)


def test_one_clip_in_numbers() -> None:
    """18 frames of 280 x 504 in Qwen2.5-VL-7B, worked out by hand, in 10^12 operations."""
    config = real_config()
    assert visual_tokens(config, LABEL) == 1_620
    assert vision_flops(config, LABEL) / 1e12 == pytest.approx(8.5, abs=0.05)
    assert language_flops(config, 1_770) / 1e12 == pytest.approx(23.7, abs=0.05)
    assert head_flops(config, 4) / 1e12 == pytest.approx(0.004, abs=5e-4)
    assert head_flops(config, 1_770) / 1e12 == pytest.approx(1.93, abs=5e-3)
    assert forward_flops(config, LABEL) / 1e12 == pytest.approx(32.2, abs=0.05)
    assert TRAINING * forward_flops(config, LABEL) / 1e12 == pytest.approx(96.6, abs=0.05)
    assert forward_flops(config, RATIONALE) / 1e12 == pytest.approx(34.7, abs=0.05)
    assert TRAINING * forward_flops(config, RATIONALE) / 1e12 == pytest.approx(104.2, abs=0.05)


def test_the_parts_by_the_formula_with_its_numbers_in_it() -> None:
    config = real_config()
    patches, tokens = 9 * 20 * 36, 1_620
    linear = 2 * patches * (32 * (4 * 1280**2 + 3 * 1280 * 3420) + 1176 * 1280) + 2 * tokens * (5120**2 + 5120 * 3584)
    windows = (8**2 + 8**2 + 4**2) * (4 * 8**2 + 4**2)
    attention = 4 * 1280 * (28 * 9 * windows + 4 * 9 * 720**2)
    assert vision_flops(config, LABEL) == linear + attention
    assert language_flops(config, 1_770) == pytest.approx(13.05e9 * 1_770 + 2 * 28 * 3584 * 1_770**2, rel=1e-3)
    odd = Clip(17, 280, 504, 150, 4)
    assert vision_flops(config, odd) == vision_flops(config, LABEL)


def test_writing_costs_the_prompt_and_a_row_a_token() -> None:
    config = real_config()
    clip = Clip(18, 280, 504, text_tokens=150, head_rows=0)
    one = generation_flops(config, clip, 1)
    assert one == forward_flops(config, Clip(18, 280, 504, 150, head_rows=1))
    more = generation_flops(config, clip, 200) - one
    assert more == pytest.approx(199 * (13.05e9 + 1.09e9 + 4 * 28 * 3584 * 1_870), rel=0.01)


def test_the_clips_have_the_tokens_that_are_counted() -> None:
    vlm = build("tiny", torch.device("cpu"), torch.float32)
    made = questions(vlm, SHAPES["tiny"], 6, answer_tokens=5, mixed=True)
    assert len({q.clip.frames for q in made}) > 1
    for question in made:
        counted = visual_tokens(vlm.model.config, question.clip) + question.clip.text_tokens
        assert len(question.encoded.input_ids) + len(question.answer) == counted
    again = questions(vlm, SHAPES["tiny"], 6, answer_tokens=5, mixed=True)
    assert all(torch.equal(a.encoded.input_ids, b.encoded.input_ids) for a, b in zip(made, again, strict=True))


@pytest.mark.parametrize(
    ("script", "extra", "phases"),
    [
        (train, ["--packed", "--lora"], ["label step", "rationale step"]),
        (train, ["--checkpointing"], ["label step", "rationale step"]),
        (score, [], ["scoring"]),
        (generate, [], ["generating"]),
    ],
)
def test_a_script_runs_whole_on_a_processor(
    script: object, extra: list[str], phases: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out" / "gpu.json"
    asked = ["--size", "tiny", "--clips", "3", "--micro", "2", "--repeats", "1", "--json", str(file), *extra]
    assert main(script.__doc__, script.rows, asked, trains=script is train) == 0  # type: ignore[attr-defined]
    made = json.loads(file.read_text())
    assert [row["phase"] for row in made["rows"]] == phases
    assert made["size"] == "tiny"
    assert made["run"]["versions"]["torch"]
    for row in made["rows"]:
        assert row["clips"] == 3
        assert row["equal"]
        for side in (row["ours"], row["theirs"]):
            assert side["clips_per_second"] == pytest.approx(3_000 / side["milliseconds"])
            assert side["tflops"] > 0
            assert [side[name] for name in ("utilisation", "peak_gigabytes", "idle_share")] == [None] * 3
    assert "not measured" in capsys.readouterr().out


@pytest.mark.nightly
@pytest.mark.parametrize(("script", "lora"), [(train, False), (train, True), (score, False), (generate, False)])
def test_a_script_runs_whole_on_a_gpu_that_is_not_there(
    script: Any, lora: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the count of memory and the profile, which are the driver's."""
    for name in ("_peak_gigabytes", "_idle_share"):
        monkeypatch.setattr(measure, name, lambda work: 0.5)
    vlm = build("tiny", torch.device("cpu"), torch.float32)
    on_gpu(vlm.model, torch.float32 if script is train else torch.bfloat16)
    options = argparse.Namespace(
        clips=4, micro=2, repeats=1, peak_tflops=100.0, lora=lora, checkpointing=False, packed=False
    )
    with a_gpu():
        rows = script.rows(Setting(vlm, SHAPES["tiny"], options))
        assert waits["varlen"] > 0
    assert all(side.utilisation is not None for row in rows for side in (row.ours, row.theirs))


def test_options_of_training_are_those_of_the_script_that_trains(capsys: pytest.CaptureFixture[str]) -> None:
    for trains in (False, True):
        with pytest.raises(SystemExit):
            main("a script", score.rows, ["--help"], trains=trains)
        shown = capsys.readouterr().out
        assert [option in shown for option in ("--lora", "--checkpointing", "--packed")] == [trains] * 3


def test_plain_transformers_has_its_convolution_and_ours_comes_back() -> None:
    vlm = build("tiny", torch.device("cpu"), torch.float32)
    embed = vlm.model.model.visual.patch_embed
    ours = embed.proj
    pixels = torch.randn(8, 3 * 2 * 14 * 14)
    with torch.no_grad():
        made = embed(pixels)
        with librarys_tower(vlm.model):
            assert type(embed.proj) is torch.nn.Conv3d
            assert embed.proj.weight is ours.weight
            torch.testing.assert_close(embed(pixels), made)
    assert embed.proj is ours
    assert type(ours) is PatchProjection
