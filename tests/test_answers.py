"""How generated answers are read, and what the audit drops a rationale for."""

from __future__ import annotations

import itertools
import json
import os
import random
import statistics
import unicodedata
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rbft.answers import (
    AuditThresholds,
    audit,
    benign_labels,
    load_thresholds,
    names_label,
    num_words,
    read_label,
    read_labelled_rationale,
)
from rbft.errors import ExperimentError
from rbft.prompts import load_prompts
from rbft.records import Verdict, fingerprint

LABELS = ("normal", "abnormal")
DEFINED = {"normal": "routine household activity", "abnormal": "a threat to people, pets or property"}
DIMENSIONS = {"subjects": ("subject",), "attributes": ("attribute",), "actions": ("action",), "scenes": ("scene",)}
RULES = load_thresholds()
GOOD = (
    "Subjects: a woman in a raincoat and a small brown dog. Attributes: the coat is yellow, the dog is on a leash. "
    "Actions: she walks up the path, stops at the door and rings the bell twice. Scenes: a front porch at dusk, seen "
    "from above; the light over the door is on and the lawn is wet."
)


def judge(text: str, **changes: object) -> Verdict:
    given_: dict[str, object] = {
        "finished": True,
        "labels": DEFINED,
        "label": "abnormal",
        "dimensions": DIMENSIONS,
        "thresholds": RULES,
    }
    return audit(text, **(given_ | changes))  # type: ignore[arg-type]


# -- read_label ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "abnormal",
        "Abnormal",
        " ABNORMAL\n",
        "abnormal.",
        "**abnormal**",
        "`abnormal`",
        '"abnormal"',
        "“Abnormal”",
        "'abnormal'.",
        "- abnormal",
        "# Abnormal",
        "[abnormal]",
        "(abnormal)",
        "abnormal<|im_end|>",
        "Label: abnormal",
        "label : Abnormal",
        "**Label:** abnormal",
        "**Label**: *abnormal*",
        "Answer: abnormal",
        "Final answer: abnormal.",
        "The answer is abnormal.",
        "The final label is: abnormal",
        "Classification: Abnormal",
        "Answer：abnormal",
        "<think>It is normal.</think><answer>abnormal</answer>",
        "<answer>abnormal</answer>",
        "<answer> Abnormal. </answer>",
        "<ANSWER>Label: abnormal</ANSWER>",
    ],
)
def test_an_answer_that_is_one_label_is_read(text: str) -> None:
    assert read_label(text, LABELS) == "abnormal"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n",
        "...",
        "not abnormal",
        "not normal",
        "abnormal or normal",
        "normal, abnormal",
        "abnormal abnormal",
        "normal\nabnormal",
        "The clip looks abnormal.",
        "abnormal because a man runs",
        "It is abnormal",
        "abnormally",
        "ab normal",
        "paranormal",
        "norm",
        "normal?abnormal",
        "Label:",
        "The answer is not abnormal",
        "label: not abnormal",
        "<answer>normal</answer><answer>abnormal</answer>",
        "<answer>abnormal",
        "abnormal</answer>",
        "<answer></answer>",
        "<think>abnormal</think>",
        "1",
        "A. abnormal",
        "no label",
        "nor\u200bmal or not",
    ],
)
def test_whatever_else_is_none(text: str) -> None:
    assert read_label(text, LABELS) is None


def test_labels_that_hold_each_other_are_told_apart() -> None:
    labels = ["fall", "non_fall", "no fall", "fall fast", "Fall-2"]
    assert [read_label(f"**{label}**", labels) for label in labels] == labels
    assert read_label("non\\_fall", labels) == "non_fall"


def test_labels_that_differ_only_in_case_need_the_exact_spelling() -> None:
    assert read_label("us", ["US", "us"]) == "us"
    assert read_label("Us", ["US", "us"]) is None
    assert read_label("C", ["C", "C++"]) == "C"
    assert read_label("C++", ["C", "C++"]) == "C++"


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("L.", ["L", "Ŀ"], "L"),
        ("**ŀ**", ["L", "Ŀ"], "Ŀ"),
        ("L·", ["L", "Ŀ"], "L"),
        ("⒈", ["1", "2"], "1"),
        ('"1"', ["1", "⒈"], "1"),
        ("A™.", ["A", "A™"], "A™"),
        ("atm", ["A", "A™"], "A™"),
        ("A", ["a", "A.", "b"], None),
    ],
)
def test_signs_that_a_compatibility_form_brings_tell_labels_apart(
    text: str, labels: list[str], expected: str | None
) -> None:
    assert read_label(text, labels) == expected


