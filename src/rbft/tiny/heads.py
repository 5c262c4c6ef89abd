"""Attribute heads over the vision tower: what teaches it to see before it learns to speak. Thrown away afterwards."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rbft.tiny.pool import HEADS, NUM_FRAMES

_STEPS = NUM_FRAMES // 2
_WEIGHTS = {
    **dict.fromkeys(HEADS, 1.0),
    "subject": 3.0,
    "action": 2.0,
    "size": 1.5,
    "colour": 1.5,
    "tens": 0.5,
    "ones": 0.5,
}


class Heads(nn.Module):
    """One linear layer a question, on merged tokens averaged over each temporal step."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.answers = nn.ModuleDict({name: nn.Linear(_STEPS * hidden_size, num) for name, num in HEADS.items()})

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """Merged tokens `[B, V, H]` to one `[B, classes]` of logits a head."""
        pooled = self.norm(tokens.unflatten(1, (_STEPS, -1)).mean(2)).flatten(1)
        return {name: layer(pooled) for name, layer in self.answers.items()}


def head_loss(logits: dict[str, Tensor], targets: Tensor) -> Tensor:
    """Weighted mean cross entropy over the heads; `targets` `[B, 10]` in the order of `HEADS`."""
    losses = [_WEIGHTS[name] * cross_entropy(logits[name], targets[:, index]) for index, name in enumerate(HEADS)]
    return torch.stack(losses).sum() / sum(_WEIGHTS.values())


def head_accuracy(logits: dict[str, Tensor], targets: Tensor) -> dict[str, float]:
    """Share of right answers a head."""
    return {
        name: float((logits[name].argmax(-1) == targets[:, index]).float().mean()) for index, name in enumerate(HEADS)
    }
