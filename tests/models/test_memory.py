"""Peaks of memory: by hand, and against every tensor that really lives while models train, score and write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from factories import FAMILY_NAMES, build_checkpoint
from live import LiveTensors
from noise import noise_clip
from pretend import a_gpu, on_gpu
from rbft.clips.frames import Frames
from rbft.experiment import Lora, Recipe, Reinforce
from rbft.models.generate import generate
from rbft.models.memory import (
    GIB,
    Device,
    Load,
    Method,
    generating_peak,
    reinforcing_peak,
    scoring_peak,
    trained_parameters,
    training_peak,
)
from rbft.models.score import score_answers
from rbft.models.shape import ModelShape
from rbft.models.sources import resolve
from rbft.models.vlm import VLM, Encoded, model_shape
from rbft.prompts import load_prompts
from rbft.records import Example, FramePlan, Grid, Question
from rbft.training.batches import Collator
from rbft.training.reinforce import reinforce
from rbft.training.rollouts import Grader
from rbft.training.supervised import answer_loss, train, with_adapters
from shapes import SEVEN_B, seven_b

LOW, HIGH = 0.9, 1.25
"""The band that the expected peak must keep to the measured one, on models with layers of some size."""

TEXT: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "num_attention_heads": 8,
    "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 8000,
}  # fmt: skip
VISION: dict[str, dict[str, Any]] = {
    "qwen2_vl": {"embed_dim": 128, "depth": 4},
    "qwen2_5_vl": {"hidden_size": 128, "intermediate_size": 256, "depth": 4},
    "qwen3_vl": {"hidden_size": 128, "intermediate_size": 256, "depth": 4},
    "internvl": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4},
}


@pytest.fixture(scope="module")
def sized(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of every family whose layers weigh more than its inputs."""
    root = tmp_path_factory.mktemp("sized")
    return {name: build_checkpoint(name, root / name, text=TEXT, vision=VISION[name]) for name in FAMILY_NAMES}


class Clips:
    """Clips of two lengths, so that a batch is padded."""

    def __init__(self, grid: Grid, frames: int = 8) -> None:
        self._grid, self._frames = grid, frames

    def read(self, clip_id: str) -> Frames:
        return self._made(clip_id)[0]

    def plan(self, clip_id: str) -> FramePlan:
        return self._made(clip_id)[1]

    def _made(self, clip_id: str) -> tuple[Frames, FramePlan]:
        frames = self._frames - 2 * (int(clip_id) % 2)
        return noise_clip(int(clip_id), self._grid, frames=frames, rows=2 if self._grid.temporal_patch_size == 1 else 3)


PROMPT = "Which of these labels fits the clip best? " * 3
ANSWERS = ("cat", "a puppy in the garden")


def asked(vlm: VLM, count: int) -> list[Encoded]:
    clips = Clips(vlm.grid)
    return [vlm.encode(clips.read(str(i)), clips.plan(str(i)), PROMPT) for i in range(count)]


def load(vlm: VLM, shape: ModelShape, encoded: Sequence[Encoded], answer: int) -> Load:
    clips = Clips(vlm.grid)
    patches = sum(shape.patches(clips.plan(str(i))) for i in range(len(encoded)))
    return Load(len(encoded), patches, max(len(e.input_ids) for e in encoded) + answer, answer + 1)


def between(expected: int, measured: int) -> None:
    assert LOW * measured <= expected <= HIGH * measured, f"expected {expected:,}, measured {measured:,}"


# -- by hand -------------------------------------------------------------------------------------------------------


def test_states_by_hand() -> None:
    """Four bytes a weight; a gradient and two moments, twelve bytes, for each that is trained."""
    shape = seven_b()
    full = training_peak(shape, SEVEN_B, Method(None, checkpointing=False), "cuda")
    assert full.weights == 4 * 8_292_166_656
    assert full.state == 12 * 8_292_166_656
    frozen = Method(None, checkpointing=False, vision=False)
    tower = shape.vision.tower_parameters
    assert training_peak(shape, SEVEN_B, frozen, "cuda").state == 12 * (8_292_166_656 - tower)
    in_and_out = 2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944)
    assert trained_parameters(shape, Method(16, checkpointing=False)) == 16 * 28 * in_and_out == 40_370_176