@settings(max_examples=300)
@given(st.lists(st.text(min_size=1, max_size=12).filter(lambda s: s == s.strip()), min_size=1, max_size=5, unique=True))
def test_every_label_reads_as_itself(labels: list[str]) -> None:
    assert [read_label(f" {label}\n", labels) for label in labels] == labels


WORDS = st.text(st.characters(categories=["Ll", "Lu", "Lo", "Nd"]), min_size=1, max_size=10)
DECORATIONS = ["{}.", "**{}**", '"{}"', "Label: {}", "<answer>{}</answer>", "Answer: **{}**\n", "{}<|im_end|>"]


@settings(max_examples=200)
@example(["L", "Ŀ"], "{}.")
@given(
    st.lists(WORDS, min_size=2, max_size=4, unique_by=lambda w: unicodedata.normalize("NFKC", w).casefold()),
    st.sampled_from(DECORATIONS),
)
def test_decoration_never_changes_which_label_is_read(labels: list[str], decoration: str) -> None:
    for label in labels:
        assert read_label(decoration.format(label), labels) == label
    for one, other in itertools.permutations(labels, 2):
        assert read_label(f"{one} and {other}", labels) is None


# -- rationales with a label line ----------------------------------------------------------------------------------

PROMPTS = load_prompts("default", persona="guard", labels=DEFINED)


@settings(max_examples=300)
@given(st.text(max_size=200), st.sampled_from(LABELS), st.sampled_from(["P+C+R", "P+R+C"]))
def test_parsing_inverts_rendering(text: str, label: str, order: str) -> None:
    rendered = PROMPTS.rationale_answer(text, label, order)  # type: ignore[arg-type]
    assert read_labelled_rationale(rendered, LABELS, order) == (label, text)  # type: ignore[arg-type]


def test_a_bare_rationale_comes_back_whole() -> None:
    assert read_labelled_rationale("Label: normal\nx", LABELS, "P+R") == (None, "Label: normal\nx")


@pytest.mark.parametrize(
    ("text", "order", "expected"),
    [
        ("Label: Abnormal.\nA man runs.", "P+C+R", ("abnormal", "A man runs.")),
        ("A man runs.\n**Label:** abnormal\n", "P+R+C", ("abnormal", "A man runs.")),
        ("Label: normal", "P+R+C", ("normal", "")),
        ("Label: normal", "P+C+R", ("normal", "")),
        ("A man runs.\nLabel: not normal", "P+R+C", (None, "A man runs.\nLabel: not normal")),
        ("A man runs.\nnormal", "P+R+C", (None, "A man runs.\nnormal")),
        ("A man runs.\nLabel: normal", "P+C+R", (None, "A man runs.\nLabel: normal")),
        ("Subject: normal\nA man runs.", "P+C+R", (None, "Subject: normal\nA man runs.")),
        ("", "P+C+R", (None, "")),
    ],
)
def test_only_a_readable_label_line_in_its_place_counts(
    text: str, order: str, expected: tuple[str | None, str]
) -> None:
    assert read_labelled_rationale(text, LABELS, order) == expected  # type: ignore[arg-type]


# -- audit ---------------------------------------------------------------------------------------------------------


def test_a_good_rationale_is_kept_without_flags() -> None:
    assert judge(GOOD) == Verdict(kept=True)


@pytest.mark.parametrize(
    "text", ["", " \n\t", "<|im_end|>", "...!?", "<|vision_pad|><|vision_pad|>", "**\n- ", "<think></think>"]
)
def test_text_without_words_is_empty(text: str) -> None:
    assert judge(text) == Verdict(kept=False, reasons=("empty",), detail="empty: no words")


def test_text_cut_at_the_token_limit_is_truncated() -> None:
    assert judge(GOOD, finished=False) == Verdict(
        kept=False, reasons=("truncated",), detail="truncated: cut at the token limit"
    )
    assert judge("", finished=False).reasons == ("truncated", "empty")


COUNTING = GOOD + " The bar shows " + ", ".join(f"{n} % done" for n in range(5, 400, 5))
PROGRESS = " ".join(f"{n} %..." for n in range(5, 600, 5))


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        (GOOD + " She waits. The dog sits." * 30, "repeating: compresses "),
        ("the dog runs to the gate and " * 5, "repeating: 78 % of its four-word runs are repeats"),
        (PROGRESS, "repeating: compresses 4.5 times"),
        ("狗在院子里跑来跑去" * 6, "repeating: 82 % of its four-word runs are repeats"),
    ],
)
def test_loops_are_repeating(text: str, detail: str) -> None:
    verdict = judge(text, dimensions={})
    assert verdict.reasons == ("repeating",)
    assert verdict.detail.startswith(detail)


