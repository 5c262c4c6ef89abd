"""Every arm through a whole run on the embedded model: who learns what, in how many steps, and what stands on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import rbft
from rbft.arms import PRESET_ARMS, Arm, Stage
from rbft.chains import run_arm, stage_examples
from rbft.errors import UserError
from rbft.evaluation.predict import LabelQuery
from rbft.experiment import Experiment, make_experiment
from rbft.files import read_jsonl
from rbft.findings import ArmRun, silent_labels
from rbft.prompts import Describing
from rbft.rationales.choose import dropped
from rbft.rationales.generate import Request
from rbft.records import Checkpoint, Example, Prediction, Rationale, fingerprint
from rbft.results import Report
from rbft.session import Session
from rbft.store import Card, read_card
from rbft.tiny.general import write_general
from rbft.tiny.night_yard import LABEL_DEFINITIONS, write_night_yard

pytestmark = pytest.mark.usefixtures("one_thread")

VOTE = {"samples": 3, "temperature": 1.0}
RATIONALE, LABEL = {"kind": "rationale"}, {"kind": "label"}
ARMS = [
    "rb-ft",
    "rb-ft-twice",
    "rb-ft-joint",
    "rb-ft-describe",
    {"name": "confident", "stages": [RATIONALE | {"vote": VOTE | {"keep_share": 0.5}}, LABEL]},
    {"name": "twice-matched", "stages": [LABEL | {"match_steps_of": "rb-ft-twice"}]},
]


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six labelled and two unlabelled training clips, and four test clips."""
    return write_night_yard(tmp_path_factory.mktemp("yard"), num_train=6, num_test=4, num_unlabelled=2, seed=3)


