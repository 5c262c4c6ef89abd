"""Examples to padded or packed batches of like length, read from the frame cache alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from rbft.models.packing import pack
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
    """Turns examples into model inputs on the CPU, padded on the left so that all answers end together, or packed.

    labels int64 [B, A+1]: column 0 is always ignored, then the answer's tokens, IGNORED where an answer is shorter;
    weights float32 [B]. Packed: the rows of the answers one after another, labels int64 and weights float32 [1, R],
    every answer after one IGNORED; and `answer_rows` int64 [R], where in the row of tokens they stand.
    """

    def __init__(self, vlm: VLM, frames: FrameSource, *, packed: bool = False) -> None:
        self._vlm = vlm
        self._frames = frames
        self._packed = packed

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """One batch, in the order of the examples."""
        encoded = [self._vlm.encode_clip(self._frames, e.clip_id, e.prompt) for e in examples]
        answers = [self._vlm.answer_ids(e.answer) for e in examples]
        weights = torch.tensor([e.weight for e in examples], dtype=torch.float32)
        if self._packed:
            made = pack(self._vlm, encoded, answers)
            return made | packed_answers(made["cu_seq_lens_q"].tolist(), answers, weights)
        return self._vlm.collate(encoded, answers) | {"labels": padded_labels(answers), "weights": weights}


def padded_labels(answers: Sequence[torch.Tensor]) -> torch.Tensor:
    """Answers [A_i] as labels int64 [B, A+1] that end together, IGNORED before them and in column 0."""
    longest = max(len(answer) for answer in answers)
    labels = torch.full((len(answers), longest + 1), IGNORED, dtype=torch.long)
    for i, answer in enumerate(answers):
        labels[i, longest + 1 - len(answer) :] = answer
    return labels


def packed_answers(
    bounds: Sequence[int], answers: Sequence[torch.Tensor], weights: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Labels, weights and places of the answers' rows; each begins with the row that predicts its first token."""
    counts = torch.tensor([len(answer) + 1 for answer in answers])
    ignored = torch.tensor([IGNORED])
    rows = [torch.arange(end - int(count), end) for end, count in zip(bounds[1:], counts, strict=True)]
    return {
        "labels": torch.cat([part for answer in answers for part in (ignored, answer)])[None],
        "weights": weights.repeat_interleave(counts)[None],
        "answer_rows": torch.cat(rows),
    }


class LikeLengths(Sampler[int]):
    """The order of an epoch: the Trainer's own seeded permutation, its steps' examples sorted by length.

    Every optimizer step holds the examples that it would hold without, so its loss is the same up to rounding; its
    micro-batches hold clips of like length. Given the epoch, the order is always the same, so a stage continues.
    """

    def __init__(self, lengths: Sequence[int], *, batch_size: int, seed: int) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next iteration is; called by the Trainer."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        order = torch.randperm(len(self._lengths), generator=generator).tolist()
        for start in range(0, len(order), self._batch_size):
            yield from sorted(order[start : start + self._batch_size], key=lambda index: self._lengths[index])


def example_lengths(vlm: VLM, examples: Sequence[Example], frames: FrameSource) -> list[int]:
    """Tokens of each example: its clip's, its prompt's and its answer's, without the template around them."""
    count = cache(lambda text: len(vlm.tokenizer(text, add_special_tokens=False)["input_ids"]))
    return [vlm.visual_tokens(frames.plan(e.clip_id)) + count(e.prompt) + count(e.answer) for e in examples]