def test_a_counting_loop_is_found_although_no_four_words_repeat() -> None:
    words = PROGRESS.split()
    runs = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    assert len(set(runs)) == len(runs)
    assert "repeating" in judge(PROGRESS).reasons


@pytest.mark.parametrize(
    "text",
    [
        "A dog runs. A dog runs.",
        "subjects: red car. attributes: red. actions: drives left. scenes: road at night.",
        GOOD,
    ],
)
def test_short_and_good_text_is_not_repeating(text: str) -> None:
    assert "repeating" not in judge(text).reasons


REFUSALS = yaml.safe_load((Path(__file__).parent / "data" / "refusals.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("language", REFUSALS)
def test_refusals_are_found_in_five_languages(language: str) -> None:
    assert len(REFUSALS[language]) == 20
    missed = [text for text in REFUSALS[language] if "refusal" not in judge(text).reasons]
    assert len(missed) <= 1, missed


def descriptions() -> list[str]:
    """Five hundred good ones, with words that refusals have too."""
    who = ["a man", "two children", "a sorry-looking dog", "a courier", "nobody"]
    looks = ["a face that I cannot see clearly", "no visible injuries", "blue clothes", "a mask", "wet fur"]
    does = ["cannot open the door", "refuses to move", "apologises to a neighbour", "runs to the left"]
    where = [
        "a yard; I am not able to tell the time of day",
        "a hall",
        "a shop, unfortunately dark",
        "a porch",
        "a bus",
    ]
    good = [
        f"Subjects: {a}. Attributes: {b}. Actions: the subject {c}. Scenes: {d}."
        for a, b, c, d in itertools.product(who, looks, does, where)
    ]
    assert len(good) == 500
    return good


def test_descriptions_are_not_refusals() -> None:
    wrong = [text for text in descriptions() if "refusal" in judge(text).reasons]
    assert len(wrong) <= 5, wrong


def test_two_hundred_loops_of_four_kinds_are_found_and_five_hundred_descriptions_are_none() -> None:
    rng, good = random.Random(0), descriptions()
    loops = [
        *(f"{rng.choice(good)} {rng.choice(good)[:60]} " + f"{rng.choice(good)[40:90]} " * 30 for _ in range(50)),
        *(f"{rng.choice(good)} " + "the dog, " * rng.randint(30, 300) for _ in range(50)),
        *("".join(f"{n} %, " for n in range(5, rng.randint(800, 2000), 5)) for _ in range(50)),
        *("".join(f"at {n // 60}:{n % 60:02} a man. " for n in range(rng.randint(60, 400))) for _ in range(50)),
    ]
    alone: dict[str, object] = {"labels": {}, "label": None, "dimensions": {}}
    missed = [text[:80] for text in loops if judge(text, **alone).reasons != ("repeating",)]
    assert missed == []
    assert [text for text in good if "repeating" in judge(text, **alone).reasons] == []


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("This is normal.", "'normal'"),
        ("He walks normally.", "'normally'"),
        ("An abnormality is seen.", "'abnormality'"),
        ("ABNORMAL behaviour", "'ABNORMAL'"),
        ("It is paranormal.", None),
        ("norm and form", None),
    ],
)
def test_a_named_label_is_quoted(text: str, quoted: str | None) -> None:
    assert names_label(text, LABELS, RULES) == quoted
    assert ("names_label" in judge(text).reasons) == (quoted is not None)


@pytest.mark.parametrize(
    ("label", "named", "not_named"),
    [
        ("noFight", ["no fight here", "no-fight", "noFights"], ["no one fights"]),
        ("non_fall", ["a non-fall", "non fall", "nonfall"], ["he will not fall"]),
        ("theft", ["theft", "thefts", "the theft's end"], ["thefty", "heft"]),
        ("dance", ["dancing", "dances", "danced", "dancer"], ["dan"]),
        ("run", ["running", "runs", "runner"], ["runway", "rung"]),
        ("cat", ["cats"], ["cater", "cattle", "category"]),
        ("robbery", ["robberies", "robbery"], ["robbed"]),
        ("跌倒", ["老人跌倒了"], ["老人倒下"]),
        ("no", ["The answer is no.", "Label: no", 'I would say "no".', "labelled as no", "no"], ["There is no car."]),
        ("a", ["Answer: A", "category a"], ["a man and a dog"]),
        ("2", ["class 2", "2"], ["2 men walk"]),
        ("other", ["classified as other"], ["the other man"]),
        ("C++", ['"C"'], ["C++ is a language"]),
        ("?!", ["what?!"], ["what?"]),
    ],
)
def test_what_names_a_label(label: str, named: list[str], not_named: list[str]) -> None:
    assert [t for t in named if names_label(t, [label], RULES) is None] == []
    assert [t for t in not_named if names_label(t, [label], RULES) is not None] == []


