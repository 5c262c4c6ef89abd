"""What holds of a clip, said at the place in a prompt where it can first be known: the crutch of the language phase.

A prompt such as `alarm: a dog. ok: anything else.` asks the model to compare its words with the clip, to join them
into clauses and to find the clause that holds. An answer is one bit for all of that, and learning from answers alone
stayed at chance. So a probe reads each of these small results where it should arise: a word after the second layer, a
clause after the third. The probes are thrown away after training.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from rbft.tiny.language import LABEL_PROMPT
from rbft.tiny.world import DIMENSIONS

KINDS = ("word", "clause")
LAYERS = {"word": 2, "clause": 3}
"""After which layer a probe reads."""

_DIMENSION = {word: name for name, words in DIMENSIONS.items() for word in words}
_WORD = re.compile(rf"\b({'|'.join(sorted(_DIMENSION, key=len, reverse=True))})\b")
_QUESTION = LABEL_PROMPT.split("{")[0]
_CLAUSE = re.compile(r"(?:(?<=: )|(?<=, )|(?<= or )|(?<=Is it )).+?(?=, | or |[.?])")


@dataclass(frozen=True)
class Mark:
    """`place` is the index of the last character of the word or clause in its text."""

    place: int
    kind: str
    holds: bool


def marks_of(text: str, words: Mapping[str, str]) -> list[Mark]:
    """Attribute words of a question, and its clauses: what stands behind `: `, `, `, ` or ` or `Is it `.

    `words` is what is true of the clip. A description in front of the question is not marked.
    """
    start = max(text.find(_QUESTION), 0)
    found = [Mark(match.end() - 1, "word", _holds(match[0], words)) for match in _WORD.finditer(text, start)]
    clauses = [match for match in _CLAUSE.finditer(text, start) if _WORD.search(match[0])]
    return found + [Mark(match.end() - 1, "clause", _holds(match[0], words)) for match in clauses]


def _holds(clause: str, words: Mapping[str, str]) -> bool:
    """Whether every attribute word of a clause is the clip's."""
    return all(words[_DIMENSION[match[0]]] == match[0] for match in _WORD.finditer(clause))


class Probes(nn.Module):
    """One linear yes or no a kind of mark. They start at zero, so they say nothing at first."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False)
        self.read = nn.ModuleDict({kind: nn.Linear(hidden_size, 1) for kind in KINDS})
        for layer in self.read.values():
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, hidden: Tensor, kind: str) -> Tensor:
        """Hidden states `[N, H]` to logits `[N]`."""
        return self.read[kind](self.norm(hidden))[:, 0]


def mark_loss(probes: Probes, states: tuple[Tensor, ...], marks: Mapping[str, Tensor]) -> tuple[Tensor, float]:
    """Mean cross entropy over the kinds, and the share of marks read right.

    `states` are the hidden states `[B, S, H]` before the first layer and after each; `marks[kind]` is `[N, 3]`: row,
    place, 0 or 1.
    """
    losses, right, count = [], 0.0, 0
    for kind, where in marks.items():
        if not len(where):
            continue
        logits = probes(states[LAYERS[kind]][where[:, 0], where[:, 1]], kind)
        losses.append(binary_cross_entropy_with_logits(logits, where[:, 2].float()))
        right += float(((logits > 0) == (where[:, 2] > 0)).float().sum())
        count += len(where)
    loss = torch.stack(losses).mean() if losses else states[0].new_zeros(())
    return loss, right / max(1, count)
