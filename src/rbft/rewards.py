"""What a generated answer earns: pure terms, the formula that joins them, and advantages within a group.

Source: VideoRFT (arXiv 2505.12434), and two terms of our own for rationales. Every term is a number from 0 to 1, or
None where it *cannot be computed*: a gold answer that no grader can read, a similarity that is missing. None is never
0: it makes the whole reward None. An answer that is wrong or cannot be read is the model's doing and earns 0.
"""

from __future__ import annotations

import math
import re
import statistics
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from rbft.answers import UNSPACED, AuditThresholds, missing_dimensions, names_label, num_words, read_label
from rbft.choices import read_choice
from rbft.quantities import read_quantity
from rbft.records import Question
from rbft.rouge import mean_rouge
from rbft.section import Section
from rbft.thinking import parse_thought

RewardTerm = Literal["format", "accuracy", "semantic", "length", "label_free", "dimensions"]
EPSILON = 1e-4
"""Added to the standard deviation of a group (TRL and R1-V: `rewards.std() + 1e-4`)."""
MRA_PERCENTS = tuple(range(50, 100, 5))
"""The confidence thresholds of VSI-Bench's mean relative accuracy, in percent: 50, 55, …, 95."""


# -- accuracy ------------------------------------------------------------------------------------------------------


def accuracy(question: Question, answer: str | None) -> float | None:
    """How right an answer is, from 0 to 1; None where the question's own answer cannot be graded against.

    label, multiple choice: 1 where it is the same one. numerical: 1 where equal at two decimals. regression: 1 -
    relative error, at least 0. OCR: 1 - word error rate, at least 0. free-form: mean of ROUGE-1, ROUGE-2 and ROUGE-L
    F1. `answer` is what `thinking.read_answer` gives; None (no answer could be taken out) earns 0, like one that cannot
    be read.
    """
    text = "" if answer is None else answer
    match question.kind:
        case "label":
            return _same(read_label(text, question.options), read_label(question.answer, question.options))
        case "multiple choice":
            return _same(read_choice(text, question.options), read_choice(question.answer, question.options))
        case "numerical":
            return _graded(_equal_at_two_decimals, text, question.answer)
        case "regression":
            return _graded(_one_minus_relative_error, text, question.answer)
        case "OCR":
            return _one_minus_word_error_rate(text, question.answer)
        case "free-form":
            return mean_rouge(text, question.answer)


def mean_relative_accuracy(answer: str | None, gold: str) -> float | None:
    """MRA of VSI-Bench (arXiv 2412.14171): the share of thresholds θ = .50, .55, …, .95 with |ŷ - y| / |y| < 1 - θ.

    As in the paper (its released code takes ≤), and exact: 0.95 of the truth misses θ = .95, whatever binary floats
    make of it. A truth of 0 is met only by 0. None where the gold answer is not a number; 0 where the answer is none.
    """
    return _graded(_mean_relative_accuracy, "" if answer is None else answer, gold)


def _same(read: str | None, gold: str | None) -> float | None:
    return None if gold is None else float(read == gold)


def _graded(measure: Callable[[Fraction, Fraction], float], text: str, gold: str) -> float | None:
    """A measure of two numbers; 0 where the answer is none, or of another unit than the true one."""
    true, read = read_quantity(gold), read_quantity(text)
    if true is None:
        return None
    return 0.0 if read is None or read.contradicts(true) else measure(read.value, true.value)


def _equal_at_two_decimals(read: Fraction, true: Fraction) -> float:
    return float(round(read, 2) == round(true, 2))


def _one_minus_relative_error(read: Fraction, true: Fraction) -> float:
    return float(1 - min(_relative_error(read, true), Fraction(1)))


def _mean_relative_accuracy(read: Fraction, true: Fraction) -> float:
    error = 100 * _relative_error(read, true)
    return sum(error < 100 - percent for percent in MRA_PERCENTS) / len(MRA_PERCENTS)


def _relative_error(read: Fraction, true: Fraction) -> Fraction:
    """|read - true| / |true|; of a truth of 0, 0 for 0 and 1 for whatever else."""
    return abs(read - true) / abs(true) if true else Fraction(read != true)


_OCR_WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")


def _one_minus_word_error_rate(text: str, gold: str) -> float | None:
    """1 - (substituted + inserted + missing words) / words of the gold text, at least 0.

    Words stand between spaces, with their signs; in scripts without spaces every character is one. Case and
    compatibility forms do not count.
    """
    read, true = (_OCR_WORD.findall(unicodedata.normalize("NFKC", part).casefold()) for part in (text, gold))
    return max(0.0, 1 - _edits(read, true) / len(true)) if true else None


