"""The held-out curve: when it has points, what they hold, and that nothing depends on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis.strategies import integers

from noise import NoiseClips
from rbft.errors import RbftError
from rbft.experiment import Lora, Recipe, Reinforce
from rbft.files import read_jsonl
from rbft.models.generate import Generated, generate
from rbft.models.vlm import VLM
from rbft.prompts import load_prompts
from rbft.records import Question, ReinforcePoint, RolloutRecord
from rbft.training.held_out import HeldOut, drawn, one_answer
from rbft.training.reinforce import ReinforceTrainer, reinforce
from rbft.training.rollouts import Grader, Written

PROMPTS = load_prompts("brief", persona="Expert", labels={"cat": "", "dog": ""})
RECIPE = Recipe(
    learning_rate=3e-3, vision_learning_rate=1e-3, batch_size=2, micro_batch_size=1, gradient_checkpointing=False,
    scheduler="constant", warmup_ratio=0.0, save_every_steps=2,
)  # fmt: skip


class Lengths(Grader):
    """Rewards by length, so that random models earn something."""

    def rewards(self, question: Question, answer: Written) -> dict[str, float | None]:
        return {"format": 0.0, "accuracy": float(len(answer.text) % 3)}


def judge(**changes: Any) -> Lengths:
    settings = {"samples": 3, "max_new_tokens": 8, "batch_size": 2, "cut_off": "scored", "held_out_every": 2}
    plain = Grader.of(Reinforce.model_validate(settings | changes), PROMPTS)
    return Lengths(plain.settings, PROMPTS, plain.thresholds)


def questions(first: int, number: int) -> list[Question]:
    return [
        Question(question_id=str(i), clip_id=str(i), kind="label", text="cat or dog?", options=("cat", "dog"),
                 answer=("cat", "dog")[i % 2])
        for i in range(first, first + number)
    ]  # fmt: skip


def run(vlm: VLM, folder: Path, judge: Grader, *, steps: int = 5, lora: Lora | None = None) -> list[ReinforcePoint]:
    return reinforce(
        vlm, questions(0, 6), NoiseClips(vlm.grid), RECIPE.model_copy(update={"lora": lora}), judge, steps=steps,
        seed=5, work=folder / "work", logs=folder / "logs", held_out=questions(20, 5),
    )  # fmt: skip


def curve(folder: Path) -> list[RolloutRecord]:
    return read_jsonl(folder / "logs" / "held_out.jsonl", RolloutRecord)


def test_points_at_the_start_between_and_at_the_end(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Greedy answers of the policy as it was then: the parent's at first, the child's at last."""
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    run(vlm, tmp_path, judge(rollout_batch_size=3))
    records = curve(tmp_path)
    assert [r.step for r in records] == [step for step in (0, 2, 4, 5) for _ in range(5)]
    assert [r.question_id for r in records[:5]] == ["20", "21", "22", "23", "24"]
    assert {(r.sample, r.advantage, r.masked) for r in records} == {(0, None, True)}
    frames = NoiseClips(vlm.grid)
    for step, model in ((0, VLM.load(checkpoints["qwen2_5_vl"])), (5, vlm)):
        mine = [r for r in records if r.step == step]
        clips = [model.encode(frames.read(r.clip_id), frames.plan(r.clip_id), "cat or dog?") for r in mine]
        said = generate(model, clips, max_new_tokens=8)
        assert [r.text for r in mine] == [one.text for one in said]
        assert [r.rewards["accuracy"] for r in mine] == [len(one.text) % 3 for one in said]
        assert [r.reward for r in mine] == [len(one.text) % 3 for one in said]


