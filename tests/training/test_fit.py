"""What fits: choices by hand on the 7B, what is refused, the table of the guide, and running out of memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rbft.errors import ShortMemoryError
from rbft.experiment import Experiment, Lora, Training, make_experiment
from rbft.models.memory import GIB, Device, Load
from rbft.training.fit import Fit, fit
from rbft.training.plan import explained, ran_out, size
from rbft.training.work import Work
from shapes import seven_b

GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"
NAME = "Qwen/Qwen2.5-VL-7B-Instruct"
CLIP = (6480, 1620, 1620)
WORK = Work(train=[CLIP] * 64, every=[CLIP] * 80, prompt=150, answer=170, labels=[3, 3], written=256)


def asked(**changes: Any) -> Experiment:
    return make_experiment({"name": "x", "clips": "c.csv", "model": NAME, "labels": ["a", "b"], **changes})


def fitted(total_gib: float, work: Work = WORK, **changes: Any) -> Fit:
    return fit(asked(**changes), NAME, seven_b(), work, Device("NVIDIA H100", "cuda", int(total_gib * GIB)))


def cut(made: Fit, training: Training | None = None) -> tuple[int, bool, int | None]:
    """Micro-batch, checkpointing and rank that were chosen."""
    recipe = made.recipe(training or asked().training)
    return recipe.micro_batch_size, recipe.gradient_checkpointing, None if recipe.lora is None else recipe.lora.rank


def test_the_table_is_the_one_in_the_guide() -> None:
    """18 frames of 280 x 504 on 80 GB: 9 x 20 x 36 patches, 1,620 visual tokens, 150 of prompt, 170 of rationale."""
    text = GUIDE.read_text(encoding="utf-8")
    for line in fitted(79.2).plan.lines():
        assert f"    {line}\n" in text


@pytest.mark.parametrize(
    ("total_gib", "expected"),
    [
        (288, (4, False, None)),
        (190, (1, False, None)),
        (178, (4, True, None)),
        (139.8, (4, False, 16)),
        (79.2, (2, False, 16)),
        (47.5, (1, False, 16)),
        (31.5, (4, True, 16)),
    ],
)
def test_full_before_lora_and_keeping_before_recomputing(
    total_gib: float, expected: tuple[int, bool, int | None]
) -> None:
    made = fitted(total_gib)
    assert cut(made) == expected
    assert made.faults == ()
    assert (made.plan.why_lora is not None) == (expected[2] is not None)


def test_a_seven_b_is_trained_on_24_gb_where_less_is_written_at_once() -> None:
    [fault] = fitted(23.6).faults
    assert fault == (
        "writing does not fit the memory: 16 clips at once need 21.5 GiB, 21.2 GiB are there. Next: "
        "rationales.batch_size=15"
    )
    made = fitted(23.6, rationales={"batch_size": 8})
    assert (cut(made), made.faults) == ((2, True, 16), ())


def test_a_larger_micro_batch_than_keeps_a_gpu_busy_is_not_taken() -> None:
    """16,384 tokens are 8 clips of 1,940, and all 16 of a batch of 300."""
    assert cut(fitted(2000))[0] == 8
    short = Work(train=[(20, 5, 5)] * 64, every=[(20, 5, 5)], prompt=150, answer=145, labels=[3], written=256)
    assert cut(fitted(2000, short))[0] == 16


def test_what_is_asked_for_is_done() -> None:
    made = fitted(288, training={"micro_batch_size": 2, "gradient_checkpointing": True})
    assert cut(made, asked(training={"micro_batch_size": 2, "gradient_checkpointing": True}).training) == (
        2,
        True,
        None,
    )
    lora = {"lora": {"rank": 4}}
    assert cut(fitted(288, training=lora), asked(training=lora).training)[2] == 4
    assert cut(fitted(288, training={"method": "lora"}), asked(training={"method": "lora"}).training)[2] == Lora().rank
    assert fitted(288, training=lora).plan.why_lora is None


def test_every_stage_that_leaves_it_open_is_trained_the_same_way() -> None:
    """The tower frozen in one stage, the other decides: no arm is full and another LoRA."""
    stages = [{"kind": "rationale", "training": {"vision_learning_rate": 0}}, {"kind": "label"}]
    experiment = asked(arms=[{"name": "mine", "stages": stages}])
    made = fit(experiment, NAME, seven_b(), WORK, Device("GPU", "cuda", int(150 * GIB)))
    recipes = [made.recipe(experiment.stage_training(stage)) for stage in experiment.arms[0].stages]
    assert [recipe.lora for recipe in recipes] == [Lora(), Lora()]


def reinforced(total_gib: float, **settings: Any) -> tuple[Fit, Experiment]:
    experiment = asked(arms=["rb-ft+grpo"], reinforce={"max_new_tokens": 256} | settings)
    return fit(experiment, NAME, seven_b(), WORK, Device("GPU", "cuda", int(total_gib * GIB))), experiment


def test_reinforcement_is_planned_with_its_reference_and_its_groups() -> None:
    """A frozen copy of 8.29 billion weights in float32 is 30.9 GiB; without beta or with adapters there is none."""
    phases = {row.phase: row for row in reinforced(400)[0].plan.rows}
    row = phases["reinforcing, full fine-tuning"]
    assert row.weights - phases["full fine-tuning"].weights == pytest.approx(30.9 * GIB, rel=0.01)
    assert row.clips == 8, "64 answers at once, eight a question"
    free = {row.phase: row for row in reinforced(400, beta=0)[0].plan.rows}["reinforcing, full fine-tuning"]
    assert free.weights == phases["full fine-tuning"].weights
    made, experiment = reinforced(139.8)
    stage = experiment.arms[0].stages[-1]
    recipe = made.recipe(experiment.stage_training(stage), experiment.reinforce_of(stage))
    assert recipe.lora == Lora()
    assert (recipe.micro_batch_size, recipe.batch_size, recipe.learning_rate) == (1, 8, 1e-6)
    longer = {row.phase: row for row in reinforced(400, max_new_tokens=512)[0].plan.rows}
    assert longer["reinforcing, full fine-tuning"].work > row.work


def test_reinforcement_that_does_not_fit_is_refused() -> None:
    made, _ = reinforced(139.8, max_new_tokens=4096)
    assert made.faults[0].startswith(
        "reinforcing does not fit the memory: LoRA of rank 16, checkpointing with 8 answers"
    )
    assert "Next: fewer reinforce.samples, smaller reinforce.max_new_tokens or reinforce.roll" in made.faults[0]


def test_why_lora_is_told_with_what_forbids_it() -> None:
    assert fitted(79.2).plan.why_lora == (
        "LoRA is trained instead of every weight, which is another method than the paper's: full fine-tuning needs "
        "145.3 GiB at least, 73.4 GiB are there. training.method=full forbids this. LoRA wants a higher learning rate: "
        "try training.learning_rate=1e-4, and reinforce.learning_rate=1e-5 where a stage reinforces"
    )


@pytest.mark.parametrize(
    ("total_gib", "changes", "expected"),
    [
        (
            79.2,
            {"training": {"method": "full"}},
            "training does not fit the memory: full fine-tuning, checkpointing with micro-batch 1 needs 145.3 GiB, "
            "73.4 GiB are there. Next: training.method=lora, a smaller model, or a larger memory_gib if more is there",
        ),
        (
            288,
            {"training": {"micro_batch_size": 16, "gradient_checkpointing": False}},
            "training does not fit the memory: full fine-tuning with micro-batch 16 needs 594.1 GiB, 269.7 GiB are "
            "there. Next: leave micro_batch_size and gradient_checkpointing out, so that they are chosen",
        ),
    ],
)
def test_what_does_not_fit_is_refused(total_gib: float, changes: dict[str, Any], expected: str) -> None:
    made = fitted(total_gib, **changes)
    assert made.faults == (expected,)
    with pytest.raises(ShortMemoryError) as caught:
        made.refuse()
    assert caught.value.faults == [expected, *made.plan.lines()]


def test_a_batch_of_questions_that_does_not_fit_names_the_one_that_does() -> None:
    made = fitted(21, arms=["zero-shot"], evaluation={"batch_size": 32}, rationales={"batch_size": 16})
    most = {row.phase: row.most_clips for row in made.plan.rows}
    assert list(most) == ["scoring labels", "writing"], "nothing is trained"
    assert made.faults == (
        f"scoring labels does not fit the memory: 32 clips at once need 24.6 GiB, 18.7 GiB are there. Next: "
        f"evaluation.batch_size={most['scoring labels']}",
        f"writing does not fit the memory: 16 clips at once need 21.5 GiB, 18.7 GiB are there. Next: "
        f"rationales.batch_size={most['writing']}",
    )
    assert fitted(21, arms=["zero-shot"], evaluation={"batch_size": most["scoring labels"]},
                  rationales={"batch_size": most["writing"]}).faults == ()  # fmt: skip


def test_where_frames_are_too_many_fewer_are_advised() -> None:
    """LoRA's weights fit, a clip of 100 times as many tokens does not."""
    long = (648_000, 162_000, 162_000)
    made = fitted(79.2, Work(train=[long], every=[long], prompt=150, answer=170, labels=[3], written=9))
    training, *_ = made.faults
    assert training.endswith(
        "Next: fewer frames (sampling.max_frames), fewer pixels (sampling.max_pixels), a smaller model, or a larger "
        "memory_gib if more is there"
    )