def test_text_that_lacks_dimensions_is_off_the_template() -> None:
    two = "Subjects: a dog. Actions: it runs over the lawn."
    assert judge(two).reasons == ("off_template",)
    assert judge(two).detail == "off_template: lacks attributes, scenes"
    three = "Subjects: a dog. Attributes: brown. Actions: it runs."
    assert judge(three).kept
    assert judge("interaction and obscene things; the object runs").reasons == ("off_template",)
    assert judge(two, dimensions={}).kept


@pytest.mark.parametrize(
    ("sentence", "phrase"),
    [
        ("There are no signs of any safety concern.", "no signs of any safety concern"),
        ("Nothing unusual happens.", "Nothing unusual"),
        ("This does not pose any immediate threat to the home.", "not pose any immediate threat"),
        ("The scene appears calm.", "The scene appears calm"),
        ("There is no visible danger.", "no visible danger"),
    ],
)
def test_reassurance_under_an_adverse_label_flags_and_drops_only_when_asked(sentence: str, phrase: str) -> None:
    text = f"{GOOD} {sentence}"
    flagged = judge(text)
    assert (flagged.kept, flagged.reasons, flagged.flags) == (True, (), ("contradicts_label",))
    assert flagged.detail == f"contradicts_label: {phrase!r}"
    assert judge(text, drop_contradicting=True).reasons == ("contradicts_label",)
    assert judge(text, label="normal") == Verdict(kept=True)
    assert judge(text, label=None) == Verdict(kept=True)


def test_a_warning_under_a_benign_label_is_flagged_unless_it_is_denied() -> None:
    text = f"{GOOD} The bear poses a serious risk to people."
    assert judge(text, label="normal").flags == ("contradicts_label",)
    assert judge(text, label="abnormal").flags == ()
    assert judge(f"{GOOD} The dog never is dangerous.", label="normal").flags == ()
    assert judge(f"{text} There is no sign of a threat.", label="normal").flags == ()


def test_benign_labels_are_known_by_name_then_by_definition_or_told() -> None:
    assert benign_labels(DEFINED, RULES) == {"normal"}
    assert benign_labels({"noFight": "", "fight": ""}, RULES) == {"noFight"}
    assert benign_labels({"a": "routine work", "b": "not routine"}, RULES) == {"a"}
    assert benign_labels({"walk": "", "run": ""}, RULES) == frozenset()
    assert benign_labels({"safe": "", "calm": ""}, RULES) == frozenset()
    text = f"{GOOD} Nothing unusual happens."
    assert judge(text, labels={"walk": "", "run": ""}, label="run").flags == ()
    assert judge(text, labels={"walk": "", "run": ""}, label="run", benign={"walk"}).flags == ("contradicts_label",)


def test_every_reason_is_given_with_its_detail() -> None:
    verdict = judge("I'm sorry, I can't help. It is normal; nothing unusual.", finished=False, drop_contradicting=True)
    assert verdict.reasons == ("truncated", "refusal", "names_label", "off_template", "contradicts_label")
    assert verdict.detail == (
        "truncated: cut at the token limit; refusal: \"I'm sorry\"; names_label: 'normal'; "
        "off_template: lacks subjects, attributes, actions, scenes; contradicts_label: 'nothing unusual'"
    )


def test_words_are_counted_in_scripts_without_spaces() -> None:
    assert num_words("It isn't far: 3 km.") == 5
    assert num_words("狗在跑 fast") == 4


# -- thresholds ----------------------------------------------------------------------------------------------------


