"""What a checkpoint says about clips: label probabilities, and as a second readout a strictly parsed greedy answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from rbft.answers import read_label
from rbft.clips.frames import Frames
from rbft.experiment import Evaluation
from rbft.files import JsonlAppender, misnamed, read_jsonl
from rbft.models.generate import generate
from rbft.models.score import score_answers
from rbft.models.vlm import VLM, Encoded, FrameSource, by_size
from rbft.prompts import Describing, Prompts, Reasoning
from rbft.records import Clip, FramePlan, Prediction
from rbft.stopping import check
from rbft.thinking import parse_thought


def predict_clips(
    load: Callable[[], VLM],
    checkpoint: str,
    clips: Sequence[Clip],
    frames: FrameSource,
    prompts: Prompts,
    settings: Evaluation,
    path: Path,
    *,
    advance: Callable[[int], None],
    describing: Describing | Reasoning | None = None,
    descriptions: Mapping[str, str] | None = None,
) -> list[Prediction]:
    """Predict every clip that `path` does not hold yet; return all in clip order. Appended batch by batch.

    `load` is called only where something is missing. `descriptions` are the checkpoint's own, by clip id, where it
    says something about a clip before its label is scored. Raises StoreError where `path` holds predictions of another
    checkpoint, or of other clips or labels.
    """
    done = {p.clip_id: p for p in read_jsonl(path, Prediction)} if path.exists() else {}
    _refuse_others(path, done, checkpoint, clips, prompts)
    advance(len(done))
    waiting = [clip for clip in by_size(clips, frames) if clip.clip_id not in done]
    if waiting:
        vlm = load()
        query = LabelQuery(vlm, prompts, settings, describing)
        with JsonlAppender(path) as file:
            for start in range(0, len(waiting), settings.batch_size):
                check()
                batch = waiting[start : start + settings.batch_size]
                told = None if descriptions is None else [descriptions[c.clip_id] for c in batch]
                encoded = [
                    query.encode(frames.read(c.clip_id), frames.plan(c.clip_id), None if told is None else told[i])
                    for i, c in enumerate(batch)
                ]
                made = query.answer(checkpoint, [(c.clip_id, c.label) for c in batch], encoded, told)
                file.append(made)
                done |= {p.clip_id: p for p in made}
                advance(len(made))
    return [done[clip.clip_id] for clip in clips]


def _refuse_others(
    path: Path, done: Mapping[str, Prediction], checkpoint: str, clips: Sequence[Clip], prompts: Prompts
) -> None:
    truths = {clip.clip_id: clip.label for clip in clips}
    for made in done.values():
        if made.checkpoint != checkpoint:
            raise misnamed(path, f"{made.clip_id!r} is predicted by checkpoint {made.checkpoint}, not {checkpoint}")
        if made.clip_id not in truths or made.truth != truths[made.clip_id]:
            raise misnamed(path, f"no clip {made.clip_id!r} with label {made.truth!r} is asked about")
        if made.log_probabilities.keys() != prompts.labels.keys():
            raise misnamed(path, f"{made.clip_id!r} was given a choice of {', '.join(made.log_probabilities)}")
        if made.label is not None and made.probabilities.get(made.label) != max(made.probabilities.values()):
            raise misnamed(path, f"{made.clip_id!r} is labelled {made.label!r}, which is not its most probable label")


class LabelQuery:
    """The classification query of one checkpoint: the same in evaluation, in `rbft predict` and in the Python API."""

    def __init__(
        self,
        vlm: VLM,
        prompts: Prompts,
        settings: Evaluation,
        describing: Describing | Reasoning | None = None,
    ) -> None:
        self._vlm = vlm
        self._settings = settings
        self._prompts = prompts
        self._describing = describing
        self._labels = list(prompts.labels)
        reasons = isinstance(describing, Reasoning)
        self._answers = answers_in_tags(vlm, self._labels) if reasons else [vlm.answer_ids(x) for x in self._labels]

    def encode(self, frames: Frames, plan: FramePlan, description: str | None = None) -> Encoded:
        """One clip up to where its label begins; after a description or thinking, the given one or one made now."""
        if self._describing is None:
            return self._vlm.encode(frames, plan, self._prompts.label())
        told = self.describe(frames, plan) if description is None else description
        if isinstance(self._describing, Reasoning):
            asked = self._vlm.encode(frames, plan, self._describing.asks(self._prompts))
            return asked.begun(self._begun(told))
        return self._vlm.encode(frames, plan, self._describing.query(self._prompts, told))

    def _begun(self, told: str) -> torch.Tensor:
        """Tokens of the checkpoint's own answer up to the label's place, whatever label it gave there itself.

        Thinking that was cut off is closed where it ends.
        """
        thought = told.partition(_THOUGHT)[0] + _THOUGHT
        whole = self._vlm.answer_ids(f"{thought}<answer>{self._labels[0]}</answer>")
        tail = self._answers[0]
        assert torch.equal(whole[-len(tail) :], tail), "the tokens of an answer do not depend on what was thought"
        return whole[: -len(tail)]

    def describe(self, frames: Frames, plan: FramePlan) -> str:
        """What the checkpoint itself says about a clip, greedy, before its label is scored."""
        assert self._describing is not None, "this checkpoint is asked for the label at once"
        asked = self._vlm.encode(frames, plan, self._describing.asks(self._prompts))
        return generate(self._vlm, [asked], max_new_tokens=self._describing.max_new_tokens)[0].text

    def answer(
        self,
        checkpoint: str,
        clips: Sequence[tuple[str, str | None]],
        encoded: Sequence[Encoded],
        told: Sequence[str] | None = None,
    ) -> list[Prediction]:
        """Score every label for each (clip_id, true label); with `settings.generate` also write an answer.

        Of a checkpoint that thinks, the answer is the one it has `told` already.
        """
        scores = score_answers(self._vlm, encoded, self._answers)
        probabilities = label_probabilities(scores, self._answers, self._settings.length_normalisation)
        texts = self._texts(encoded, told) if self._settings.generate else [None] * len(clips)
        return [
            Prediction(
                clip_id=clip_id,
                checkpoint=checkpoint,
                truth=truth,
                label=self._labels[int(row.argmax())],
                log_probabilities=dict(zip(self._labels, log_row.tolist(), strict=True)),
                probabilities=dict(zip(self._labels, row.tolist(), strict=True)),
                text=text,
                text_label=None if text is None else self._read(text),
            )
            for (clip_id, truth), log_row, row, text in zip(clips, scores, probabilities, texts, strict=True)
        ]

    def _texts(self, encoded: Sequence[Encoded], told: Sequence[str] | None) -> Sequence[str | None]:
        if isinstance(self._describing, Reasoning):
            return [None] * len(encoded) if told is None else told
        longest = max(len(answer) for answer in self._answers)
        return [g.text for g in generate(self._vlm, encoded, max_new_tokens=longest + 8)]

    def _read(self, text: str) -> str | None:
        if not isinstance(self._describing, Reasoning):
            return read_label(text, self._labels)
        thought = parse_thought(text)
        return None if thought is None else read_label(thought.answer, self._labels)


_THOUGHT = "</think>"


def answers_in_tags(vlm: VLM, labels: Sequence[str]) -> list[torch.Tensor]:
    """What follows `<think>…</think><answer>` for each label: its tokens, those of `</answer>` and the end of turn.

    A tokenizer may join the tag with the label; then the row begins with what all whole answers do not share with the
    bare beginning.
    """
    begun = vlm.answer_ids("<think>.</think><answer>")[:-1]
    rows = [vlm.answer_ids(f"<think>.</think><answer>{label}</answer>") for label in labels]
    shared = min(_shared(begun, row) for row in rows)
    return [row[shared:] for row in rows]


def _shared(one: torch.Tensor, other: torch.Tensor) -> int:
    """How many first tokens two rows share."""
    pairs = zip(one.tolist(), other.tolist(), strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def label_probabilities(
    scores: torch.Tensor, answers: Sequence[torch.Tensor], length_normalisation: str
) -> torch.Tensor:
    """Softmax over the labels of scores [B, C], float64; with `mean`, of scores divided by each label's tokens."""
    if length_normalisation == "mean":
        scores = scores / torch.tensor([len(answer) for answer in answers], dtype=scores.dtype)
    return scores.softmax(dim=-1)
