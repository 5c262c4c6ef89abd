"""What two texts share: ROUGE-N and ROUGE-L F1 (Lin 2004) on words, case folded, without stemming."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice

from rbft.answers import words_of


def rouge_1(a: str, b: str) -> float:
    """ROUGE-1 F1: the words in common, as often as in both, over the mean number of words; two empty texts give 1."""
    return rouge_n(a, b, 1)


def rouge_n(a: str, b: str, n: int) -> float:
    """ROUGE-N F1: like `rouge_1` for runs of n words; two texts without such a run give 1."""
    first, second = _runs(words_of(a), n), _runs(words_of(b), n)
    return _f1((first & second).total(), first.total(), second.total())


def rouge_l(a: str, b: str) -> float:
    """ROUGE-L F1: the longest common subsequence of words over the mean number of words; two empty texts give 1."""
    first, second = words_of(a), words_of(b)
    return _f1(_common(first, second), len(first), len(second))


def mean_rouge(text: str, gold: str) -> float | None:
    """Mean of ROUGE-1, ROUGE-2 and ROUGE-L F1, from 0 to 1: VideoRFT's accuracy of free-form answers.

    A gold text of one word has no pair of words; ROUGE-2 is then left out of the mean, so that the gold text itself
    earns 1. None where the gold text has no words: nothing can be compared with it.
    """
    num_words = len(words_of(gold))
    if not num_words:
        return None
    scores = [rouge_1(text, gold), rouge_l(text, gold)] + [rouge_n(text, gold, 2)] * (num_words > 1)
    return sum(scores) / len(scores)


def _runs(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(islice(words, start, None) for start in range(n)), strict=False))


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, in memory of one row."""
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for j, other in enumerate(second, start=1):
            diagonal, row[j] = row[j], diagonal + 1 if word == other else max(row[j], row[j - 1])
    return row[-1]


def _f1(common: int, first: int, second: int) -> float:
    return 2 * common / (first + second) if first or second else 1.0
