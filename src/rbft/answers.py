"""How we read what comes back: labels from generated answers, and the audit of rationales.

One place for training, rewards and evaluation. Nothing here guesses: what is not plainly a label is None, and a
rationale is dropped only for a reason with a phrase or a number behind it. Phrases and thresholds are data
(`prompts/audit.yaml`).
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field, ValidationError

from rbft.errors import ExperimentError
from rbft.files import read_yaml
from rbft.records import DropReason, RationaleFormat, Record, Verdict

_SPECIAL_TOKEN = re.compile(r"<\|[^|<>]*\|>|</?s>")
_ANSWER_TAG = re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)
_ANY_ANSWER_TAG = re.compile(r"</?answer>", re.IGNORECASE)
_PREFIX = re.compile(
    r"(?:the )?(?:final )?(?:label|answer|class|classification|category|prediction)\W{0,3}\s*(?:is\b|[:=：])[\s*_]*",
    re.IGNORECASE,
)


# -- labels --------------------------------------------------------------------------------------------------------


def read_label(text: str, labels: Sequence[str]) -> str | None:
    """The label that a generated answer is, or None.

    The whole answer must be one label, give or take case, spaces, outer punctuation, quotes, markdown, special tokens
    and one lead-in such as `Label:`, `Final answer:` or `The answer is`. Where there is one `<answer>…</answer>`, what
    it holds is the answer; with more, or one left open, there is none. A sentence, a negation ("not abnormal"), two
    labels or an explanation after the label is None. Labels that differ only in what is ignored need exact spelling.
    """
    exact = [label for label in labels if label.strip() == text.strip()]
    if len(exact) == 1:
        return exact[0]
    tagged = _ANSWER_TAG.findall(text)
    if len(tagged) == 1 and len(_ANY_ANSWER_TAG.findall(text)) == 2:
        return read_label(tagged[0], labels)
    if _ANY_ANSWER_TAG.search(text):
        return None
    for candidate in (without_special_tokens(text), without_lead_in(text)):
        key = _bare(candidate)
        found = [label for label in labels if key and _bare(label) == key]
        if len(found) > 1:  # `Ŀ` is `L·` in compatibility form: bare, it is like `L`
            found = [label for label in found if _trimmed(label) == _trimmed(candidate)]
            return found[0] if len(found) == 1 else None
        if found:
            return found[0]
    return None


def without_special_tokens(text: str) -> str:
    """A generated text with a space in the place of `<|im_end|>` and its like."""
    return _SPECIAL_TOKEN.sub(" ", text)


def without_lead_in(text: str) -> str:
    """A generated answer without special tokens and one lead-in such as `Answer:` or `The answer is`."""
    plain = without_special_tokens(text)
    opened = plain.lstrip(" \t\r\n*_#>`\"'-")
    lead_in = _PREFIX.match(opened)
    return plain if lead_in is None else opened[lead_in.end() :]


def _bare(text: str) -> str:
    """Case folded, compatibility forms joined, inner spaces single, outer signs cut off."""
    return _cut(_folded(text))


def _trimmed(text: str) -> str:
    """Like `_bare`, but only the signs that were written are cut off, not those that a compatibility form brings."""
    return _folded(_cut(text))


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().replace("\\_", "_").split())


def _cut(text: str) -> str:
    inside = [i for i, character in enumerate(text) if _has_letters(character)]
    return text[inside[0] : inside[-1] + 1] if inside else ""


def _has_letters(character: str) -> bool:
    """Whether this is a letter, number or mark, or (`™`) has one in its compatibility form."""
    return any(unicodedata.category(part)[0] in "LNM" for part in unicodedata.normalize("NFKC", character))


class LabelledRationale(NamedTuple):
    """A rationale apart from its label; `label` is None where none stands in its place or it cannot be read."""

    label: str | None
    text: str


def read_labelled_rationale(text: str, labels: Sequence[str], order: RationaleFormat) -> LabelledRationale:
    """The inverse of `Prompts.rationale_answer`: the `Label: X` line first (P+C+R) or last (P+R+C), the rest verbatim.

    Text without a readable label line comes back whole, with None.
    """
    match order:
        case "P+R":
            return LabelledRationale(None, text)
        case "P+C+R":
            line, _, rest = text.lstrip("\n").partition("\n")
        case "P+R+C":
            rest, _, line = text.rstrip("\n").rpartition("\n")
    _, prefix, value = line.partition(":")
    label = read_label(value, labels) if prefix and _PREFIX.match(line.lstrip(" *_#")) else None
    return LabelledRationale(label, rest if label is not None else text)


# -- the audit's thresholds ----------------------------------------------------------------------------------------


class Repeating(Record):
    """When a text counts as repeating."""

    zlib_ratio: float = Field(gt=1)
    zlib_min_bytes: int = Field(ge=1)
    four_gram_share: float = Field(gt=0, le=1)
    four_gram_min_words: int = Field(ge=4)


class OffTemplate(Record):
    """Which share of the template's dimensions a rationale must hold."""

    min_dimension_share: float = Field(ge=0, le=1)


