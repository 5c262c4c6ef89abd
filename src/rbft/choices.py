"""Which of the options a generated answer is: by letter, by text or by both, never guessed."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rbft.answers import read_label, without_lead_in

_LETTERED = re.compile(r"\s*\(?([A-Z])\s*[.):]\s*(?=\S)(.*\S)\s*", re.DOTALL)
_LEAD_IN = re.compile(
    r"(?:the )?(?:correct |right |best )?(?:option|choice|answer)\b(?:\s+is\b)?\s*[:=]?[\s*_]*", re.IGNORECASE
)
_LETTER = re.compile(r"[(\[]?([A-Za-z])[)\]]?[.:)]?")
_LETTER_AND_TEXT = re.compile(r"[(\[]?([A-Za-z])(?:[)\]][.:]?|[.:)])\s*(\S.*)", re.DOTALL)
_OUTER = " \t\r\n*_`\"'#>.,"


def lettered(options: Sequence[str]) -> dict[str, str]:
    """Letter to text: as the options are written, where each has a letter of its own (`B. a dog`), else by place."""
    parts = [part for part in map(_LETTERED.fullmatch, options) if part]
    by_letter = {part[1]: part[2] for part in parts}
    if len(by_letter) == len(options):
        return by_letter
    return {chr(ord("A") + place): option for place, option in enumerate(options)}


def read_choice(text: str, options: Sequence[str]) -> str | None:
    """The letter of the one option that a generated answer is, or None.

    The whole answer is a letter (`B`, `(b)`, `B.`), a letter and that option's text (`B. a cat`), or an option's text,
    give or take case, outer signs, markdown and a lead-in (`The answer is`, `Option`). None: a letter that no option
    has, a letter with another option's text, two letters, an explanation, and an answer that is one option's letter
    and another one's text.
    """
    choices = lettered(options)
    found = {letter for form in _forms(text) for letter in _meant(form, choices)}
    return found.pop() if len(found) == 1 else None


def _forms(text: str) -> list[str]:
    """The answer as it stands, without markdown, and without a lead-in."""
    plain = without_lead_in(text).replace("**", "").strip(_OUTER)
    lead_in = _LEAD_IN.match(plain)
    return [text.strip(), plain] if lead_in is None else [text.strip(), plain, plain[lead_in.end() :].strip(_OUTER)]


def _meant(answer: str, choices: dict[str, str]) -> set[str]:
    """The letters that an answer may mean: as a letter, as a letter with its text, as a text."""
    found = set()
    letter = _LETTER.fullmatch(answer)
    if letter and letter[1].upper() in choices:
        found.add(letter[1].upper())
    both = _LETTER_AND_TEXT.fullmatch(answer)
    if both and both[1].upper() in _of_text(both[2], choices):
        found.add(both[1].upper())
    return found | _of_text(answer, choices)


def _of_text(answer: str, choices: dict[str, str]) -> set[str]:
    """The letters of the options with this text: several where options are alike."""
    text = read_label(answer, list(dict.fromkeys(choices.values())))
    return {letter for letter, option in choices.items() if option == text}
