"""What the report says about all rationales together."""

from __future__ import annotations

from rbft.answers import load_thresholds
from rbft.rationales.audit import collapse_note, summarise
from rbft.records import DropReason, Rationale, Verdict
from rbft.results import RationaleReport

RULES = load_thresholds()


def rationale(index: int, text: str, *reasons: DropReason, flags: tuple[DropReason, ...] = ()) -> Rationale:
    return Rationale(
        clip_id=f"c{index}", clip_key="0", text=text, finished=True, num_tokens=9, engine="e",
        prompt_fingerprint="p", seed=0, verdict=Verdict(kept=not reasons, reasons=reasons, flags=flags),
    )  # fmt: skip


def test_counts_of_every_reason_and_flag() -> None:
    texts = [
        rationale(0, "one two three", flags=("contradicts_label",)),
        rationale(1, "", "empty"),
        rationale(2, "one", "truncated", "off_template"),
        rationale(3, "one two three four five", "truncated"),
    ]
    assert summarise(texts) == RationaleReport(
        written=4, kept=1, dropped={"empty": 1, "off_template": 1, "truncated": 2}, flagged={"contradicts_label": 1},
        median_words=2.0,
    )  # fmt: skip
    assert summarise([]) == RationaleReport(written=0, kept=0, dropped={})


def test_texts_that_are_nearly_one_are_noted() -> None:
    same = " ".join(f"word{i}" for i in range(60))
    alike = [rationale(i, f"{same} colour{i % 3}") for i in range(300)]
    assert collapse_note(alike, RULES) == (
        "the rationales are nearly one text: two of them share 97 % of their words in the median "
        "(at most 90 % is expected); read some, and change the prompt or the engine"
    )


def test_different_texts_few_texts_and_dropped_texts_are_not() -> None:
    words = [" ".join(f"w{i * j % 97}" for j in range(1, 30)) for i in range(1, 40)]
    assert collapse_note([rationale(i, text) for i, text in enumerate(words)], RULES) is None
    assert collapse_note([rationale(0, "a b c")], RULES) is None
    assert collapse_note([rationale(i, "a b c", "truncated") for i in range(9)], RULES) is None