def test_the_heaviest_batch_by_hand() -> None:
    work = Work(train=[(4, 1, 3), (6, 2, 2)], every=[(8, 9, 9)], prompt=10, answer=5, labels=[2, 4], written=7)
    assert work.training(1) == Load(rows=1, patches=6, tokens=18, answer=6)
    assert work.training(2) == Load(rows=2, patches=10, tokens=18, answer=6)
    assert work.training(3) == Load(rows=3, patches=16, tokens=18, answer=6)
    assert work.asking(1) == Load(rows=1, patches=8, tokens=19)


# -- running out ---------------------------------------------------------------------------------------------------


def test_running_out_ends_with_the_table_and_the_next_step() -> None:
    made = fitted(100)
    for error in (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nmore"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ):
        with pytest.raises(ShortMemoryError) as caught, explained(made.plan):
            raise error
        first, *table, last = caught.value.faults
        assert first == f"out of memory on NVIDIA H100: {str(error).splitlines()[0] if str(error) else 'MemoryError'}"
        assert table == made.plan.lines()
        assert last == (
            "Next: end what else uses this memory; ask for smaller batches (evaluation.batch_size, "
            "rationales.batch_size, training.micro_batch_size, or memory_gib=80.0 where that is chosen); "
            "or take fewer frames (sampling.max_frames) or a smaller model. What is finished is kept"
        )


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shape mismatch"), explained(fitted(100).plan):
        raise RuntimeError("shape mismatch")
    assert not ran_out(ValueError("x"))


def test_a_real_allocation_that_cannot_be_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert ran_out(caught.value)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 MiB"), (GIB // 2, "512 MiB"), (GIB, "1.0 GiB"), (1234 * GIB, "1,234.0 GiB")]
)
def test_sizes_in_words(count: int, text: str) -> None:
    assert size(count) == text
