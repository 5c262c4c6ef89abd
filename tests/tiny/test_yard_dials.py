"""Each dial of the night yard does what it says, and the default set stays what it was."""

import hashlib
import json
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import yaml

from rbft.errors import UserError
from rbft.tiny.night_yard import YardDials, experiment_lines, label_of, label_of_words, plan_yard, sample_yard_spec
from rbft.tiny.shift import SEVERITIES, severity_of
from rbft.tiny.world import DIMENSIONS
from rbft.tiny.yard_rules import RULES

EVERY_RULE = [YardDials(rule=rule, labels=labels) for rule, labels in RULES]


def named(dials: YardDials) -> str:
    return f"{dials.rule}-{dials.labels}"


def labels_of(dials: YardDials, num: int, seed: int = 0) -> list[str]:
    return [label_of(clip.spec, dials) for clip in plan_yard(num, 0, 0, seed, dials)]


# -- the default set -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "sha256"),
    [
        (0, "a7cdb3c047e7a9678ef3f868e9cc5aefe65244713407190723c8b69df5fa1ecb"),
        (5, "dd451e4671794fefed3d1668de4baaf50f56d446cf8ea59b4ae6657bafdab865"),
    ],
)
def test_the_default_set_is_the_one_before_there_were_dials(seed: int, sha256: str) -> None:
    """Do not mend these numbers without a decision: every published number on the night yard stands on them."""
    text = json.dumps([asdict(clip) for clip in plan_yard(1600, 400, 1000, seed)], sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest() == sha256


# -- rules ---------------------------------------------------------------------------------------------------------

# subject, action, scene; then the label by the rule over one, two and three dimensions with two labels, then with three
TRUTH = [
    ("bear", "standing", "forest", ("abnormal", "abnormal", "abnormal"), ("alarm", "ask", "ask")),
    ("bear", "climbing", "garden", ("abnormal", "abnormal", "abnormal"), ("alarm", "ask", "ask")),
    ("bear", "falling", "garden", ("abnormal", "abnormal", "abnormal"), ("alarm", "ask", "ask")),
    ("cat", "falling", "room", ("normal", "abnormal", "abnormal"), ("normal", "ask", "ask")),
    ("cat", "climbing", "porch", ("normal", "normal", "normal"), ("normal", "normal", "normal")),
    ("person", "climbing", "porch", ("abnormal", "abnormal", "abnormal"), ("ask", "alarm", "alarm")),
    ("person", "falling", "porch", ("abnormal", "abnormal", "abnormal"), ("ask", "ask", "ask")),
    ("person", "standing", "porch", ("abnormal", "normal", "normal"), ("ask", "normal", "normal")),
    ("truck", "standing", "garden", ("abnormal", "normal", "abnormal"), ("ask", "normal", "ask")),
    ("truck", "falling", "garden", ("abnormal", "abnormal", "abnormal"), ("ask", "ask", "ask")),
    ("truck", "standing", "street", ("abnormal", "normal", "normal"), ("ask", "normal", "normal")),
    ("car", "jumping", "garden", ("normal", "normal", "normal"), ("normal", "normal", "normal")),
]


@pytest.mark.parametrize(("subject", "action", "scene", "two", "three"), TRUTH)
def test_the_rules(subject: str, action: str, scene: str, two: tuple[str, ...], three: tuple[str, ...]) -> None:
    words = {"subject": subject, "size": "small", "colour": "red", "action": action, "scene": scene, "light": "night"}
    for labels, wanted in (("two", two), ("three", three)):
        found = [label_of_words(words, YardDials(rule=r, labels=labels)) for r in ("attribute", "two", "three")]
        assert tuple(found) == wanted, labels


def test_words_that_are_not_told_fulfil_no_clause() -> None:
    for dials in EVERY_RULE:
        assert label_of_words(dict.fromkeys(DIMENSIONS, ""), dials) == "normal"


def test_definitions_are_written_from_the_rules() -> None:
    rest = {"normal": "anything else"}
    wanted = {
        ("attribute", "two"): {"abnormal": "a bear, a truck or a person"},
        ("two", "two"): {"abnormal": "a bear, anything falling or a person climbing"},
        ("three", "two"): {"abnormal": "a bear, anything falling, a person climbing or a truck in the garden"},
        ("attribute", "three"): {"ask": "a truck or a person", "alarm": "a bear"},
        ("two", "three"): {"ask": "a bear or anything falling", "alarm": "a person climbing"},
        ("three", "three"): {
            "ask": "a bear, anything falling or a truck in the garden",
            "alarm": "a person climbing",
        },
    }
    assert {key: rule.definitions for key, rule in RULES.items()} == {key: rest | text for key, text in wanted.items()}


@pytest.mark.parametrize("dials", EVERY_RULE, ids=named)
def test_no_clip_fulfils_two_labels(dials: YardDials) -> None:
    """So the order of labels is not part of the rule, and a reader of the definitions need not know it."""
    kinds = dials.label_rule.kinds
    for subject in DIMENSIONS["subject"]:
        for action in DIMENSIONS["action"]:
            for scene in DIMENSIONS["scene"]:
                words = {"subject": subject, "action": action, "scene": scene}
                held = [
                    label
                    for label, clauses in kinds.items()
                    if any(all(words[name] == word for name, word in clause.items()) for _, clause in clauses)
                ]
                assert len(held) <= 1


@pytest.mark.parametrize("dials", EVERY_RULE, ids=named)
def test_kinds_are_shares_of_one(dials: YardDials) -> None:
    rule = dials.label_rule
    assert sum(rule.shares) == pytest.approx(1)
    for label in rule.labels:
        assert sum(share for share, _ in rule.kinds_of(label)) == pytest.approx(1)
    assert sum(dials.shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("dials", EVERY_RULE, ids=named)
def test_attributes_outside_the_rule_tell_nothing_and_rules_need_more_than_one(dials: YardDials) -> None:
    rng = np.random.default_rng(0)
    specs = [sample_yard_spec(rng, dials) for _ in range(3000)]
    truth = np.asarray([label_of(spec, dials) for spec in specs])
    majority = max(Counter(truth).values()) / len(specs)
    inside = {"attribute": ("subject",), "two": ("subject", "action"), "three": ("subject", "action", "scene")}
    for name in (*DIMENSIONS, "lamps"):
        values = np.asarray([getattr(spec, name) for spec in specs])
        right = sum(max(Counter(truth[values == value]).values()) for value in np.unique(values)) / len(specs)
        if name not in inside[dials.rule]:
            assert right < majority + 0.04, name
        elif dials.rule == "attribute":
            assert right == 1
        else:
            assert right < majority + 0.21, name


# -- shares --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dials", "shares"),
    [
        (YardDials(), {"normal": 0.5, "abnormal": 0.5}),
        (YardDials(rule="attribute", balance=0.1), {"normal": 0.9, "abnormal": 0.1}),
        (YardDials(rule="two", balance=0.8), {"normal": 0.2, "abnormal": 0.8}),
        (YardDials(labels="three"), {"normal": 0.65, "ask": 0.26, "alarm": 0.09}),
        (YardDials(labels="three", balance=0.7), {"normal": 0.3, "ask": 0.52, "alarm": 0.18}),
    ],
)
def test_shares(dials: YardDials, shares: dict[str, float]) -> None:
    assert dials.shares == pytest.approx(shares)
    num = 1600
    drawn = Counter(labels_of(dials, num))
    for label, share in shares.items():
        assert abs(drawn[label] / num - share) < 3 * sqrt(share * (1 - share) / num), label


UNEVEN = [YardDials(labels="three"), YardDials(rule="attribute", labels="three"), YardDials(rule="two", balance=0.1)]


@pytest.mark.parametrize("dials", UNEVEN, ids=named)
def test_a_rare_label_has_its_share_of_few_clips_too(dials: YardDials) -> None:
    for seed in range(5):
        for num in (50, 100, 400):
            drawn = Counter(labels_of(dials, num, seed))
            for label, share in dials.shares.items():
                assert abs(drawn[label] - share * num) <= 2, (seed, num, label)


@pytest.mark.parametrize("rule", ["attribute", "two", "three"])
def test_fifty_clips_of_even_labels_are_balanced_enough(rule: str) -> None:
    for seed in range(5):
        drawn = Counter(labels_of(YardDials(rule=rule), 50, seed))
        assert min(drawn["normal"], drawn["abnormal"]) >= 15


# -- clips ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dials", [YardDials(), YardDials(rule="two", labels="three", balance=0.3, distractor=0.5)])
def test_a_smaller_set_is_the_beginning_of_a_larger_one(dials: YardDials) -> None:
    large = plan_yard(200, 60, 90, 7, dials)
    small = plan_yard(50, 60, 10, 7, dials)
    assert small == large[:50] + large[200:260] + large[260:270]
    assert plan_yard(50, 60, 10, 8, dials) != small


def test_severity_changes_no_clip_but_its_look() -> None:
    assert plan_yard(20, 5, 5, 0, YardDials(severity=0.8)) == plan_yard(20, 5, 5, 0)
    assert SEVERITIES == {"faint": 0.2, "mild": 0.35, "medium": 0.5, "strong": 0.65, "severe": 0.8}
    assert YardDials().severity == severity_of("medium") == severity_of("0.5") == 0.5


def told_by(name: str, dials: YardDials, num: int = 600) -> dict[str, float]:
    """How often the distractor has its value for the clip's label, by split."""
    found: dict[str, list[bool]] = {}
    for clip in plan_yard(num, num, num, 0, dials):
        value = dials.distracting_value(label_of(clip.spec, dials))
        found.setdefault(clip.split, []).append(getattr(clip.spec, name) == value)
    return {split: float(np.mean(held)) for split, held in found.items()}


@pytest.mark.parametrize("name", ["lamps", "light"])
@pytest.mark.parametrize("labels", ["two", "three"])
def test_a_distractor_tells_the_label_in_training_only(name: str, labels: str) -> None:
    noise = 3 * sqrt(1 / 3 * 2 / 3 / 600)
    for share in (0.0, 0.5, 1.0):
        dials = YardDials(rule="two", labels=labels, distractor=share, distractor_on=name)
        told = told_by(name, dials)
        assert abs(told["test"] - 1 / 3) < noise
        for split in ("train", "unlabelled"):
            assert abs(told[split] - (share + (1 - share) / 3)) < noise, share
    assert told_by(name, dials)["train"] == 1


def test_a_distractor_changes_nothing_else() -> None:
    plain = plan_yard(100, 20, 20, 0)
    lit = plan_yard(100, 20, 20, 0, YardDials(distractor=0.8))
    assert [clip for clip in lit if clip.split == "test"] == [clip for clip in plain if clip.split == "test"]
    changed = 0
    for one, other in zip(plain, lit, strict=True):
        assert asdict(one.spec) | {"lamps": 0} == asdict(other.spec) | {"lamps": 0}
        assert (one.path, one.noise_seed) == (other.path, other.noise_seed)
        changed += one.spec.lamps != other.spec.lamps
    assert 30 < changed < 100


def test_what_a_distractor_shows() -> None:
    two, three = YardDials(), YardDials(labels="three", distractor_on="light")
    assert [two.distracting_value(label) for label in ("normal", "abnormal")] == [0, 2]
    assert [three.distracting_value(label) for label in ("normal", "ask", "alarm")] == ["day", "dusk", "night"]


# -- what cannot be ------------------------------------------------------------------------------------------------


def test_all_faults_of_the_dials_are_told() -> None:
    with pytest.raises(UserError) as caught:
        YardDials(severity=2.0, rule="tow", labels="4", balance=1.0, distractor=-0.5, distractor_on="lamp")
    assert caught.value.faults == [
        "severity is 2; give a number from 0 to 1.5",
        "rule is 'tow'; did you mean 'two'? give one of attribute, two, three",
        "labels is '4'; give one of two, three",
        "balance is 1; give a number between 0 and 1",
        "distractor is -0.5; give a number from 0 to 1",
        "distractor_on is 'lamp'; did you mean 'lamps'? give one of lamps, light",
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "0.5", None])
def test_a_severity_that_is_no_number(value: object) -> None:
    with pytest.raises(UserError) as caught:
        YardDials(severity=value)  # type: ignore[arg-type]
    assert caught.value.faults == [f"severity is {value!r}; give a number from 0 to 1.5"]


