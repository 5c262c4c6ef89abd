"""What a stage learns from clips, labels and rationales."""

from __future__ import annotations

import pytest

from rbft.arms import Hint, Vote
from rbft.errors import ExperimentError, LineageError
from rbft.experiment import Stage
from rbft.prompts import Prompts, load_prompts
from rbft.records import Clip, Rationale, Verdict
from rbft.training.examples import (
    cot_examples,
    label_examples,
    rationale_examples,
    refuse_test_clips,
    reinforce_examples,
    stage_faults,
)

LABEL = Stage(kind="label")


def clip(number: int, label: str | None = "normal", *, split: str = "train", rationale: str | None = None) -> Clip:
    return Clip(
        clip_id=f"c{number}", path=f"c{number}.mp4", sha256=f"{number:064x}", duration_seconds=2.0,
        label=label, split=split, rationale=rationale,
    )  # fmt: skip


def written(*clips: Clip, kept: bool = True) -> dict[str, Rationale]:
    return {
        c.clip_id: Rationale(
            clip_id=c.clip_id, clip_key="k", text=f"text of {c.clip_id}", finished=True, num_tokens=3, engine="e",
            prompt_fingerprint="p", seed=0, verdict=Verdict(kept=kept, reasons=() if kept else ("empty",)),
        )
        for c in clips
    }  # fmt: skip


@pytest.fixture
def prompts() -> Prompts:
    return load_prompts("default", persona="Yard Guard", labels={"normal": "all well", "abnormal": "a threat"})


def test_label_examples_are_the_query_and_the_bare_label(prompts: Prompts) -> None:
    made = label_examples([clip(0), clip(1, "abnormal"), clip(2, None)], prompts)
    assert [(e.clip_id, e.answer, e.weight) for e in made] == [("c0", "normal", 1.0), ("c1", "abnormal", 1.0)]
    assert {e.prompt for e in made} == {prompts.label()}


def test_balanced_weights_give_every_label_the_same_sum(prompts: Prompts) -> None:
    clips = [clip(0, "abnormal"), *[clip(i) for i in range(1, 4)]]
    made = label_examples(clips, prompts, balanced=True)
    assert [e.weight for e in made] == pytest.approx([2.0, 2 / 3, 2 / 3, 2 / 3])
    assert sum(e.weight for e in made) == pytest.approx(len(made))


def test_p_plus_r_uses_unlabelled_clips_and_never_a_label(prompts: Prompts) -> None:
    clips = [clip(0), clip(1, None)]
    made = rationale_examples(clips, Stage(kind="rationale"), prompts, written(*clips), seed=0)
    assert [(e.clip_id, e.answer, e.source) for e in made] == [
        ("c0", "text of c0", "self"),
        ("c1", "text of c1", "self"),
    ]
    assert all("normal" not in e.prompt for e in made)


@pytest.mark.parametrize(
    ("order", "answer"), [("P+C+R", "Label: normal\ntext of c0"), ("P+R+C", "text of c0\nLabel: normal")]
)
def test_formats_put_the_label_before_or_after(order: str, answer: str, prompts: Prompts) -> None:
    clips = [clip(0), clip(1, None)]
    made = rationale_examples(clips, Stage(kind="rationale", format=order), prompts, written(*clips), seed=0)
    assert [e.answer for e in made] == [answer]


def test_a_stage_learns_of_the_clips_it_names(prompts: Prompts) -> None:
    clips = [clip(0), clip(1, None), clip(2, "abnormal")]

    def learnt(**settings: object) -> list[str]:
        stage = Stage.model_validate({"kind": "rationale"} | settings)
        return [e.clip_id for e in rationale_examples(clips, stage, prompts, written(*clips), seed=0)]

    assert learnt() == ["c0", "c1", "c2"]
    assert learnt(clips="labelled") == learnt(hint={}) == learnt(format="P+R+C") == ["c0", "c2"]
    assert learnt(clips="unlabelled") == ["c1"]


def test_a_plain_query_is_answered_with_the_same_texts(prompts: Prompts) -> None:
    clips = [clip(0), clip(1)]
    stage = Stage(kind="rationale", query="plain")
    made = rationale_examples(clips, stage, prompts, written(*clips), seed=0)
    assert {e.prompt for e in made} == {prompts.plain_rationale()}
    assert "Yard Guard" not in prompts.plain_rationale()
    assert [e.answer for e in made] == ["text of c0", "text of c1"]


def test_labels_are_asked_for_under_a_query_of_their_own_where_given(prompts: Prompts) -> None:
    made = label_examples([clip(0), clip(1, "abnormal")], prompts, queries={"c0": "first?", "c1": "second?"})
    assert [(e.prompt, e.answer) for e in made] == [("first?", "normal"), ("second?", "abnormal")]


