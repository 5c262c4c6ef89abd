"""What a run asks of its model, counted in words by a counter of words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rbft.asking import question_prompt
from rbft.clips.manifest import Listing
from rbft.clips.question_set import QuestionSet, Thoughtful
from rbft.experiment import Experiment, Reinforce, make_experiment
from rbft.models.memory import Load
from rbft.prompts import load_prompts
from rbft.records import Clip, FramePlan, Manifest, Question
from rbft.training.work import Work, question_work, work_of
from shapes import seven_b

LABELS = {"no": "nothing", "a long fall": "someone falls"}
WRITTEN = 40


class Words:
    """One token a word; a prompt has one more for its clip, an answer one more for its end."""

    def prompt(self, prompt: str) -> int:
        return len(prompt.split()) + 1

    def answer(self, answer: str) -> int:
        return len(answer.split()) + 1


def plan(clip_id: str) -> FramePlan:
    """Clip 0 has 4 frames of 2 x 2 tokens, clip 1 has 8."""
    return FramePlan(
        times_seconds=tuple(range(4 + 4 * int(clip_id))),
        width=56,
        height=56,
        frames_per_second=1.0,
        short_clip_policy="repeat-last",
    )


def work(stages: list[dict[str, Any]], human: str | None = None, general: Sequence[FramePlan] = ()) -> Work:
    def clip(number: int, split: str) -> Clip:
        made: Clip = Clip.model_construct(clip_id=str(number), label="no", split=split, rationale=human)
        return made

    manifest = Manifest.model_construct(labels=LABELS, clips=(clip(0, "train"), clip(1, "test")))
    return work_of(asked(stages), manifest, plan, prompts(), seven_b(), Words(), general)


def asked(stages: list[dict[str, Any]]) -> Experiment:
    arms = [{"name": "mine", "stages": stages}] if stages else ["zero-shot"]
    rationales = {"max_new_tokens": WRITTEN}
    return make_experiment({"name": "x", "clips": "c", "model": "m", "labels": LABELS, "arms": arms,
                            "rationales": rationales})  # fmt: skip


def prompts() -> Any:
    return load_prompts("default", persona="Expert", labels=LABELS)


def longest_prompt() -> int:
    return max(Words().prompt(text) for text in (prompts().label(), prompts().rationale()))


def test_clips_in_patches_and_tokens() -> None:
    made = work([{"kind": "label"}])
    assert made.train == [(32, 8, 8)], "two steps in time of 2 x 2 tokens, four patches each"
    assert made.every == [(32, 8, 8), (64, 16, 16)]
    assert made.labels == [2, 4]
    assert (made.prompt, made.answer, made.written) == (longest_prompt(), 4, WRITTEN)
    assert made.training(1) == Load(rows=1, patches=32, tokens=8 + longest_prompt() + 4, answer=5)


def test_general_clips_are_described_and_neither_learnt_nor_scored() -> None:
    alone, beside = work([{"kind": "label"}]), work([{"kind": "label"}], general=[plan("2")] * 3)
    assert beside.general == [(96, 24, 24)] * 3, "6 steps in time"
    assert beside.asking(4) == Load(rows=4, patches=3 * 96 + 64, tokens=24 + longest_prompt())
    assert (beside.scoring(4), beside.training(2)) == (alone.scoring(4), alone.training(2))
    assert (alone.writing(16), beside.writing(16)) == (2, 3)


@pytest.mark.parametrize(
    ("stages", "human", "answer"),
    [
        ([{"kind": "rationale"}, {"kind": "label"}], None, WRITTEN + 5),
        ([{"kind": "rationale"}], "word " * 100, WRITTEN + 5),
        ([{"kind": "rationale", "self_share": 0.5}], "word " * 100, 101 + 5),
    ],
)
def test_the_longest_answer_is_a_rationale_with_its_label(
    stages: list[dict[str, Any]], human: str | None, answer: int
) -> None:
    """`Label: a long fall` is four words and an end; a human text counts where it is learnt."""
    assert work(stages, human).answer == answer


def test_a_group_of_answers_hangs_on_one_clip() -> None:
    """Thinking counts as text that may be written, and as text before the labels that are scored."""
    made = work([{"kind": "cot"}, {"kind": "reinforce", "reinforce": {"samples": 4, "max_new_tokens": 70}}])
    assert (made.written, made.begun) == (1024, 1024), "the cot stage thinks as long as the section allows"
    assert made.prompt == max(longest_prompt(), Words().prompt(prompts().reasoned()))
    updating = made.updating(Reinforce(samples=4, max_new_tokens=70))
    assert updating == Load(rows=1, patches=32, tokens=8 + made.prompt + 280, answer=281, tree=True)
    assert updating.masked
    assert made.sampling(2).rows == 2
    assert made.scoring(1).tokens == made.asking(1).tokens + 1024
    assert work([{"kind": "label"}]).begun == 0


def test_a_curated_thought_is_as_long_as_its_engine_may_write() -> None:
    """Without an engine of its own the base writes as much as an answer may have; the tags are one word here."""
    curated = [{"kind": "cot", "thoughts": "curated"}]
    assert work(curated).answer == work([{"kind": "cot"}]).answer + 1024 - WRITTEN


def test_a_description_before_the_query_makes_the_prompt_longer() -> None:
    described = work([{"kind": "label", "describe_first": True}])
    assert described.prompt > Words().prompt(prompts().label()) + WRITTEN


@pytest.mark.parametrize(
    ("stages", "clips"),
    [
        ([], 8),
        ([{"kind": "label"}], 8),
        ([{"kind": "rationale"}, {"kind": "label"}], 10),
        ([{"kind": "label", "describe_first": True}], 10),
    ],
)
def test_only_the_examples_are_written_where_no_stage_asks_for_more(stages: list[dict[str, Any]], clips: int) -> None:
    made = replace(work(stages), every=[(4, 1, 1)] * 10)
    assert (made.writing(64), made.writing(4)) == (clips, 4)


# -- questions -----------------------------------------------------------------------------------------------------


def test_questions_and_their_thoughts_are_counted() -> None:
    """The longest question may be of the test, the longest answer is a thought with its solution."""

    def question(text: str, clip_id: str) -> Question:
        return Question(question_id=text, clip_id=clip_id, kind="numerical", text=text, answer="3")

    short, long = question("How many?", "0"), question("How many " + "very " * 50 + "many?", "1")
    thoughtful = Thoughtful(short, "<think>one two three</think>")
    asks = QuestionSet(train=(short,), cot=(thoughtful,), test=(long,), listing=Listing(Path(), (), {}))
    clips = [Clip.model_construct(clip_id="0", split="train"), Clip.model_construct(clip_id="1", split="test")]
    manifest = Manifest.model_construct(labels={}, clips=tuple(clips))
    words = load_prompts("default", persona="", labels={})

    def of(*stages: dict[str, Any]) -> Work:
        files = {"train": "a", "test": "b"}
        arms = [{"name": "mine", "stages": list(stages)}]
        experiment = make_experiment({"name": "x", "model": "m", "questions": files, "arms": arms})
        return question_work(experiment, manifest, plan, words, asks, seven_b(), Words())

    made = of({"kind": "cot"}, {"kind": "reinforce", "reinforce": {"max_new_tokens": 2000}})
    assert made.prompt == Words().prompt(question_prompt(words, long))
    assert made.answer == 4, "three words with their tags and the end"
    assert made.written == 2000
    assert (made.labels, len(made.train), len(made.every)) == ((), 1, 2)
    assert of({"kind": "reinforce"}).answer == 0
    assert of({"kind": "reinforce"}).written == Reinforce().max_new_tokens
