"""The whole path through the real command, on real files, with the embedded model."""

from __future__ import annotations

import csv
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

import rbft
from commands import command
from connections import connections
from rbft import stopping
from rbft.errors import UserError
from rbft.files import read_jsonl, read_record, sha256_of
from rbft.records import Manifest, Prediction, Rationale
from rbft.report.schema import report_schema
from rbft.serving.predictor import Classifier
from rbft.store import TRAIN_AGAIN, read_card, verify
from rbft.tiny.night_yard import LABEL_DEFINITIONS, write_night_yard

pytestmark = pytest.mark.usefixtures("one_thread")

ARMS = ("zero-shot", "direct", "direct-matched", "rb-ft", "rb-ft-p+c+r", "rb-ft-p+r+c")
SETTINGS = """
name: yard
clips: {clips}
model: embedded
prompts: brief
domain: Night Yard Security Expert
labels: {labels}
arms: [{arms}]
seeds: [0]
output: {output}
sampling: {{fps: 2, min_pixels: 7056, max_pixels: 7056}}
rationales: {{max_new_tokens: 64, batch_size: 8}}
training: {{learning_rate: 3.0e-4, vision_learning_rate: 1.0e-4, micro_batch_size: 8, gradient_checkpointing: false}}
evaluation: {{batch_size: 8, resamples: 200}}
"""


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training clips, two of them unlabelled, and 12 test clips."""
    folder = tmp_path_factory.mktemp("yard") / "clips with spaces ü"
    return write_night_yard(folder, num_train=22, num_test=12, num_unlabelled=2, seed=3)


@pytest.fixture(scope="module")
def experiment(yard: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return write_experiment(folder, yard, ARMS)


@pytest.fixture(scope="module")
def called(experiment: Path) -> list[str]:
    """The command run, and whom it called meanwhile."""
    with connections() as noted:
        assert command("run", str(experiment)) == 0
    return list(noted)


@pytest.fixture(scope="module")
def finished(experiment: Path, called: list[str]) -> Path:
    """The run directory of all arms."""
    return experiment.parent / "runs" / "yard"


def test_a_run_connects_to_nothing(called: list[str]) -> None:
    assert called == []


def test_every_prediction_is_one_of_the_labels_with_a_probability_for_each(finished: Path) -> None:
    manifest = read_record(finished / "manifest.json", Manifest)
    files = list((finished / "predictions").glob("*.jsonl"))
    assert len(files) == len(ARMS)
    for file in files:
        predictions = read_jsonl(file, Prediction)
        assert {p.clip_id for p in predictions} == {c.clip_id for c in manifest.of("test")}
        for prediction in predictions:
            assert prediction.label in manifest.labels
            assert prediction.probabilities.keys() == manifest.labels.keys()
            assert sum(prediction.probabilities.values()) == pytest.approx(1)
            assert prediction.label == max(prediction.probabilities, key=prediction.probabilities.__getitem__)


def write_experiment(folder: Path, clips: Path, arms: tuple[str, ...]) -> Path:
    path = folder / "yard.yaml"
    text = SETTINGS.format(
        clips=json.dumps(str(clips)), labels=json.dumps(LABEL_DEFINITIONS), arms=", ".join(arms),
        output=json.dumps(str(folder / "runs")),
    )  # fmt: skip
    path.write_text(text, encoding="utf-8")
    return path


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and time of change; what is written anew each time is left out."""
    skipped = {"report.html", "report.json", "experiment.json", "manifest.json", "memory.json", ".lock"}
    files = [f for f in folder.rglob("*") if f.is_file() and f.name not in skipped and f.suffix != ".csv"]
    return {str(f.relative_to(folder)): (f.stat().st_size, f.stat().st_mtime_ns) for f in files}


def test_report_is_complete_and_fits_its_schema(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text(encoding="utf-8"))
    jsonschema.validate(report, report_schema())
    assert report["schema"] == 1
    assert list(report["arms"]) == list(ARMS)
    assert report["dataset"]["train"] == 22
    assert report["dataset"]["test"] == 12
    assert report["dataset"]["unlabelled"] == 2
    assert set(report["baselines"]) == {"frame size", "duration", "brightness", "motion energy"}
    assert len(report["comparisons"]) == 2 * 15
    written = report["rationales"]
    assert written["written"] == 24
    assert written["kept"] <= 24
    for arm in report["arms"].values():
        assert sum(map(sum, arm["confusion"])) == 12
        correct = sum(arm["confusion"][i][i] for i in range(2))
        assert arm["accuracy"]["mean"] == pytest.approx(correct / 12)
        assert arm["accuracy"]["low"] <= arm["accuracy"]["mean"] <= arm["accuracy"]["high"]
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert report["headline"].split(";")[0].split(":")[0] in page


