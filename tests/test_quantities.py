"""Which number an answer is: exact, with units, and nothing guessed."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbft.quantities import Quantity, read_quantity


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("3", 3, None), ("-3", -3, None), ("−3", -3, None), ("–3", -3, None), ("+3", 3, None), ("３", 3, None),
        ("3.50", "3.5", None), (".5", "0.5", None), ("5.", 5, None), ("007", 7, None), ("-0", 0, None),
        ("1,234", 1234, None), ("1,234.5", "1234.5", None), ("12,345,678", 12_345_678, None),
        ("1\u00a0234", 1234, None), ("1\u202f234\u202f567", 1_234_567, None), ("2e3", 2000, None),
        ("1e-2", "0.01", None),
        ("5 million", 5_000_000, None), ("5k", 5000, None), ("$5 million", 5_000_000, "$"),
        ("5 hundred dogs", 500, None),
        ("50%", 50, "%"), ("50 %", 50, "%"), ("50 percent", 50, "%"), ("$5", 5, "$"), ("-$5.25", "-5.25", "$"),
        ("$-5", -5, "$"), ("5 dollars", 5, "$"), ("about 5 m", 5, "m"), ("~5", 5, None), ("5 metres", 5, "m"),
        ("5 m²", 5, "m2"), ("5 km/h", 5, "km/h"), ("20°C", 20, "°c"), ("5 seconds", 5, "s"), ("5 big dogs", 5, None),
        ("Answer: 3 dogs", 3, None), ("The answer is **3**.", 3, None), ("**3**", 3, None), ("3<|im_end|>", 3, None),
    ],
)  # fmt: skip
def test_one_plain_number_is_read(text: str, value: int | str, unit: str | None) -> None:
    assert read_quantity(text) == Quantity(Fraction(value), unit)


@pytest.mark.parametrize(
    "text",
    [
        "", "-", "three", "inf", "nan", "- 3", "-$-5", "12,34", "3,5", "1,23,456", "0,123", "1e100", "1 234", "1.2.3",
        "3-4", "3 - 4", "3/4",
        "12:30", "2**3", "0x10", "1_000", "1e999", "3 or 4", "3 to 4", "3 dogs and 2 cats", "5 and a half", "2 dozen",
        "5 trillion", "5th", "2nd", "5x", "x=5", "not 5", "5 or more", "There are 3.", "5 because it rains hard",
        "5 feet 3", "(5)", "٣", "9" * 41,
    ],
)  # fmt: skip
def test_whatever_else_is_none(text: str) -> None:
    assert read_quantity(text) is None


def test_only_known_units_contradict() -> None:
    quantities = {text: read_quantity(text) for text in ("5", "5 m", "5 metres", "5 cm", "5 dogs")}
    five, metre, metres, centimetres, dogs = (q for q in quantities.values() if q is not None)
    assert metre.contradicts(centimetres)
    assert not metre.contradicts(metres)
    assert not metre.contradicts(five)
    assert not dogs.contradicts(metre)


@given(st.fractions(max_denominator=1).filter(lambda f: abs(f) < 10**12), st.integers(0, 99))
def test_grouped_or_not_it_is_the_same_number(whole: Fraction, hundredths: int) -> None:
    number = int(whole)
    value = (abs(number) + Fraction(hundredths, 100)) * (-1 if number < 0 else 1)
    for text in (f"{number}.{hundredths:02}", f"{number:,}.{hundredths:02}", f"about {number:,}.{hundredths:02} km"):
        found = read_quantity(text)
        assert found is not None
        assert found.value == value


@given(st.floats(-1e90, 1e90).filter(lambda value: value == 0 or abs(value) > 1e-90))
def test_what_python_prints_is_read_exactly(value: float) -> None:
    found = read_quantity(repr(value))
    assert found is not None
    assert found.value == Fraction(repr(value))
