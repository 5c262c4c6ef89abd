"""Planted leaks, by the labels' names and by other words; areas by another library's hand."""

from __future__ import annotations

import random

import pytest

from rbft.answers import load_thresholds, names_label, without_labels
from rbft.rationales.audit import examined
from rbft.rationales.leakage import leakage_note, leakage_of
from rbft.records import DropReason, Rationale, Verdict
from rbft.results import Leakage

RULES = load_thresholds()
LABELS = ("normal", "abnormal")
WORDS = [f"word{i}" for i in range(60)]


def rationale(index: int, text: str, *reasons: DropReason) -> Rationale:
    return Rationale(
        clip_id=f"c{index}", clip_key="0", text=text, finished=True, num_tokens=9, engine="e",
        prompt_fingerprint="p", seed=0, verdict=Verdict(kept=not reasons, reasons=reasons),
    )  # fmt: skip


def planted(
    number: int, given_away: object, labels: tuple[str, ...] = LABELS
) -> tuple[list[Rationale], dict[str, str]]:
    """Texts of random words about clips of labels in turn, each with what `given_away` says to its label."""
    rng = random.Random(0)
    truths = {f"c{i}": labels[i % len(labels)] for i in range(number)}
    texts = [
        rationale(i, f"{' '.join(rng.sample(WORDS, 12))}. {given_away(truths[f'c{i}'])}")  # type: ignore[operator]
        for i in range(number)
    ]
    return texts, truths


@pytest.mark.parametrize("labels", [LABELS, ("fight", "noFight"), ("walk", "run", "fall")])
def test_names_that_give_the_label_away_are_flagged(labels: tuple[str, ...]) -> None:
    texts, truths = planted(90, lambda label: f"This looks {label}.", labels)
    found = leakage_of(texts, truths, labels, RULES)
    assert found is not None and found.flagged
    assert found.names_label == 1.0 and found.texts == 90
    assert found.auc > 0.99 and found.accuracy > 0.95 and found.auc_masked < 0.75
    assert found.majority == pytest.approx(1 / len(labels))
    note = leakage_note(found)
    assert note is not None and note.startswith(
        "the rationales name their labels: their words alone tell the labels apart (area under the curve 1.00), and"
    )
    assert note.endswith("100 % name a label. Such texts are not learnt; change the prompt or the engine")


def test_other_words_that_tell_the_label_are_measured_and_not_flagged() -> None:
    """A knife is seen in the clip: what tells the labels apart is what the clip shows."""
    texts, truths = planted(90, lambda label: "A knife." if label == "abnormal" else "A ball.")
    found = leakage_of(texts, truths, LABELS, RULES)
    assert found is not None and not found.flagged and leakage_note(found) is None
    assert found.auc == found.auc_masked > 0.99 and found.names_label == 0


def test_words_that_tell_nothing_are_near_chance() -> None:
    texts, truths = planted(300, lambda _: "")
    found = leakage_of(texts, truths, LABELS, RULES)
    assert found is not None and not found.flagged
    assert 0.35 < found.auc == found.auc_masked < 0.65


def test_a_label_that_is_named_without_telling_it_is_not_flagged() -> None:
    rng = random.Random(1)
    texts, truths = planted(90, lambda _: f"Perhaps {rng.choice(LABELS)}.")
    found = leakage_of(texts, truths, LABELS, RULES)
    assert found is not None and not found.flagged and found.names_label == 1.0


def test_too_few_texts_of_a_label_are_left_out() -> None:
    texts, truths = planted(90, lambda label: label)
    assert leakage_of(texts[:18], truths, LABELS, RULES) is None
    assert leakage_of(texts, {}, LABELS, RULES) is None
    assert leakage_of([rationale(i, "…") for i in range(90)], truths, LABELS, RULES) is None
    few = {clip: "rare" if clip == "c0" else label for clip, label in truths.items()}
    found = leakage_of(texts, few, (*LABELS, "rare"), RULES)
    assert found is not None and found.texts == 89
    assert isinstance(leakage_of([rationale(i, "a") for i in range(40)], truths, LABELS, RULES), Leakage)


@pytest.mark.parametrize(
    ("text", "labels", "left"),
    [
        ("It looks abnormal, not normal.", LABELS, "It looks  , not  ."),
        ("Normally a fight breaks out", ("fight", "normal"), "  a   breaks out"),
        ("The answer is no. There is no car.", ("yes", "no"), "The  . There is no car."),
        ("老人跌倒了", ("跌倒",), "老人 了"),
    ],
)
def test_masked_is_what_names_a_label(text: str, labels: tuple[str, ...], left: str) -> None:
    assert without_labels(text, labels, RULES) == left
    assert names_label(left, labels, RULES) is None


def test_refusals_are_counted_by_label_and_forms_are_flagged() -> None:
    prompt = "You are a guard. Describe the subjects and the scene of the clip, as it is."
    texts = [
        rationale(0, "A dog runs to the gate and stops at the door."),
        rationale(1, "I'm sorry", "refusal"),
        rationale(2, "I'm sorry", "refusal"),
        rationale(3, '{"subjects": "a dog"}'),
        rationale(4, "Der Hund läuft zu dem Tor und bleibt vor der Tür stehen."),
        rationale(5, "狗跑向大门"),
    ]
    truths = {"c0": "normal", "c1": "abnormal", "c2": "normal", "c3": "abnormal", "c4": "abnormal"}
    found = examined(texts, truths, LABELS, prompt, RULES)
    assert (found.written, found.kept) == (6, 4)
    assert found.refusals == {"normal": (2, 1), "abnormal": (3, 1)}
    assert found.flagged == {"not_prose": 1, "other_language": 2}
    assert found.dropped == {"refusal": 2} and found.leakage is None
    assert examined(texts[:1], truths, LABELS, prompt, RULES).refusals == {}
    assert examined(texts, truths, LABELS, "描述视频中的主体、属性、动作和场景", RULES).flagged["other_language"] == 2
