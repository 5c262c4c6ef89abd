"""What a checkpoint says about clips: label probabilities, and as a second readout a strictly parsed greedy answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from rbft.answers import read_label
from rbft.clips.frames import Frames
from rbft.experiment import Evaluation
from rbft.files import JsonlAppender, read_jsonl
from rbft.models.generate import generate
from rbft.models.score import score_answers
from rbft.models.vlm import VLM, Encoded, FrameSource, by_size
from rbft.prompts import Describing, Prompts
from rbft.records import Clip, FramePlan, Prediction


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
    describing: Describing | None = None,
    descriptions: Mapping[str, str] | None = None,
) -> list[Prediction]:
    """Predict every clip that `path` does not hold yet; return all in clip order. Appended batch by batch.

    `load` is called only where something is missing. `descriptions` are the checkpoint's own, by clip id, where it
    describes a clip before it is asked for the label.
    """
    done = {p.clip_id: p for p in read_jsonl(path, Prediction)} if path.exists() else {}
    advance(len(done))
    waiting = [clip for clip in by_size(clips, frames) if clip.clip_id not in done]
    if waiting:
        vlm = load()
        query = LabelQuery(vlm, prompts, settings, describing)
        with JsonlAppender(path) as file:
            for start in range(0, len(waiting), settings.batch_size):
                batch = waiting[start : start + settings.batch_size]
                encoded = [
                    query.encode(
                        frames.read(c.clip_id),
                        frames.plan(c.clip_id),
                        None if descriptions is None else descriptions[c.clip_id],
                    )
                    for c in batch
                ]
                made = query.answer(checkpoint, [(c.clip_id, c.label) for c in batch], encoded)
                file.append(made)
                done |= {p.clip_id: p for p in made}
                advance(len(made))
    return [done[clip.clip_id] for clip in clips]


class LabelQuery:
    """The classification query of one checkpoint: the same in evaluation, in `rbft predict` and in the Python API."""

    def __init__(self, vlm: VLM, prompts: Prompts, settings: Evaluation, describing: Describing | None = None) -> None:
        self._vlm = vlm
        self._settings = settings
        self._prompts = prompts
        self._describing = describing
        self._labels = list(prompts.labels)
        self._answers = [vlm.answer_ids(label) for label in self._labels]

    def encode(self, frames: Frames, plan: FramePlan, description: str | None = None) -> Encoded:
        """One clip under the classification query; where it follows a description, the given one or one made now."""
        if self._describing is None:
            return self._vlm.encode(frames, plan, self._prompts.label())
        told = self.describe(frames, plan) if description is None else description
        return self._vlm.encode(frames, plan, self._describing.query(self._prompts, told))

    def describe(self, frames: Frames, plan: FramePlan) -> str:
        """The checkpoint's own description of a clip, greedy, as it stands before the query."""
        assert self._describing is not None, "this checkpoint is asked for the label at once"
        asked = self._vlm.encode(frames, plan, self._prompts.rationale())
        return generate(self._vlm, [asked], max_new_tokens=self._describing.max_new_tokens)[0].text

    def answer(
        self, checkpoint: str, clips: Sequence[tuple[str, str | None]], encoded: Sequence[Encoded]
    ) -> list[Prediction]:
        """Score every label for each (clip_id, true label); with `settings.generate` also write an answer."""
        scores = score_answers(self._vlm, encoded, self._answers)
        probabilities = label_probabilities(scores, self._answers, self._settings.length_normalisation)
        longest = max(len(answer) for answer in self._answers)
        texts: list[str | None] = [None] * len(clips)
        if self._settings.generate:
            texts = [g.text for g in generate(self._vlm, encoded, max_new_tokens=longest + 8)]
        return [
            Prediction(
                clip_id=clip_id,
                checkpoint=checkpoint,
                truth=truth,
                label=self._labels[int(row.argmax())],
                log_probabilities=dict(zip(self._labels, log_row.tolist(), strict=True)),
                probabilities=dict(zip(self._labels, row.tolist(), strict=True)),
                text=text,
                text_label=None if text is None else read_label(text, self._labels),
            )
            for (clip_id, truth), log_row, row, text in zip(clips, scores, probabilities, texts, strict=True)
        ]


def label_probabilities(
    scores: torch.Tensor, answers: Sequence[torch.Tensor], length_normalisation: str
) -> torch.Tensor:
    """Softmax over the labels of scores [B, C], float64; with `mean`, of scores divided by each label's tokens."""
    if length_normalisation == "mean":
        scores = scores / torch.tensor([len(answer) for answer in answers], dtype=scores.dtype)
    return scores.softmax(dim=-1)
