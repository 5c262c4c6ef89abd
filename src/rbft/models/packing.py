"""Whole clips one after another in one row, without padding: every clip sees itself alone, at its own positions.

It pays where attention is one kernel over the row, on a GPU; on a processor batches of like length are as good. A dense
mask over the row would cost more than one clip at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from rbft.models.pixels import VisualInput
from rbft.models.varlen import NAME, register
from rbft.models.vlm import VIDEO_TYPE, VLM, Encoded


def can_pack(vlm: VLM) -> bool:
    """Whether the model's clips can share a row: those of M-RoPE families can."""
    return vlm.rope_index is not None


def pack(vlm: VLM, batch: Sequence[Encoded], answers: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """One row on the CPU; `answers` [A_i] follow their prompts.

    input_ids int64 [1, S]; position_ids int64 [4, 1, S], text positions then the three of M-RoPE, each clip from 0;
    cu_seq_lens_q int32 [N+1], where clips begin and end; and the clips' pixels as `VisualInput.batch` keeps them.
    """
    rows = [torch.cat([e.input_ids, answer]) for e, answer in zip(batch, answers, strict=True)]
    positions = [_positions(vlm, row, e.visual) for row, e in zip(rows, batch, strict=True)]
    made = {
        "input_ids": torch.cat(rows)[None],
        "position_ids": torch.cat(positions, dim=1)[:, None],
        "cu_seq_lens_q": torch.tensor([0, *(len(row) for row in rows)]).cumsum(0, dtype=torch.int32),
    }
    return made | VisualInput.batch([e.visual for e in batch])


@contextmanager
def packed_language(model: Any) -> Iterator[None]:
    """The language model attends within the clips of a row inside the block; afterwards as it was loaded."""
    loaded_with = model.config.text_config._attn_implementation
    register()
    model.set_attn_implementation({"text_config": NAME})
    try:
        yield
    finally:
        model.set_attn_implementation({"text_config": loaded_with})


def _positions(vlm: VLM, row: torch.Tensor, visual: VisualInput) -> torch.Tensor:
    """Positions of one clip's tokens, int64 [4, S]: text, then time, height and width as its model counts them."""
    assert vlm.rope_index is not None
    one = VisualInput.batch([visual])
    del one["pixels"]
    is_video = (row == vlm.model.config.video_token_id).int()[None]
    positions, _ = vlm.rope_index(row[None], is_video * VIDEO_TYPE, **one)
    return torch.cat([torch.arange(len(row))[None], positions[:, 0]])