def test_work_by_hand() -> None:
    """LoRA with checkpointing on a GPU, one clip of 1,770 tokens: 28 inputs of layers, one layer, copies, logits."""
    tokens, hidden, inner, query, key = 1770, 3584, 18944, 3584, 512
    inputs = 6480 * 1176 * 7
    residual = tokens * hidden * 8
    kept = 28 * tokens * 2 * hidden
    layer = tokens * (8 * hidden + 6 * inner + 8 * query + 4 * key + 3 * (5 * hidden + query + inner))
    transient = tokens * 6 * inner
    adapters = 40_370_176
    logits = 4 * 152_064 * 20
    peak = training_peak(seven_b(), SEVEN_B, Method(16, checkpointing=True), "cuda")
    assert peak.work == inputs + residual + kept + layer + transient + 2 * adapters + logits
    assert peak.weights == 2 * 8_292_166_656 + 4 * adapters, "frozen weights in bfloat16"


def test_scoring_and_keys_and_values_by_hand() -> None:
    """Two clips of 990 tokens with 10 behind each; 64 clips of 100 with 20,000 written: keys and values of 512."""
    shape = seven_b()
    scored = scoring_peak(shape, Load(rows=2, patches=8, tokens=990), 10, "cuda")
    pixels = 8 * 1176 * (1 + 4 + 2)
    reading = 2 * 1000 * 2 * (3 * 18_944 + 3 * 3584)
    mask = 2 * 1000 * 1000 * (2 + 2)
    logits = 2 * 11 * 152_064 * 2 + 2 * 11 * 152_064 * 4
    assert scored.work == pixels + reading + mask + logits
    assert (scored.weights, scored.state) == (2 * shape.parameters, 0)
    written = generating_peak(shape, Load(rows=64, patches=64, tokens=100), 20_000, "cuda")
    assert written.work == 30 * 64 * 20_100 * 2 * 512 * 2 + 64 * 152_064 * 20


def test_a_device_keeps_something_back() -> None:
    """A tenth of a machine and 1.5 GiB for the process, 6 % of a GPU and 1 GiB; of what is given only the latter."""
    assert Device("CPU", "cpu", 20 * GIB).budget == 16.5 * GIB
    assert Device("GPU", "cuda", 100 * GIB).budget == 93 * GIB
    assert Device("GPU", "cuda", 100 * GIB, given=40 * GIB).budget == 39 * GIB


# -- measured ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "rank", "checkpointing"),
    [(name, None, False) for name in FAMILY_NAMES]
    + [("qwen2_5_vl", None, True), ("qwen3_vl", 8, False), ("internvl", 8, True)],
)
def test_training_peaks_where_it_is_expected(
    family: str, rank: int | None, checkpointing: bool, sized: dict[str, Path], tmp_path: Path
) -> None:
    vlm = VLM.load(sized[family], for_training=True)
    shape = model_shape(resolve(sized[family]))
    recipe = Recipe(
        batch_size=4,
        micro_batch_size=2,
        gradient_checkpointing=checkpointing,
        lora=None if rank is None else Lora(rank=rank),
    )
    examples = [Example(clip_id=str(i), prompt=PROMPT, answer=ANSWERS[i % 2], source="label") for i in range(4)]
    expected = training_peak(
        shape,
        load(vlm, shape, asked(vlm, 2), max(len(vlm.answer_ids(a)) for a in ANSWERS)),
        Method(rank, checkpointing),
        "cpu",
    )
    with LiveTensors(vlm.model) as live:
        train(vlm, examples, Clips(vlm.grid), recipe, steps=2, seed=0, work=tmp_path / "work", logs=tmp_path / "logs")
    between(expected.total, live.peak)


