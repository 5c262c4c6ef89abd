"""What the audit found over all rationales of a run: counts for the report, and warnings about all texts together."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from rbft.answers import AuditThresholds, num_words, words_of
from rbft.rationales.form import is_json, language_of
from rbft.rationales.leakage import leakage_of
from rbft.records import Rationale
from rbft.results import RationaleReport


def summarise(rationales: Iterable[Rationale]) -> RationaleReport:
    """Counts of written and kept rationales, of every reason to drop and every flag, and the median words of all.

    A text dropped for two reasons counts under both, so the reasons may add up to more than were dropped.
    """
    texts = list(rationales)
    dropped = Counter(reason for r in texts for reason in r.verdict.reasons)
    flagged = Counter(flag for r in texts for flag in r.verdict.flags)
    return RationaleReport(
        written=len(texts),
        kept=sum(r.verdict.kept for r in texts),
        dropped=dict(sorted(dropped.items())),
        flagged=dict(sorted(flagged.items())),
        median_words=float(statistics.median(num_words(r.text) for r in texts)) if texts else 0.0,
    )


def examined(
    rationales: Sequence[Rationale],
    truths: Mapping[str, str],
    labels: Sequence[str],
    prompt: str,
    thresholds: AuditThresholds,
) -> RationaleReport:
    """`summarise`, and what holds of all texts together: refusals by label, other forms and languages, leakage.

    `truths` are the labels by clip id, `prompt` is what was asked. Flags that need no clip are counted here:
    `not_prose`, and `other_language` where the text's and the prompt's are both known and differ.
    """
    asked = language_of(prompt, thresholds.common_words)
    spoken = [language_of(r.text, thresholds.common_words) for r in rationales]
    forms = {
        "not_prose": sum(is_json(r.text) for r in rationales),
        "other_language": sum(None not in (asked, language) and language != asked for language in spoken),
    }
    counted = summarise(rationales)
    return counted.model_copy(
        update={
            "flagged": dict(sorted((counted.flagged | {name: n for name, n in forms.items() if n}).items())),
            "refusals": _refusals(rationales, truths, labels),
            "leakage": leakage_of(rationales, truths, labels, thresholds),
        }
    )


def _refusals(
    rationales: Sequence[Rationale], truths: Mapping[str, str], labels: Sequence[str]
) -> dict[str, tuple[int, int]]:
    """Texts and refusals among them by label, in the labels' order; empty where there is no refusal."""
    written = Counter(truths[r.clip_id] for r in rationales if r.clip_id in truths)
    refused = Counter(truths[r.clip_id] for r in rationales if r.clip_id in truths and "refusal" in r.verdict.reasons)
    return {label: (written[label], refused[label]) for label in labels if written[label]} if refused else {}


def collapse_note(rationales: Iterable[Rationale], thresholds: AuditThresholds) -> str | None:
    """A warning where kept rationales of different clips are nearly one text; None where they differ.

    The median over pairs of the Jaccard likeness of their words, on an even pick of at most `max_texts` of them.
    """
    rules = thresholds.collapse
    texts = [r.text for r in rationales if r.verdict.kept]
    if len(texts) < 2:
        return None
    picked = [texts[i] for i in np.linspace(0, len(texts) - 1, min(len(texts), rules.max_texts)).round().astype(int)]
    likeness = _median_likeness(picked)
    if likeness <= rules.median_similarity:
        return None
    return (
        f"the rationales are nearly one text: two of them share {100 * likeness:.0f} % of their words in the median "
        f"(at most {100 * rules.median_similarity:.0f} % is expected); read some, and change the prompt or the engine"
    )


def _median_likeness(texts: Sequence[str]) -> float:
    """Median Jaccard likeness of all pairs of word sets."""
    sets = [frozenset(words_of(text)) for text in texts]
    index = {word: i for i, word in enumerate(sorted(frozenset().union(*sets)))}
    holds = np.zeros((len(sets), max(len(index), 1)))
    for row, words in enumerate(sets):
        holds[row, [index[word] for word in words]] = 1.0
    common = holds @ holds.T
    size = holds.sum(axis=1)
    joined = size[:, None] + size[None, :] - common
    first, second = np.triu_indices(len(sets), k=1)
    shared = np.divide(common, joined, out=np.ones_like(common), where=joined > 0)
    return float(np.median(shared[first, second]))
