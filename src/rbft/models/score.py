"""Labels are scored, not parsed: the log-probability of every label under the query, one visual prefill per clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rbft.models.vlm import VLM, Encoded


@torch.inference_mode()
def score_answers(vlm: VLM, batch: Sequence[Encoded], answers: Sequence[torch.Tensor]) -> torch.Tensor:
    """Log-probability of each answer after each clip's prompt, float64 [B, C], in nats, summed over its tokens.

    `answers` are C token rows that end in the end of turn (`VLM.answer_ids`), so that the score is that of exactly
    this answer: a label that begins another one ("normal", "normal walk") does not collect the other's mass. The
    prompts and their clips run once; all answers continue from the kept keys and values.
    """
    inputs = vlm.inputs(batch)
    prefill = vlm.model(**inputs, use_cache=True, logits_to_keep=1)
    first = torch.log_softmax(prefill.logits[:, -1].double(), dim=-1)
    heads = torch.tensor([int(answer[0]) for answer in answers], device=first.device)
    scores = first[:, heads]
    longest = max(len(answer) for answer in answers)
    if longest == 1:
        return scores.cpu()

    num_clips, num_answers = len(batch), len(answers)
    tokens = torch.full((num_answers, longest), vlm.end_of_turn, dtype=torch.long)
    for c, answer in enumerate(answers):
        tokens[c, : len(answer)] = answer
    tokens = tokens.to(vlm.device)
    lengths = torch.tensor([len(answer) for answer in answers], device=vlm.device)
    continued = _continue(vlm, prefill, inputs["attention_mask"], tokens.repeat(num_clips, 1)[:, :-1], num_answers)
    following = torch.log_softmax(continued.double(), dim=-1).view(num_clips, num_answers, longest - 1, -1)
    picked = following.gather(-1, tokens[None, :, 1:, None].expand(num_clips, -1, -1, 1)).squeeze(-1)
    real = torch.arange(1, longest, device=vlm.device)[None, None, :] < lengths[None, :, None]
    return (scores + torch.where(real, picked, 0.0).sum(-1)).cpu()


def _continue(vlm: VLM, prefill: Any, prompt_mask: torch.Tensor, rows: torch.Tensor, num_answers: int) -> torch.Tensor:
    """Logits [B·C, A, V] of the continuations `rows` [B·C, A] after the prompts kept in `prefill`."""
    cache = prefill.past_key_values
    cache.batch_repeat_interleave(num_answers)
    mask = prompt_mask.repeat_interleave(num_answers, dim=0)
    mask = torch.cat([mask, torch.ones_like(rows)], dim=1)
    start = prompt_mask.sum(1, keepdim=True).repeat_interleave(num_answers, dim=0)
    positions = start + torch.arange(rows.shape[1], device=rows.device)
    if vlm.family.mrope:
        deltas = vlm.model.model.rope_deltas.repeat_interleave(num_answers, dim=0).to(positions.device)
        positions = (positions + deltas)[None].expand(3, -1, -1)
    output = vlm.model(
        input_ids=rows, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
    )
    logits: torch.Tensor = output.logits
    return logits