class Refusal(Record):
    """Phrases by language, where they must begin, and how long a text is content all the same."""

    opening_characters: int = Field(ge=1)
    content_words: int = Field(ge=0)
    phrases: dict[str, tuple[str, ...]]


class NamesLabel(Record):
    """Labels that count only where stated as an answer, and what such a statement looks like (LABEL: the label)."""

    ordinary_words: tuple[str, ...]
    statements: tuple[str, ...]


class ContradictsLabel(Record):
    """How benign labels are told from adverse ones, and what reassures or warns."""

    benign_names: tuple[str, ...]
    benign_definitions: tuple[str, ...]
    negations: str
    reassuring: tuple[str, ...]
    alarming: tuple[str, ...]


class Collapse(Record):
    """When rationales are so alike that they are one template."""

    median_similarity: float = Field(gt=0, le=1)
    max_texts: int = Field(ge=2)


class Leaking(Record):
    """When the words of rationales give their labels away by naming them."""

    auc: float = Field(gt=0.5, lt=1)
    fall: float = Field(gt=0, lt=1)
    folds: int = Field(ge=2)
    min_texts_a_label: int = Field(ge=2)


class AuditThresholds(Record):
    """One file of audit rules. What only counts, and drops nothing, is no part of a fingerprint."""

    schema_version: Literal[1] = Field(alias="schema")
    name: str
    repeating: Repeating
    off_template: OffTemplate
    refusal: Refusal
    names_label: NamesLabel
    contradicts_label: ContradictsLabel
    collapse: Collapse
    leakage: Leaking = Field(exclude=True)
    common_words: dict[str, tuple[str, ...]] = Field(exclude=True, min_length=2)
    """By language, words that nearly every text of it has."""