def test_a_severity_that_has_no_name() -> None:
    with pytest.raises(UserError) as caught:
        severity_of("hard")
    assert str(caught.value) == (
        "severity is 'hard'; give faint (0.2), mild (0.35), medium (0.5), strong (0.65), severe (0.8), "
        "or a number from 0 to 1.5"
    )


# -- the command ---------------------------------------------------------------------------------------------------


def test_the_lines_for_an_experiment_file() -> None:
    lines = experiment_lines(Path("yard", "clips.csv"), YardDials(labels="three"))
    assert yaml.safe_load(lines) == {
        "clips": str(Path("yard", "clips.csv")),
        "domain": "Night Yard Security Expert",
        "labels": {
            "normal": "anything else",
            "ask": "a bear, anything falling or a truck in the garden",
            "alarm": "a person climbing",
        },
    }
    assert lines.count("\n") == 6


def rendered(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rbft.tiny", "render", "--out", "yard", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_command_turns_every_dial_and_says_what_the_labels_mean(tmp_path: Path) -> None:
    arguments = "--train 3 --test 2 --unlabelled 1 --seed 4 --severity strong --rule two --labels three --balance 0.4"
    more = "--distractor 0.9 --distractor-on light --manifest clips-3.csv"
    ran = rendered(tmp_path, *arguments.split(), *more.split())
    dials = YardDials(0.65, "two", "three", 0.4, 0.9, "light")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == experiment_lines(Path("yard", "clips-3.csv"), dials)
    note = json.loads((tmp_path / "yard" / "night-yard.json").read_text(encoding="utf-8"))
    assert (note["dials"], note["seed"], note["manifests"]) == (asdict(dials), 4, ["clips-3.csv"])
    assert len(list((tmp_path / "yard" / "clips").iterdir())) == 6


def test_faults_of_the_command_are_plain_lines(tmp_path: Path) -> None:
    ran = rendered(tmp_path, "--rule", "four", "--balance", "0")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.splitlines() == [
        "rbft.tiny: rule is 'four'; give one of attribute, two, three",
        "rbft.tiny: balance is 0; give a number between 0 and 1",
    ]
    assert not (tmp_path / "yard").exists()
