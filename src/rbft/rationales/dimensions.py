"""A rationale along the headings of its template: where each dimension's text stands, and how alike two texts are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from rbft.answers import words_of
from rbft.rouge import rouge_1

SHORT_WORDS = 6
"""Texts of at most so many words are alike only where they have the same words."""
WHOLE = "text"
"""The one part of a text without headings."""


class Span(NamedTuple):
    """Where a dimension's text begins and ends, without the spaces around it."""

    start: int
    end: int


def spans_of(text: str, dimensions: Mapping[str, Sequence[str]]) -> dict[str, Span]:
    """The text under each dimension's heading, in the order of the text; a dimension without one is left out.

    A heading is one of the dimension's words (its plural too) at the beginning of a line or sentence, with or without
    markdown and a number before it, and a colon or the end of the line behind it. The first of a dimension counts.
    """
    headings = {name: _heading(tuple(words)).search(text) for name, words in dimensions.items()}
    found = sorted((match.start(), match.end(), name) for name, match in headings.items() if match)
    ends = [start for start, _, _ in found[1:]] + [len(text)] * bool(found)
    spans = {}
    for (_, start, name), end in zip(found, ends, strict=True):
        part = text[start:end]
        if part.strip():
            begin = start + len(part) - len(part.lstrip())
            spans[name] = Span(begin, begin + len(part.strip()))
    return spans


def parts_of(text: str, dimensions: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The text of each dimension; the whole under `WHOLE` where there is no heading."""
    spans = spans_of(text, dimensions)
    return {name: text[span.start : span.end] for name, span in spans.items()} or {WHOLE: text.strip()}


def with_parts(text: str, dimensions: Mapping[str, Sequence[str]], parts: Mapping[str, str]) -> str:
    """A text with other texts under its headings; everything between them stays."""
    spans = spans_of(text, dimensions)
    if not spans:
        return parts.get(WHOLE, text)
    made, at = [], 0
    for name, span in spans.items():
        made += [text[at : span.start], parts.get(name, text[span.start : span.end])]
        at = span.end
    return "".join([*made, text[at:]])


def likeness(a: str, b: str) -> float:
    """How alike two texts are, from 0 to 1: ROUGE-1 F1 on words; for two short texts 1 or 0, same words or not."""
    first, second = words_of(a), words_of(b)
    if max(len(first), len(second)) <= SHORT_WORDS:
        return float(first == second)
    return rouge_1(a, b)


@lru_cache(maxsize=64)
def _heading(words: tuple[str, ...]) -> re.Pattern[str]:
    alternatives = "|".join(re.escape(word.strip().rstrip(":").rstrip()) for word in words)
    before = r"(?:^|(?<=[.!?;:。！？：]))[ \t>#*_`(-]*(?:\d+[.)][ \t]*)?[*_`]*"
    after = r"[*_`]*[ \t]*(?:[:：][*_`]*|$)"
    return re.compile(rf"{before}(?:{alternatives})\w*{after}", re.IGNORECASE | re.MULTILINE)
