"""Free text from a model, in batches padded on the left; pads for pixels are never sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from rbft.models.vlm import VLM, Encoded
from rbft.stopping import check


@dataclass(frozen=True)
class Generated:
    """One answer. `finished` is False where it was cut at the token limit; `num_tokens` counts the end of turn."""

    text: str
    finished: bool
    num_tokens: int


@torch.inference_mode()
def generate(
    vlm: VLM,
    batch: Sequence[Encoded],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> list[Generated]:
    """Write an answer for every clip of the batch; greedy at temperature 0, else sampled under `seed`.

    Raises StoppedError between two tokens where the process is asked to end.
    """
    return _generate(vlm, vlm.inputs(batch), max_new_tokens, temperature, top_p, seed)


@torch.inference_mode()
def generate_text(
    vlm: VLM,
    batch: Sequence[torch.Tensor],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> list[Generated]:
    """The same without clips: prompts are token ids as `VLM.encode_text` gives them, int64 [S] each."""
    return _generate(vlm, vlm.text_inputs(batch), max_new_tokens, temperature, top_p, seed)


def _generate(
    vlm: VLM, inputs: dict[str, Any], max_new_tokens: int, temperature: float, top_p: float, seed: int
) -> list[Generated]:
    prompt_length = inputs["input_ids"].shape[1]
    stops = end_tokens(vlm)
    sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if temperature > 0:
        torch.manual_seed(seed)
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    output = vlm.model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        eos_token_id=stops,
        pad_token_id=vlm.end_of_turn,
        suppress_tokens=[t for t in vlm.visual_token_ids if t not in stops],
        repetition_penalty=1.0,
        stopping_criteria=StoppingCriteriaList([_Asked()]),
        **sampling,
    )
    return [_read(vlm, row, set(stops)) for row in output[:, prompt_length:].tolist()]


class _Asked(StoppingCriteria):
    """Between two tokens: a process that was asked to end gives up the batch."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        check()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def end_tokens(vlm: VLM) -> list[int]:
    """The tokens that end an answer."""
    return sorted({vlm.end_of_turn, *_as_list(vlm.model.generation_config.eos_token_id)})


def _read(vlm: VLM, row: list[int], stops: set[int]) -> Generated:
    end = next((i for i, token in enumerate(row) if token in stops), None)
    kept = row if end is None else row[:end]
    return Generated(text=vlm.text_of(kept), finished=end is not None, num_tokens=len(kept) + (end is not None))


def _as_list(value: int | list[int] | None) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)