@pytest.mark.parametrize(
    ("family", "rank", "checkpointing"),
    [("qwen2_5_vl", None, False), ("qwen3_vl", None, True), ("qwen2_5_vl", 8, False), ("qwen3_vl", 8, True)],
)
def test_training_under_autocast_peaks_where_it_is_expected(
    family: str, rank: int | None, checkpointing: bool, sized: dict[str, Path]
) -> None:
    """As on a GPU, where the Trainer computes in bfloat16 beside weights in float32, frozen ones in bfloat16."""
    vlm = VLM.load(sized[family], for_training=True)
    shape = model_shape(resolve(sized[family]))
    examples = [Example(clip_id=str(i), prompt=PROMPT, answer=ANSWERS[i % 2], source="label") for i in range(2)]
    expected = training_peak(
        shape,
        load(vlm, shape, asked(vlm, 2), max(len(vlm.answer_ids(a)) for a in ANSWERS)),
        Method(rank, checkpointing),
        "cuda",
    )
    if rank is not None:
        vlm.model.to(torch.bfloat16)
        vlm.model = with_adapters(vlm, Lora(rank=rank, dropout=0.0), 0)
        assert {p.dtype for p in vlm.model.parameters() if p.requires_grad} == {torch.float32}
    vlm.model.train()
    if checkpointing:
        vlm.model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.AdamW([p for p in vlm.model.parameters() if p.requires_grad], fused=True)
    collate = Collator(vlm, Clips(vlm.grid))
    with LiveTensors(vlm.model) as live:
        for _ in range(2):
            batch = collate(examples)
            labels, weights = batch.pop("labels"), batch.pop("weights")
            with torch.autocast("cpu", torch.bfloat16):
                inputs = vlm.to_model(batch)
                logits = vlm.model(**inputs, logits_to_keep=labels.shape[1], use_cache=False).logits
            answer_loss(logits.float(), labels, weights).backward()
            optimizer.step()
            del inputs, logits
    if rank is None:
        between(expected.total, live.peak)
    else:  # on a processor dropout keeps more than on a GPU; here it keeps nothing
        assert LOW * live.peak <= expected.total <= 1.3 * live.peak, f"{expected.total:,} {live.peak:,}"


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("family", "rank", "checkpointing"),
    [
        ("qwen2_vl", 8, False),
        ("qwen2_5_vl", None, False),
        ("qwen2_5_vl", 8, True),
        ("qwen3_vl", None, False),
        ("internvl", None, False),
        ("internvl", 8, False),
    ],
)
def test_training_on_a_gpu_that_is_not_there_peaks_where_it_is_expected(
    family: str, rank: int | None, checkpointing: bool, sized: dict[str, Path], tmp_path: Path
) -> None:
    """The whole stage with its Trainer, its saves, and clips packed in one row where the family can.

    Where clips are padded, a GPU's kernel keeps a copy of the mask for every layer if its width is no multiple of 8,
    which the plan counts and a processor's kernel does not make.
    """
    vlm = VLM.load(sized[family], for_training=True)
    dtype = torch.float32 if rank is None else torch.bfloat16
    vlm.model.to(dtype)  # as a stage loads it on a GPU
    shape = model_shape(resolve(sized[family]))
    recipe = Recipe(
        batch_size=4, micro_batch_size=2, gradient_checkpointing=checkpointing,
        lora=None if rank is None else Lora(rank=rank, dropout=0.0),
    )  # fmt: skip
    examples = [Example(clip_id=str(i), prompt=PROMPT, answer=ANSWERS[i % 2], source="label") for i in range(4)]
    batch = load(vlm, shape, asked(vlm, 2), max(len(vlm.answer_ids(a)) for a in ANSWERS))
    live = LiveTensors(vlm.model)
    on_gpu(vlm.model, dtype)
    with live, a_gpu():
        train(vlm, examples, Clips(vlm.grid), recipe, steps=2, seed=0, work=tmp_path / "work", logs=tmp_path / "logs")
    expected = training_peak(shape, batch, Method(rank, checkpointing), "cuda").total
    high = HIGH if family != "internvl" else 1.3
    assert LOW * live.peak <= expected <= high * live.peak, f"expected {expected:,}, measured {live.peak:,}"


