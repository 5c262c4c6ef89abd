"""The semantic reward by group: what is compared, what is not, and what comes of a similarity that is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.encoders import build_encoder

from noise import NoiseClips
from rbft.errors import RbftError
from rbft.files import read_jsonl
from rbft.models.encoder import ClipTextEncoder, find_encoder
from rbft.models.vlm import VLM
from rbft.prompts import load_prompts
from rbft.recipe import Recipe, Reinforce
from rbft.records import Question, ReinforcePoint, RolloutRecord
from rbft.rewards import semantic
from rbft.training.reinforce import reinforce
from rbft.training.rollouts import Grader, Written

PROMPTS = load_prompts("brief", persona="Expert", labels={"cat": "", "dog": ""})
QUESTION = Question(
    question_id="q", clip_id="clip-7", kind="label", text="cat or dog?", options=("cat", "dog"), answer="cat"
)


class Told:
    """An encoder that answers by heart, and remembers what it was asked."""

    def __init__(self, known: Mapping[str, float | None]) -> None:
        self.known = known
        self.asked: list[tuple[str, list[str]]] = []

    def similarities(self, clip_id: str, texts: Sequence[str]) -> list[float | None]:
        self.asked.append((clip_id, list(texts)))
        return [self.known[text] for text in texts]


def grader(known: Mapping[str, float | None], **rewards: Any) -> tuple[Grader, Told]:
    told = Told(known)
    settings = Reinforce.model_validate({"samples": 4, "rewards": {"semantic": 1.0} | rewards})
    return Grader.of(settings, PROMPTS, told), told


def answer(think: str, label: str) -> Written:
    return Written(f"<think>{think}</think><answer>{label}</answer>", True, 9)


GROUP = [
    answer("Let me think. A cat sits.", "cat"),
    answer("A cat sits.", "cat"),
    answer("A dog runs.", "dog"),
    answer("A tree.", "cat"),
    answer("  ", "cat"),
    Written("A cat sits. cat", True, 5),
    Written("<answer>cat</answer>", True, 5),
]
KNOWN = {"A cat sits.": 0.3, "A dog runs.": 0.45, "A tree.": -0.2}


def test_describing_parts_of_a_group_are_compared_at_once_each_once() -> None:
    judge, told = grader(KNOWN)
    records = judge.group(QUESTION, GROUP, step=1)
    assert told.asked == [("clip-7", ["A cat sits.", "A tree."])], "not behind a shut gate, not twice, not nothing"
    assert [r.rewards["semantic"] for r in records] == [0.6, 0.6, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert [r.rewards["accuracy"] for r in records] == [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    assert [r.reward for r in records] == pytest.approx([2.6, 2.6, 1.0, 2.0, 2.0, 0.0, 1.0])
    assert set(records[0].rewards) == {"format", "accuracy", "semantic"}


def test_without_the_gate_wrong_answers_are_compared_too() -> None:
    judge, told = grader(KNOWN, semantic_gate=False)
    records = judge.group(QUESTION, GROUP, step=1)
    assert told.asked == [("clip-7", ["A cat sits.", "A dog runs.", "A tree."])]
    assert [r.rewards["semantic"] for r in records] == [0.6, 0.6, 0.9, 0.0, 0.0, 0.0, 0.0]


def test_what_cannot_be_compared_is_none_and_not_learnt_from() -> None:
    judge, _ = grader(KNOWN | {"A tree.": None})
    records = judge.group(QUESTION, GROUP, step=1)
    assert [r.rewards["semantic"] for r in records] == [0.6, 0.6, 0.0, None, 0.0, 0.0, 0.0]
    assert (records[3].reward, records[3].advantage, records[3].masked) == (None, None, True)
    assert judge.group(QUESTION, [answer("A dog runs.", "dog")], step=1)[0].rewards["semantic"] == 0.0, "shut gate"


def test_the_formula_and_the_encoder_belong_together() -> None:
    with pytest.raises(AssertionError, match="an encoder where it is used"):
        Grader.of(Reinforce.model_validate({"rewards": {"semantic": 1.0}}), PROMPTS)
    with pytest.raises(AssertionError, match="an encoder where it is used"):
        Grader.of(Reinforce(), PROMPTS, Told({}))


# -- in training ---------------------------------------------------------------------------------------------------

RECIPE = Recipe(
    learning_rate=1e-3, vision_learning_rate=0.0, batch_size=2, micro_batch_size=1, gradient_checkpointing=False,
    scheduler="constant", warmup_ratio=0.0,
)  # fmt: skip


def questions() -> list[Question]:
    return [QUESTION.model_copy(update={"question_id": str(i), "clip_id": str(i)}) for i in range(4)]


class Thinking(Grader):
    """Reads what a random model writes as the thought of a right answer."""

    def group(self, question: Question, answers: Sequence[Written], step: int) -> list[RolloutRecord]:
        kept = [answer("".join(c for c in a.text if c not in "<>") or "a", "cat") for a in answers]
        return super().group(question, kept, step)


def trained(vlm: VLM, folder: Path, encoder: Any, steps: int = 2) -> list[ReinforcePoint]:
    settings = Reinforce.model_validate(
        {"samples": 3, "max_new_tokens": 6, "batch_size": 2, "cut_off": "scored", "rewards": {"semantic": 1.0}}
    )
    judge = Thinking.of(settings, PROMPTS, encoder)
    return reinforce(
        vlm, questions(), NoiseClips(vlm.grid), RECIPE, judge, steps=steps, seed=1, work=folder / "w", logs=folder / "l"
    )


def test_a_stage_writes_down_similarities_of_its_own_frames(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    files = find_encoder(str(build_encoder("siglip", tmp_path / "encoder")))
    cpu = torch.device("cpu")
    points = trained(vlm, tmp_path, ClipTextEncoder.load(files, NoiseClips(vlm.grid), device=cpu))
    records = read_jsonl(tmp_path / "l" / "rollouts.jsonl", RolloutRecord)
    fresh = ClipTextEncoder.load(files, NoiseClips(vlm.grid), device=cpu)
    judge = Thinking.of(Reinforce.model_validate({"rewards": {"semantic": 1.0}}), PROMPTS, fresh)
    for record in records:
        thought = record.text.removeprefix("<think>").removesuffix("</think><answer>cat</answer>")
        told = judge.openings.describing_part(thought)
        [similarity] = fresh.similarities(record.clip_id, [told]) if told else [0.0]
        assert record.rewards["semantic"] == pytest.approx(semantic(1.0, similarity), abs=1e-5)
    assert {r.rewards["semantic"] for r in records} - {0.0}, "not nothing"
    first = [r.rewards["semantic"] for r in records if r.step == 1]
    assert points[0].rewards["semantic"] == pytest.approx(sum(v for v in first if v is not None) / len(first))


def test_a_run_whose_similarities_cannot_be_computed_stops(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    class Broken:
        def similarities(self, clip_id: str, texts: Sequence[str]) -> list[float | None]:
            return [None for _ in texts]

    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    with pytest.raises(RbftError) as error:
        trained(vlm, tmp_path, Broken(), steps=1)
    said = str(error.value)
    assert said.startswith("step 1: "), said
    assert " answers have no reward, because semantic cannot be computed, for example of clip " in said
    assert "reinforce.most_unscored allows 0.2. Mend these clips, or leave the term out" in said