def load_thresholds(path: Path | None = None) -> AuditThresholds:
    """The built-in audit rules, or a file of the same form. Raises ExperimentError with every fault."""
    path = Path(str(resources.files("rbft"))) / "prompts" / "audit.yaml" if path is None else path
    document = read_yaml(path, text_below=("names_label", "contradicts_label", "common_words"))
    if not isinstance(document, dict):
        raise ExperimentError(
            f"{path}: audit rules are a mapping of names to values; copy prompts/audit.yaml and edit it"
        )
    try:
        found = AuditThresholds.model_validate(document)
    except ValidationError as error:
        raise ExperimentError([f"{path}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]) from None
    rules = found.contradicts_label
    groups = {
        **{f"refusal.phrases.{language}": phrases for language, phrases in found.refusal.phrases.items()},
        "names_label.statements": found.names_label.statements,
        "contradicts_label.benign_definitions": rules.benign_definitions,
        "contradicts_label.negations": (rules.negations,),
        "contradicts_label.reassuring": rules.reassuring,
        "contradicts_label.alarming": rules.alarming,
    }
    faults = [f"{path}: {where}: {fault}" for where, patterns in groups.items() for fault in _pattern_faults(patterns)]
    if faults:
        raise ExperimentError(faults)
    return found


def _pattern_faults(patterns: Iterable[str]) -> list[str]:
    faults = []
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            faults.append(f"{pattern!r} is not a regular expression: {error}")
    return faults


# -- the audit -----------------------------------------------------------------------------------------------------


def audit(
    text: str,
    *,
    finished: bool,
    labels: Mapping[str, str],
    label: str | None,
    dimensions: Mapping[str, Sequence[str]],
    thresholds: AuditThresholds,
    drop_contradicting: bool = False,
    benign: Collection[str] | None = None,
) -> Verdict:
    """Keep a rationale, or drop it with every reason that holds; `detail` gives the phrase or the number of each.

    `finished` is False where the engine was cut at the token limit; `label` is the clip's own (None: unlabelled, then
    nothing can contradict it). Contradicting the label flags a text, and drops it only under `drop_contradicting`;
    `benign` names the labels that mean nothing is wrong, by default `benign_labels`. A text without words is `empty`
    and is not judged further, except that it may also be truncated.
    """
    plain = unicodedata.normalize("NFKC", without_special_tokens(text)).replace("’", "'")
    found: dict[DropReason, str] = {}
    if not finished:
        found["truncated"] = "cut at the token limit"
    if not any(character.isalnum() for character in re.sub(r"</?\w+>", " ", plain)):
        found["empty"] = "no words"
    else:
        words = words_of(plain)
        missing = _missing_dimensions(plain, dimensions, thresholds)
        checks: dict[DropReason, str | None] = {
            "repeating": _repeats(plain, words, thresholds.repeating),
            "refusal": _refuses(plain, words, bool(missing), thresholds.refusal),
            "names_label": names_label(plain, labels, thresholds),
            "off_template": missing,
            "contradicts_label": _contradicts(plain, labels, label, thresholds, benign),
        }
        found |= {reason: detail for reason, detail in checks.items() if detail is not None}
    dropping: tuple[DropReason, ...] = tuple(r for r in found if r != "contradicts_label" or drop_contradicting)
    return Verdict(
        kept=not dropping,
        reasons=dropping,
        flags=tuple(r for r in found if r not in dropping),
        detail="; ".join(f"{reason}: {detail}" for reason, detail in found.items()),
    )


def num_words(text: str) -> int:
    """How many words a text has, as `words_of`."""
    return len(words_of(text))


UNSPACED = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3"
"""Chinese, Japanese and Korean, inside the brackets of a regular expression: every character is a word."""
_WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+(?:'\w+)?")


def words_of(text: str) -> list[str]:
    """The words of a text, case folded; in scripts without spaces every character is one."""
    return _WORD.findall(text.casefold())


def _repeats(text: str, words: Sequence[str], limits: Repeating) -> str | None:
    raw = text.encode("utf-8", "replace")  # half of a character, as a file may hold it
    ratio = len(raw) / len(zlib.compress(raw))
    if len(raw) >= limits.zlib_min_bytes and ratio > limits.zlib_ratio:
        return f"compresses {ratio:.1f} times"
    runs = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    if len(words) < limits.four_gram_min_words:
        return None
    share = 1 - len(set(runs)) / len(runs)
    return f"{100 * share:.0f} % of its four-word runs are repeats" if share > limits.four_gram_share else None


def _missing_dimensions(text: str, dimensions: Mapping[str, Sequence[str]], thresholds: AuditThresholds) -> str | None:
    """The dimensions that are not spoken of, where too many are missing."""
    missing = missing_dimensions(text, dimensions)
    present = len(dimensions) - len(missing)
    if present >= thresholds.off_template.min_dimension_share * len(dimensions):
        return None
    return "lacks " + ", ".join(missing)


def missing_dimensions(text: str, dimensions: Mapping[str, Sequence[str]]) -> list[str]:
    """The dimensions that a text does not speak of: none of their words begins a word of it."""
    return [name for name, words in dimensions.items() if not _first(text, tuple(_word_start(w) for w in words))]


def _word_start(word: str) -> str:
    return rf"(?<!\w){re.escape(word)}"


def _refuses(text: str, words: Sequence[str], off_template: bool, rules: Refusal) -> str | None:
    if len(words) >= rules.content_words and not off_template:
        return None
    for phrases in rules.phrases.values():
        hit = _first(text.strip(), phrases)
        if hit is not None and hit.start() < rules.opening_characters:
            return repr(hit.group(0).strip())
    return None


# -- labels in the text --------------------------------------------------------------------------------------------


def names_label(text: str, labels: Iterable[str], thresholds: AuditThresholds) -> str | None:
    """The first place where a text names a label, quoted; None where it names none.

    A label is named by its words in order, with spaces, hyphens or nothing between them (`noFight`: "no fight"), whole
    words only (`normal` is not named by "abnormal"), the last one inflected or not: plural, possessive, -ed, -ing, -er,
    -ly, -ity, -ness, -cy, -en, with a final e or y changed or a final consonant doubled (`normal`: "normally",
    "normality"). Words of three letters take only plural, possessive and doubled forms. Irregular forms ("fought") are
    not known. In Chinese, Japanese and Korean the bare characters count. Labels of one or two letters, numbers and
    ordinary words (`no`, `yes`, `other`) count only where the text states them as an answer ("the answer is no").
    """
    for patterns in _patterns_of(labels, thresholds):
        hit = _first(text, patterns)
        if hit is not None:
            return repr(hit.group(0).strip())
    return None


def without_labels(text: str, labels: Iterable[str], thresholds: AuditThresholds) -> str:
    """The text with a space wherever `names_label` finds a label."""
    for patterns in _patterns_of(labels, thresholds):
        text = _compiled(patterns).sub(" ", text) if patterns else text
    return text


def _patterns_of(labels: Iterable[str], thresholds: AuditThresholds) -> Iterator[tuple[str, ...]]:
    rules = thresholds.names_label
    return (_label_patterns(label, rules.ordinary_words, rules.statements) for label in labels)


@lru_cache(maxsize=1024)
def _label_patterns(label: str, ordinary_words: tuple[str, ...], statements: tuple[str, ...]) -> tuple[str, ...]:
    words = _label_words(label)
    if not words:
        return (re.escape(label.strip()),) if label.strip() else ()
    name = r"[\s_-]*".join(re.escape(word) for word in words)
    joined = "".join(words)
    if re.match(rf"[{UNSPACED}]", joined):
        return (name,)
    if len(joined) < 3 or joined.isdigit() or joined in ordinary_words:
        return tuple(statement.replace("LABEL", name) for statement in statements)
    *first, last = words
    head = "".join(re.escape(word) + r"[\s_-]*" for word in first)
    return (rf"(?<!\w){head}(?:{'|'.join(_inflections(last))})(?!\w)",)


def _label_words(label: str) -> list[str]:
    """`noFight`, `no_fight` and `no-fight` are all no, fight; case folded."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", unicodedata.normalize("NFKC", label))
    return [word for word in re.split(r"[\W_]+", spaced.casefold()) if word]


def _inflections(word: str) -> list[str]:
    stem = re.escape(word)
    if not word.isalpha():
        return [stem]
    forms = [stem + r"(?:'s|s|es)?"]
    if word[-1] not in "aeiouwxy":
        forms.append(stem + re.escape(word[-1]) + "(?:ed|ing|ers?)")
    if len(word) > 3:
        forms.append(stem + "(?:d|ed|ing|ers?|ly|ity|ities|ness|cy|en)")
        if word[-1] == "e":
            forms.append(stem + "rs?")
            forms.append(re.escape(word[:-1]) + "(?:ing|ity|ities|y)")
        if word[-1] == "y":
            forms.append(re.escape(word[:-1]) + "(?:ies|ied|ily|iness|iers?)")
    return forms


def benign_labels(labels: Mapping[str, str], thresholds: AuditThresholds) -> frozenset[str]:
    """The labels that mean nothing is wrong: by name where a name is on the list, else by definition.

    A definition speaks for a label where it holds a benign phrase and no negation before it. Empty where no label, or
    every label, is benign: then no text can contradict.
    """
    rules = thresholds.contradicts_label
    by_name = {label for label in labels if " ".join(_label_words(label)) in rules.benign_names}
    found = by_name or {label for label, definition in labels.items() if _is_benign(definition, rules)}
    return frozenset(found) if len(found) < len(labels) else frozenset()


def _is_benign(definition: str, rules: ContradictsLabel) -> bool:
    hit = _first(definition, rules.benign_definitions)
    return hit is not None and _first(definition[: hit.start()], (rules.negations,)) is None


def _contradicts(
    text: str, labels: Mapping[str, str], label: str | None, thresholds: AuditThresholds, benign: Collection[str] | None
) -> str | None:
    """The phrase at odds with the label: reassurance under an adverse label, a warning alone under a benign one."""
    harmless = benign_labels(labels, thresholds) if benign is None else benign
    if label is None or not harmless:
        return None
    rules = thresholds.contradicts_label
    reassuring = _first(text, rules.reassuring)
    if label not in harmless:
        return None if reassuring is None else repr(" ".join(reassuring.group(0).split()))
    if reassuring is not None:
        return None
    for sentence in re.split(r"(?<=[.!?;])\s|\n", text):
        warning = _first(sentence, rules.alarming)
        if warning is not None and _first(sentence, (rules.negations,)) is None:
            return repr(" ".join(warning.group(0).split()))
    return None


@lru_cache(maxsize=1024)
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE | re.MULTILINE)


def _first(text: str, patterns: tuple[str, ...]) -> re.Match[str] | None:
    """The first place where one of the patterns holds."""
    return _compiled(patterns).search(text) if patterns else None
