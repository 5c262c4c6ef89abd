"""The held-out curve of a reinforce stage: what the policy's greedy answers to questions it never learns from earn.

Measured, and nothing is chosen by it: which step is kept, what is sampled and what is learnt are the same without it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

from rbft.asking import question_prompt
from rbft.files import WITHOUT_LOG, JsonlAppender, read_jsonl, write_jsonl
from rbft.models.generate import generate
from rbft.models.vlm import VLM, FrameSource
from rbft.progress import Reporter, Say
from rbft.records import Question, RolloutRecord
from rbft.thinking import read_answer
from rbft.training.rollouts import Grader, Written

HELD_OUT = "held_out.jsonl"
POINTS = 10
"""Points of a curve after step 0, where nothing else is asked for."""
DRAW = 0
"""The seed by which questions are drawn: the same for all seeds and arms, so that their curves compare."""


def drawn(questions: Sequence[Question], number: int) -> list[Question]:
    """At most so many questions, in their order."""
    if number >= len(questions):
        return list(questions)
    chosen = set(random.Random(DRAW).sample(range(len(questions)), number))
    return [question for place, question in enumerate(questions) if place in chosen]


class HeldOut:
    """Asks the questions after certain steps and writes the answers to `path`, one record each.

    Says (None: on standard error) where two points, one behind the other, have one and the same answer to everything.
    """

    def __init__(
        self, vlm: VLM, questions: Sequence[Question], frames: FrameSource, grader: Grader, path: Path, *, steps: int,
        say: Say | None = None,
    ) -> None:  # fmt: skip
        settings = grader.settings
        self._vlm, self._frames, self._grader, self._path = vlm, frames, grader, path
        self._questions = drawn(questions, settings.held_out)
        self._steps = steps
        self._say = say or Reporter().say
        self._every = settings.held_out_every or math.ceil(steps / POINTS)

    def forget_from(self, step: int) -> None:
        """Leave out what was measured at this step and later: it is measured again."""
        if self._path.exists():
            before = read_jsonl(self._path, RolloutRecord, WITHOUT_LOG)
            write_jsonl(self._path, [record for record in before if record.step < step])

    def is_due(self, step: int) -> bool:
        """Whether the curve has a point after so many steps: after none, after every so many, and at the end."""
        return bool(self._questions) and (step % self._every == 0 or step == self._steps)

    def measure(self, step: int) -> None:
        """Ask, grade and write, in batches of as many answers as are sampled at once."""
        size, most = self._grader.settings.rollout_batch_size, self._grader.settings.max_new_tokens
        prompts = self._grader.prompts
        self._vlm.model.eval()
        records: list[RolloutRecord] = []
        for start in range(0, len(self._questions), size):
            asked = self._questions[start : start + size]
            clips = [self._vlm.encode_clip(self._frames, q.clip_id, question_prompt(prompts, q)) for q in asked]
            made = generate(self._vlm, clips, max_new_tokens=most)
            answers = [Written(one.text, one.finished, one.num_tokens) for one in made]
            records += [self._grader.alone(q, answer, step) for q, answer in zip(asked, answers, strict=True)]
        self._alarm(step, records)
        with JsonlAppender(self._path) as file:
            file.append(records)

    def _alarm(self, step: int, records: Sequence[RolloutRecord]) -> None:
        """Say it where these answers and those of the point before are all the same one, and should not be."""
        before = read_jsonl(self._path, RolloutRecord, WITHOUT_LOG) if self._path.exists() else []
        last = [record for record in before if record.step == before[-1].step]
        answer = one_answer(records, self._questions)
        if answer is not None and answer == one_answer(last, self._questions):
            self._say(
                f"alarm: held-out answers after steps {last[0].step} and {step} are all {answer!r}: the stage tells "
                "no clips apart. Lower reinforce.learning_rate, or raise reinforce.beta or reinforce.temperature"
            )


def one_answer(records: Sequence[RolloutRecord], questions: Sequence[Question]) -> str | None:
    """The answer to all questions with options, where it is one and they have several; else None."""
    right = {question.question_id: question.answer for question in questions if question.options}
    said = {read_answer(record.text) for record in records if record.question_id in right}
    return said.pop() if len(said) == 1 and len(set(right.values())) > 1 else None
