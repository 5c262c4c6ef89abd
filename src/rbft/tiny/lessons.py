"""Packs several questions about one clip into one row: the clip is read once, each question sees the clip and itself.

A row is `<|im_start|>user\\n<|vision_start|>` + V visual tokens + `<|vision_end|>`, then the segments
`question<|im_end|>\\n<|im_start|>assistant\\nanswer<|im_end|>`, whose positions all start where the clip ends. What the
model computes for a segment equals what it computes for the conversation with that question alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

from rbft.tiny.marks import LAYERS, marks_of
from rbft.tiny.model import MERGE, prefix_positions
from rbft.tiny.tasks import Lesson, Scene, draw_lesson

_OPENING = "<|im_start|>user\n<|vision_start|>"
_CLOSING = "<|vision_end|>"
_TURN = "<|im_end|>\n<|im_start|>assistant\n"
_END = "<|im_end|>"
_NO_TARGET = -100
_TRIES = 3


@dataclass(frozen=True)
class Packed:
    """Segments of a batch, padded at the right. All `[B, L]`: `ids`, `segment` (1, 2, …; 0 for padding), `place` (the
    position within the segment), `targets` (the next token where it is part of an answer, else -100), `weights`.
    `marks` has for each kind `[N, 3]`: row, column, and what is to be read there."""

    ids: Tensor
    segment: Tensor
    place: Tensor
    targets: Tensor
    weights: Tensor
    marks: dict[str, Tensor]


@dataclass(frozen=True)
class Segment:
    """The ids of one question and its answer; the last `num_answer` are the answer with the end of the turn.

    `marks` are a place in `ids`, the kind, and what is to be read there: 0 or 1, or the first token of a label.
    """

    ids: list[int]
    num_answer: int
    marks: list[tuple[int, str, int]]


def _tokens(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)


def segment_of(tokenizer: PreTrainedTokenizerFast, lesson: Lesson, words: Mapping[str, str]) -> Segment:
    """A lesson in tokens, with marks where its prompt asks to be compared with the clip, of which `words` are true."""
    question = tokenizer.backend_tokenizer.encode(lesson.prompt + _TURN, add_special_tokens=False)
    answer = _tokens(tokenizer, lesson.answer + _END)
    ends = {end - 1: index for index, (_, end) in enumerate(question.offsets)}
    wanted = marks_of(lesson.prompt, words) if lesson.compares else []
    marks = [
        (ends[m.place], m.kind, _tokens(tokenizer, m.label)[0] if m.kind == "label" else int(m.holds)) for m in wanted
    ]
    return Segment([*question.ids, *answer], len(answer), marks)


def draw_row(
    tokenizer: PreTrainedTokenizerFast,
    scene: Scene,
    rng: np.random.Generator,
    level: float,
    budget: int,
) -> list[Segment]:
    """Segments about one clip that fit into `budget` tokens; at least one."""
    row: list[Segment] = []
    used = misses = 0
    while misses < _TRIES:
        segment = segment_of(tokenizer, draw_lesson(scene, rng, level), scene.words)
        if row and used + len(segment.ids) > budget:
            misses += 1
            continue
        row.append(segment)
        used += len(segment.ids)
    return row


def pack(rows: list[list[Segment]], pad_id: int) -> Packed:
    """Puts segments side by side. An answer of n tokens weighs sqrt(n), so that short ones are not drowned out."""
    length = max(sum(len(segment.ids) for segment in row) for row in rows)
    shape = (len(rows), length)
    ids = torch.full(shape, pad_id)
    segments, place = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    targets, weights = torch.full(shape, _NO_TARGET), torch.zeros(shape)
    marks: dict[str, list[tuple[int, int, int]]] = {kind: [] for kind in LAYERS}
    for index, row in enumerate(rows):
        start = 0
        for number, segment in enumerate(row, start=1):
            stop, count = start + len(segment.ids), segment.num_answer
            ids[index, start:stop] = torch.tensor(segment.ids)
            segments[index, start:stop] = number
            place[index, start:stop] = torch.arange(len(segment.ids))
            targets[index, stop - count - 1 : stop - 1] = ids[index, stop - count : stop]
            weights[index, stop - count - 1 : stop - 1] = count**-0.5
            for where, kind, value in segment.marks:
                marks[kind].append((index, start + where, value))
            start = stop
    held = {kind: torch.tensor(found, dtype=torch.long).reshape(-1, 3) for kind, found in marks.items()}
    return Packed(ids, segments, place, targets, weights, held)


def segment_mask(prefix: int, segment: Tensor) -> Tensor:
    """Who may attend to whom, bool `[B, 1, S, S]`: backwards, to the clip and within the own segment."""
    whole = torch.cat([segment.new_full((len(segment), prefix), -1), segment], dim=1)
    same = whole[:, :, None] == whole[:, None, :]
    clip = (whole == -1)[:, None, :]
    backwards = torch.ones(whole.shape[1], whole.shape[1], dtype=torch.bool).tril()
    return ((same | clip) & backwards).unsqueeze(1)


def answer_loss(
    model: Any, tokenizer: PreTrainedTokenizerFast, tokens: Tensor, grid: Tensor, packed: Packed
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Weighted cross entropy of the answers' tokens, given the clips' merged tokens `[B, V, H]`, and their accuracy.

    The third result are the hidden states `[B, L, H]` of the segments before the first layer and after each.
    """
    opening, closing = _tokens(tokenizer, _OPENING), _tokens(tokenizer, _CLOSING)
    batch, language = len(tokens), model.model.language_model
    embed = language.embed_tokens
    lead = embed(torch.tensor(opening)).expand(batch, -1, -1)
    close = embed(torch.tensor(closing)).expand(batch, -1, -1)
    hidden = torch.cat([lead, tokens, close, embed(packed.ids)], dim=1)
    positions = _positions(len(opening), grid[0], packed.place)
    num_prefix = hidden.shape[1] - packed.ids.shape[1]
    mask = segment_mask(num_prefix, packed.segment)
    out = language(
        inputs_embeds=hidden,
        position_ids=positions,
        attention_mask=mask,
        use_cache=False,
        output_hidden_states=True,
    )
    asked = packed.targets != _NO_TARGET
    logits = model.lm_head(out.last_hidden_state[:, num_prefix:][asked])
    targets, weights = packed.targets[asked], packed.weights[asked]
    losses = cross_entropy(logits, targets, reduction="none")
    right = (logits.detach().argmax(-1) == targets).float().mean()
    states = tuple(state[:, num_prefix:] for state in out.hidden_states)
    return (losses * weights).sum() / weights.sum(), right, states


def _positions(lead: int, grid: Tensor, place: Tensor) -> Tensor:
    """3D positions `[3, B, S]` of the prefix and the segments."""
    clip = prefix_positions(lead, grid)
    after = lead + int(grid[1:].max()) // MERGE
    closing = torch.full((3, 1), after)
    prefix = torch.cat([clip, closing], dim=1)[:, None].expand(3, len(place), -1)
    return torch.cat([prefix, (place + after + 1).expand(3, *place.shape)], dim=2)


def draw_batch(
    tokenizer: PreTrainedTokenizerFast,
    scenes: list[Scene],
    rng: np.random.Generator,
    level: float,
    budget: int,
) -> Packed:
    """Questions about every clip of a batch, packed."""
    rows = [draw_row(tokenizer, scene, rng, level, budget) for scene in scenes]
    return pack(rows, int(tokenizer.convert_tokens_to_ids("<|endoftext|>")))
