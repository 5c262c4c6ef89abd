"""GRPO by hand; the update on the embedded architecture; and a stage that is killed and goes on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra.numpy import arrays
from hypothesis.strategies import floats

from noise import NoiseClips
from rbft.errors import RbftError
from rbft.experiment import Lora, Recipe, Reinforce
from rbft.files import read_jsonl
from rbft.models.score import GroupLogProbs, score_group
from rbft.models.vlm import VLM, Encoded
from rbft.prompts import load_prompts
from rbft.records import Question, ReinforcePoint, RolloutRecord
from rbft.rewards import RewardFormula, group_advantages
from rbft.training import reinforce as module
from rbft.training.reinforce import NOBODY, ReinforceTrainer, Repeated, grpo_loss, is_clipped, k3, reinforce
from rbft.training.rollouts import Grader, Written, step_measures

LABELS = {"cat": "", "dog": ""}
PROMPTS = load_prompts("brief", persona="Expert", labels=LABELS)
RECIPE = Recipe(
    learning_rate=3e-3, vision_learning_rate=1e-3, batch_size=2, micro_batch_size=1, gradient_checkpointing=False,
    scheduler="constant", warmup_ratio=0.0, save_every_steps=2,
)  # fmt: skip
SETTINGS = Reinforce(samples=3, max_new_tokens=8, batch_size=2, cut_off="scored")


def grader(**changes: Any) -> Grader:
    return Grader.of(Reinforce.model_validate(SETTINGS.model_dump() | changes), PROMPTS)


def questions(number: int = 6) -> list[Question]:
    return [
        Question(
            question_id=str(i), clip_id=str(i), kind="label", text="cat or dog?", options=("cat", "dog"),
            answer=("cat", "dog")[i % 2],
        )
        for i in range(number)
    ]  # fmt: skip


class Vowels(Grader):
    """Rewards what a random model writes now and then, so that groups have a signal."""

    def rewards(self, question: Question, answer: Written) -> dict[str, float | None]:
        return {"format": 0.0, "accuracy": float(len(answer.text) % 3)}


def vowels(**changes: Any) -> Vowels:
    return Vowels(grader(**changes).settings, PROMPTS, grader().thresholds)


def run(
    vlm: VLM, folder: Path, *, steps: int = 4, recipe: Recipe = RECIPE, judge: Grader | None = None
) -> list[ReinforcePoint]:
    return reinforce(
        vlm, questions(), NoiseClips(vlm.grid), recipe, judge or vowels(), steps=steps, seed=5, work=folder / "work",
        logs=folder / "logs",
    )  # fmt: skip


def weights(vlm: VLM) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in vlm.model.named_parameters()}


def rollouts(folder: Path) -> list[RolloutRecord]:
    return read_jsonl(folder / "logs" / "rollouts.jsonl", RolloutRecord)


# -- the loss ------------------------------------------------------------------------------------------------------


def test_one_step_for_two_prompts_of_three_answers_by_hand() -> None:
    """Each token is a logit of its own with p = sigmoid(x), so that the gradient of log p is 1 - p.

    Loss: -mean over six answers of mean over tokens of (advantage - beta (q/p - 1 - log q/p)). Its derivative by
    log p: -(advantage - beta (1 - q/p)) / tokens / 6. One step of plain gradient descent follows.
    """
    beta, rate = 0.04, 0.1
    logits = [[0.2, -0.3], [1.0], [0.5, 0.5, -2.0], [0.0, 0.1], [-1.0], [0.7]]
    references = [[0.1, -0.3], [0.8], [0.5, 0.9, -1.0], [0.3, 0.0], [-1.5], [0.7]]
    rewards = [[2.0, 1.0, 0.0], [1.0, 1.0, 2.0]]
    first = [r / (1.0 + 1e-4) for r in (1.0, 0.0, -1.0)]  # mean 1, deviation 1
    third = math.sqrt(1 / 3)  # mean 4/3; squares 1/9, 1/9, 4/9 over n - 1 = 2
    second = [d / (third + 1e-4) for d in (-1 / 3, -1 / 3, 2 / 3)]
    assert [a for group in rewards for a in group_advantages(group)] == pytest.approx([*first, *second], abs=1e-12)

    expected_loss, expected_logits = 0.0, []
    for answer, reference, advantage in zip(logits, references, [*first, *second], strict=True):
        stepped = []
        for x, y in zip(answer, reference, strict=True):
            p, q = 1 / (1 + math.exp(-x)), 1 / (1 + math.exp(-y))
            expected_loss += -(advantage - beta * (q / p - 1 - math.log(q / p))) / len(answer) / 6
            by_log_p = -(advantage - beta * (1 - q / p)) / len(answer) / 6
            stepped.append(x - rate * by_log_p * (1 - p))
        expected_logits.append(stepped)

    policy = torch.zeros(6, 3, dtype=torch.float64)
    reference = torch.zeros(6, 3, dtype=torch.float64)
    mask = torch.zeros(6, 3, dtype=torch.float64)
    for n, (answer, other) in enumerate(zip(logits, references, strict=True)):
        policy[n, : len(answer)], reference[n, : len(answer)] = torch.tensor(answer), torch.tensor(other)
        mask[n, : len(answer)] = 1
    policy.requires_grad_()
    advantages = torch.tensor([*first, *second], dtype=torch.float64)
    loss = grpo_loss(policy.sigmoid().log(), reference.sigmoid().log(), advantages, mask, beta)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(expected_loss, abs=1e-6)
    assert policy.grad is not None
    after = (policy - rate * policy.grad).detach()
    for n, stepped in enumerate(expected_logits):
        assert after[n, : len(stepped)].tolist() == pytest.approx(stepped, abs=1e-6)
        assert not policy.grad[n, len(stepped) :].any(), "nothing is learnt behind an answer"


def test_k3_by_hand() -> None:
    """q/p = 2: 2 - 1 - log 2; equal policies: 0; never below."""
    assert k3(torch.tensor([math.log(0.25)]), torch.tensor([math.log(0.5)])).item() == pytest.approx(1 - math.log(2))
    assert k3(torch.tensor([-1.0]), torch.tensor([-1.0])).item() == 0
    assert (k3(torch.randn(100), torch.randn(100)) >= 0).all()


def test_without_reference_and_with_an_answer_left_out() -> None:
    logps = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]], requires_grad=True)
    loss = grpo_loss(logps, None, torch.tensor([1.0, 5.0]), torch.tensor([[1.0, 1.0], [0.0, 0.0]]), 0.04)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(-0.5)
    assert logps.grad is not None
    assert logps.grad.tolist() == [[-0.25, -0.25], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "gradient", "clipped"),
    [
        (1.5, 1.0, -1.2, 0.0, True),  # likelier than 1 + 0.2 already: counted as 1.2, nothing more to gain
        (1.5, -1.0, 1.5, 1.5, False),  # likelier and worse than the others: all of it is taken back
        (0.5, 1.0, -0.5, -0.5, False),
        (0.5, -1.0, 0.8, 0.0, True),  # less likely than 1 - 0.2 already
        (1.1, 1.0, -1.1, -1.1, False),
        (0.9, -2.0, 1.8, 1.8, False),
    ],
)
def test_what_the_ratio_of_policies_counts_by_hand(
    ratio: float, advantage: float, expected: float, gradient: float, clipped: bool
) -> None:
    """The derivative of r by log p is r; where the clipped term is the smaller one, there is none."""
    old = torch.tensor([[-2.0]], dtype=torch.float64)
    logps = (old + math.log(ratio)).requires_grad_()
    gained, mask = torch.tensor([advantage], dtype=torch.float64), torch.ones_like(old)
    loss = grpo_loss(logps, None, gained, mask, 0.04, old, (0.8, 1.2))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    assert logps.grad is not None
    assert logps.grad.item() == pytest.approx(gradient, abs=1e-12)
    assert is_clipped((logps - old).exp(), gained, (0.8, 1.2)).item() == clipped


def test_a_second_update_for_two_prompts_of_three_answers_by_hand() -> None:
    """Two tokens an answer, old log-probabilities -1 and -2, new ones by these ratios; clip 0.2, clip_high 0.3.

    Group one earns 2, 1, 0, group two 1, 1, 2 (advantages as above). With the ends 0.8 and 1.3, of the first answer
    1.5 counts as 1.3; of the third 0.5 as 0.8; 1.5 and 0.5 count in full where the advantage points the other way; of
    the last 1.3 is at the end and not beyond it.
    """
    ratios = [[1.5, 1.0], [1.0, 1.0], [0.5, 1.5], [1.25, 0.7], [1.0, 0.9], [0.5, 1.29]]
    advantages = [1 / 1.0001, 0.0, -1 / 1.0001]
    third = math.sqrt(1 / 3) + 1e-4
    advantages += [-1 / 3 / third, -1 / 3 / third, 2 / 3 / third]
    counted = [(1.3 + 1.0) / 2, 1.0, (0.8 + 1.5) / 2, (1.25 + 0.8) / 2, (1.0 + 0.9) / 2, (0.5 + 1.29) / 2]
    expected = -sum(c * a for c, a in zip(counted, advantages, strict=True)) / 6
    old = torch.tensor([[-1.0, -2.0]] * 6, dtype=torch.float64)
    new = (old + torch.tensor(ratios, dtype=torch.float64).log()).requires_grad_()
    gained = torch.tensor(advantages, dtype=torch.float64)
    loss = grpo_loss(new, None, gained, torch.ones_like(old), 0.0, old, Reinforce(clip_high=0.3).ratios)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert new.grad is not None
    learnt = [[0, 1], [0, 0], [0, 1], [1, 0], [1, 1], [1, 1]]
    for n, (row, on) in enumerate(zip(ratios, learnt, strict=True)):
        by_hand = [-r * advantages[n] / 2 / 6 * o for r, o in zip(row, on, strict=True)]
        assert new.grad[n].tolist() == pytest.approx(by_hand, abs=1e-6)
    assert is_clipped((new - old).exp(), gained, (0.8, 1.3)).sum() == 3


@given(arrays(np.float64, (2, 3), elements=floats(-30, 0)), arrays(np.float64, (2,), elements=floats(-3, 3)))
def test_the_first_update_is_the_same_with_clipping_and_without(logps: Any, advantages: Any) -> None:
    """To the bit, loss and gradient: the ratio is exactly 1."""
    made = []
    for old in (None, torch.tensor(logps)):
        policy = torch.tensor(logps, requires_grad=True)
        loss = grpo_loss(policy, torch.tensor(logps - 1), torch.tensor(advantages), torch.ones(2, 3), 0.04, old,
                         (0.9, 1.1))  # fmt: skip
        loss.backward()  # type: ignore[no-untyped-call]
        assert policy.grad is not None
        made.append((loss.item(), policy.grad.tolist()))
    assert made[0] == made[1]


# -- rewards of a group --------------------------------------------------------------------------------------------


def written(label: str, finished: bool = True) -> Written:
    return Written(f"<think>A pet.</think><answer>{label}</answer>", finished, 9)


def test_a_group_by_hand() -> None:
    """Right 2, wrong 1, without tags and right 1: mean 4/3, deviation the root of 1/3."""
    answers = [written("cat"), written("dog"), Written("cat", True, 2)]
    records = grader(cut_off="masked").group(questions()[0], answers, step=4)
    assert [r.rewards for r in records] == [
        {"format": 1.0, "accuracy": 1.0}, {"format": 1.0, "accuracy": 0.0}, {"format": 0.0, "accuracy": 1.0},
    ]  # fmt: skip
    assert [r.reward for r in records] == [2.0, 1.0, 1.0]
    third = math.sqrt(1 / 3) + 1e-4
    assert [r.advantage for r in records] == pytest.approx([2 / 3 / third, -1 / 3 / third, -1 / 3 / third])
    assert {(r.step, r.clip_id, r.masked) for r in records} == {(4, "0", False)}
    assert [r.sample for r in records] == [0, 1, 2]


def test_cut_answers_are_masked_or_scored_by_name() -> None:
    answers = [written("cat"), written("dog"), Written("<think>A pet", False, 8)]
    masked = grader(cut_off="masked").group(questions()[0], answers, step=1)
    assert [r.masked for r in masked] == [False, False, True]
    assert masked[2].advantage is None
    assert masked[2].reward == 0.0, "what it would have earned is still told"
    assert masked[0].advantage == pytest.approx(0.5 / (math.sqrt(0.5) + 1e-4)), "compared with the other finished one"
    scored = grader(cut_off="scored").group(questions()[0], answers, step=1)
    assert [r.masked for r in scored] == [False] * 3
    assert [r.advantage for r in scored] == pytest.approx([1 / 1.0001, 0.0, -1 / 1.0001])


def test_measures_of_a_step_by_hand() -> None:
    judge = grader(cut_off="masked")
    groups = [
        judge.group(questions()[0], [written("cat"), written("dog"), Written("<think>", False, 8)], step=1),
        judge.group(questions()[1], [written("dog"), written("dog"), written("dog")], step=1),
    ]
    measured = step_measures(groups, ("format", "accuracy"))
    assert measured == pytest.approx(
        {
            "rewards/format": 5 / 6, "rewards/accuracy": 4 / 6, "reward": 9 / 6, "spread": math.sqrt(0.5) / 2,
            "without_signal": 0.5, "cut_off": 1 / 6, "unscored": 0.0, "num_tokens": (5 * 9 + 8) / 6,
        }
    )  # fmt: skip


def test_every_term_of_the_formula_is_computed() -> None:
    every = RewardFormula(length=1, label_free=1, dimensions=1, length_tokens=(1, 20))
    judge = grader(rewards=every.model_dump())
    good = Written("<think>Subjects: a pet. Attributes: small. Scenes: a room.</think><answer>cat</answer>", True, 12)
    assert judge.rewards(questions()[0], good) == {
        "format": 1.0, "accuracy": 1.0, "length": 1.0, "label_free": 1.0, "dimensions": 0.75,
    }  # fmt: skip
    told = Written("<think>It is a dog.</think><answer>dog</answer>", True, 12)
    assert judge.rewards(questions()[0], told) == {
        "format": 1.0, "accuracy": 0.0, "length": 0.0, "label_free": 0.0, "dimensions": 0.0,
    }  # fmt: skip


# -- training ------------------------------------------------------------------------------------------------------


def test_a_stage_leaves_every_answer_and_every_step(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    before = weights(vlm)
    points = run(vlm, tmp_path)
    records = rollouts(tmp_path)
    assert [r.step for r in records] == [step for step in (1, 2, 3, 4) for _ in range(6)], "two questions, G = 3"
    assert {r.question_id for r in records[:18]} == {str(i) for i in range(6)}, "an epoch sees every question"
    assert read_jsonl(tmp_path / "logs" / "reinforce.jsonl", ReinforcePoint) == points
    assert [p.step for p in points] == [1, 2, 3, 4]
    assert points[0].kl == pytest.approx(0.0, abs=1e-9), "the first policy is its own parent"
    assert points[-1].kl is not None
    assert points[-1].kl > 0
    assert all(p.entropy is not None and p.entropy > 1 for p in points)
    for point in points:
        mine = [r for r in records if r.step == point.step]
        assert point.reward == pytest.approx(sum(r.reward or 0.0 for r in mine) / 6)
        assert point.cut_off == pytest.approx(sum(not r.finished for r in mine) / 6)
    assert list((tmp_path / "logs").glob("events.out.tfevents.*"))
    assert any(not torch.equal(p, before[name]) for name, p in weights(vlm).items())


def test_policy_and_reference_get_the_tensors_of_the_rollout(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixels, grid, seconds between frames and token types: the very same clip in all three."""
    seen: dict[str, list[Encoded]] = {"sampled": [], "scored": []}
    sample, score = module.sample_groups, module.score_group

    def sampled(vlm: VLM, batch: list[Encoded], *rest: Any, **more: Any) -> Any:
        seen["sampled"] += batch
        return sample(vlm, batch, *rest, **more)

    def scored(vlm: VLM, clip: Encoded, *rest: Any, **more: Any) -> Any:
        seen["scored"].append(clip)
        return score(vlm, clip, *rest, **more)

    monkeypatch.setattr(module, "sample_groups", sampled)
    monkeypatch.setattr(module, "score_group", scored)
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    run(vlm, tmp_path, steps=1)
    one, two = seen["sampled"]
    assert [id(clip) for clip in seen["scored"]] == [id(one), id(one), id(two), id(two)]
    assert one.visual.seconds_per_grid == 1.0
    assert (vlm.collate([one])["mm_token_type_ids"] == 2).sum() == 8


