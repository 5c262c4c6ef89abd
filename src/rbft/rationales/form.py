"""The form of a text: whether it is prose, and in which language, by its letters and its commonest words."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

from rbft.answers import words_of

_JSON = re.compile(r"\s*(?:json\b\s*)?(?:\[\s*)*(?:\{\s*[\"'}]|\[\s*\"[^\"]*\"\s*[,\]])|[\s\S]*?```(?:json)?\s*[\[{]")
_MIN_HITS = 3
_KANA_SHARE = 0.1


def is_json(text: str) -> bool:
    """Whether a text is JSON, whole or cut off, bare or in a code fence."""
    return _JSON.match(text) is not None


def language_of(text: str, common_words: Mapping[str, Sequence[str]]) -> str | None:
    """The language of a text; None where it is too short to tell.

    A script that is not Latin is told by its letters: `zh`, `ja` and `ko`, else the script's name (`cyrillic`). In
    Latin letters it is the language of which the text has most common words: at least three, and twice as many as of
    any other.
    """
    scripts = Counter(unicodedata.name(c, "").partition(" ")[0] for c in text if c.isalpha())
    if not scripts:
        return None
    kana = scripts.pop("HIRAGANA", 0) + scripts.pop("KATAKANA", 0)
    scripts["CJK"] += kana
    script, letters = scripts.most_common(1)[0]
    match script:
        case "CJK":
            return "ja" if kana > _KANA_SHARE * letters else "zh"
        case "HANGUL":
            return "ko"
        case "LATIN":
            words = Counter(words_of(text))
            hits = {language: sum(words[word] for word in common) for language, common in common_words.items()}
            (best, most), (_, second) = Counter(hits).most_common(2)
            return best if most >= max(_MIN_HITS, 2 * second) else None
        case _:
            return script.casefold()