@pytest.mark.nightly
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_answers_of_a_gpu_that_is_not_there_peak_where_they_are_expected(family: str, sized: dict[str, Path]) -> None:
    for writes in (False, True):
        vlm, shape = VLM.load(sized[family]), model_shape(resolve(sized[family]))
        vlm.model.to(torch.bfloat16)
        encoded, answers = asked(vlm, 4), [vlm.answer_ids(answer) for answer in (*ANSWERS, "dog")]
        batch, nodes = load(vlm, shape, encoded, 0), sum(len(answer) - 1 for answer in answers)
        live = LiveTensors(vlm.model)
        on_gpu(vlm.model, torch.bfloat16)
        with live, a_gpu():
            if writes:
                generate(vlm, encoded, max_new_tokens=16)
            else:
                score_answers(vlm, encoded, answers)
        expected = generating_peak(shape, batch, 16, "cuda") if writes else scoring_peak(shape, batch, nodes, "cuda")
        between(expected.total, live.peak)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_scoring_and_writing_peak_where_they_are_expected(family: str, sized: dict[str, Path]) -> None:
    vlm = VLM.load(sized[family])
    shape = model_shape(resolve(sized[family]))
    encoded = asked(vlm, 4)
    answers = [vlm.answer_ids(answer) for answer in (*ANSWERS, "dog")]
    batch = load(vlm, shape, encoded, 0)
    with LiveTensors(vlm.model) as live:
        score_answers(vlm, encoded, answers)
    nodes = sum(len(answer) - 1 for answer in answers)
    between(scoring_peak(shape, batch, nodes, "cpu").total, live.peak)
    with LiveTensors(vlm.model) as live:
        generate(vlm, encoded, max_new_tokens=16)
    between(generating_peak(shape, batch, 16, "cpu").total, live.peak)


@pytest.mark.parametrize(
    ("family", "rank", "samples", "checkpointing"),
    [
        ("qwen2_5_vl", None, 4, False),
        ("qwen2_5_vl", 8, 8, True),
        ("qwen3_vl", None, 2, False),
        ("internvl", 8, 4, False),
    ],
)
def test_reinforcing_peaks_where_it_is_expected(
    family: str, rank: int | None, samples: int, checkpointing: bool, sized: dict[str, Path], tmp_path: Path
) -> None:
    """Weights, the frozen copy of full fine-tuning, moments, and a group of answers behind one clip."""
    vlm = VLM.load(sized[family], for_training=True)
    shape = model_shape(resolve(sized[family]))
    settings = Reinforce(samples=samples, max_new_tokens=24, batch_size=2, cut_off="scored")
    recipe = Recipe(batch_size=2, micro_batch_size=1, gradient_checkpointing=checkpointing,
                    lora=None if rank is None else Lora(rank=rank))  # fmt: skip
    questions = [
        Question(question_id=str(i), clip_id=str(i), kind="label", text=PROMPT, options=("cat", "dog"), answer="cat")
        for i in range(4)
    ]
    encoded, answers = asked(vlm, 2), samples * settings.max_new_tokens
    one = load(vlm, shape, encoded[:1], answers)
    update = Load(1, one.patches, one.tokens, answers + 1, tree=True)
    sampling = load(vlm, shape, encoded, 0)
    expected = reinforcing_peak(
        shape, update, sampling, samples, 24, Method(rank, checkpointing), reference=True, kind="cpu"
    )
    grader = Grader.of(settings, load_prompts("brief", persona="p", labels={"cat": "", "dog": ""}))
    with LiveTensors(vlm.model) as live:
        reinforce(
            vlm, questions, Clips(vlm.grid), recipe, grader, steps=2, seed=0, work=tmp_path / "w", logs=tmp_path / "l"
        )
    if rank is None:
        between(expected.total, live.peak)
    else:  # adapters are reinforced without dropout, whose copies the plan counts: a bound, not a measure
        assert LOW * live.peak <= expected.total <= 1.5 * live.peak, f"{expected.total:,} {live.peak:,}"
