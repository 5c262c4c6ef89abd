"""Words for the clip world: descriptions in the rationale format, clauses that a clip fulfils or not, and prompts.

`parse_description(describe(spec))` gives the spec's six words back.
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from rbft.tiny.world import DIMENSIONS, SceneSpec

PERSONAS = (
    "Smart Home Security Expert",
    "Night Yard Security Expert",
    "Traffic Safety Expert",
    "Wildlife Biologist",
    "Sports Analyst",
    "Content Moderation Expert",
    "Surveillance Video Expert",
    "Retail Security Expert",
    "Pet Care Expert",
    "Film Editor",
    "Care Home Expert",
    "Video Expert",
)
RATIONALE_PROMPT = "You are a {persona}. Describe the subjects, attributes, actions and scenes of the clip."
LABEL_PROMPT = "Which label fits the clip? {labels}"
LABEL_ITEM = "{label}: {definition}."
LABEL_ITEM_BARE = "{label}."

_PLACE = {
    "garden": "in the garden",
    "street": "in the street",
    "room": "in the room",
    "porch": "on the porch",
    "beach": "on the beach",
    "forest": "in the forest",
}
_HOUR = {"day": "by day", "dusk": "at dusk", "night": "at night"}

Clause = Mapping[str, str]
"""Dimension to word, all of which must hold: `{"subject": "person", "action": "climbing"}`."""


def words_of(spec: SceneSpec) -> dict[str, str]:
    """The six words of a spec by dimension."""
    return {name: getattr(spec, name) for name in DIMENSIONS}


def describe(spec: SceneSpec) -> str:
    """The true description of a clip in the rationale format."""
    return describe_words(words_of(spec))


def describe_words(words: Mapping[str, str]) -> str:
    """Six words, true or not, in the rationale format."""
    return (
        f"Subjects: a {words['subject']}. Attributes: {words['size']}, {words['colour']}. "
        f"Actions: {words['action']}. Scenes: {words['scene']}, {words['light']}."
    )


def sentence(spec: SceneSpec) -> str:
    """The true description as one plain sentence."""
    phrase = clause_text(words_of(spec))
    return f"{phrase[0].upper()}{phrase[1:]}."


_DESCRIPTION = re.compile(
    r"subjects:\s*(?P<subjects>[^.]*)\.\s*attributes:\s*(?P<attributes>[^.]*)\.\s*"
    r"actions:\s*(?P<actions>[^.]*)\.\s*scenes:\s*(?P<scenes>[^.]*)",
    re.IGNORECASE,
)


def parse_description(text: str) -> dict[str, str] | None:
    """The six words that a description names; "" for one it does not name in the world's vocabulary.

    None when the text lacks one of the four headings or has them in another order.
    """
    found = _DESCRIPTION.search(text)
    if found is None:
        return None
    parts = {
        "subject": found["subjects"],
        "size": found["attributes"],
        "colour": found["attributes"],
        "action": found["actions"],
        "scene": found["scenes"],
        "light": found["scenes"],
    }
    return {name: _known_word(part, DIMENSIONS[name]) for name, part in parts.items()}


def _known_word(part: str, words: Iterable[str]) -> str:
    present = [word for word in words if re.search(rf"\b{word}\b", part.lower())]
    return present[0] if len(present) == 1 else ""


def clause_text(clause: Clause) -> str:
    """A clause in words: `a small red dog running left in the garden at night`, `anything falling`."""
    kind = " ".join(clause[name] for name in ("size", "colour") if name in clause)
    if "subject" in clause:
        head = f"a {kind} {clause['subject']}" if kind else f"a {clause['subject']}"
    else:
        head = f"anything {kind}" if kind else "anything"
    parts = [head]
    if "action" in clause:
        parts.append(clause["action"])
    if "scene" in clause:
        parts.append(_PLACE[clause["scene"]])
    if "light" in clause:
        parts.append(_HOUR[clause["light"]])
    return " ".join(parts)


def bare_text(name: str, word: str) -> str:
    """One attribute as a description writes it: `a dog`, `falling`, `garden`."""
    return f"a {word}" if name == "subject" else word


def definition_text(clauses: list[Clause], rng: np.random.Generator) -> str:
    """Clauses joined by commas and `or`; a clause of one attribute is bare in half the cases."""
    bare = rng.random() < 0.5
    texts = []
    for clause in clauses:
        (name, word), *more = clause.items()
        texts.append(bare_text(name, word) if bare and not more else clause_text(clause))
    if len(texts) == 1:
        return texts[0]
    return " or ".join(texts) if rng.random() < 0.5 else ", ".join(texts[:-1]) + " or " + texts[-1]


def rationale_prompt(persona: str) -> str:
    """The prompt that asks for a description along the four dimensions."""
    return RATIONALE_PROMPT.format(persona=persona)


def label_prompt(definitions: Mapping[str, str]) -> str:
    """The prompt that asks for a label; an empty definition leaves the bare label."""
    items = [
        LABEL_ITEM.format(label=label, definition=text) if text else LABEL_ITEM_BARE.format(label=label)
        for label, text in definitions.items()
    ]
    return LABEL_PROMPT.format(labels=" ".join(items))
