"""Questions of all kinds put to a checkpoint: a greedy answer each, graded, and means with intervals over clips."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from rbft.asking import question_prompt
from rbft.clips.grouped import first_of
from rbft.errors import UserError
from rbft.evaluation.bootstrap import Counted, spread
from rbft.evaluation.metrics import FloatArray
from rbft.files import JsonlAppender, misnamed, read_jsonl
from rbft.models.generate import Generated, generate
from rbft.models.vlm import VLM, FrameSource
from rbft.prompts import Prompts
from rbft.records import Answered, Question, fingerprint
from rbft.results import Estimate, QuestionScore, QuestionSummary
from rbft.rewards import accuracy, mean_relative_accuracy
from rbft.stopping import check
from rbft.thinking import read_answer


def answers_key(
    checkpoint: str,
    questions: Sequence[Question],
    frame_keys: Mapping[str, str],
    prompts: Prompts,
    *,
    max_new_tokens: int,
) -> str:
    """The fingerprint of what answers depend on: the checkpoint, frames by clip id, and questions as they are asked."""
    asked = [(question, question_prompt(prompts, question), frame_keys[question.clip_id]) for question in questions]
    return fingerprint("answers", checkpoint, asked, max_new_tokens)


def answer_questions(
    load: Callable[[], VLM],
    checkpoint: str,
    questions: Sequence[Question],
    frames: FrameSource,
    prompts: Prompts,
    *,
    max_new_tokens: int,
    batch_size: int,
    path: Path,
    advance: Callable[[int], None],
) -> list[Answered]:
    """Answer every question that `path` does not hold yet; return all in their order. Appended batch by batch.

    Ids of questions differ, and `path` is named by `answers_key`. `load` is called only where something is missing.
    Raises StoreError where `path` holds answers of another checkpoint or to other questions, and UserError, before any
    answer, with every question that holds a control token of the model.
    """
    there = read_jsonl(path, Answered) if path.exists() else []
    done = {answered.question_id: answered for answered in there}
    wanted = {question.question_id for question in questions}
    for answered in there:
        if answered.checkpoint != checkpoint:
            said = f"question {answered.question_id!r} is answered by checkpoint {answered.checkpoint}"
            raise misnamed(path, f"{said}, not {checkpoint}")
        if answered.question_id not in wanted:
            raise misnamed(path, f"no question {answered.question_id!r} is asked")
    advance(len(done))
    waiting = [question for question in _by_size(questions, frames) if question.question_id not in done]
    if waiting:
        vlm = load()
        _refuse_control_tokens(vlm, waiting, prompts)
        with JsonlAppender(path) as file:
            for start in range(0, len(waiting), batch_size):
                check()
                batch = waiting[start : start + batch_size]
                encoded = [vlm.encode_clip(frames, q.clip_id, question_prompt(prompts, q)) for q in batch]
                written = generate(vlm, encoded, max_new_tokens=max_new_tokens)
                made = [graded(q, checkpoint, text) for q, text in zip(batch, written, strict=True)]
                file.append(made)
                done |= {answered.question_id: answered for answered in made}
                advance(len(made))
    return [done[question.question_id] for question in questions]


def _refuse_control_tokens(vlm: VLM, questions: Sequence[Question], prompts: Prompts) -> None:
    found = [(question, vlm.control_token_in(question_prompt(prompts, question))) for question in questions]
    faults = [
        f"question {question.question_id!r}: holds {token!r}, a control token of {vlm.source.name}; take it out"
        for question, token in found
        if token
    ]
    if faults:
        raise UserError(first_of(faults, "questions with control tokens"))


def _by_size(questions: Sequence[Question], frames: FrameSource) -> list[Question]:
    """By the clips' pixels, then by clip, so that a batch holds rows of like length and those of one clip together."""

    def size(question: Question) -> tuple[int, str, str]:
        plan = frames.plan(question.clip_id)
        return plan.num_frames * plan.width * plan.height, question.clip_id, question.question_id

    return sorted(questions, key=size)


