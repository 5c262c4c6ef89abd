"""What holds of a clip, said at the place in a prompt where it can first be known: the crutch of the language phase.

A prompt such as `alarm: a dog. ok: anything else.` asks the model to compare its words with the clip, to join them
into clauses and to find the clause that holds. An answer is one bit for all of that, and learning from answers alone
stayed at chance. So each of these small results is asked for where it should arise: whether a word holds after the
second layer, whether a clause holds and which label it stands for after the third. Probes read the first two and are
thrown away after training; the label is read by the model's own word table.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from rbft.tiny.language import LABEL_PROMPT
from rbft.tiny.world import DIMENSIONS

LAYERS = {"word": 2, "clause": 3, "label": 3}
"""The kinds of marks, and after which layer each is read."""

_DIMENSION = {word: name for name, words in DIMENSIONS.items() for word in words}
_WORD = re.compile(rf"\b({'|'.join(sorted(_DIMENSION, key=len, reverse=True))})\b")
_QUESTION = LABEL_PROMPT.split("{")[0]
_ITEM = re.compile(r"(\S+): ([^.]+)\.")
_CLAUSE = re.compile(r"(?:(?<=: )|(?<=, )|(?<= or )|(?<=Is it )).+?(?=, | or |[.?])")


@dataclass(frozen=True)
class Mark:
    """`place` is the index of the last character of a word or clause; `label` is what the clause stands for.

    `holds` belongs to the kinds `word` and `clause`, `label` to the kind `label`.
    """

    place: int
    kind: str
    holds: bool = False
    label: str = ""


def marks_of(text: str, words: Mapping[str, str]) -> list[Mark]:
    """Attribute words of a question, and its clauses: what stands behind `: `, `, `, ` or ` or `Is it `.

    `words` is what is true of the clip. A description in front of the question is not marked.
    """
    start = max(text.find(_QUESTION), 0)
    found = [Mark(match.end() - 1, "word", _holds(match[0], words)) for match in _WORD.finditer(text, start)]
    clauses = list(_CLAUSE.finditer(text, start))
    found += [Mark(m.end() - 1, "clause", _holds(m[0], words)) for m in clauses if _WORD.search(m[0])]
    for item in _ITEM.finditer(text, start):
        inside = [match for match in clauses if item.start(2) <= match.start() < item.end()]
        found += [Mark(match.end() - 1, "label", label=item[1]) for match in inside]
    return found


def _holds(clause: str, words: Mapping[str, str]) -> bool:
    """Whether every attribute word of a clause is the clip's."""
    return all(words[_DIMENSION[match[0]]] == match[0] for match in _WORD.finditer(clause))


class Probes(nn.Module):
    """Yes or no for a word and for a clause, one linear layer each; zero at the start, so they say nothing at first."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False)
        self.read = nn.ModuleDict({kind: nn.Linear(hidden_size, 1) for kind in ("word", "clause")})
        for layer in self.read.values():
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, hidden: Tensor, kind: str) -> Tensor:
        """Hidden states `[N, H]` to logits `[N]`."""
        return self.read[kind](self.norm(hidden))[:, 0]


def mark_loss(
    probes: Probes,
    speak: Callable[[Tensor], Tensor],
    states: tuple[Tensor, ...],
    marks: Mapping[str, Tensor],
) -> tuple[Tensor, dict[str, float]]:
    """Sum over the kinds of the mean cross entropy, and the share of marks read right by kind.

    `speak` turns hidden states `[N, H]` into logits over the vocabulary; `states` are the hidden states `[B, S, H]`
    before the first layer and after each; `marks[kind]` is `[N, 3]`: row, place, and 0 or 1 or a label's first token.
    """
    loss, right = states[0].new_zeros(()), {}
    for kind, where in marks.items():
        if not len(where):
            continue
        hidden, wanted = states[LAYERS[kind]][where[:, 0], where[:, 1]], where[:, 2]
        if kind == "label":
            logits = speak(hidden)
            loss, said = loss + cross_entropy(logits, wanted), logits.argmax(-1)
        else:
            logits = probes(hidden, kind)
            loss, said = loss + binary_cross_entropy_with_logits(logits, wanted.float()), (logits > 0).long()
        right[kind] = float((said == wanted).float().mean())
    return loss, right
