"""Groups of sampled answers: each clip is read once, its keys and values serve all answers to it.

What is drawn depends on the numbers in `draws` alone, so a group is the same whatever else is in its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rbft.errors import RbftError
from rbft.models.generate import end_tokens
from rbft.models.vlm import VLM, Encoded


@dataclass(frozen=True)
class Sampled:
    """One answer: its tokens int64 [A], the end of turn among them where it is finished; log-probabilities [A]."""

    tokens: torch.Tensor
    log_probabilities: torch.Tensor
    finished: bool

    def __repr__(self) -> str:
        return f"Sampled(tokens={list(self.tokens.shape)}, finished={self.finished})"


def draws_of(key: Sequence[int], samples: int, length: int) -> torch.Tensor:
    """The numbers that decide a group, float32 [samples, length] in 0..1, always the same for a key of integers."""
    seed = 0
    for part in key:
        seed = (seed * 1_000_003 + part) % 2**63
    return torch.rand((samples, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def sample_groups(
    vlm: VLM, batch: Sequence[Encoded], draws: Sequence[torch.Tensor], *, temperature: float, top_p: float
) -> list[list[Sampled]]:
    """A group of answers for every clip; `draws` [G, T] for each decide how many, how long at most, and which.

    The log-probabilities are those of the model at `temperature` over its whole vocabulary: `top_p` and the tokens
    that stand for pixels, which are never drawn, change what is drawn and not what it is worth. Raises RbftError where
    the model gives no probabilities, as weights that are no numbers do not.
    """
    samples = len(draws[0])
    drawn = torch.cat(list(draws)).to(vlm.device)
    logits, cache, following, mask = _prefilled(vlm, batch, samples)
    stops = end_tokens(vlm)
    ends = torch.tensor(stops, device=vlm.device)
    barred = torch.tensor([t for t in vlm.visual_token_ids if t not in stops], dtype=torch.long, device=vlm.device)
    running = torch.ones(len(drawn), dtype=torch.bool, device=vlm.device)
    tokens, worth = [], []
    for place in range(drawn.shape[1]):
        scaled = logits.float() / temperature
        chosen = next_tokens(scaled.index_fill(-1, barred, -torch.inf), drawn[:, place], top_p)
        chosen = torch.where(running, chosen, vlm.end_of_turn)
        tokens.append(chosen)
        worth.append(scaled.log_softmax(-1).gather(-1, chosen[:, None])[:, 0])
        running &= ~torch.isin(chosen, ends)
        if not running.any() or place + 1 == drawn.shape[1]:
            break
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        output = vlm.model(
            input_ids=chosen[:, None], attention_mask=mask, position_ids=following + place, past_key_values=cache,
            use_cache=True,
        )  # fmt: skip
        logits, cache = output.logits[:, -1], output.past_key_values
    drawn_tokens, worths = torch.stack(tokens, 1).cpu(), torch.stack(worth, 1).cpu()
    if worths.isnan().any():
        raise RbftError(
            f"the probabilities of the next word are no numbers at temperature {temperature:g}: the temperature is too "
            "low, or training has broken the weights. Raise reinforce.temperature, or lower the learning rate of this "
            "stage and of those before it"
        )
    rows = [_cut(t, w, ends) for t, w in zip(drawn_tokens, worths, strict=True)]
    return [rows[start : start + samples] for start in range(0, len(rows), samples)]


def next_tokens(logits: torch.Tensor, draws: torch.Tensor, top_p: float) -> torch.Tensor:
    """The token at each draw's place in the distribution of its row: logits [R, V], draws [R] in 0..1, int64 [R].

    Of each row only the most probable tokens that together reach `top_p` count. Any token where the row holds NaN: an
    index outside would end a GPU's whole process.
    """
    probabilities, order = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
    reached = probabilities.cumsum(-1)
    kept = reached - probabilities < top_p
    mass = (probabilities * kept).sum(-1)
    place = (reached <= (draws * mass)[:, None]).sum(-1).clamp(max=kept.sum(-1) - 1).clamp(min=0)
    return order.gather(-1, place[:, None])[:, 0]


def _prefilled(
    vlm: VLM, batch: Sequence[Encoded], samples: int
) -> tuple[torch.Tensor, Any, torch.Tensor, torch.Tensor]:
    """Each clip read once, then repeated: logits [B*G, V], keys and values, next positions [.., B*G, 1], mask."""
    collated = vlm.collate(batch)
    positions = vlm.positions(collated).to(vlm.device)
    inputs = vlm.to_model(collated)
    output = vlm.model(**inputs, position_ids=positions, use_cache=True, logits_to_keep=1)
    cache = output.past_key_values
    cache.batch_repeat_interleave(samples)
    following = positions.amax(-1, keepdim=True) if positions.ndim == 2 else positions.amax((0, 2))[:, None]
    following = (following + 1).expand(*positions.shape[:-1], 1).repeat_interleave(samples, dim=-2)
    mask = inputs["attention_mask"].repeat_interleave(samples, dim=0)
    return output.logits[:, -1].repeat_interleave(samples, dim=0), cache, following, mask


def _cut(tokens: torch.Tensor, worth: torch.Tensor, ends: torch.Tensor) -> Sampled:
    """A row up to its first end."""
    found = torch.isin(tokens, ends.cpu()).nonzero()
    length = int(found[0]) + 1 if len(found) else len(tokens)
    return Sampled(tokens[:length], worth[:length], bool(len(found)))