def test_arms_do_what_their_names_say(finished: Path) -> None:
    arms = json.loads((finished / "report.json").read_text(encoding="utf-8"))["arms"]
    assert arms["zero-shot"]["num_steps"] == 0
    assert arms["direct"]["num_steps"] == 2
    assert arms["rb-ft"]["num_steps"] == arms["direct-matched"]["num_steps"] == 4
    assert arms["rb-ft-p+r+c"]["stages"] == ["rationale P+R+C", "label"]


def test_rationales_are_on_disk_with_verdicts_and_without_labels(finished: Path) -> None:
    files = list((finished / "rationales").glob("*.jsonl"))
    assert len(files) == 1
    rationales = read_jsonl(files[0], Rationale)
    manifest = read_record(finished / "manifest.json", Manifest)
    assert {r.clip_id for r in rationales} >= {c.clip_id for c in manifest.of("train")}
    assert len({r.clip_id for r in rationales}) == len(rationales)
    for rationale in rationales:
        assert "abnormal" not in rationale.text.lower() or "names_label" in rationale.verdict.reasons


def test_checkpoints_know_where_they_come_from(finished: Path) -> None:
    cards = {f.name: read_card(f).checkpoint for f in (finished / "checkpoints").iterdir()}
    assert not [name for name in cards if name.startswith(".")], "work folders are gone"
    labels = [c for c in cards.values() if c.stage == "label"]
    parents = {c.parent for c in labels}
    rationale_stages = {name for name, c in cards.items() if c.stage == "rationale"}
    assert len(rationale_stages) == 3
    assert rationale_stages < parents
    base = {c.parent for c in cards.values() if c.stage == "rationale"}
    assert len(base) == 1
    tested = {c.sha256 for c in read_record(finished / "manifest.json", Manifest).of("test")}
    assert not any(tested & set(c.train_clip_sha256) for c in cards.values())
    for name in cards:
        verify(finished / "checkpoints" / name)