def _edits(first: Sequence[str], second: Sequence[str]) -> int:
    """Levenshtein distance in words, in memory of one row."""
    row = list(range(len(second) + 1))
    for i, word in enumerate(first, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(second, start=1):
            diagonal, row[j] = row[j], min(diagonal + (word != other), row[j] + 1, row[j - 1] + 1)
    return row[-1]


def ungradable(questions: Iterable[Question]) -> list[str]:
    """A fault for every question whose own answer does not earn full marks: the grader is first run on the truth."""
    faults = []
    for question in questions:
        if accuracy(question, question.answer) != 1.0:
            said = f"the answer {question.answer!r:.80} cannot be graded"
            faults.append(f"question {question.question_id!r}: {said}; {_needed(question)}")
    return faults


def _needed(question: Question) -> str:
    match question.kind:
        case "label" | "multiple choice":
            options = ", ".join(map(repr, question.options)) or "none"
            return f"a {question.kind} answer is exactly one of the options, which are {options:.200}"
        case "numerical" | "regression":
            return f"a {question.kind} answer is one plain number, like 3, 1,234.5 or 50%"
        case "OCR" | "free-form":
            return f"{'an OCR' if question.kind == 'OCR' else 'a free-form'} answer has at least one word"


# -- other terms ---------------------------------------------------------------------------------------------------


def format_reward(text: str) -> float:
    """1 where the whole text is `<think>…</think><answer>…</answer>`, else 0."""
    return float(parse_thought(text) is not None)


def semantic(accuracy: float | None, similarity: float | None, *, gate: bool = True) -> float | None:
    """min(1, 2·max(similarity, 0)), and 0 for an answer without accuracy unless the gate is off (VideoRFT, R_s).

    `similarity` is the cosine of the text and the clip, -1 to 1; not needed where the gate is shut. None where a part
    that is needed is None or not a number.
    """
    if gate and accuracy == 0:
        return 0.0
    if similarity is None or math.isnan(similarity) or (gate and accuracy is None):
        return None
    return min(1.0, 2 * max(similarity, 0.0))


def length(accuracy: float | None, num_tokens: int, tokens: tuple[int, int]) -> float | None:
    """1 for an answer with accuracy whose tokens lie within both bounds, else 0 (Video-R1's length control)."""
    shortest, longest = tokens
    if not shortest <= num_tokens <= longest:
        return 0.0
    return None if accuracy is None else float(accuracy > 0)


def label_free(think: str | None, labels: Iterable[str], thresholds: AuditThresholds) -> float:
    """1 where the reasoning names no label, as the audit of rationales judges it; 0 where there is no reasoning."""
    if think is None or not num_words(think):
        return 0.0
    return float(names_label(unicodedata.normalize("NFKC", think), labels, thresholds) is None)


def dimensions_named(think: str | None, dimensions: Mapping[str, Sequence[str]]) -> float:
    """The share of the template's dimensions that the reasoning speaks of, as the audit of rationales judges it."""
    assert dimensions, "templates have dimensions"
    if think is None:
        return 0.0
    return 1 - len(missing_dimensions(unicodedata.normalize("NFKC", think), dimensions)) / len(dimensions)


# -- the formula ---------------------------------------------------------------------------------------------------


Weight = Annotated[float, Field(ge=0, le=1_000_000)]
"""Only the ratio of weights matters, and sums of far larger ones are no numbers any more."""


class RewardFormula(Section):
    """The weight of every term in an answer's reward; 0 leaves it out. VideoRFT's is `semantic: 1` beside the rest."""

    format: Weight = Field(1.0, description="the whole answer is <think>…</think><answer>…</answer>")
    accuracy: Weight = Field(1.0, description="the answer is right, by type of question")
    semantic: Weight = Field(0.0, description="the reasoning describes the clip: similarity of text and frames")
    length: Weight = Field(0.0, description="right, and within `length_tokens`")
    label_free: Weight = Field(0.0, description="the reasoning names no label")
    dimensions: Weight = Field(0.0, description="share of the rationale's dimensions the reasoning speaks of")
    semantic_gate: bool = Field(True, description="`semantic` counts only for answers with accuracy above 0")
    length_tokens: tuple[int, int] = Field((320, 512), description="shortest and longest answer that `length` rewards")

    @model_validator(mode="after")
    def _rewards_something(self) -> Self:
        if not self.terms:
            raise ValueError(
                f"every weight is 0, so nothing is rewarded; give one of {', '.join(get_args(RewardTerm))}"
            )
        shortest, longest = self.length_tokens
        if not 0 <= shortest <= longest:
            raise ValueError(
                f"length_tokens [{shortest}, {longest}] holds no length; give the shortest, then the longest"
            )
        return self

    @property
    def weights(self) -> dict[RewardTerm, float]:
        """By term that counts, its weight."""
        every: dict[RewardTerm, float] = {term: getattr(self, term) for term in get_args(RewardTerm)}
        return {term: weight for term, weight in every.items() if weight}

    @property
    def terms(self) -> tuple[RewardTerm, ...]:
        """The terms that count, and so must be computed."""
        return tuple(self.weights)

    def total(self, rewards: Mapping[str, float | None]) -> float | None:
        """The weighted sum of the terms that count; None where one of them is None. Others are not looked at."""
        parts = [(weight, rewards[term]) for term, weight in self.weights.items()]
        known = [weight * value for weight, value in parts if value is not None]
        return math.fsum(known) if len(known) == len(parts) else None


# -- advantages ----------------------------------------------------------------------------------------------------


def group_advantages(rewards: Sequence[float | None]) -> list[float | None]:
    """(r - mean) / (std + 1e-4) over the rewards of a group that are numbers; None stays None.

    The deviation is the sample's (divided by n - 1), as `torch.std` gives it in TRL, R1-V and VideoRFT. Equal rewards,
    and one alone, have nothing to be compared with: exactly 0.
    """
    numbers = [reward for reward in rewards if reward is not None]
    if len(set(numbers)) < 2:
        return [None if reward is None else 0.0 for reward in rewards]
    mean, deviation = statistics.mean(numbers), statistics.stdev(numbers)
    return [None if reward is None else (reward - mean) / (deviation + EPSILON) for reward in rewards]
