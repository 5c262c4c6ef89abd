"""What an arm is: presets that differ from `rb-ft` in one field, stages that make sense, steps that can be matched."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rbft.arms import PRESET_ARMS, Arm, Hint, Stage, Vote, match_fault

LABEL = Stage(kind="label")
RATIONALE = Stage(kind="rationale")


def fault(**settings: Any) -> str:
    """What is wrong with one stage."""
    with pytest.raises(ValidationError) as caught:
        Stage(**settings)
    [error] = caught.value.errors()
    return str(error["msg"]).removeprefix("Value error, ")


def test_the_papers_arms_and_their_controls() -> None:
    assert {name: PRESET_ARMS[name] for name in list(PRESET_ARMS)[:6]} == {
        "zero-shot": (),
        "direct": (LABEL,),
        "direct-matched": (Stage(kind="label", match_steps_of="rb-ft"),),
        "rb-ft": (Stage(kind="rationale", format="P+R", self_share=1.0), LABEL),
        "rb-ft-p+c+r": (Stage(kind="rationale", format="P+C+R"), LABEL),
        "rb-ft-p+r+c": (Stage(kind="rationale", format="P+R+C"), LABEL),
    }


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("rb-ft-p+c+r", {"format": "P+C+R"}),
        ("rb-ft-p+r+c", {"format": "P+R+C"}),
        ("rb-ft-voted", {"vote": Vote(samples=7, temperature=0.8, top_p=1.0, keep_share=1.0)}),
        ("rb-ft-confident", {"vote": Vote(keep_share=0.5)}),
        ("rb-ft-right", {"vote": Vote(right_only=True)}),
        ("rb-ft-audited", {"drop_contradicting": True}),
        ("rb-ft-labelled", {"clips": "labelled"}),
        ("rb-ft-distilled", {"query": "plain"}),
        ("rb-ft-hinted", {"hint": Hint(agreement=0.5)}),
    ],
)
def test_these_differ_from_rb_ft_in_one_field_of_the_rationale_stage(name: str, changed: dict[str, Any]) -> None:
    assert PRESET_ARMS[name] == (RATIONALE.model_copy(update=changed), LABEL)


def test_these_differ_from_rb_ft_by_one_stage() -> None:
    assert PRESET_ARMS["rb-ft-describe"] == (RATIONALE, Stage(kind="label", describe_first=True))
    assert PRESET_ARMS["rb-ft-twice"] == (RATIONALE, Stage(kind="rationale", engine="parent"), LABEL)
    assert PRESET_ARMS["rb-ft-labels-first"] == (LABEL, *PRESET_ARMS["rb-ft-twice"][1:])
    assert PRESET_ARMS["rb-ft+grpo"] == (*PRESET_ARMS["rb-ft"], Stage(kind="cot"), Stage(kind="reinforce"))
    assert PRESET_ARMS["rb-ft-joint"] == (Stage(kind="joint", match_steps_of="rb-ft"),)


def test_confident_differs_from_voted_in_the_share_alone() -> None:
    voted, confident = (PRESET_ARMS[name][0].vote for name in ("rb-ft-voted", "rb-ft-confident"))
    assert voted is not None
    assert voted.model_copy(update={"keep_share": 0.5}) == confident


def test_right_differs_from_voted_in_that_alone() -> None:
    voted, right = (PRESET_ARMS[name][0].vote for name in ("rb-ft-voted", "rb-ft-right"))
    assert voted is not None
    assert voted.model_copy(update={"right_only": True}) == right


def test_a_vote_by_the_label_needs_labels() -> None:
    with pytest.raises(ValidationError, match="`right_only` judges by the clip's label, and `clips: unlabelled` have"):
        Stage(kind="rationale", clips="unlabelled", vote=Vote(right_only=True))


def test_what_a_stage_learns() -> None:
    assert (RATIONALE.learns_rationales, RATIONALE.learns_labels) == (True, False)
    assert (LABEL.learns_rationales, LABEL.learns_labels) == (False, True)
    joint = Stage(kind="joint")
    assert (joint.learns_rationales, joint.learns_labels) == (True, True)
    cot, reinforce = Stage(kind="cot"), Stage(kind="reinforce")
    assert (cot.learns_rationales, cot.learns_labels, cot.reasons) == (True, False, True)
    assert (reinforce.learns_rationales, reinforce.learns_labels, reinforce.reasons) == (False, False, True)
    assert [name for name in PRESET_ARMS if Arm(name=name, stages=PRESET_ARMS[name]).describes_first] == [
        "rb-ft-describe",
        "rb-ft+grpo",
        "cot",
        "cot+grpo",
        "videorft",
    ]


def test_what_a_stage_is_called() -> None:
    titles = {name: [stage.title for stage in stages] for name, stages in PRESET_ARMS.items()}
    assert titles["rb-ft-p+r+c"] == ["rationale P+R+C", "label"]
    assert titles["rb-ft-confident"] == ["rationale P+R, voted, the surer ones", "label"]
    assert titles["rb-ft-twice"] == ["rationale P+R", "rationale P+R, of its parent", "label"]
    assert titles["rb-ft-joint"] == ["rationale and label P+R"]
    assert titles["rb-ft-describe"] == ["rationale P+R", "label after description"]
    assert titles["rb-ft+grpo"] == ["rationale P+R", "label", "label after thinking", "reinforced by rewards"]
    assert titles["videorft"] == ["label after thinking, curated", "reinforced by rewards"]
    assert Stage(kind="cot", vote=Vote()).title == "label after thinking, voted"
    told = Stage(kind="rationale", clips="labelled", hint=Hint(), drop_contradicting=True, query="plain").title
    assert told == "rationale P+R, labelled clips, label told, none contradicting, plain query"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"kind": "label", "format": "P+C+R"},
            "`format` belongs to a rationale or joint stage; a label stage learns bare labels",
        ),
        (
            {"kind": "label", "self_share": 0.5, "engine": "parent"},
            "`self_share` and `engine` belong to a rationale or joint stage; a label stage learns bare labels",
        ),
        ({"kind": "rationale", "match_steps_of": "direct"}, "`match_steps_of` belongs to a label or joint stage"),
        ({"kind": "rationale", "describe_first": True}, "`describe_first` belongs to a label stage"),
        ({"kind": "cot", "match_steps_of": "direct"}, "`match_steps_of` belongs to a label or joint stage"),
        ({"kind": "cot", "describe_first": True}, "`describe_first` belongs to a label stage"),
        (
            {"kind": "cot", "format": "P+C+R", "query": "plain"},
            "`format` and `query` belong to a rationale or joint stage; a cot stage thinks, then answers",
        ),
        (
            {"kind": "cot", "clips": "unlabelled"},
            "a cot stage answers with the clip's label, and `clips: unlabelled` have none",
        ),
        (
            {"kind": "reinforce", "vote": {}, "engine": "parent"},
            "`engine` and `vote` belong to a stage that learns rationales; a reinforce stage learns from rewards",
        ),
        ({"kind": "rationale", "thoughts": "curated"}, "`thoughts` belongs to a cot stage"),
        (
            {"kind": "cot", "thoughts": "curated", "vote": {}, "self_share": 0.5},
            "`self_share` and `vote` belong to a stage that thinks own rationales; curated thoughts are `curation`'s",
        ),
        ({"kind": "cot", "reinforce": {"samples": 4}}, "`reinforce` belongs to a reinforce stage"),
        ({"kind": "joint", "describe_first": True}, "`describe_first` belongs to a label stage"),
        (
            {"kind": "rationale", "self_share": 0, "drop_contradicting": True},
            "`drop_contradicting` belongs to the model's own rationales, and self_share 0 has none of them",
        ),
        (
            {"kind": "rationale", "clips": "unlabelled", "hint": {}},
            "`hint` tells the clip's label, and `clips: unlabelled` have none; take `clips: labelled`",
        ),
        (
            {"kind": "rationale", "clips": "unlabelled", "format": "P+R+C"},
            "P+R+C writes the clip's label, and `clips: unlabelled` have none; take `clips: labelled`",
        ),
        ({"kind": "rationale", "vote": {"samples": 1}}, "1 cannot vote; take 2 or more, or leave out `vote`"),
        ({"kind": "rationale", "vote": {"keep_share": 0}}, "Input should be greater than 0"),
        ({"kind": "rationale", "vote": {"temperature": 0}}, "Input should be greater than 0"),
        ({"kind": "rationale", "hint": {"agreement": 1.5}}, "Input should be less than or equal to 1"),
        ({"kind": "rationale", "clips": "some"}, "Input should be 'all', 'labelled' or 'unlabelled'"),
    ],
)
def test_faults_of_a_stage(settings: dict[str, Any], expected: str) -> None:
    assert fault(**settings) == expected


def test_a_label_stage_that_describes_first_may_say_who_describes() -> None:
    assert Stage(kind="label", describe_first=True, engine="parent").engine == "parent"


def test_steps_can_be_matched_to_any_arm_with_stages() -> None:
    for name, stages in PRESET_ARMS.items():
        expected = None if stages else "arm 'zero-shot' has no stage, so no steps to match"
        assert match_fault("mine", name, PRESET_ARMS) == expected


def test_what_a_matched_arm_matches_in_turn_is_followed() -> None:
    known = {
        "a": (Stage(kind="label", match_steps_of="b"),),
        "b": (LABEL, Stage(kind="label", match_steps_of="c")),
        "c": (Stage(kind="label", match_steps_of="b"),),
        "d": (Stage(kind="label", match_steps_of="e"),),
        "e": (Stage(kind="joint", match_steps_of="nowhere"),),
    }
    assert match_fault("b", "c", known) == (
        "arm 'c' matches the steps of 'b' itself; name an arm with steps of its own"
    )
    assert match_fault("a", "b", known) == (
        "arm 'c' matches the steps of 'b' itself; name an arm with steps of its own"
    )
    assert match_fault("d", "e", known) == "no arm 'nowhere'. Arms are a, b, c, d, e"