@pytest.mark.parametrize("lora", [None, Lora(rank=2, alpha=4)])
def test_nothing_is_learnt_from_it(lora: Lora | None, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """The same answers, points and weights with a curve and without."""
    made = []
    for number in (0, 5):
        vlm, folder = VLM.load(checkpoints["qwen2_5_vl"]), tmp_path / str(number)
        points = run(vlm, folder, judge(held_out=number), lora=lora)
        sampled = read_jsonl(folder / "logs" / "rollouts.jsonl", RolloutRecord)
        made.append((points, sampled, [p.detach() for p in vlm.model.parameters()]))
        assert (folder / "logs" / "held_out.jsonl").exists() == (number > 0)
    assert made[0][:2] == made[1][:2]
    assert all(torch.equal(a, b) for a, b in zip(made[0][2], made[1][2], strict=True))


def test_killed_and_continued_the_curve_is_the_same(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while a point is measured, and in the step behind one: no point twice, none missing."""
    run(VLM.load(checkpoints["qwen2_5_vl"]), tmp_path / "whole", judge())

    class PulledPlugError(Exception):
        pass

    for owner, name, number in ((HeldOut, "measure", 3), (ReinforceTrainer, "_sampled", 1)):
        original, calls = getattr(owner, name), []

        def call(self: Any, *given: Any, original: Any = original, calls: Any = calls, number: int = number) -> Any:
            calls.append(1)
            if len(calls) == number:
                raise PulledPlugError
            return original(self, *given)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, call)
            with pytest.raises(PulledPlugError):
                run(VLM.load(checkpoints["qwen2_5_vl"]), tmp_path / "cut", judge())
    run(VLM.load(checkpoints["qwen2_5_vl"]), tmp_path / "cut", judge())
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")


def test_a_curve_has_about_ten_points_where_nothing_else_is_asked_for(tmp_path: Path) -> None:
    def due(steps: int, **changes: Any) -> list[int]:
        made = HeldOut(None, questions(0, 2), None, judge(**changes), tmp_path / "none", steps=steps)  # type: ignore[arg-type]
        return [step for step in range(steps + 1) if made.is_due(step)]

    assert due(1000, held_out_every=None) == list(range(0, 1001, 100))
    assert due(25, held_out_every=None) == [0, 3, 6, 9, 12, 15, 18, 21, 24, 25]
    assert due(3, held_out_every=None) == [0, 1, 2, 3]
    assert due(7, held_out_every=5) == [0, 5, 7]
    assert due(7, held_out=0) == []


@given(integers(0, 40), integers(0, 40))
def test_questions_are_drawn_in_order_and_always_the_same(available: int, number: int) -> None:
    asked = questions(0, available)
    chosen = drawn(asked, number)
    assert len(chosen) == min(number, available)
    assert chosen == [q for q in asked if q in chosen]
    assert chosen == drawn(asked, number)


def test_a_held_out_question_that_cannot_be_graded_stops_before_training(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    wrong = [questions(20, 1)[0].model_copy(update={"answer": "bird"})]
    with pytest.raises(RbftError, match=r"question '20': the answer 'bird' cannot be graded"):
        reinforce(vlm, questions(0, 6), NoiseClips(vlm.grid), RECIPE, judge(), steps=1, seed=0,
                  work=tmp_path / "work", logs=tmp_path / "logs", held_out=wrong)  # fmt: skip


# -- collapse --------------------------------------------------------------------------------------------------------


def record(question: Question, text: str, step: int = 0) -> RolloutRecord:
    return judge().alone(question, Written(text, True, 3), step)


def test_one_answer_to_questions_with_options() -> None:
    asked = questions(0, 4)
    free = asked[0].model_copy(update={"question_id": "free", "kind": "free_form", "options": ()})
    tags = "<think>It {}s.</think><answer>cat</answer>"
    assert one_answer([record(q, tags.format(q.question_id)) for q in asked], asked) == "cat"
    assert one_answer([*(record(q, "cat") for q in asked), record(free, "a dog runs")], [*asked, free]) == "cat"
    assert one_answer([record(q, q.answer) for q in asked], asked) is None
    assert one_answer([record(q, "<answer>cat") for q in asked], asked) is None, "unreadable is no class"
    assert one_answer([record(q, "cat") for q in asked[::2]], asked[::2]) is None, "cat is right for all of them"
    assert one_answer([record(free, "cat")], [free]) is None


@pytest.mark.parametrize(
    ("texts", "alarms"),
    [
        (["cat", "dog", "dog", "dog"], [(4, 6), (2, 4)]),
        (["cat", None, "cat", None], []),
        (["cat", "dog", "cat", "dog"], []),
        (["dog", "dog", None, None], [(0, 2)]),
    ],
)
def test_two_points_of_one_and_the_same_answer_are_an_alarm(
    texts: list[str | None], alarms: list[tuple[int, int]], checkpoints: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """None: both answers are given. A stage that is killed after a point and goes on still knows it."""
    vlm, path, said = VLM.load(checkpoints["qwen2_5_vl"]), tmp_path / "held_out.jsonl", []
    answers = iter(texts)

    def generated(_: Any, clips: list[Any], **__: Any) -> list[Generated]:
        text = next(answers)
        return [Generated(text or ("cat", "dog")[n % 2], True, 3) for n in range(len(clips))]

    monkeypatch.setattr("rbft.training.held_out.generate", generated)
    for number in range(len(texts)):
        curve = HeldOut(vlm, questions(0, 4), NoiseClips(vlm.grid), judge(), path, steps=6, say=said.append)
        curve.forget_from(2 * number)
        curve.measure(2 * number)
    assert said == [
        f"alarm: held-out answers after steps {a} and {b} are all {'dog'!r}: the stage tells no clips apart. Lower "
        "reinforce.learning_rate, or raise reinforce.beta or reinforce.temperature"
        for a, b in sorted(alarms)
    ]
