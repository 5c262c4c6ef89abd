"""Labels are scored, not parsed: the log-probability of every label under the query, in one forward pass for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rbft.models.vlm import VLM, Encoded


@torch.inference_mode()
def score_answers(vlm: VLM, batch: Sequence[Encoded], answers: Sequence[torch.Tensor]) -> torch.Tensor:
    """Log-probability of each answer after each clip's prompt, float64 [B, C], in nats, summed over its tokens.

    `answers` are C token rows that end in the end of turn (`VLM.answer_ids`), so that the score is that of exactly
    this answer: a label that begins another one ("normal", "normal walk") does not collect the other's mass. All
    answers follow the prompt as one tree, in which a token sees the prompt and what precedes it in its own answers;
    its position is that of its depth.
    """
    tree = AnswerTree.of([answer.tolist() for answer in answers])
    logits = tree_logits(vlm, batch, tree)
    rows, tokens = torch.tensor(tree.edges, device=logits.device).T
    normalised = torch.stack([clip.float().logsumexp(-1) for clip in logits])  # clip by clip: V columns are many
    edges = logits[:, rows, tokens].double() - normalised[:, rows].double()
    return torch.stack([edges[:, path].sum(-1) for path in tree.paths], dim=1).cpu()


def tree_logits(vlm: VLM, batch: Sequence[Encoded], tree: AnswerTree) -> torch.Tensor:
    """Logits [B, N + 1, V] after every clip's prompt and after each of the N nodes of a tree behind it."""
    collated = vlm.collate(batch)
    logits: torch.Tensor = vlm.model(
        **_with_tree(vlm, collated, tree), logits_to_keep=_rows(vlm, collated, tree)
    ).logits
    return logits


@dataclass(frozen=True)
class GroupLogProbs:
    """Of a group's answers to one clip, all [G, A] float32: log-probability and entropy where each token was chosen."""

    log_probabilities: torch.Tensor
    entropy: torch.Tensor | None
    mask: torch.Tensor
    """1 at the tokens of an answer, 0 behind shorter ones."""


def score_group(
    vlm: VLM, clip: Encoded, answers: Sequence[torch.Tensor], *, temperature: float, with_entropy: bool = True
) -> GroupLogProbs:
    """Log-probabilities of the tokens of a group's answers int64 [A_i], with gradients where they are on.

    One pass for all of them, in which clip and prompt are read once: the answers follow as one tree. The entropy takes
    a second look at every row of the vocabulary; without it there is None.
    """
    tree = AnswerTree.of([answer.tolist() for answer in answers])
    logits = tree_logits(vlm, [clip], tree)[0].float() / temperature
    rows, tokens = torch.tensor(tree.edges, device=logits.device).T
    normalised = logits.log_softmax(-1)
    edges = normalised[rows, tokens]
    longest = max(len(path) for path in tree.paths)
    paths = torch.tensor([[*path, *[0] * (longest - len(path))] for path in tree.paths], device=logits.device)
    lengths = torch.tensor([len(path) for path in tree.paths], device=logits.device)
    mask = (torch.arange(longest, device=logits.device) < lengths[:, None]).float()
    entropy = None
    if with_entropy:
        with torch.no_grad():
            entropy = -(normalised.exp() * normalised).sum(-1)[rows][paths] * mask
    return GroupLogProbs(edges[paths] * mask, entropy, mask)


@dataclass(frozen=True)
class AnswerTree:
    """Answers as a tree of tokens, shared beginnings once.

    Node n is `tokens[n]` after `parents[n]` (-1: the prompt). `edges` are (row, next token), where row 0 predicts what
    follows the prompt and row n + 1 what follows node n; `paths` are the edges of each answer. An end has no node,
    since nothing is read off it.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    edges: tuple[tuple[int, int], ...]
    paths: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, answers: Sequence[Sequence[int]]) -> AnswerTree:
        """The tree of these token rows."""
        nodes: dict[tuple[int, int], int] = {}
        edges: dict[tuple[int, int], int] = {}
        paths = []
        for answer in answers:
            parent, path = -1, []
            for place, token in enumerate(answer):
                path.append(edges.setdefault((parent + 1, token), len(edges)))
                if place + 1 < len(answer):
                    parent = nodes.setdefault((parent, token), len(nodes))
            paths.append(tuple(path))
        return cls(
            tokens=tuple(token for _, token in nodes),
            parents=tuple(parent for parent, _ in nodes),
            edges=tuple(edges),
            paths=tuple(paths),
        )

    @property
    def depths(self) -> list[int]:
        """How many nodes stand above each; parents come before their children."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(0 if parent < 0 else depths[parent] + 1)
        return depths

    @property
    def sees(self) -> torch.Tensor:
        """Which nodes a node attends to, bool [N, N]: those above it, and itself."""
        sees = torch.eye(len(self.tokens), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                sees[node] |= sees[parent]
        return sees


def _rows(vlm: VLM, collated: dict[str, torch.Tensor], tree: AnswerTree) -> torch.Tensor:
    """The rows of the head: the prompt's last token, then every node."""
    length = collated["input_ids"].shape[1]
    return torch.arange(length - 1, length + len(tree.tokens), device=vlm.device)


def _with_tree(vlm: VLM, collated: dict[str, torch.Tensor], tree: AnswerTree) -> dict[str, Any]:
    """The model's inputs with the tree behind every prompt."""
    prompts = collated["attention_mask"].bool()
    positions = vlm.positions(collated)
    following = positions.amax(-1, keepdim=True) if positions.ndim == 2 else positions.amax((0, 2))[:, None]
    depths = following + 1 + torch.tensor(tree.depths, dtype=torch.long)
    nodes = torch.tensor(tree.tokens, dtype=torch.long).expand(len(prompts), -1)
    made = {name: tensor for name, tensor in collated.items() if name != "mm_token_type_ids"}
    made["input_ids"] = torch.cat([collated["input_ids"], nodes], dim=1)
    made["position_ids"] = torch.cat([positions, depths.expand(*positions.shape[:-1], -1)], dim=-1)
    inputs = vlm.to_model(made | {"attention_mask": _sees(prompts, tree)})
    allowed = inputs.pop("attention_mask")
    mask = torch.zeros(allowed.shape, dtype=vlm.model.dtype, device=vlm.device)
    return inputs | {
        "attention_mask": mask.masked_fill_(~allowed, torch.finfo(mask.dtype).min),
        "use_cache": False,
    }


def _sees(prompts: torch.Tensor, tree: AnswerTree) -> torch.Tensor:
    """What each token attends to, bool [B, 1, S + N, S + N], from the prompts' real tokens, bool [B, S].

    A token of the padding attends to itself, so that no row is empty; nothing attends to it.
    """
    length, nodes = prompts.shape[1], len(tree.tokens)
    sees = torch.zeros((len(prompts), length + nodes, length + nodes), dtype=torch.bool)
    sees[:, :length, :length] = torch.ones(length, length).tril().bool() & prompts[:, None, :]
    sees[:, length:, :length] = prompts[:, None, :]
    sees[:, length:, length:] = tree.sees
    sees |= torch.eye(length + nodes, dtype=torch.bool)
    return sees[:, None]