@pytest.fixture(scope="module")
def general(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clean clips with true descriptions."""
    return write_general(tmp_path_factory.mktemp("general"), 3)


def experiment(yard: Path, output: Path, **changes: object) -> Experiment:
    settings = {
        "name": "arms", "clips": str(yard), "model": "embedded", "prompts": "brief", "labels": LABEL_DEFINITIONS,
        "domain": "Night Yard Security Expert", "arms": ARMS, "seeds": [0], "output": str(output),
        "sampling": {"fps": 2, "min_pixels": 7056, "max_pixels": 7056}, "workers": 1,
        "rationales": {"max_new_tokens": 48, "batch_size": 8},
        "training": {"learning_rate": 3e-4, "micro_batch_size": 8, "batch_size": 8, "gradient_checkpointing": False},
        "evaluation": {"batch_size": 8, "resamples": 100, "generate": False},
    }  # fmt: skip
    return make_experiment(settings | changes)


@dataclass(frozen=True)
class Finished:
    """A run that ended: its session can still be asked what other arms would learn."""

    session: Session
    runs: dict[str, ArmRun]
    report: Report
    experiment: Experiment

    @property
    def root(self) -> Path:
        return self.session.store.root

    def chain(self, name: str) -> Sequence[Checkpoint]:
        return self.runs[name].checkpoints[0]

    def card(self, name: str) -> Card:
        return read_card(self.root / "checkpoints" / self.chain(name)[-1].fingerprint)

    def texts(self) -> dict[str, list[Rationale]]:
        """Every file of rationales by name."""
        return {f.stem: read_jsonl(f, Rationale) for f in sorted((self.root / "rationales").glob("*.jsonl"))}

    def examples(self, name: str, **stage: object) -> list[Example]:
        """What the first stage of a preset learns, or that stage with other settings."""
        arm = Arm(name=name, stages=PRESET_ARMS[name])
        if stage:
            changed = Stage.model_validate(arm.stages[0].model_dump() | stage)
            arm = arm.model_copy(update={"stages": (changed, *arm.stages[1:])})
        return stage_examples(self.session, arm, 1, 0)


@pytest.fixture(scope="module")
def finished(yard: Path, general: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    evaluation = {"batch_size": 8, "resamples": 100, "generate": False, "retention": str(general)}
    asked = experiment(yard, tmp_path_factory.mktemp("runs"), evaluation=evaluation)
    sessions, runs = [], {}

    def noted(session: Session, arm: Arm) -> ArmRun:
        sessions.append(session)
        runs[arm.name] = run_arm(session, arm)
        return runs[arm.name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rbft.runs.run_arm", noted)
        report = rbft.run(asked, quiet=True).report
    return Finished(sessions[0], runs, report, asked)


# -- what is learnt ------------------------------------------------------------------------------------------------


def test_every_arm_takes_the_steps_that_its_name_promises(finished: Finished) -> None:
    """Eight clips a step: one step a stage, and the arms that match take as many as the matched one."""
    steps = {name: [c.num_steps for c in finished.chain(name)] for name in finished.runs}
    assert steps == {
        "rb-ft": [1, 1], "rb-ft-twice": [1, 1, 1], "rb-ft-joint": [2], "rb-ft-describe": [1, 1], "confident": [1, 1],
        "twice-matched": [3],
    }  # fmt: skip


def test_rb_ft_learns_the_texts_of_all_training_clips(finished: Finished) -> None:
    prompts, train = finished.session.prompts, finished.session.manifest.of("train")
    made = finished.examples("rb-ft")
    assert [e.clip_id for e in made] == [c.clip_id for c in train]
    assert {e.prompt for e in made} == {prompts.rationale()}
    assert finished.examples("rb-ft-audited") == made, "these texts contradict no label"


def test_whose_rationales_are_learnt(finished: Finished) -> None:
    every = finished.examples("rb-ft")
    labelled = {c.clip_id for c in finished.session.manifest.of("train", labelled=True)}
    assert len(labelled) == 6
    assert finished.examples("rb-ft-labelled") == [e for e in every if e.clip_id in labelled]
    rest = finished.examples("rb-ft", clips="unlabelled")
    assert rest == [e for e in every if e.clip_id not in labelled]
    assert len(rest) == 2


def test_distilled_rationales_answer_the_plain_request(finished: Finished) -> None:
    made = finished.examples("rb-ft-distilled")
    assert [e.answer for e in made] == [e.answer for e in finished.examples("rb-ft")]
    assert {e.prompt for e in made} == {"Describe the subjects, attributes, actions and scenes of the clip."}


def test_a_joint_stage_learns_what_both_stages_of_rb_ft_learn(finished: Finished) -> None:
    labels = stage_examples(finished.session, Arm(name="rb-ft", stages=PRESET_ARMS["rb-ft"]), 2, 0)
    assert len(labels) == 6
    assert finished.examples("rb-ft-joint") == finished.examples("rb-ft") + labels


def test_voted_texts_stand_with_their_agreement(finished: Finished) -> None:
    made = finished.examples("rb-ft", vote=VOTE)
    assert len(made) == 8
    half = finished.examples("rb-ft", vote=VOTE | {"keep_share": 0.5})
    assert len(half) == 4
    assert all(example in made for example in half)
    chosen = [texts for texts in finished.texts().values() if texts[0].agreement is not None]
    assert sorted(sum(t.verdict.kept for t in texts) for texts in chosen) == [4, 8]
    for text in (text for texts in chosen for text in texts):
        assert set(text.agreement or {}) == {"subjects", "attributes", "actions", "scenes"}
        assert text.verdict.kept or text.verdict.reasons == ("low_agreement",)
    samples = [texts for texts in finished.texts().values() if texts[0].agreement is None and texts[0].seed > 0]
    assert len(samples) == 2, "three samples, the first under seed 0, written once for both"


def test_samples_that_lead_to_another_label_do_not_vote(finished: Finished) -> None:
    """Against the same question asked by hand: the label query after each sample's text."""
    session = finished.session
    made = {e.clip_id: e.answer for e in finished.examples("rb-ft", vote=VOTE | {"right_only": True})}
    every = {e.clip_id: e.answer for e in finished.examples("rb-ft", vote=VOTE)}
    [chosen] = [
        {t.clip_id: t for t in texts}
        for texts in finished.texts().values()
        if texts[0].agreement is not None and any("other_label" in t.verdict.reasons for t in texts)
    ]
    train = session.manifest.of("train")
    settings = session.experiment.rationales.model_copy(update={"temperature": 1.0})
    requests = [Request(session.prompts, settings, session.thresholds, sample=n) for n in range(3)]
    samples = [session.ask(session.base, request, train, what="samples") for request in requests]
    vlm = session.vlm(session.base.path, lambda: None)
    asked = LabelQuery(vlm, session.prompts, session.experiment.evaluation, session.prompts.describing(48))
    right = 0
    for clip in train:
        if clip.label is None:
            assert made[clip.clip_id] == every[clip.clip_id], "without a label every sample votes"
            continue
        frames, plan = session.frames.read(clip.clip_id), session.frames.plan(clip.clip_id)
        encoded = [asked.encode(frames, plan, sample[clip.clip_id].text) for sample in samples]
        labels = [p.label for p in asked.answer("base", [(clip.clip_id, clip.label)] * len(encoded), encoded)]
        assert (clip.clip_id in made) == (clip.label in labels), (clip.clip_id, labels)
        if clip.label not in labels:
            assert "other_label" in chosen[clip.clip_id].verdict.reasons
        right += labels.count(clip.label)
    assert 0 < right < 18, "some samples lead to the label, some do not"


def test_hinted_texts_are_of_labelled_clips_and_say_what_the_free_ones_say(finished: Finished) -> None:
    prompts = finished.session.prompts
    free = {e.clip_id: e.answer for e in finished.examples("rb-ft")}
    made = finished.examples("rb-ft-hinted")
    assert made
    assert {e.prompt for e in made} == {prompts.rationale()}, "the hint is not learnt"
    assert all(e.answer == free[e.clip_id] for e in made), "short texts: the same words"
    told = [t for t in finished.texts().values() if t[0].prompt_fingerprint != fingerprint(prompts.rationale())]
    labelled = finished.session.manifest.of("train", labelled=True)
    hinted = {fingerprint(prompts.hinted_rationale(str(c.label))) for c in labelled}
    theirs = [texts for texts in told if {t.prompt_fingerprint for t in texts} <= hinted]
    assert [sorted(t.clip_id for t in texts) for texts in theirs] == [sorted(c.clip_id for c in labelled)] * 2
    assert min(sum(t.verdict.kept for t in texts) for texts in theirs) == len(made), "as written, and as chosen"


def test_the_second_round_is_written_by_the_first_ones_checkpoint(finished: Finished) -> None:
    first, second, _ = finished.chain("rb-ft-twice")
    assert first == finished.chain("rb-ft")[0], "the first round is shared"
    written = [texts for texts in finished.texts().values() if texts[0].engine.endswith(first.fingerprint)]
    assert [len(texts) for texts in written] == [8]
    assert second.parent == first.fingerprint


# -- describe, then classify ---------------------------------------------------------------------------------------


def test_labels_are_learnt_after_the_description(finished: Finished) -> None:
    prompts = finished.session.prompts
    texts = {e.clip_id: e.answer for e in finished.examples("rb-ft")}
    made = stage_examples(finished.session, Arm(name="rb-ft-describe", stages=PRESET_ARMS["rb-ft-describe"]), 2, 0)
    assert len(made) == 6
    for example in made:
        assert example.prompt == f"{texts[example.clip_id]} {prompts.label()}"
        assert example.answer == finished.session.clips[example.clip_id].label


def test_describe_then_classify_is_the_same_in_evaluation_and_prediction(finished: Finished, yard: Path) -> None:
    card = finished.card("rb-ft-describe")
    assert card.describing == Describing(template="{rationale} {query}", max_new_tokens=48)
    assert finished.card("rb-ft").describing is None
    key = card.checkpoint.fingerprint
    [told] = [texts for texts in finished.texts().values() if texts[0].engine.endswith(key)]
    described = {text.clip_id: text.text for text in told}
    test = finished.session.manifest.of("test")
    assert set(described) >= {clip.clip_id for clip in test}
    classifier = rbft.Classifier.load(finished.root / "checkpoints" / key)
    answers = classifier.predict([yard.parent / clip.path for clip in test], rationale=True)
    made = finished.runs["rb-ft-describe"].predictions[0]
    for prediction, answer in zip(made, answers, strict=True):
        assert answer.probabilities == pytest.approx(prediction.probabilities, abs=1e-4)
        assert answer.rationale == described[prediction.clip_id]
    assert classifier.predict(yard.parent / test[0].path).rationale is None, "it is shown where it was asked for"


# -- the report ----------------------------------------------------------------------------------------------------


def test_the_report_says_what_each_arm_chose_from(finished: Finished) -> None:
    told = {name: arm.rationales for name, arm in finished.report.arms.items()}
    assert told["twice-matched"] is None
    assert {name: (r.written, r.kept) for name, r in told.items() if r is not None} == {
        "rb-ft": (8, 8), "rb-ft-twice": (16, 16), "rb-ft-joint": (8, 8), "rb-ft-describe": (8, 8), "confident": (8, 4),
    }  # fmt: skip
    assert told["confident"] is not None
    assert told["confident"].dropped == {"low_agreement": 4}


def test_the_report_says_of_which_label_an_arm_learns_nothing(finished: Finished) -> None:
    run, manifest = finished.runs["rb-ft"], finished.session.manifest
    abnormal = {clip.clip_id for clip in manifest.of("train") if clip.label == "abnormal"}
    texts = [dropped(r, "other_label") if r.clip_id in abnormal else r for r in run.rationales]
    findings = SimpleNamespace(
        manifest=manifest, labels=list(manifest.labels), arms={"rb-ft": run, "mine": replace(run, rationales=texts)}
    )
    assert silent_labels(findings) == [
        f"mine learns no rationale of a clip labelled 'abnormal': all {len(abnormal)} were dropped"
    ]
    assert not any(note.startswith("rb-ft learns") for note in finished.report.notes)


def test_the_report_says_what_each_arm_forgot(finished: Finished, general: Path) -> None:
    """The base describes clean clips as they are rendered; the page has a row for every trained arm."""
    kept = finished.report.retention
    assert kept is not None
    assert kept.clips == 3
    assert list(kept.base) == ["subjects", "attributes", "actions", "scenes", "mean"]
    assert kept.base["scenes"].mean == 1.0
    assert list(kept.arms) == list(finished.runs)
    for found in kept.arms.values():
        for name, change in found.difference.items():
            assert change.mean == pytest.approx(found.f1[name].mean - kept.base[name].mean)
    page = (finished.root / "report.html").read_text(encoding="utf-8")
    assert "What was forgotten" in page
    told = [t for texts in finished.texts().values() for t in texts if t.clip_id.startswith("general-")]
    last = {chain[-1].fingerprint for chain in map(finished.chain, finished.runs)}
    assert len(told) == 3 * (1 + len(last)), "once for the base and once for every last checkpoint"


# -- again ---------------------------------------------------------------------------------------------------------


def test_again_redoes_nothing_and_a_torn_sample_is_written_again(finished: Finished) -> None:
    def contents() -> dict[Path, int]:
        files = [f for part in ("rationales", "checkpoints", "logs") for f in (finished.root / part).rglob("*")]
        return {f: f.stat().st_mtime_ns for f in files if f.is_file()}

    texts = finished.texts()
    predictions = {f: read_jsonl(f, Prediction) for f in (finished.root / "predictions").glob("*.jsonl")}
    sample = next(name for name, t in texts.items() if t[0].agreement is None and t[0].seed > 0)
    torn = finished.root / "rationales" / f"{sample}.jsonl"
    lines = torn.read_text(encoding="utf-8").splitlines(keepends=True)
    before = contents()
    torn.write_text("".join(lines[:3]) + lines[3][:20], encoding="utf-8")
    rbft.run(finished.experiment, quiet=True)
    after = contents()
    assert before.pop(torn) != after.pop(torn)
    assert after == before
    again = finished.texts()
    assert sorted(again.pop(sample), key=str) == sorted(texts.pop(sample), key=str), "the same texts under their seed"
    assert again == texts
    assert {f: read_jsonl(f, Prediction) for f in predictions} == predictions


# -- faults, before any work ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        (
            [RATIONALE | {"vote": VOTE | {"keep_share": 0.05}}, LABEL],
            "stage 1 (rationale): vote.keep_share 0.05 of 8 clips with own rationales keeps none; raise it",
        ),
        (
            [RATIONALE | {"self_share": 0.5, "clips": "unlabelled", "vote": VOTE | {"keep_share": 0.4}}, LABEL],
            "stage 1 (rationale): vote.keep_share 0.4 of 1 clips with own rationales keeps none; raise it",
        ),
    ],
)
def test_what_a_stage_cannot_do_is_told_first(
    stages: list[dict[str, object]], expected: str, yard: Path, finished: Finished
) -> None:
    asked = experiment(yard, Path(finished.experiment.output), name="faulty", arms=[{"name": "mine", "stages": stages}])
    with pytest.raises(UserError) as caught:
        rbft.run(asked, quiet=True)
    assert f"arm 'mine', {expected}" in str(caught.value)
    assert not (Path(asked.output) / "faulty" / "rationales").exists()


