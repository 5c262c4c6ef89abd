"""What a user asks for: the paper's defaults, every fault in one message, and a file that means what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbft.errors import ExperimentError
from rbft.experiment import (
    PRESET_ARMS,
    Arm,
    Experiment,
    Lora,
    Reinforce,
    Stage,
    Training,
    load_experiment,
    make_experiment,
)

SMALLEST = {"name": "x", "clips": "clips.csv", "model": "embedded"}
PLAIN_NAME = "must start with a letter or digit; letters, digits, '.', '_' and '-' may follow, 64 in all"
PRESETS = ", ".join(PRESET_ARMS)


def faults(**changes: Any) -> list[str]:
    """What is wrong with the smallest experiment and these changes, without where it came from."""
    with pytest.raises(ExperimentError) as caught:
        make_experiment(SMALLEST | changes, where="x.yaml")
    assert all(fault.startswith("x.yaml: ") for fault in caught.value.faults)
    return [fault.removeprefix("x.yaml: ") for fault in caught.value.faults]


def loaded(folder: Path, text: str, *overrides: str) -> Experiment:
    path = folder / "x.yaml"
    path.write_text(text, encoding="utf-8")
    return load_experiment(path, overrides)


def arm(*stages: dict[str, Any], name: str = "mine") -> dict[str, Any]:
    return {"name": name, "stages": list(stages)}


# -- defaults ------------------------------------------------------------------------------------------------------


def test_the_smallest_file_has_the_papers_recipe(tmp_path: Path) -> None:
    """arXiv 2511.15923, section 4.1."""
    experiment = loaded(tmp_path, "clips: clips.csv\nmodel: Qwen/Qwen2.5-VL-7B-Instruct\n")
    training = experiment.training
    assert experiment.name == "x"
    assert (training.learning_rate, training.vision_learning_rate) == (1e-5, 2e-6)
    assert (training.scheduler, training.warmup_ratio) == ("cosine", 0.03)
    assert (training.weight_decay, training.max_grad_norm) == (0.1, 1.0)
    assert (training.batch_size, training.epochs) == (16, 1.0)
    assert (training.micro_batch_size, training.gradient_checkpointing) == (None, None), "as many as fit"
    assert (training.method, training.lora) == ("auto", None)
    assert training.class_weights == "none"
    sampling = experiment.sampling
    assert (sampling.fps, sampling.min_frames, sampling.max_frames) == (1.0, 4, 768)
    assert (sampling.min_pixels, sampling.max_pixels) == (100_352, 151_200)
    assert sampling.max_pixels == 360 * 420


def test_other_defaults_are_the_careful_ones() -> None:
    experiment = make_experiment(SMALLEST)
    assert [a.name for a in experiment.arms] == ["zero-shot", "direct", "direct-matched", "rb-ft"]
    assert experiment.seeds == (0, 1, 2)
    assert experiment.on_bad_clip == "stop"
    assert not experiment.allow_outside
    assert not experiment.allow_remote_code
    assert experiment.rationales.temperature == 0
    assert not experiment.rationales.drop_contradicting
    assert experiment.evaluation.generate
    assert (experiment.limits.seconds, experiment.limits.megabytes) == (10, 1_000)


def test_presets() -> None:
    experiment = make_experiment(SMALLEST | {"arms": list(PRESET_ARMS)})
    assert experiment.arms == tuple(Arm(name=name, stages=stages) for name, stages in PRESET_ARMS.items())


def test_arms_written_out() -> None:
    stages = [{"kind": "rationale", "self_share": 0.4}, {"kind": "label", "training": {"epochs": 2}}]
    experiment = make_experiment(SMALLEST | {"arms": ["direct", arm(*stages)], "training": {"batch_size": 8}})
    assert experiment.arm("mine").stages == (
        Stage(kind="rationale", self_share=0.4), Stage(kind="label", training={"epochs": 2}),
    )  # fmt: skip
    assert experiment.stage_training(experiment.arm("mine").stages[1]) == Training(batch_size=8, epochs=2)
    assert experiment.stage_training(experiment.arm("mine").stages[0]) == Training(batch_size=8)


def test_arm_finds_the_experiments_own_before_the_presets() -> None:
    experiment = make_experiment(SMALLEST | {"arms": [arm({"kind": "label"}, name="rb-ft")]})
    assert experiment.arm("rb-ft").stages == (Stage(kind="label"),)
    assert experiment.arm("direct").stages == PRESET_ARMS["direct"]
    with pytest.raises(ExperimentError) as caught:
        experiment.arm("RBFT")
    assert str(caught.value) == (
        "no arm 'RBFT'; did you mean 'rb-ft'? "
        f"Arms are rb-ft, {', '.join(name for name in PRESET_ARMS if name != 'rb-ft')}"
    )


def test_everything_survives_json() -> None:
    experiment = make_experiment(
        SMALLEST
        | {
            "labels": {"no": "x", "Ja": ""},
            "arms": [*PRESET_ARMS, arm({"kind": "label", "training": {"lora": {"rank": 4}, "epochs": 0.5}})],
            "training": {"lora": {"alpha": 8}},
        }
    )
    again = Experiment.model_validate_json(experiment.model_dump_json())
    assert again == experiment
    assert list(again.labels) == ["no", "Ja"]
    assert again.stage_training(again.arm("mine").stages[0]).lora == Lora(rank=4)
    assert make_experiment(experiment.model_dump()) == experiment


def test_a_reinforce_stage_has_a_recipe_of_its_own() -> None:
    stages = [{"kind": "cot"}, {"kind": "reinforce", "reinforce": {"samples": 4}, "training": {"weight_decay": 0.5}}]
    experiment = make_experiment(
        SMALLEST | {"arms": [arm(*stages)], "training": {"learning_rate": 3e-4}, "reinforce": {"learning_rate": 2e-6}}
    )
    cot, last = experiment.arm("mine").stages
    assert experiment.stage_training(cot).learning_rate == 3e-4
    recipe = experiment.stage_training(last)
    assert (recipe.learning_rate, recipe.batch_size, recipe.weight_decay, recipe.max_grad_norm) == (2e-6, 8, 0.5, 5.0)
    assert experiment.stage_reinforce(last) == Reinforce(samples=4, learning_rate=2e-6, encoder="embedded")
    assert experiment.reinforce_of(cot) is None
    terms = Reinforce.model_validate({"rewards": {"label_free": 0.5, "format": 0.2}})
    assert terms.changed({"rewards": {"format": 2}}).rewards.weights == {"format": 2, "accuracy": 1, "label_free": 0.5}


def test_an_encoder_is_named_where_rewards_need_one() -> None:
    semantic = {"rewards": {"semantic": 1}}
    stages = arm({"kind": "reinforce"}, {"kind": "reinforce", "reinforce": semantic})
    asked = SMALLEST | {"arms": [stages]}
    assert make_experiment(asked).encoders == ["embedded"], "the model's own default"
    assert make_experiment(asked | {"model": "owner/name"}).encoders == ["google/siglip2-so400m-patch14-384"]
    named = make_experiment(asked | {"model": "owner/name", "reinforce": {"encoder": "owner/other"}})
    assert named.encoders == ["owner/other"]
    plain, gated = named.arm("mine").stages
    assert named.stage_reinforce(plain).encoder_used is None
    assert named.stage_reinforce(gated).encoder_used == "owner/other"
    assert make_experiment(SMALLEST | {"arms": ["rb-ft+grpo"]}).encoders == []
    assert make_experiment(SMALLEST | {"arms": ["rb-ft+grpo"], "reinforce": semantic}).encoders == ["embedded"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"samples": 1},
            "samples: 1 is no group; answers are compared with others to the same question, take 2 or more",
        ),
        ({"encoder": 3}, "encoder: must be text; put it in quotes (given: 3)"),
        ({"beta": -1}, "beta: Input should be greater than or equal to 0 (given: -1)"),
        ({"sample": 3}, "sample: no such setting; did you mean 'samples'?"),
    ],
)
def test_faults_of_reinforcement(given: dict[str, Any], expected: str) -> None:
    [fault] = faults(reinforce=given)
    assert fault.partition("reinforce.")[2].startswith(expected)
    [in_stage] = faults(arms=[arm({"kind": "reinforce", "reinforce": given})])
    assert "mine: stage 1: reinforce." in in_stage
    assert in_stage.partition("reinforce.")[2].startswith(expected)


# -- faults --------------------------------------------------------------------------------------------------------


def test_all_faults_at_once() -> None:
    assert faults(
        fsp=1,
        arms=["rbft", "nonsense", "direct", "direct"],
        seeds=[1, 1],
        labels=["only"],
        sampling={"fps": 0, "min_pixel": 3},
        training={"batch_size": "many", "lora": {"rnk": 2}},
        clips=None,
    ) == [
        "clips: is empty; give a value, or leave it out for the default",
        "labels: one label ('only') cannot be classified; give two or more",
        f"arms.0: unknown arm 'rbft'; did you mean 'rb-ft'? Known: {PRESETS}, or write name and stages",
        f"arms.1: unknown arm 'nonsense'. Known: {PRESETS}, or write name and stages",
        "seeds: [1, 1] must be one or more different integers from 0 to 4294967295",
        "sampling.fps: Input should be greater than 0 (given: 0)",
        "sampling.min_pixel: no such setting; did you mean 'min_pixels'?",
        "training.batch_size: Input should be a valid integer, unable to parse string as an integer (given: 'many')",
        "training.lora.rnk: no such setting; did you mean 'rank'?",
        "fsp: no such setting; there are name, clips, questions, model, revision, domain, labels, arms, seeds, "
        "prompts, sampling, limits, split, rationales, training, reinforce, curation, evaluation, on_bad_clip, "
        "on_changed_clip, allow_outside, allow_remote_code, output, workers, memory_gib",
    ]


def test_what_is_missing() -> None:
    with pytest.raises(ExperimentError) as caught:
        make_experiment({})
    assert caught.value.faults == [f"experiment: {n}: is needed and was not given" for n in ("name", "clips", "model")]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"Seeds": [1]}, "Seeds: no such setting; did you mean 'seeds'?"),
        ({"epochs": 1}, "epochs: no such setting; there are name, clips, questions, model"),
        ({"sampling": {"FPS": 1}}, "sampling.FPS: no such setting; did you mean 'fps'?"),
        (
            {"arms": [arm({"kind": "label", "formt": 1})]},
            "arms.0.stages.0.formt: no such setting; did you mean 'format'?",
        ),
        ({"arms": [{"nam": "x", "name": "x", "stages": []}]}, "arms.0.nam: no such setting; did you mean 'name'?"),
        ({"arms": "rb-ft"}, "arms: must be a list (given: 'rb-ft')"),
        ({"arms": []}, "arms: name at least one of " + PRESETS),
        ({"arms": [3]}, "arms.0: must be a mapping of names to values (given: 3)"),
        ({"arms": ["direct", "rb-ft", "direct"]}, "arms: two arms share a name: direct, rb-ft, direct"),
        (
            {"arms": [arm(name="a/b")]},
            f"arms.0.name: {PLAIN_NAME} (given: 'a/b')",
        ),
        (
            {"name": "../x"},
            f"name: {PLAIN_NAME} (given: '../x')",
        ),
        ({"name": 2024}, "name: must be text; put it in quotes (given: 2024)"),
        ({"seeds": 3}, "seeds: must be a list (given: 3)"),
        ({"seeds": []}, "seeds: [] must be one or more different integers from 0 to 4294967295"),
        ({"seeds": [-1]}, "seeds: [-1] must be one or more different integers from 0 to 4294967295"),
        ({"seeds": [2**32]}, "seeds: [4294967296] must be one or more different integers from 0 to 4294967295"),
        ({"training": None}, "training: is empty; give a value, or leave it out for the default"),
        (
            {"training": {"batch_size": 16, "micro_batch_size": 3}},
            "training: micro_batch_size 3 does not divide batch_size 16",
        ),
        ({"training": {"epochs": float("inf")}}, "training.epochs: Input should be a finite number (given: inf)"),
        (
            {"training": {"learning_rate": float("nan")}},
            "training.learning_rate: Input should be a finite number (given: nan)",
        ),
        (
            {"training": {"method": "full", "lora": {"rank": 4}}},
            "training: method full and lora exclude each other; leave one of them out",
        ),
        ({"memory_gib": 0}, "memory_gib: Input should be greater than 0 (given: 0)"),
        ({"training": {"lora": True}}, "training.lora: must be a mapping of names to values (given: True)"),
        ({"sampling": {"min_pixels": 200_000}}, "sampling: min_pixels 200000 is above max_pixels 151200"),
        ({"sampling": {"min_frames": 8, "max_frames": 4}}, "sampling: min_frames 8 is above max_frames 4"),
        ({"on_bad_clip": "skip"}, "on_bad_clip: Input should be 'stop' or 'leave-out' (given: 'skip')"),
    ],
)
def test_faults(changes: dict[str, Any], expected: str) -> None:
    [fault] = faults(**changes)
    assert fault.startswith(expected)
    assert fault == expected or "there are" in expected


def test_overrides_of_a_stage_are_checked_against_the_recipe() -> None:
    stages = [{"kind": "rationale", "training": {"epoch": 2}}, {"kind": "label", "training": {"micro_batch_size": 5}}]
    assert faults(arms=[arm(*stages, {"kind": "label", "training": {"epochs": 0, "lora": {"alfa": 1}}})]) == [
        "arms: mine: stage 1: training.epoch: no such setting; did you mean 'epochs'?",
        "arms: mine: stage 2: training.micro_batch_size 5 does not divide batch_size 16",
        "arms: mine: stage 3: training.epochs: Input should be greater than 0 (given: 0)",
        "arms: mine: stage 3: training.lora.alfa: no such setting; did you mean 'alpha'?",
    ]


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        (
            ["direct", {"mine": "mine"}],
            "arm 'mine' matches the steps of 'mine' itself; name an arm with steps of its own",
        ),
        (
            [{"mine": "yours", "yours": "mine"}],
            "arm 'yours' matches the steps of 'mine' itself; name an arm with steps of its own",
        ),
        ([{"mine": "zero-shot"}], "arm 'zero-shot' has no stage, so no steps to match"),
        ([{"mine": "RB-FTs"}], f"no arm 'RB-FTs'; did you mean 'rb-ft'? Arms are {PRESETS}, mine"),
    ],
)
def test_steps_are_not_matched_in_a_circle(arms: list[Any], expected: str) -> None:
    """Matching in a circle has no answer, and an arm without stages has no steps."""
    written: list[Any] = []
    for given_ in arms:
        if isinstance(given_, str):
            written.append(given_)
        else:
            written += [arm({"kind": "label", "match_steps_of": other}, name=name) for name, other in given_.items()]
    assert faults(arms=written)[0] == f"arms: mine: stage 1: match_steps_of: {expected}"


def test_steps_of_a_preset_that_is_not_run_can_be_matched() -> None:
    experiment = make_experiment(SMALLEST | {"arms": ["direct-matched"]})
    assert experiment.arm(str(experiment.arms[0].stages[0].match_steps_of)).name == "rb-ft"


def test_general_clips_are_looked_for_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "general.csv").write_text("path,rationale\n")
    text = "clips: c\nmodel: m\nevaluation: {retention: general.csv}\n"
    assert loaded(tmp_path, text).evaluation.retention == str(tmp_path / "general.csv")
    assert loaded(tmp_path, text.replace("general", "other")).evaluation.retention == "other.csv"
    assert make_experiment(SMALLEST).evaluation.retention is None


# -- labels --------------------------------------------------------------------------------------------------------


def test_labels_as_a_list_and_as_a_mapping(tmp_path: Path) -> None:
    head = "clips: c\nmodel: m\n"
    assert loaded(tmp_path, head + "labels: [no, on, 01, 1e3, true, NULL, 2024-01-01]").labels == dict.fromkeys(
        ["no", "on", "01", "1e3", "true", "NULL", "2024-01-01"], ""
    )
    text = head + "labels:\n  no: yes\n  on:\n  2: 1.0\n  long: |\n    a person\n    falls\n"
    assert loaded(tmp_path, text).labels == {"no": "yes", "on": "", "2": "1.0", "long": "a person falls"}
    assert make_experiment(SMALLEST | {"labels": [1, 2]}).labels == {"1": "", "2": ""}
    assert make_experiment(SMALLEST | {"labels": []}).labels == {}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["a", ""], "'' is empty; a label is a word or a few"),
        (["a", " \t"], "' \\t' is empty; a label is a word or a few"),
        (["a", " b "], "' b ' has spaces around it; write 'b'"),
        (["a", "b\nc"], "'b\\nc' holds a line break or another control character"),
        (["a", "b\x1b[2J"], "'b\\x1b[2J' holds a line break or another control character"),
        (["a", "b\u2028c"], "'b\\u2028c' holds a line break or another control character"),
        (["a", "b", "a"], "'a' is there twice; keep one"),
        ({1: "x", "1": "y"}, "'1' is there twice; keep one"),
        (["Fight", "fight"], "'Fight' and 'fight' differ only in case, spaces or form of letters; keep one"),
        (
            ["no  fight", "no fight"],
            "'no  fight' and 'no fight' differ only in case, spaces or form of letters; keep one",
        ),
        (["straße", "STRASSE"], "'straße' and 'STRASSE' differ only in case, spaces or form of letters; keep one"),
        (["ﬁght", "fight"], "'ﬁght' and 'fight' differ only in case, spaces or form of letters; keep one"),
        (
            ["caf\u00e9", "cafe\u0301"],
            "'café' and 'cafe\u0301' differ only in case, spaces or form of letters; keep one",
        ),
        ([False, "x"], "False is not text; put it in quotes"),
        ([None, "x"], "None is not text; put it in quotes"),
        ({1.5: "", "x": ""}, "1.5 is not text; put it in quotes"),
        (["one"], "one label ('one') cannot be classified; give two or more"),
    ],
)
def test_labels_that_could_not_be_told_apart_or_written(labels: Any, expected: str) -> None:
    assert faults(labels=labels) == [f"labels: {expected}"]


def test_all_faults_of_labels_at_once_and_definitions_are_text() -> None:
    assert len(faults(labels=["", " a", "a", "A", True])) == 4
    assert faults(labels={"a": 3, "b": ""}) == ["labels.a: must be text; put it in quotes (given: 3)"]
    assert faults(labels="a, b") == ["labels: must be a mapping of names to values (given: 'a, b')"]


# -- files and overrides -------------------------------------------------------------------------------------------


def test_overrides(tmp_path: Path) -> None:
    text = "clips: c\nmodel: m\nseeds: [0]\nsampling: {fps: 2}\nlabels: {no: x, b: y}\n"
    experiment = loaded(
        tmp_path, text + "training:\n", "seeds=[3, 4]", "training.lora.rank=4", "training.epochs=2", "sampling.fps=4",
        "clips=other=1", "labels.no=off", "arms=[direct]", "revision=",
    )  # fmt: skip
    assert experiment.seeds == (3, 4)
    assert experiment.training == Training(epochs=2, lora=Lora(rank=4))
    assert experiment.sampling.fps == 4
    assert experiment.clips == "other=1"
    assert experiment.labels == {"no": "off", "b": "y"}
    assert [a.name for a in experiment.arms] == ["direct"]
    assert experiment.revision is None
    assert loaded(tmp_path, text, "labels={no: on, off: }").labels == {"no": "on", "off": ""}
    assert loaded(tmp_path, text, "labels=[no, on]").labels == {"no": "", "on": ""}


def test_all_faults_of_overrides_at_once(tmp_path: Path) -> None:
    text = "clips: c\nmodel: m\nseeds: [0]\narms: [direct]\n"
    with pytest.raises(ExperimentError) as caught:
        loaded(
            tmp_path, text, "fps", "=1", "seeds.0=1", "clips.x.y=1", "seeds=[1", "seeds=*a", "name=!!python/name:x a"
        )
    assert caught.value.faults == [
        "'fps' is not an override; write key=value, for example training.epochs=2",
        "'=1' is not an override; write key=value, for example training.epochs=2",
        "'seeds.0=1': 'seeds.0' is not a place in an experiment; give the whole of 'seeds'",
        "'clips.x.y=1': 'clips.x.y' is not a place in an experiment; give the whole of 'clips.x'",
        "'seeds=[1': the value is not readable: line 1, column 3: while parsing a flow sequence, "
        "expected ',' or ']', but got '<stream end>'",
        "'seeds=*a': the value is not readable: line 1, column 1: aliases (*name) are not used here",
        "'name=!!python/name:x a': the value is not readable: line 1, column 1: could not determine a constructor for "
        "the tag 'tag:yaml.org,2002:python/name:x'",
    ]
    with pytest.raises(ExperimentError) as caught:
        loaded(tmp_path, text, "trainin.epochs=2", "seeds=[[[]]]")
    assert caught.value.faults == [
        f"{tmp_path / 'x.yaml'}: seeds.0: Input should be a valid integer (given: [[]])",
        f"{tmp_path / 'x.yaml'}: trainin: no such setting; did you mean 'training'?",
    ]


def test_relative_paths_are_beside_the_file_where_they_are_there(tmp_path: Path) -> None:
    for name in ("clips.csv", "prompts.yaml"):
        (tmp_path / name).write_text("")
    (tmp_path / "model").mkdir()
    experiment = loaded(tmp_path, "clips: clips.csv\nmodel: model\nprompts: prompts.yaml\noutput: out\n")
    assert experiment.clips == str(tmp_path / "clips.csv")
    assert experiment.model == str(tmp_path / "model")
    assert experiment.prompts == str(tmp_path / "prompts.yaml")
    assert experiment.output == "out"
    elsewhere = loaded(tmp_path, "clips: none.csv\nmodel: Qwen/Qwen2.5-VL-7B-Instruct\n", "clips=clips.csv")
    assert (elsewhere.clips, elsewhere.model) == ("clips.csv", "Qwen/Qwen2.5-VL-7B-Instruct")
    absolute = loaded(tmp_path, f"clips: {tmp_path / 'clips.csv'}\nmodel: embedded\n")
    assert absolute.clips == str(tmp_path / "clips.csv")


def test_a_folder_does_not_hide_what_is_built_in(tmp_path: Path) -> None:
    for name in ("embedded", "brief", "default"):
        (tmp_path / name).mkdir()
    experiment = loaded(tmp_path, "clips: c\nmodel: embedded\nprompts: brief\n")
    assert (experiment.model, experiment.prompts) == ("embedded", "brief")


@pytest.mark.parametrize("text", ["", "[a]", "just words", "3"])
def test_a_file_that_is_no_experiment(text: str, tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"x\.yaml: an experiment is a mapping of names to values, this holds "):
        loaded(tmp_path, text)


def test_an_empty_clips_or_a_missing_one_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"x\.yaml: clips: is needed and was not given$"):
        loaded(tmp_path, "model: m")
    with pytest.raises(
        ExperimentError, match=r"x\.yaml: clips: is empty; give a value, or leave it out for the default$"
    ):
        loaded(tmp_path, "model: m\nclips:\n")


def test_the_files_name_is_the_default_name(tmp_path: Path) -> None:
    (tmp_path / "my run.yaml").write_text("clips: c\nmodel: m\n")
    with pytest.raises(ExperimentError, match=r"name: must start with a letter or digit; .* \(given: 'my run'\)"):
        load_experiment(tmp_path / "my run.yaml")
    assert load_experiment(tmp_path / "my run.yaml", ["name=run-1"]).name == "run-1"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*Experiment.model_fields, "other"]), VALUES, max_size=6))
@settings(max_examples=300)
def test_any_document_is_an_experiment_or_faults_in_words(document: dict[str, Any]) -> None:
    try:
        experiment = make_experiment(SMALLEST | document)
    except ExperimentError as error:
        assert error.faults
        assert all(fault.startswith("experiment: ") for fault in error.faults)
        return
    assert Experiment.model_validate_json(experiment.model_dump_json()) == experiment


# -- questions -----------------------------------------------------------------------------------------------------

ABOUT = {"name": "q", "model": "embedded", "questions": {"train": "train.jsonl", "test": "test.jsonl"}}


def question_faults(**changes: Any) -> list[str]:
    with pytest.raises(ExperimentError) as caught:
        make_experiment(ABOUT | changes, where="q.yaml")
    return [fault.removeprefix("q.yaml: ") for fault in caught.value.faults]


def test_questions_stand_in_place_of_clips_and_bring_their_arms(tmp_path: Path) -> None:
    experiment = make_experiment(ABOUT)
    assert experiment.clips == ""
    assert [arm.name for arm in experiment.arms] == ["zero-shot", "cot", "cot+grpo"]
    assert [[stage.kind for stage in arm.stages] for arm in experiment.arms] == [[], ["cot"], ["cot", "reinforce"]]
    assert make_experiment(experiment.model_dump(mode="json")) == experiment, "as a report's settings are run again"
    for name in ("train", "test", "cot"):
        (tmp_path / f"{name}.jsonl").touch()
    text = "model: embedded\nquestions: {train: train.jsonl, test: test.jsonl, cot: cot.jsonl, videos: gone}\n"
    files = loaded(tmp_path, text).questions
    assert files is not None
    assert (files.train, files.cot) == (str(tmp_path / "train.jsonl"), str(tmp_path / "cot.jsonl"))
    assert files.videos == "gone", "what is not beside the file is taken as it is written"


def test_near_duplicates_are_for_questions_too() -> None:
    document = {"name": "q", "model": "embedded", "questions": {"train": "a.jsonl", "test": "b.jsonl"}}
    split = {"near_duplicates": "note"}
    assert make_experiment(document | {"split": split}).split.near_duplicates == "note"
    off = make_experiment(document | {"split": {"near_duplicates": False}})
    assert off.split.near_duplicates == "off", "as YAML reads the word without quotes"
    with pytest.raises(ExperimentError, match="split: belongs to runs on labelled clips"):
        make_experiment(document | {"split": split | {"seed": 1}})


def test_every_fault_of_an_experiment_about_questions_at_once() -> None:
    only = "learns from labelled clips; with `questions` there are cot and reinforce stages"
    assert question_faults(
        clips="clips.csv",
        labels=["a", "b"],
        split={"seed": 1},
        evaluation={"retention": "general.csv", "learning_curve": [0.5]},
        arms=["rb-ft", arm({"kind": "cot", "vote": {}, "engine": "parent"}), "direct"],
    ) == [
        *(
            f"{name}: belongs to runs on labelled clips; with `questions` leave it out"
            for name in ("clips", "labels", "split", "evaluation.retention", "evaluation.learning_curve")
        ),
        f"arms: rb-ft: stage 1: a rationale stage {only}",
        f"arms: rb-ft: stage 2: a label stage {only}",
        "arms: mine: stage 1: `engine` and `vote` belong to runs on labelled clips; with `questions` a cot stage "
        "learns the thoughts of its rows",
        f"arms: direct: stage 1: a label stage {only}",
    ]


def test_a_section_of_questions_is_checked_as_the_others_are() -> None:
    assert question_faults(questions={"train": "a", "tests": "b"}) == [
        "questions.test: is needed and was not given",
        "questions.tests: no such setting; did you mean 'test'?",
    ]
    assert question_faults(questions="train.jsonl") == [
        "questions: must be a mapping of names to values (given: 'train.jsonl')"
    ]


def test_an_arm_that_thinks_first_runs_on_labels_too() -> None:
    assert [a.name for a in make_experiment(SMALLEST | {"arms": ["cot", "cot+grpo"]}).arms] == ["cot", "cot+grpo"]