@pytest.mark.parametrize(
    ("clips", "stage", "expected"),
    [
        ([clip(0, None)], Stage(kind="label"), "no training clip has a label; fill the manifest's `label` column"),
        ([clip(0, None)], Stage(kind="joint"), "no training clip has a label; fill the manifest's `label` column"),
        (
            [clip(0), clip(1)],
            Stage(kind="rationale", clips="unlabelled"),
            "it learns rationales of unlabelled clips, and none of the 2 training clips is unlabelled",
        ),
        (
            [clip(0, None)],
            Stage(kind="rationale", clips="labelled"),
            "it learns rationales of labelled clips, and none of the 1 training clips is labelled",
        ),
        (
            [clip(0), clip(1)],
            Stage(kind="rationale", vote=Vote(keep_share=0.2)),
            "vote.keep_share 0.2 of 2 clips with own rationales keeps none; raise it",
        ),
    ],
)
def test_what_clips_lack_for_a_stage(clips: list[Clip], stage: Stage, expected: str, prompts: Prompts) -> None:
    assert stage_faults(clips, stage, prompts) == [expected]


def test_what_prompts_lack_for_a_stage(prompts: Prompts) -> None:
    bare = prompts.model_copy(
        update={
            "templates": prompts.templates.model_copy(update=dict.fromkeys(("plain", "hint", "described", "reasoned")))
        }
    )
    stages = [Stage(kind="rationale", query="plain", hint=Hint()), Stage(kind="label", describe_first=True), LABEL,
              Stage(kind="cot"), Stage(kind="reinforce")]  # fmt: skip
    assert [stage_faults([clip(0)], stage, prompts) for stage in stages] == [[], [], [], [], []]
    lacking = "the prompts 'default' have no template `{}`, which this stage asks with; add it"
    assert [stage_faults([clip(0)], stage, bare) for stage in stages] == [
        [lacking.format("plain"), lacking.format("hint")], [lacking.format("described")], [],
        [lacking.format("reasoned")], [lacking.format("reasoned")],
    ]  # fmt: skip


def test_a_cot_stage_thinks_the_rationale_and_answers_with_the_label(prompts: Prompts) -> None:
    clips = [clip(0), clip(1, "abnormal", rationale="human"), clip(2, None), clip(3)]
    texts = written(*clips[:3]) | written(clip(3), kept=False)
    made = cot_examples(clips, Stage(kind="cot"), prompts, texts, seed=0)
    assert [(e.clip_id, e.answer) for e in made] == [
        ("c0", "<think>text of c0</think><answer>normal</answer>"),
        ("c1", "<think>text of c1</think><answer>abnormal</answer>"),
    ]
    human = cot_examples(clips[1:2], Stage(kind="cot", self_share=0), prompts, {}, seed=0)
    assert human[0].answer == "<think>human</think><answer>abnormal</answer>"
    asked = reinforce_examples(clips, prompts)
    assert [(e.clip_id, e.answer) for e in asked] == [("c0", "normal"), ("c1", "abnormal"), ("c3", "normal")]
    assert {e.prompt for e in [*made, *human, *asked]} == {prompts.reasoned()}


def test_a_rationale_that_holds_a_tag_is_told(prompts: Prompts) -> None:
    bad = clip(0, rationale="It ends here </think>.")
    with pytest.raises(ExperimentError, match=r"clip c0: its rationale or label cannot be thought and answered: think"):
        cot_examples([bad], Stage(kind="cot", self_share=0), prompts, {}, seed=0)


def test_dropped_rationales_are_not_learnt(prompts: Prompts) -> None:
    texts = written(clip(0)) | written(clip(1), kept=False)
    made = rationale_examples([clip(0), clip(1)], Stage(kind="rationale"), prompts, texts, seed=0)
    assert [e.clip_id for e in made] == ["c0"]


def test_self_share_mixes_human_texts_under_the_seed(prompts: Prompts) -> None:
    clips = [clip(i, rationale=f"human {i}") for i in range(10)]
    stage = Stage(kind="rationale", self_share=0.4)
    made = rationale_examples(clips, stage, prompts, written(*clips), seed=0)
    assert sum(e.source == "human" for e in made) == 6
    assert all(e.answer.startswith("human" if e.source == "human" else "text of") for e in made)
    assert made == rationale_examples(clips, stage, prompts, written(*clips), seed=0)
    assert made != rationale_examples(clips, stage, prompts, written(*clips), seed=1)


def test_too_few_human_rationales(prompts: Prompts) -> None:
    clips = [clip(0, rationale="human"), clip(1), clip(2), clip(3)]
    with pytest.raises(
        ExperimentError, match=r"self_share 0\.5 asks for human rationales of 2 training clips; .* has 1"
    ):
        rationale_examples(clips, Stage(kind="rationale", self_share=0.5), prompts, written(*clips), seed=0)


def test_a_test_clip_or_its_twin_stops_training(prompts: Prompts) -> None:
    train, test = clip(0), clip(1, split="test")
    twin = clip(2).model_copy(update={"sha256": test.sha256})
    clips = {c.clip_id: c for c in (train, test, twin)}
    refuse_test_clips(label_examples([train], prompts), clips)
    for bad in (test, twin):
        with pytest.raises(LineageError, match=rf"training example {bad.clip_id} .* is a test clip, or has the same"):
            refuse_test_clips(label_examples([bad], prompts), clips)