@pytest.mark.parametrize("lora", [None, Lora(rank=2, alpha=4, dropout=0.5)])
def test_the_reference_stays_the_parent(
    lora: Lora | None, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every step, whatever was learnt: a frozen copy, or the model with its adapters off."""
    parent = VLM.load(checkpoints["qwen2_5_vl"])
    found: list[float] = []
    original = ReinforceTrainer._reference_of

    def checked(self: ReinforceTrainer, clip: Encoded, answers: list[torch.Tensor]) -> GroupLogProbs | None:
        made = original(self, clip, answers)
        with torch.no_grad():
            expected = score_group(parent, clip, answers, temperature=1.0)
        assert made is not None
        found.append(float((made.log_probabilities - expected.log_probabilities).abs().max()))
        return made

    monkeypatch.setattr(ReinforceTrainer, "_reference_of", checked)
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    points = run(vlm, tmp_path, recipe=RECIPE.model_copy(update={"lora": lora, "learning_rate": 3e-2}))
    assert len(found) == 8
    assert max(found) < 1e-4
    assert points[-1].kl is not None
    assert points[-1].kl > 1e-4
    assert set(weights(vlm)) == set(weights(parent)), "adapters are merged"


def test_the_update_sees_what_sampling_saw(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the step itself, with activation checkpointing on: no dropout, no other positions, no other clip."""
    drawn: list[list[torch.Tensor]] = []
    scored: list[GroupLogProbs] = []
    sample, score = module.sample_groups, module.score_group

    def sampled(*given: Any, **more: Any) -> Any:
        groups = sample(*given, **more)
        drawn.extend([one.log_probabilities for one in group] for group in groups)
        return groups

    def noted(*given: Any, **more: Any) -> Any:
        made = score(*given, **more)
        if made.log_probabilities.requires_grad:
            scored.append(made)
        return made

    monkeypatch.setattr(module, "sample_groups", sampled)
    monkeypatch.setattr(module, "score_group", noted)
    recipe = RECIPE.model_copy(update={"gradient_checkpointing": True, "lora": Lora(rank=2, alpha=4, dropout=0.5)})
    run(VLM.load(checkpoints["qwen2_5_vl"]), tmp_path, recipe=recipe, steps=3)
    assert len(drawn) == len(scored) == 6
    for group, made in zip(drawn, scored, strict=True):
        for n, one in enumerate(group):
            torch.testing.assert_close(made.log_probabilities[n, : len(one)].detach(), one, atol=1e-4, rtol=0)


def test_rewarded_answers_become_likelier(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """One question, one letter that earns: after some steps it is written more often."""

    class Letter(Grader):
        def rewards(self, question: Question, answer: Written) -> dict[str, float | None]:
            return {"format": 0.0, "accuracy": sum(c.islower() for c in answer.text) / 8}

    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    settings = grader(samples=8, beta=0.0).settings
    points = run(vlm, tmp_path, steps=25, judge=Letter(settings, PROMPTS, grader().thresholds))
    early, late = ([p.reward or 0.0 for p in part] for part in (points[:5], points[-5:]))
    assert sum(late) > sum(early) + 0.5
    assert points[0].kl is None, "without beta there is no reference"


def test_several_updates_learn_from_the_same_answers(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers are sampled in every second step; the old policy is that of their own first update, the reference one."""
    used: list[tuple[Any, ...]] = []
    original = module.grpo_loss

    def noted(*given: Any) -> torch.Tensor:
        used.append(given)
        return original(*given)

    monkeypatch.setattr(module, "grpo_loss", noted)
    points = run(VLM.load(checkpoints["qwen2_5_vl"]), tmp_path, judge=vowels(updates=2, clip=0.01))
    records = rollouts(tmp_path)
    assert [r.step for r in records] == [step for step in (1, 3) for _ in range(6)]
    assert len({r.clip_id for r in records}) == 4, "two batches of two questions"
    assert [p.reward for p in points[::2]] == [p.reward for p in points[1::2]]
    for first, second in ((0, 2), (1, 3), (4, 6), (5, 7)):
        logps, ref_logps, advantages, mask, _, old_logps, ratios = used[first]
        assert old_logps is None
        assert torch.equal(used[second][5], logps), "the policy that sampled"
        assert used[second][1] is ref_logps
        assert torch.equal(used[second][2], advantages)
        assert ratios == (0.99, 1.01)
        assert not torch.equal(used[second][0] * mask, logps * mask), "the policy has moved"
    assert [p.clipped for p in points[::2]] == [0.0, 0.0], "nothing to clip in a first update"
    assert any(p.clipped is not None and p.clipped > 0 for p in points[1::2])
    for point, pair in zip(points[1::2], (used[2:4], used[6:8]), strict=True):
        beyond = tokens = 0
        for logps, _, advantages, mask, _, old_logps, _ in pair:
            for n, t in mask.nonzero().tolist():
                ratio, gained = math.exp((logps[n, t] - old_logps[n, t]).item()), advantages[n].item()
                beyond += (ratio > 1.01 and gained > 0) or (ratio < 0.99 and gained < 0)
                tokens += 1
        assert point.clipped == pytest.approx(beyond / tokens)


def test_one_update_a_batch_knows_no_clipping(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """As published: whatever `clip` is, the same weights to the bit."""
    made = []
    for name, changes in (("as published", {}), ("narrow", {"clip": 1e-6, "clip_high": 1e-6})):
        vlm = VLM.load(checkpoints["qwen2_5_vl"])
        points = run(vlm, tmp_path / name, judge=vowels(**changes))
        assert {p.clipped for p in points} == {None}
        made.append((points, weights(vlm)))
    assert made[0][0] == made[1][0]
    for key, parameter in made[0][1].items():
        assert torch.equal(parameter, made[1][1][key]), key


def test_an_epoch_of_several_updates_is_in_the_trainers_order() -> None:
    """Five questions, two a batch: every batch twice, the last one filled."""
    order = Repeated(5, 2, 2, seed=3)
    order.set_epoch(1)
    a, b, c, d, e = torch.randperm(5, generator=torch.Generator().manual_seed(4)).tolist()
    assert list(order) == [a, b, a, b, c, d, c, d, e, NOBODY, e, NOBODY]
    assert len(order) == 12


def test_the_first_steps_of_batches_ask_the_same_questions_as_single_updates(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    asked = []
    for updates in (1, 2):
        run(VLM.load(checkpoints["qwen2_5_vl"]), tmp_path / str(updates), judge=vowels(updates=updates),
            steps=4 * updates)  # fmt: skip
        records = rollouts(tmp_path / str(updates))
        asked.append([r.question_id for r in records if r.sample == 0])
    assert asked[0] == asked[1]
    assert len(asked[0]) == 8, "more than an epoch"


def test_groups_without_signal_change_nothing_where_there_is_no_reference(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """All answers earn the same: the loss is 0, nothing moves, and the log says so."""

    class Same(Grader):
        def rewards(self, question: Question, answer: Written) -> dict[str, float | None]:
            return {"format": 1.0, "accuracy": 0.5}

    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    before = weights(vlm)
    points = run(vlm, tmp_path, steps=2, judge=Same(grader(beta=0.0).settings, PROMPTS, grader().thresholds))
    assert [(p.loss, p.without_signal, p.spread, p.entropy) for p in points] == [(0.0, 1.0, 0.0, None)] * 2
    for name, parameter in weights(vlm).items():
        assert torch.equal(parameter, before[name]), name


@pytest.mark.parametrize(("lora", "updates"), [(None, 1), (Lora(rank=2, alpha=4), 1), (None, 3)])
def test_killed_in_the_middle_and_continued_is_the_same_run(
    lora: Lora | None, updates: int, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once while answers are sampled, once while they are learnt from: the same answers and the same weights.

    With three updates a batch, saves asked for every second step are made every third, and the kills fall between.
    """
    judge = vowels(updates=updates)
    recipe = RECIPE.model_copy(update={"lora": lora, "scheduler": "cosine"})
    whole = VLM.load(checkpoints["qwen2_5_vl"])
    points = run(whole, tmp_path / "whole", steps=7, recipe=recipe, judge=judge)

    class PulledPlugError(Exception):
        pass

    def failing(name: str, number: int) -> None:
        original, calls = getattr(ReinforceTrainer, name), []

        def call(self: ReinforceTrainer, *given: Any) -> Any:
            calls.append(1)
            if len(calls) == number:
                raise PulledPlugError
            return original(self, *given)

        monkeypatch.setattr(ReinforceTrainer, name, call)

    kills = {1: (("_learn", 6), ("_sampled", 4)), 3: (("_learn", 9), ("_sampled", 1), ("_learn", 5))}[updates]
    for name, number in kills:
        with monkeypatch.context():
            failing(name, number)
            with pytest.raises(PulledPlugError):
                run(VLM.load(checkpoints["qwen2_5_vl"]), tmp_path / "cut", steps=7, recipe=recipe, judge=judge)
        monkeypatch.undo()
    sampled = {1: {1, 2, 3, 4, 5}, 3: {1, 4}}[updates]
    assert {r.step for r in rollouts(tmp_path / "cut")} == sampled, "killed in the sixth step"
    resumed = VLM.load(checkpoints["qwen2_5_vl"])
    again = run(resumed, tmp_path / "cut", steps=7, recipe=recipe, judge=judge)
    assert rollouts(tmp_path / "cut") == rollouts(tmp_path / "whole")
    assert again == points
    for key, parameter in weights(whole).items():
        assert torch.equal(parameter, weights(resumed)[key]), key


def test_killed_while_saving_goes_on_from_the_save_before(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Half a save and half a line of rollouts lie there: neither is used, and the run is the same."""
    whole = VLM.load(checkpoints["qwen2_5_vl"])
    points = run(whole, tmp_path / "whole", steps=7)
    run(VLM.load(checkpoints["qwen2_5_vl"]), tmp_path / "cut", steps=7)
    assert sorted(save.name for save in (tmp_path / "cut" / "work").glob("checkpoint-*")) == [
        "checkpoint-4",
        "checkpoint-6",
    ]
    (tmp_path / "cut" / "work" / "checkpoint-6" / "manifest.json").unlink()
    (tmp_path / "cut" / "work" / "checkpoint-6" / "optimizer.pt").unlink()
    with (tmp_path / "cut" / "logs" / "rollouts.jsonl").open("a") as file:
        file.write('{"question_id": "0", "cl')
    resumed = VLM.load(checkpoints["qwen2_5_vl"])
    assert run(resumed, tmp_path / "cut", steps=7) == points
    assert rollouts(tmp_path / "cut") == rollouts(tmp_path / "whole")
    for key, parameter in weights(whole).items():
        assert torch.equal(parameter, weights(resumed)[key]), key


def test_how_rollouts_are_cut_into_batches_changes_nothing(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    made = []
    for at_once in (1, 6):
        run(VLM.load(checkpoints["qwen2_5_vl"]), tmp_path / str(at_once), judge=vowels(rollout_batch_size=at_once))
        made.append([r.text for r in rollouts(tmp_path / str(at_once))])
    assert made[0] == made[1]


def test_another_seed_draws_other_answers(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    run(vlm, tmp_path / "one", steps=1)
    reinforce(
        VLM.load(checkpoints["qwen2_5_vl"]), questions(), NoiseClips(vlm.grid), RECIPE, vowels(), steps=1, seed=6,
        work=tmp_path / "two" / "work", logs=tmp_path / "two" / "logs",
    )  # fmt: skip
    assert {r.text for r in rollouts(tmp_path / "one")} != {r.text for r in rollouts(tmp_path / "two")}


# -- faults --------------------------------------------------------------------------------------------------------


def test_a_question_whose_own_answer_earns_nothing_stops_before_training(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    asked = [questions()[0].model_copy(update={"answer": "bird"})]
    work, logs = tmp_path / "work", tmp_path / "logs"
    with pytest.raises(RbftError, match=r"question '0': the answer 'bird' cannot be graded; a label answer is exactly"):
        reinforce(vlm, asked, NoiseClips(vlm.grid), RECIPE, grader(), steps=1, seed=0, work=work, logs=logs)


def test_too_many_answers_without_a_reward_stop_the_stage(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    class Blind(Grader):
        def rewards(self, question: Question, answer: Written) -> dict[str, float | None]:
            return {"format": 1.0, "accuracy": None if question.clip_id == "3" else 1.0}

    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    judge = Blind(grader(most_unscored=0.4).settings, PROMPTS, grader().thresholds)
    with pytest.raises(
        RbftError, match=r"3 of 6 answers have no reward, because accuracy cannot be computed, for exam"
    ):
        run(vlm, tmp_path, judge=judge)
    allowed = Blind(grader(most_unscored=0.5).settings, PROMPTS, grader().thresholds)
    points = run(VLM.load(checkpoints["qwen2_5_vl"]), tmp_path / "allowed", judge=allowed, steps=3)
    assert sorted(p.unscored for p in points) == [0.0, 0.0, 0.5]
    assert {r.reward for r in rollouts(tmp_path / "allowed") if r.clip_id == "3"} == {None}