def test_a_checkpoint_loads_without_rbft(finished: Path) -> None:
    folder = next((finished / "checkpoints").iterdir())
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    turn = {"role": "user", "content": [{"type": "text", "text": "Which label fits the clip?"}]}
    inputs = processor.apply_chat_template(
        [turn], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert model.generate(**inputs, max_new_tokens=2).shape[0] == 1
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_the_same_command_again_redoes_nothing(experiment: Path, finished: Path) -> None:
    before = contents(finished)
    report = (finished / "report.json").read_bytes()
    assert command("run", str(experiment)) == 0
    assert contents(finished) == before
    assert (finished / "report.json").read_bytes() == report


def test_the_same_command_again_hashes_every_checkpoint_once(
    experiment: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: Counter[Path] = Counter()

    def counted(path: Path) -> str:
        hashed[path] += 1
        return sha256_of(path)

    monkeypatch.setattr("rbft.store.sha256_of", counted)
    assert command("run", str(experiment)) == 0
    files = {f for f in (finished / "checkpoints").rglob("*") if f.is_file() and f.name != "manifest.json"}
    assert hashed == dict.fromkeys(files, 1)


HOLDING = """
import sys
from pathlib import Path
from rbft.files import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_commands_do_not_work_in_the_same_run_directory(
    experiment: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(finished)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(finished)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        capsys.readouterr()
        assert command("run", str(experiment)) == 1
        assert (
            f"rbft: {finished}: another rbft (process {other.pid} on {platform.node()}) works"
            in capsys.readouterr().err
        )
        assert contents(finished) == before
        other.kill()
    assert command("run", str(experiment)) == 0


def test_a_run_sweeps_what_killed_writers_left(experiment: Path, finished: Path) -> None:
    cache = finished.parent / "cache" / "frames"
    parts = [folder / ".left.0123456789ab.part" for folder in (finished, finished / "predictions", cache / "00")]
    for part in parts:
        part.parent.mkdir(exist_ok=True)
        part.write_bytes(b"half")
        os.utime(part, (0, 0))
    assert command("run", str(experiment)) == 0
    assert [part for part in parts if part.exists()] == []


def test_prediction_equals_evaluation(finished: Path, yard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = read_record(finished / "manifest.json", Manifest)
    made = [p for f in (finished / "predictions").glob("*.jsonl") for p in read_jsonl(f, Prediction)]
    folder = next(f for f in (finished / "checkpoints").iterdir() if read_card(f).checkpoint.stage == "label")
    ours = {p.clip_id: p for p in made if p.checkpoint == folder.name}
    test = manifest.of("test")[:3]
    capsys.readouterr()
    assert command("predict", str(folder), *[str(yard.parent / c.path) for c in test], "--rationale", "--json") == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for clip, answer in zip(test, answers, strict=True):
        assert answer["label"] == ours[clip.clip_id].label
        assert answer["probabilities"] == pytest.approx(ours[clip.clip_id].probabilities, abs=1e-4)
        assert "Subjects" in answer["rationale"] or answer["rationale"]
    classifier = rbft.Classifier.load(folder)
    one = classifier.predict(yard.parent / test[0].path)
    assert one.label == answers[0]["label"]
    assert classifier.labels == ["normal", "abnormal"]
    assert [a.label for a in classifier.predict([yard.parent / c.path for c in test])] == [a["label"] for a in answers]


def test_predict_prints_a_table(finished: Path, yard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = next(f for f in (finished / "checkpoints").iterdir() if read_card(f).checkpoint.stage == "label")
    clip = sorted(yard.parent.rglob("*.mp4"))[0]
    assert command("predict", str(folder), str(clip)) == 0
    printed = capsys.readouterr().out
    assert "p(abnormal)" in printed


def test_predict_refuses_what_is_no_clip_or_no_checkpoint(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = next(f for f in (finished / "checkpoints").iterdir() if read_card(f).checkpoint.stage == "label")
    (tmp_path / "empty.mp4").write_bytes(b"")
    assert command("predict", str(folder), str(tmp_path / "empty.mp4"), str(tmp_path / "gone.mp4")) == 2
    printed = capsys.readouterr().err
    assert "empty.mp4: empty" in printed
    assert "gone.mp4: missing" in printed
    assert "Traceback" not in printed
    assert command("predict", str(tmp_path), "x.mp4") == 2
    assert "no card.json: not a checkpoint that rbft trained" in capsys.readouterr().err
    assert command("predict", str(tmp_path / "nowhere"), "x.mp4") == 2
    assert "no such folder; give the folder of a checkpoint" in capsys.readouterr().err


def test_predict_names_every_missing_clip_before_anything_is_loaded(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("nothing is loaded")

    monkeypatch.setattr("rbft.serving.predictor.read_classifier", loaded)
    folder = next((finished / "checkpoints").iterdir())
    (tmp_path / "empty.mp4").write_bytes(b"")
    names = [str(tmp_path / name) for name in ("gone.mp4", "empty.mp4", "also gone.mp4", ".")]
    assert command("predict", str(folder), *names) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"rbft: {names[0]}: missing: there is no such file",
        f"rbft: {names[1]}: empty: the file has no bytes",
        f"rbft: {names[2]}: missing: there is no such file",
        f"rbft: {tmp_path}: unreadable: a folder, not a file",
    ]
    gone = [str(tmp_path / f"{number}.mp4") for number in range(12)]
    assert command("predict", str(folder), *gone) == 2
    assert capsys.readouterr().err.splitlines()[-2:] == [
        f"rbft: {gone[9]}: missing: there is no such file", "rbft: and 2 more clips like these",
    ]  # fmt: skip
    assert command("predict", str(tmp_path / "nowhere"), names[0]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"rbft: {tmp_path / 'nowhere'}: no such folder; give the folder of a checkpoint that rbft trained",
        f"rbft: {names[0]}: missing: there is no such file",
    ]


@pytest.mark.parametrize("verb", ["predict", "explain"])
def test_every_clip_that_cannot_be_read_is_named_and_nothing_is_classified(
    verb: str, finished: Path, yard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def asked(*_: object, **__: object) -> None:
        raise AssertionError("nothing is asked")

    monkeypatch.setattr("rbft.evaluation.predict.LabelQuery.answer", asked)
    monkeypatch.chdir(tmp_path)
    folder = next(f for f in (finished / "checkpoints").iterdir() if read_card(f).checkpoint.stage == "label")
    good = sorted(yard.parent.rglob("*.mp4"))[0]
    (tmp_path / "empty.mp4").write_bytes(b"")
    noise = [f"{number}.mp4" for number in range(12)]
    for name in noise:
        (tmp_path / name).write_bytes(b"no video")
    assert command(verb, str(folder), str(good), "gone.mp4", "empty.mp4", *noise) == 2
    *bad, more, gone, empty, told = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1:3] for line in bad] == [[name, "unreadable"] for name in noise[:10]]
    assert [more, gone, empty, told] == [
        "rbft: and 2 more (unreadable); mend these, and the next run lists the rest",
        "rbft: gone.mp4: missing: there is no such file",
        "rbft: empty.mp4: empty: the file has no bytes",
        "rbft: 14 of 15 clips cannot be read, and nothing was done with the others: mend these files, or name the "
        "others alone",
    ]


@pytest.mark.parametrize(("number", "as_json"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
def test_predict_asked_to_end_keeps_what_it_printed(
    number: signal.Signals, as_json: bool, finished: Path, yard: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The signal comes with the second of four clips, which is finished."""
    folder = next(f for f in (finished / "checkpoints").iterdir() if read_card(f).checkpoint.stage == "label")
    monkeypatch.chdir(yard.parent)
    clips = [str(path.relative_to(yard.parent)) for path in sorted(yard.parent.rglob("*.mp4"))[:4]]
    one, asked = Classifier._one, []

    def signalled(*given: Any) -> Any:
        asked.append(given)
        if len(asked) == 2:
            os.kill(os.getpid(), number)
        return one(*given)

    monkeypatch.setattr(stopping, "GRACE_SECONDS", 600.0)
    monkeypatch.setattr(Classifier, "_one", signalled)
    assert command("predict", str(folder), *clips, *["--json"] * as_json) == 75
    printed = capsys.readouterr()
    assert [clip for clip in clips if clip in printed.out] == clips[:2]
    if as_json:
        assert [json.loads(line)["path"] for line in printed.out.splitlines()] == clips[:2]
    assert printed.err.splitlines()[-1] == (
        "rbft: interrupted; 2 of 4 clips were classified and printed: give the command again with the others"
    )


def test_a_changed_checkpoint_is_not_used(experiment: Path, finished: Path, tmp_path: Path) -> None:
    folder = next((finished / "checkpoints").iterdir())
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match=rf"damaged \(changed: model\.safetensors\); {TRAIN_AGAIN}"):
        rbft.Classifier.load(copy)


def test_predictions_stand_as_csv_and_compare(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (finished / "predictions" / f"{arm}-seed0.csv" for arm in ("direct", "rb-ft"))
    with a.open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 12
    report = json.loads((finished / "report.json").read_text(encoding="utf-8"))
    told = next(c for c in report["comparisons"] if (c["a"], c["b"], c["metric"]) == ("direct", "rb-ft", "accuracy"))
    assert command("compare", str(a), str(b), "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["difference"] == pytest.approx(told["difference"])
    assert result["p"] == pytest.approx(told["p"])
    assert command("compare", str(a), str(b)) == 0
    assert "direct-seed0.csv" in capsys.readouterr().out


def test_killed_at_any_time_the_same_command_continues(yard: Path, finished: Path, tmp_path: Path) -> None:
    """A run is killed whenever a new artifact appears, then finished: same rationales, predictions and weights."""
    experiment = write_experiment(tmp_path, yard, ("rb-ft",))
    run = tmp_path / "runs" / "yard"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    kills = 0
    for wanted in ("rationales/*.jsonl", "checkpoints/.*.work/*", "checkpoints/[!.]*", "predictions/*.jsonl"):
        process = subprocess.Popen(
            [sys.executable, "-m", "rbft", "run", str(experiment)], env=environment, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and not any(f.stat().st_size for f in run.glob(wanted)):
            time.sleep(0.02)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 2
    assert command("run", str(experiment)) == 0
    rationales = read_jsonl(next((run / "rationales").glob("*.jsonl")), Rationale)
    assert len({r.clip_id for r in rationales}) == len(rationales)
    whole = {p.name: p for p in (finished / "checkpoints").iterdir()}
    for folder in (run / "checkpoints").iterdir():
        assert (folder / "model.safetensors").read_bytes() == (whole[folder.name] / "model.safetensors").read_bytes()
    for file in (run / "predictions").glob("*.jsonl"):
        ours = {p.clip_id: p for p in read_jsonl(file, Prediction)}
        theirs = {p.clip_id: p for p in read_jsonl(finished / "predictions" / file.name, Prediction)}
        assert ours == theirs


# -- faults --------------------------------------------------------------------------------------------------------


def test_bad_clips_stop_a_run_unless_left_out(yard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    with yard.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["label"]]
    for row in rows:
        target = clips / row["path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((yard.parent / row["path"]).read_bytes())
    (clips / rows[0]["path"]).write_bytes(b"not a video")
    with (clips / "clips.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["path", "label", "split"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    experiment = write_experiment(tmp_path, clips / "clips.csv", ("zero-shot",))
    assert command("run", str(experiment)) == 2
    printed = capsys.readouterr().err
    assert rows[0]["path"] in printed
    assert "on_bad_clip: leave-out" in printed
    assert not (tmp_path / "runs" / "yard" / "predictions").exists()
    assert command("run", str(experiment), "on_bad_clip=leave-out") == 0
    said = capsys.readouterr().err
    assert f"left out: {clips / rows[0]['path']}: unreadable: " in said
    assert f"left out: 1 of {len(rows)} clips (1 unreadable)" in said
    report = json.loads((tmp_path / "runs" / "yard" / "report.json").read_text(encoding="utf-8"))
    assert report["dataset"]["left_out"] == 1


def test_every_rationale_dropped_is_said(yard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = write_experiment(tmp_path, yard, ("rb-ft",))
    assert command("run", str(experiment), "rationales.max_new_tokens=3") == 2
    printed = capsys.readouterr().err
    assert "arm 'rb-ft', stage 1 (rationale): no training example is left; every rationale was dropped" in printed


def test_check_agrees_with_a_run(yard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("check", str(yard), "--json", "--model", "embedded", "--fps", "2") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 36
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["sampled_frames"] for row in rows} == {4}
    assert command("check", str(yard)) == 0
    assert command("check", str(yard), "--labels", "normal,abnormall") == 2


def test_check_of_an_experiment_reads_as_its_run_does(
    yard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = write_experiment(tmp_path, yard, ("zero-shot",))
    assert command("check", str(experiment), "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {(row["sampled_frames"], row["visual_tokens"]) for row in rows} == {(4, 2 * 3 * 3)}
    assert command("check", str(experiment), "--json", "--fps", "4") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["sampled_frames"] for row in rows} == {8}
    assert command("check", str(experiment), "--json", "--labels", "normal,odd") == 2
    assert "label 'abnormal' is not in the list; did you mean 'normal'? Labels: normal, odd" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_python_api_runs_an_experiment(yard: Path, tmp_path: Path) -> None:
    experiment = rbft.load_experiment(write_experiment(tmp_path, yard, ("zero-shot",)))
    outcome = rbft.run(experiment, quiet=True)
    assert outcome.report.arms["zero-shot"].seeds == (0,)
    assert outcome.page.is_file()
    assert outcome.classifier is None
    again = rbft.run(tmp_path / "yard.yaml", "name=other", quiet=True)
    assert again.report.name == "other"
    with pytest.raises(UserError, match="overrides belong to an experiment file"):
        rbft.run(experiment, "name=x")


def test_interrupted_says_how_to_go_on(
    experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rbft.runs.run_experiment", interrupted)
    assert command("run", str(experiment)) == 130
    assert "rbft: interrupted; the same command continues from here" in capsys.readouterr().err


def test_faults_of_the_list_come_before_any_clip_is_read(
    yard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = write_experiment(tmp_path, yard, ("zero-shot",))
    assert command("run", str(experiment), "labels={normal: a, odd: b}") == 2
    printed = capsys.readouterr().err
    assert "label 'abnormal' is not in the list" in printed
    assert "Reading clips" not in printed


def test_what_an_arm_lacks_is_said_before_anything_is_written(
    yard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = yard.with_name("bare.csv")
    with yard.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with bare.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["path", "label", "split"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    experiment = write_experiment(tmp_path, bare, ("direct",))
    half = "arms=[{name: half, stages: [{kind: rationale, self_share: 0.5}, {kind: label}]}]"
    assert command("run", str(experiment), half) == 2
    printed = capsys.readouterr().err
    assert "arm 'half', stage 1 (rationale): self_share 0.5 asks for human rationales of 12 training clips" in printed
    assert not (tmp_path / "runs" / "yard" / "rationales").exists()


def test_clips_without_labels_cannot_run(yard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unlabelled = yard.with_name("unlabelled.csv")
    with yard.open(encoding="utf-8", newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file)][:4]
    unlabelled.write_text("path\n" + "\n".join(paths) + "\n", encoding="utf-8")
    experiment = write_experiment(tmp_path, unlabelled, ("zero-shot",))
    assert command("run", str(experiment), "labels={}") == 2
    assert "no clip has a label; fill a column named `label`" in capsys.readouterr().err


def test_a_run_whose_logs_were_deleted_still_reports(
    yard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = write_experiment(tmp_path, yard, ("direct",))
    assert command("run", str(experiment)) == 0
    run = tmp_path / "runs" / "yard"
    for file in (run / "logs").rglob("*"):
        if file.is_file():
            file.unlink()
    assert command("run", str(experiment)) == 0
    capsys.readouterr()
    assert command("predict", str(run), "x.mp4") == 2
    assert "a run directory; name one of its checkpoints: checkpoints/ holds " in capsys.readouterr().err
