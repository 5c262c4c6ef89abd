"""Examples to padded batches, read from the frame cache alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from rbft.models.vlm import VLM, FrameSource
from rbft.records import Example

IGNORED = -100


class ExampleDataset(Dataset[Example]):
    """Examples by index, for the Trainer's sampler."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]


class Collator:
    """Turns examples into model inputs on the CPU, padded on the left so that all answers end together.

    labels int64 [B, A+1]: column 0 is always ignored, then the answer's tokens, IGNORED where an answer is shorter;
    weights float32 [B].
    """

    def __init__(self, vlm: VLM, frames: FrameSource) -> None:
        self._vlm = vlm
        self._frames = frames

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """One batch, in the order of the examples."""
        encoded = [
            self._vlm.encode(self._frames.read(e.clip_id), self._frames.plan(e.clip_id), e.prompt) for e in examples
        ]
        answers = [self._vlm.answer_ids(e.answer) for e in examples]
        longest = max(len(answer) for answer in answers)
        labels = torch.full((len(examples), longest + 1), IGNORED, dtype=torch.long)
        for i, answer in enumerate(answers):
            labels[i, longest + 1 - len(answer) :] = answer
        weights = torch.tensor([e.weight for e in examples], dtype=torch.float32)
        return self._vlm.collate(encoded, answers) | {"labels": labels, "weights": weights}