def built_in() -> dict[str, Any]:
    """The built-in rules as their file has them."""
    text = (resources.files("rbft") / "prompts" / "audit.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def test_what_only_counts_is_no_part_of_a_fingerprint() -> None:
    """Other bounds of what is noted ask for no text anew; other bounds of what is dropped do."""
    noted = RULES.model_copy(update={"common_words": {}, "leakage": RULES.leakage.model_copy(update={"auc": 0.9})})
    dropping = RULES.model_copy(
        update={"off_template": RULES.off_template.model_copy(update={"min_dimension_share": 1})}
    )
    assert fingerprint(noted) == fingerprint(RULES) != fingerprint(dropping)


def test_thresholds_are_a_file_that_can_be_copied_and_changed(tmp_path: Path) -> None:
    document = built_in()
    document["off_template"]["min_dimension_share"] = 1.0
    path = tmp_path / "audit.yaml"
    path.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    strict = load_thresholds(path)
    assert isinstance(strict, AuditThresholds)
    assert judge("Subjects: a dog. Attributes: brown. Actions: it runs.", thresholds=strict).reasons == (
        "off_template",
    )


def test_faults_in_the_thresholds_are_named_together(tmp_path: Path) -> None:
    document = built_in()
    document["repeating"]["zlib_ratio"] = 0.5
    del document["collapse"]
    path = tmp_path / "audit.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(ExperimentError) as error:
        load_thresholds(path)
    assert error.value.faults == [
        f"{path}: repeating.zlib_ratio: Input should be greater than 1",
        f"{path}: collapse: Field required",
    ]


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({}, "schema: Field required"),
        ({"schema": 2}, "schema: Input should be 1"),
        ({"schema_version": 1, "schema": 1}, "schema_version: Extra inputs are not permitted"),
    ],
)
def test_the_version_of_the_thresholds_is_named_as_in_the_file(
    tmp_path: Path, given: dict[str, int], fault: str
) -> None:
    document = {name: part for name, part in built_in().items() if name != "schema"} | given
    path = tmp_path / "audit.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(ExperimentError) as error:
        load_thresholds(path)
    assert error.value.faults == [f"{path}: {fault}"]


def test_a_broken_pattern_is_named(tmp_path: Path) -> None:
    document = built_in()
    document["refusal"]["phrases"] = {"en": ["sorry", "(no"]}
    path = tmp_path / "audit.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(ExperimentError) as error:
        load_thresholds(path)
    message = "'(no' is not a regular expression: missing ), unterminated subpattern at position 0"
    assert str(error.value) == f"{path}: refusal.phrases.en: {message}"
    path.write_text("- a list\n", encoding="utf-8")
    with pytest.raises(ExperimentError) as error:
        load_thresholds(path)
    assert (
        str(error.value) == f"{path}: audit rules are a mapping of names to values; copy prompts/audit.yaml and edit it"
    )


# -- the released rationales ---------------------------------------------------------------------------------------


@pytest.mark.shared
def test_the_released_rationales_show_what_the_audit_is_for() -> None:
    folder = Path(os.environ.get("RBFT_SHARED", Path(__file__).parents[2] / "shared"))
    path = folder / "data" / "smarthome" / "reasoning_w_answer.json"
    if not path.is_file():
        pytest.skip("the SmartHome annotation is not in $RBFT_SHARED or ../shared")
    rows = json.loads(path.read_text(encoding="utf-8"))
    truth = [row["ground_truth"] for row in rows]
    texts = [row["conversations"][1]["value"] for row in rows]
    assert (len(rows), truth.count("abnormal"), truth.count("normal")) == (778, 494, 284)

    bodies, closing = zip(*(text.rsplit("Classification:", 1) for text in texts), strict=True)
    assert [read_label(label, LABELS) for label in closing] == truth  # every one ends with its label
    assert statistics.median(len(body.split()) for body in bodies) == 63

    # Text before the first "Classification:": 327 hold a label itself, 2 more an inflection of one.
    described = [text.split("Classification:")[0] for text in texts]
    named = [names_label(text, LABELS, RULES) for text in described]
    assert sum(name is not None for name in named) == 329
    assert sum(name is not None and name.strip("'").lower() in LABELS for name in named) == 327
    assert all(names_label(text, LABELS, RULES) for text in texts)

    verdicts = [judge(body, label=label, dimensions={}) for body, label in zip(bodies, truth, strict=True)]
    reasons = [reason for verdict in verdicts for reason in verdict.reasons]
    assert {reason: reasons.count(reason) for reason in set(reasons)} == {"names_label": 347, "repeating": 2}
    flagged = [label for verdict, label in zip(verdicts, truth, strict=True) if verdict.flags]
    assert (flagged.count("abnormal"), flagged.count("normal")) == (422, 0)