def graded(question: Question, checkpoint: str, written: Generated) -> Answered:
    """An answer with what it earns. An answer that cannot be taken out of its text earns 0."""
    answer = read_answer(written.text)
    numbers = question.kind in ("numerical", "regression")
    return Answered(
        question_id=question.question_id,
        clip_id=question.clip_id,
        checkpoint=checkpoint,
        kind=question.kind,
        category=question.category,
        text=written.text,
        finished=written.finished,
        num_tokens=written.num_tokens,
        answer=answer,
        score=accuracy(question, answer),
        mra=mean_relative_accuracy(answer, question.answer) if numbers else None,
    )


# -- means ---------------------------------------------------------------------------------------------------------


def summary(*runs: Sequence[Answered], resamples: int = 2_000, seed: int = 0) -> QuestionSummary:
    """Means over answers with 95 % intervals over clips; of several runs (seeds) on the same questions, over both.

    By kind in the order of first appearance, by category the largest first.
    """
    assert runs and runs[0], "there is something to sum up"

    def score(rows: Sequence[Sequence[Answered]]) -> QuestionScore:
        every = [answered for run in rows for answered in run]
        return QuestionScore(
            questions=len(rows[0]),
            clips=len({answered.clip_id for answered in rows[0]}),
            ungraded=sum(answered.headline is None for answered in rows[0]),
            score=_estimate(score_of(rows), resamples, seed),
            unreadable=sum(answered.answer is None for answered in every) / len(every),
            cut_off=sum(not answered.finished for answered in every) / len(every),
        )

    kinds = dict.fromkeys(answered.kind for answered in runs[0])
    names = [name for answered in runs[0] for name in answered.category]
    categories = sorted(dict.fromkeys(names), key=lambda name: -names.count(name))
    return QuestionSummary(
        overall=score(runs),
        over_categories=_estimate(over_categories_of(runs), resamples, seed) if names else None,
        kinds={kind: score([[a for a in run if a.kind == kind] for run in runs]) for kind in kinds},
        categories={name: score([[a for a in run if name in a.category] for run in runs]) for name in categories},
    )


def score_of(runs: Sequence[Sequence[Answered]]) -> Counted:
    """The mean of what answers are worth. Of a clip's answers their sum and their number count."""
    return _counted(runs, lambda answered: "")


def over_categories_of(runs: Sequence[Sequence[Answered]]) -> Counted:
    """The plain mean over first categories of the mean in each; a draw without one is the mean over the others.

    Answers without a category are left out.
    """
    return _counted([[a for a in run if a.category] for run in runs], lambda answered: answered.category[0])


def _counted(runs: Sequence[Sequence[Answered]], group: Callable[[Answered], str]) -> Counted:
    clips = {clip_id: i for i, clip_id in enumerate(dict.fromkeys(answered.clip_id for answered in runs[0]))}
    groups = {name: i for i, name in enumerate(dict.fromkeys(map(group, runs[0])))}
    sums = np.zeros((len(clips), len(runs), len(groups)))
    counts = np.zeros_like(sums)
    for number, run in enumerate(runs):
        assert {a.question_id for a in run} == {a.question_id for a in runs[0]}, "runs answer the same questions"
        for answered in run:
            if answered.headline is not None:
                place = clips[answered.clip_id], number, groups[group(answered)]
                sums[place] += answered.headline
                counts[place] += 1
    return Counted(np.concatenate([sums, counts], axis=2), _mean_of_means)


def _mean_of_means(totals: FloatArray) -> FloatArray:
    """Of totals [draws, seeds, 2·groups], sums then counts: the mean over the groups that were drawn."""
    sums, counts = np.split(totals, 2, axis=-1)
    means = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
    drawn = (counts > 0).sum(axis=-1)
    return np.asarray(means.sum(axis=-1) / np.maximum(drawn, 1), dtype=np.float64)


def _estimate(counted: Counted, resamples: int, seed: int) -> Estimate:
    found = spread(counted, resamples=resamples, seed=seed)
    return Estimate(mean=found.mean, low=found.low, high=found.high, per_seed=found.per_seed)
