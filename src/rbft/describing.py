"""The part of some reasoning that describes the clip: its sentences, without those that only open it.

VideoRFT's released code cuts at the first ".", so that "A." or "3.5" end a sentence; docs/decisions/0017 says what is
done here instead.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import Field

from rbft.files import read_yaml
from rbft.records import Record

_END = re.compile(r"(?P<mark>[.!?]+)(?P<closing>[\"'”’)\]]*)(?=\s)|[…。！？]+[\"'”’」』）)\]]*|\n+")
_ABBREVIATIONS = frozenset((
    "a.m", "al", "approx", "cf", "co", "dr", "e.g", "eg", "etc", "fig", "i.e", "ie", "inc", "jr", "mr", "mrs", "ms",
    "nr", "p.m", "prof", "sr", "st", "u.k", "u.s", "vs",
))  # fmt: skip
_LAST_WORD = re.compile(r"[^\s(\[\"'“‘]+$")
_COUNTING = re.compile(r"\s*(?:\d{1,3}|[A-Za-z])$")


def sentences(text: str) -> list[str]:
    """The sentences of a text, without outer spaces; joined they hold every word of it.

    A "." ends no sentence within a number or a word (3.5, e.g.), after an abbreviation or one letter (Mr. X, A.), where
    it follows a count at the beginning (1. The dog), or as "..." before a small letter. A line break always ends one.

    >>> sentences("It is option A. No, e.g. 3.5 dogs ran. Mr. X fell!")
    ['It is option A. No, e.g. 3.5 dogs ran.', 'Mr. X fell!']
    """
    found: list[str] = []
    start = 0
    for end in _END.finditer(text):
        if end["mark"] is None or _ends(text[start : end.start()], end["mark"], text[end.end() :].lstrip(" \t")):
            found.append(text[start : end.end()])
            start = end.end()
    found.append(text[start:])
    return [sentence.strip() for sentence in found if sentence.strip()]


def _ends(before: str, mark: str, after: str) -> bool:
    if "!" in mark or "?" in mark:
        return True
    if len(mark) > 1:
        return not after[:1].islower()
    word = _LAST_WORD.search(before)
    last = word[0] if word else ""
    single = len(last) == 1 and last.isalpha()
    return not (single or last.casefold() in _ABBREVIATIONS or _COUNTING.match(before))


class Openings(Record):
    """`prompts/openings.yaml`: what tells a sentence that opens reasoning from one that describes the clip."""

    schema_version: Literal[1] = Field(alias="schema")
    openings: tuple[str, ...]

    def opens(self, sentence: str) -> bool:
        """Whether the sentence speaks of the question or of thinking, not of the clip."""
        return any(re.search(pattern, sentence, re.IGNORECASE) for pattern in self.openings)

    def describing_part(self, think: str) -> str:
        """The text from the first sentence on that does not only open it; all of it where every sentence does."""
        parts = sentences(think)
        first = next((number for number, sentence in enumerate(parts) if not self.opens(sentence)), 0)
        return " ".join(parts[first:])


def load_openings() -> Openings:
    """The built-in rules."""
    path = Path(str(resources.files("rbft"))) / "prompts" / "openings.yaml"
    return Openings.model_validate(read_yaml(path))
