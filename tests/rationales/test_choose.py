"""Votes, confidence, labels and hints: which rationales a stage learns, worked by hand."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbft.prompts import load_prompts
from rbft.rationales.choose import (
    confidence,
    kept_by_confidence,
    leading_to_label,
    unchanged_by_hint,
    voted,
    without_contradicting,
    without_tags,
)
from rbft.records import DropReason, Prediction, Rationale, Verdict

DIMENSIONS = load_prompts("brief", persona="p", labels={}).templates.dimensions
KEPT = Verdict(kept=True)


def rationale(text: str, *reasons: DropReason, seed: int = 0, clip_id: str = "c", **changes: object) -> Rationale:
    made = Rationale(
        clip_id=clip_id, clip_key="k", text=text, finished=True, num_tokens=9, engine="e", prompt_fingerprint="p",
        seed=seed, verdict=Verdict(kept=not reasons, reasons=reasons),
    )  # fmt: skip
    return made.model_copy(update=changes)


def described(subject: str, attributes: str = "small, red", action: str = "falling", scene: str = "street, day") -> str:
    return f"Subjects: {subject}. Attributes: {attributes}. Actions: {action}. Scenes: {scene}."


def vote(*texts: str) -> Rationale:
    return voted([rationale(text, seed=i) for i, text in enumerate(texts)], DIMENSIONS, lambda _: KEPT)


# -- votes ---------------------------------------------------------------------------------------------------------


def test_each_dimension_is_voted_on_its_own() -> None:
    made = vote(
        described("a dog", "small, red"), described("a cat", "large, red"), described("a dog", "large, red", "running"),
        described("a bear", "large, red"),
    )  # fmt: skip
    assert made.text == described("a dog", "large, red", "falling")
    assert made.agreement == pytest.approx({"subjects": 1 / 3, "attributes": 2 / 3, "actions": 2 / 3, "scenes": 1.0})
    assert confidence(made) == pytest.approx((1 / 3 + 2 / 3 + 2 / 3 + 1) / 4)


def test_of_long_texts_the_one_most_like_the_others() -> None:
    """Never equal; by hand, words in common / mean length: 1-2: 7/8, 1-3: 0, 2-3: 0, so 1 leads by being first."""
    one = "a tall man in dark clothes climbs quickly"
    two = "a tall man in dark clothes climbs slowly"
    three = "nothing whatever can be made out here tonight"
    made = vote(described(three), described(one), described(two))
    assert made.text == described(one)
    assert made.agreement is not None
    assert made.agreement["subjects"] == pytest.approx((7 / 8 + 0) / 2)


def test_the_middle_of_three_wins() -> None:
    middle = "one two three four five six seven eight"
    left, right = "one two three four a b c d", "five six seven eight w x y z"
    made = vote(described(left), described(right), described(middle))
    assert made.text == described(middle)
    assert made.agreement is not None
    assert made.agreement["subjects"] == pytest.approx(0.5)


def test_what_was_dropped_does_not_vote_and_agrees_with_nothing() -> None:
    bad = rationale(described("a cat"), "names_label")
    good = rationale(described("a dog"), seed=5)
    made = voted([bad, bad, good], DIMENSIONS, lambda _: KEPT)
    assert made.text == described("a dog")
    assert made.seed == 5
    assert set((made.agreement or {}).values()) == {0.0}
    nothing = voted([bad, rationale("", "empty")], DIMENSIONS, lambda _: KEPT)
    assert nothing.verdict == bad.verdict, "no vote makes it better"
    assert confidence(nothing) == 0.0


def test_a_text_without_headings_abstains_unless_all_are() -> None:
    made = vote("A dog falls.", described("a dog"), described("a dog"))
    assert made.text == described("a dog")
    assert made.agreement == pytest.approx(dict.fromkeys(DIMENSIONS, 0.5))
    made = vote("A dog falls.", "A cat falls.", "A dog falls.")
    assert made.text == "A dog falls."
    assert made.agreement == pytest.approx({"text": 0.5})


def test_the_form_is_that_of_a_complete_sample() -> None:
    made = vote("Subjects: a dog.", "Subjects: a dog.", described("a cat", "small, red"))
    assert made.text == described("a dog", "small, red")
    assert made.agreement == pytest.approx({"subjects": 0.5, "attributes": 0.0, "actions": 0.0, "scenes": 0.0})


def test_the_result_is_audited_again() -> None:
    refused = Verdict(kept=False, reasons=("repeating",))
    texts = [described("a dog"), described("a dog")]
    seen = []
    made = voted([rationale(t) for t in texts], DIMENSIONS, lambda text: seen.append(text) or refused)  # type: ignore[func-returns-value]
    assert made.verdict == refused
    assert seen == [described("a dog")]


@given(st.lists(st.tuples(*[st.sampled_from(["a", "b", "c d", "e f g"])] * 4), min_size=2, max_size=9))
def test_of_short_texts_the_most_frequent_wins_the_earliest_of_equals(samples: list[tuple[str, ...]]) -> None:
    made = vote(*[described(*sample) for sample in samples])
    winners = [Counter(column).most_common(1)[0] for column in zip(*samples, strict=True)]
    assert made.text == described(*[word for word, _ in winners])
    agreement = [(count - 1) / (len(samples) - 1) for _, count in winners]
    assert list((made.agreement or {}).values()) == pytest.approx(agreement)


@given(st.permutations([described("a dog"), described("a dog"), described("a cat"), described("a dog", "large")]))
def test_the_order_of_samples_does_not_matter_where_one_text_leads(texts: list[str]) -> None:
    assert vote(*texts).text == described("a dog")


# -- confidence, labels, hints -------------------------------------------------------------------------------------


def test_the_most_agreed_on_share_is_kept() -> None:
    agreed = {"a": 0.2, "b": 0.9, "c": 0.9, "d": 0.4}
    texts = {n: rationale("x", clip_id=n, agreement={"subjects": v}) for n, v in agreed.items()}
    texts["e"] = rationale("", "empty", clip_id="e", agreement={"subjects": 1.0})
    half = kept_by_confidence(texts, 0.5)
    assert [n for n, r in half.items() if r.verdict.kept] == ["b", "c"]
    assert half["a"].verdict == Verdict(kept=False, reasons=("low_agreement",), detail="low_agreement: agreement 0.20")
    assert half["e"] == texts["e"], "what was dropped before is not counted"
    assert [n for n, r in kept_by_confidence(texts, 0.25).items() if r.verdict.kept] == ["b"], "the lower id of equals"
    assert kept_by_confidence(texts, 1.0) == texts


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.01, 1))
def test_the_share_that_is_kept(values: list[float], share: float) -> None:
    texts = {str(i): rationale("x", clip_id=str(i), agreement={"a": v}) for i, v in enumerate(values)}
    made = kept_by_confidence(texts, share)
    kept = [confidence(r) for r in made.values() if r.verdict.kept]
    lost = [confidence(r) for r in made.values() if not r.verdict.kept]
    assert len(kept) == round(share * len(values))
    assert max(lost, default=0.0) <= min(kept, default=1.0)


def test_a_flagged_contradiction_becomes_a_reason() -> None:
    flagged = Verdict(kept=True, flags=("contradicts_label",), detail="contradicts_label: 'no signs'")
    made = without_contradicting(rationale("x", verdict=flagged))
    assert made.verdict == Verdict(kept=False, reasons=("contradicts_label",), detail="contradicts_label: 'no signs'")
    plain = rationale("x")
    assert without_contradicting(plain) is plain


def test_a_hinted_text_is_kept_where_nothing_changes() -> None:
    free, same = rationale(described("a dog")), rationale(described("A dog"), seed=1)
    assert unchanged_by_hint(free, same, DIMENSIONS, 0.5) is same
    other = unchanged_by_hint(free, rationale(described("a bear", "large, red")), DIMENSIONS, 0.5)
    assert other.verdict == Verdict(
        kept=False, reasons=("changed_by_hint",), detail="changed_by_hint: subjects, attributes"
    )
    short = unchanged_by_hint(free, rationale("Subjects: a dog."), DIMENSIONS, 0.5)
    assert short.verdict.detail == "changed_by_hint: attributes, actions, scenes"
    unheard = unchanged_by_hint(rationale("x", "empty"), same, DIMENSIONS, 0.5)
    assert unheard.verdict.detail == "changed_by_hint: the label-free rationale was dropped"


def test_a_hinted_text_may_say_it_in_other_words_up_to_the_threshold() -> None:
    free = rationale(described("a tall man in dark clothes climbs quickly"))
    told = rationale(described("a tall man in dark clothes climbs very slowly"))
    f1 = 2 * 7 / (8 + 9)
    assert unchanged_by_hint(free, told, DIMENSIONS, f1 - 0.01).verdict.kept
    assert not unchanged_by_hint(free, told, DIMENSIONS, f1 + 0.01).verdict.kept


def test_a_hinted_text_that_names_the_label_stays_dropped() -> None:
    free, leaked = rationale(described("a dog")), rationale(described("a dog"), "names_label")
    assert unchanged_by_hint(free, leaked, DIMENSIONS, 0.5).verdict.reasons == ("names_label",)


def test_a_sample_after_which_another_label_is_given_does_not_vote() -> None:
    def said(label: str | None) -> Prediction:
        return Prediction(
            clip_id="c", checkpoint="e", truth="alarm", label=label, log_probabilities={}, probabilities={}
        )

    good = rationale(described("a dog"))
    assert leading_to_label(good, said("alarm")) is good
    bad = leading_to_label(rationale(described("a cat")), said("ok"))
    assert bad.verdict == Verdict(kept=False, reasons=("other_label",), detail="other_label: ok")
    made = voted([good, bad, good], DIMENSIONS, lambda _: KEPT)
    assert made.text == good.text
    assert set((made.agreement or {}).values()) == {0.5}, "the dropped sample agrees with nothing"
    none = voted([bad, bad], DIMENSIONS, lambda _: KEPT)
    assert none.verdict.reasons == ("other_label",)


def test_a_text_with_tags_of_a_reasoned_answer_is_dropped_and_named() -> None:
    """It could not be read back out of one; what is dropped already keeps its one reason."""
    made = without_tags(rationale("A dog. </think> It runs."))
    assert made.verdict == Verdict(kept=False, reasons=("holds_tags",), detail="holds_tags: </think>")
    plain, gone = rationale("A dog, at <10 m."), rationale("<Answer>", "empty")
    assert without_tags(plain) is plain
    assert without_tags(gone) is gone
