"""Sampled answers become records: what each earns, how it compares within its group, whether it is learnt from."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rbft.answers import AuditThresholds, load_thresholds
from rbft.describing import Openings, load_openings
from rbft.prompts import Prompts
from rbft.recipe import Reinforce
from rbft.records import Example, Question, RolloutRecord
from rbft.rewards import (
    RewardTerm,
    accuracy,
    dimensions_named,
    format_reward,
    group_advantages,
    label_free,
    length,
    semantic,
)
from rbft.thinking import parse_thought, read_answer


@dataclass(frozen=True)
class Written:
    """One sampled answer as text; `num_tokens` counts its end of turn."""

    text: str
    finished: bool
    num_tokens: int


def label_questions(examples: Sequence[Example], labels: Sequence[str]) -> list[Question]:
    """Examples of a reinforce stage as questions: which label it is."""
    return [
        Question(
            question_id=e.clip_id,
            clip_id=e.clip_id,
            kind="label",
            text=e.prompt,
            options=tuple(labels),
            answer=e.answer,
        )
        for e in examples
    ]


class Comparing(Protocol):
    """How alike texts and a clip are: `rbft.models.encoder.ClipTextEncoder`."""

    def similarities(self, clip_id: str, texts: Sequence[str]) -> list[float | None]:
        """The cosine of the clip with each text, -1 to 1; None where it cannot be computed."""


@dataclass(frozen=True)
class Grader:
    """Rewards answers by the formula of the settings."""

    settings: Reinforce
    prompts: Prompts
    thresholds: AuditThresholds
    encoder: Comparing | None = None
    """What `semantic` asks; there is one where the formula has the term, and only there."""
    openings: Openings = field(default_factory=load_openings)

    def __post_init__(self) -> None:
        assert (self.encoder is not None) == ("semantic" in self.settings.rewards.terms), "an encoder where it is used"

    @classmethod
    def of(cls, settings: Reinforce, prompts: Prompts, encoder: Comparing | None = None) -> Grader:
        """With the thresholds of the audit."""
        return cls(settings, prompts, load_thresholds(), encoder)

    def rewards(self, question: Question, answer: Written) -> dict[str, float | None]:
        """Every term of the formula for one answer, before its weight; but `semantic`, which is asked by group."""
        right = accuracy(question, read_answer(answer.text))
        return {term: self._term(term, right, answer) for term in self.settings.rewards.terms if term != "semantic"}

    def _term(self, term: RewardTerm, right: float | None, answer: Written) -> float | None:
        thought = parse_thought(answer.text)
        think = None if thought is None else thought.think
        match term:
            case "format":
                return format_reward(answer.text)
            case "accuracy":
                return right
            case "length":
                return length(right, answer.num_tokens, self.settings.rewards.length_tokens)
            case "label_free":
                return label_free(think, self.prompts.labels, self.thresholds)
            case "dimensions":
                return dimensions_named(think, self.prompts.templates.dimensions)
            case "semantic":
                raise AssertionError("similarities are asked by group")

    def semantics(self, question: Question, answers: Sequence[Written], encoder: Comparing) -> list[float | None]:
        """The term `semantic` of each answer to a question: its describing part beside the clip.

        An answer without a thought, or out of form, describes nothing: similarity 0. Texts behind a shut gate are not
        compared, so that a clip is encoded only where something is asked about it.
        """
        gate = self.settings.rewards.semantic_gate
        rights = [accuracy(question, read_answer(answer.text)) for answer in answers]
        thoughts = [parse_thought(answer.text) for answer in answers]
        told = ["" if thought is None else self.openings.describing_part(thought.think) for thought in thoughts]
        pairs = list(zip(told, rights, strict=True))
        asked = list(dict.fromkeys(text for text, right in pairs if text and not (gate and right == 0)))
        found = {"": 0.0} | dict(zip(asked, encoder.similarities(question.clip_id, asked), strict=True))
        return [semantic(right, found.get(text), gate=gate) for text, right in pairs]

    def group(self, question: Question, answers: Sequence[Written], step: int) -> list[RolloutRecord]:
        """The answers to one question as records.

        With `cut_off: masked` an answer cut at the limit is no part of its group: the others are not compared with
        it, and nothing is learnt from it. An answer whose reward cannot be computed never is.
        """
        plain = self._records(question, answers, step)
        leaves_out = self.settings.cut_off == "masked"
        counted = [None if leaves_out and not record.finished else record.reward for record in plain]
        return [
            record.model_copy(update={"advantage": advantage, "masked": advantage is None})
            for record, advantage in zip(plain, group_advantages(counted), strict=True)
        ]

    def alone(self, question: Question, answer: Written, step: int) -> RolloutRecord:
        """One answer as a record of its own, which nothing is learnt from."""
        return self._records(question, [answer], step)[0]

    def _records(self, question: Question, answers: Sequence[Written], step: int) -> list[RolloutRecord]:
        """What each answer earns, before they are compared."""
        terms = [self.rewards(question, answer) for answer in answers]
        if self.encoder is not None:
            alike = self.semantics(question, answers, self.encoder)
            terms = [rewards | {"semantic": value} for rewards, value in zip(terms, alike, strict=True)]
        return [
            RolloutRecord(
                question_id=question.question_id,
                clip_id=question.clip_id,
                step=step,
                sample=number,
                text=answer.text,
                finished=answer.finished,
                num_tokens=answer.num_tokens,
                rewards=rewards,
                reward=self.settings.rewards.total(rewards),
                advantage=None,
                masked=True,
            )
            for number, (answer, rewards) in enumerate(zip(answers, terms, strict=True))
        ]


def step_measures(groups: Sequence[Sequence[RolloutRecord]], terms: Sequence[str]) -> dict[str, float]:
    """What a step's answers earned, as the Trainer logs it: no entry for what has nothing to be the mean of."""
    records = [record for group in groups for record in group]
    spreads = [statistics.stdev(r) for r in map(_rewards, groups) if len(r) > 1]
    measured = {
        f"rewards/{term}": _mean([r.rewards[term] for r in records if r.rewards[term] is not None]) for term in terms
    }
    measured |= {
        "reward": _mean([r.reward for r in records if r.reward is not None]),
        "spread": _mean(spreads),
        "without_signal": _mean([float(not any(r.advantage for r in group)) for group in groups]),
        "cut_off": _mean([float(not r.finished) for r in records]),
        "unscored": _mean([float(r.reward is None) for r in records]),
        "num_tokens": _mean([float(r.num_tokens) for r in records]),
    }
    return {name: value for name, value in measured.items() if value is not None}


def _rewards(group: Sequence[RolloutRecord]) -> list[float]:
    return [record.reward for record in group if record.reward is not None and not record.masked]


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return statistics.fmean(numbers) if numbers else None
