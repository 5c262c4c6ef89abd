"""A reasoned answer, `<think>…</think><answer>…</answer>`: how it is written, and how what comes back is read.

The form is VideoRFT's (arXiv 2505.12434). `parse_thought` is strict and inverts `render_thought`; `read_answer` takes
the answer out of text that is less tidy, and is None where more than one thing could be meant.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from rbft.answers import without_special_tokens

_WHOLE = re.compile(r"<think>(?P<think>.*?)</think>\s*<answer>(?P<answer>.*?)</answer>", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)
_THINK = re.compile(r"\s*<think>.*?</think>(.*)", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)


class Thought(NamedTuple):
    """What stands between the tags, verbatim."""

    think: str
    answer: str


def render_thought(thought: Thought) -> str:
    """The thought in its tags. Raises ValueError where a part holds one of the tags: it could not be read back."""
    for name, part in thought._asdict().items():
        if tag := tag_in(part):
            raise ValueError(f"{name}: holds {tag!r}, which ends it; take the tag out")
    return f"<think>{thought.think}</think><answer>{thought.answer}</answer>"


def tag_in(text: str) -> str | None:
    """The first of the four tags in a text, as it stands there."""
    found = _TAG.search(text)
    return None if found is None else found.group(0)


def parse_thought(text: str) -> Thought | None:
    """The thought that the whole text is, or None: text outside, a tag missing or twice, another order.

    Only white space may stand between the two parts, and nothing before or after them. `parse(render(x)) == x`.
    """
    match = _WHOLE.fullmatch(text)
    if match is None or len(_TAG.findall(text)) != 4:
        return None
    return Thought(match["think"], match["answer"])


def read_answer(text: str) -> str | None:
    """The answer in a text, without outer spaces, or None where there is none or more than one could be meant.

    What the one `<answer>…</answer>` holds; without answer tags what follows the one `<think>…</think>`; without any
    tag the whole text. Two answers, a tag left open (an answer that was cut) and an empty answer are None.
    """
    plain = without_special_tokens(text)
    tags = [tag.casefold() for tag in _TAG.findall(plain)]
    match tags:
        case []:
            answer = plain
        case ["<think>", "</think>", "<answer>", "</answer>"] | ["<answer>", "</answer>"]:
            answer = _ANSWER.findall(plain)[0]
        case ["<think>", "</think>"]:
            after = _THINK.fullmatch(plain)
            answer = after[1] if after else ""
        case _:
            return None
    return answer.strip() or None