def test_a_template_that_is_not_there_is_told_first(yard: Path, finished: Finished, tmp_path: Path) -> None:
    brief = (Path(rbft.__file__).parent / "prompts" / "brief.yaml").read_text(encoding="utf-8")
    mine = tmp_path / "mine.yaml"
    mine.write_text("".join(line for line in brief.splitlines(keepends=True) if not line.startswith(("plain", "hint"))))
    arms = ["rb-ft-distilled", "rb-ft-hinted", "rb-ft-describe"]
    with pytest.raises(UserError) as caught:
        rbft.run(experiment(yard, Path(finished.experiment.output), name="mine", arms=arms, prompts=str(mine)))
    assert str(caught.value).splitlines() == [
        f"arm 'rb-ft-{arm}', stage 1 (rationale): the prompts 'brief' have no template `{name}`, which this stage asks "
        "with; add it"
        for arm, name in (("distilled", "plain"), ("hinted", "hint"))
    ]


def test_general_clips_must_be_described_and_not_trained_on(yard: Path, finished: Finished, tmp_path: Path) -> None:
    def told(manifest: Path) -> str:
        evaluation = {"resamples": 100, "retention": str(manifest)}
        asked = experiment(yard, Path(finished.experiment.output), name="g", arms=["zero-shot"], evaluation=evaluation)
        with pytest.raises(UserError) as caught:
            rbft.run(asked, quiet=True)
        return str(caught.value)

    bare = tmp_path / "bare.csv"
    trained = yard.parent / finished.session.manifest.of("train")[0].path
    (tmp_path / "twin.mp4").write_bytes(trained.read_bytes())
    bare.write_text("path\ntwin.mp4\n", encoding="utf-8")
    assert told(bare) == (
        f"evaluation.retention: {bare}: no clip has a human description; fill a column named `rationale`"
    )
    twin = tmp_path / "twin.csv"
    twin.write_text("path,rationale\ntwin.mp4,Subjects: a dog.\n", encoding="utf-8")
    assert "twin.mp4 holds the same bytes as the training clip " in told(twin)
