"""Which number an answer is: exact, with its unit, and None where it is not one plain number."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

from rbft.answers import without_lead_in

_UNIT = r"(?:%|°[a-z]?|[^\W\d_]{1,20}[23]?)"
_QUANTITY = re.compile(
    r"(?:(?:about|around|approximately|approx\.?|roughly)\s|[~≈=])?\s*"
    r"(?P<sign>[+-]?)(?P<currency>[$€£¥]?)(?P<sign_inside>[+-]?)"
    r"(?P<number>(?:[1-9][0-9]{0,2}(?:,[0-9]{3}){1,9}|[0-9]{1,40})(?:\.[0-9]{0,40})?|\.[0-9]{1,40})"
    r"(?P<exponent>e[+-]?[0-9]{1,2})?"
    rf"\s*(?P<unit>(?:{_UNIT}(?:\s?[-/·]?\s?{_UNIT}){{0,2}})?)",
)
_OUTER = " \t\r\n*_`\"'"
_SPACE_IN_NUMBER = re.compile(r"(?<=[0-9])[\u00a0\u2009\u202f](?=[0-9]{3}(?![0-9]))")
_SCALES = {"hundred": 100, "thousand": 1_000, "k": 1_000, "million": 10**6, "billion": 10**9}
_NO_UNITS = frozenset(
    ("and", "or", "to", "not", "no", "less", "more", "than", "point", "minus", "plus", "times", "half", "halves",
     "third", "thirds", "quarter", "quarters", "dozen", "st", "nd", "rd", "th", "x", "e",
     "hundreds", "thousands", "millions", "billions", "trillion")
)  # fmt: skip
_UNITS = {
    alias: names.split()[0]
    for names in (
        "% percent", "m meter meters metre metres", "cm centimeter centimeters centimetre centimetres",
        "mm millimeter millimeters millimetre millimetres", "km kilometer kilometers kilometre kilometres",
        "in inch inches", "ft foot feet", "mi mile miles", "m2 sqm", "ft2 sqft",
        "s sec secs second seconds", "ms millisecond milliseconds", "min mins minute minutes", "h hr hrs hour hours",
        "day days", "week weeks", "month months", "year years",
        "g gram grams", "kg kilogram kilograms", "lb lbs pound pounds", "$ dollar dollars usd", "€ euro euros eur",
        "£ gbp", "cent cents ¢", "°c celsius", "°f fahrenheit", "° degree degrees", "km/h kmh kph", "m/s mps", "mph",
    )
    for alias in names.split()
}  # fmt: skip


class Quantity(NamedTuple):
    """A number, exactly as written, and its unit where it is one that is known (`metres` is `m`)."""

    value: Fraction
    unit: str | None

    def contradicts(self, other: Quantity) -> bool:
        """Whether both have a known unit, and not the same: 5 m is not 5 cm. Nothing is converted."""
        return None not in (self.unit, other.unit) and self.unit != other.unit


def read_quantity(text: str) -> Quantity | None:
    """The one number that a generated answer is, or None.

    Read: `-3`, `−3`, `3.50`, `.5`, `1,234.5` (a comma before three digits parts thousands), `2e3`, `5 million`, `50%`,
    `$5`, `about 5 m`, `Answer: 3 dogs`, with up to three words of unit. None: two numbers, a range, a fraction, a time
    of day, a decimal comma (`3,5`), number words, a sentence.
    """
    found = _QUANTITY.fullmatch(_plain(text))
    if found is None or (found["sign"] and found["sign_inside"]):
        return None
    words = re.findall(r"[^\W\d_]+", found["unit"])
    if _NO_UNITS.intersection(words):
        return None
    value = Fraction(f"{found['number'].replace(',', '')}{found['exponent'] or ''}")
    if "-" in (found["sign"], found["sign_inside"]):
        value = -value
    unit = found["unit"]
    if words and words[0] in _SCALES:
        value *= _SCALES[words[0]]
        unit = unit.removeprefix(words[0]).strip()
    return Quantity(value, _UNITS.get(found["currency"] or unit))


def _plain(text: str) -> str:
    """Case folded, compatibility forms joined, one kind of minus; without lead-in and outer quotes or markdown."""
    grouped = _SPACE_IN_NUMBER.sub(",", without_lead_in(text))
    folded = unicodedata.normalize("NFKC", grouped).casefold().translate({0x2212: "-", 0x2013: "-"})
    return folded.strip(_OUTER).rstrip(".!").rstrip(_OUTER)
