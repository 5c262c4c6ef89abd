"""The real command asked to end at any time: it ends with 75, and the same command makes the same run."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import pty
import random
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from tests.commands import command

from rbft import stopping
from rbft.files import read_jsonl
from rbft.records import Rationale
from rbft.store import is_sealed, read_card
from rbft.tiny.night_yard import LABEL_DEFINITIONS, write_night_yard

SAID = "rbft: interrupted; the same command continues from here\n"
SETTINGS: dict[str, Any] = {
    "name": "stopped", "model": "embedded", "prompts": "brief", "labels": LABEL_DEFINITIONS,
    "domain": "Night Yard Security Expert", "seeds": [0], "workers": 2, "arms": ["rb-ft"],
    "sampling": {"fps": 2, "min_pixels": 7056, "max_pixels": 7056},
    "rationales": {"max_new_tokens": 32, "batch_size": 4},
    "training": {"batch_size": 4, "micro_batch_size": 4, "learning_rate": 3e-4, "vision_learning_rate": 1e-4},
    "evaluation": {"batch_size": 4, "resamples": 100},
}  # fmt: skip


# -- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training clips and four test clips: three steps of four clips for each stage."""
    folder = tmp_path_factory.mktemp("stopped")
    clips = write_night_yard(folder / "yard", num_train=12, num_test=4, seed=3, workers=1)
    (folder / "stopped.yaml").write_text(json.dumps(SETTINGS | {"clips": str(clips)}), encoding="utf-8")
    return folder / "stopped.yaml"


@pytest.fixture(scope="module")
def whole(experiment: Path) -> Path:
    """The run directory of a run that nobody stopped."""
    assert command("run", str(experiment), f"output={json.dumps(str(experiment.parent / 'whole'))}") == 0
    return experiment.parent / "whole" / "stopped"


def signalled(monkeypatch: pytest.MonkeyPatch, path: str, call: int, number: signal.Signals) -> list[int]:
    """The process is sent a signal at the so manyth call of a function, which goes on; gives a list of its calls."""
    module, _, name = path.partition(":")
    holder: Any = importlib.import_module(module)
    *outer, name = name.split(".")
    for part in outer:
        holder = getattr(holder, part)
    original, calls = getattr(holder, name), []

    def counted(*given: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return original(*given, **more)

    monkeypatch.setattr(holder, name, counted)
    return calls


def same_artifacts(run: Path, whole: Path) -> None:
    """Rationales, checkpoints, losses and predictions are the same to the byte, and no work is left over."""
    for kind in ("rationales/*.jsonl", "checkpoints/[!.]*/model.safetensors", "logs/*/losses.jsonl"):
        made = {path.relative_to(run): path.read_bytes() for path in run.glob(kind)}
        assert made == {path.relative_to(whole): path.read_bytes() for path in whole.glob(kind)}, kind
        assert made, kind
    for path in whole.glob("predictions/*.jsonl"):
        assert (run / path.relative_to(whole)).read_bytes() == path.read_bytes()
    assert not list(run.glob("checkpoints/.*"))


@pytest.mark.usefixtures("one_thread")
def test_asked_to_end_in_reading_writing_and_training_it_is_the_same_run(
    experiment: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the fifth clip, the tenth token of the second batch, the second of three steps of the second stage."""
    monkeypatch.setattr(stopping, "GRACE_SECONDS", 600.0)
    run = tmp_path / "stopped"

    def stopped_at(path: str, call: int, number: signal.Signals) -> None:
        with monkeypatch.context() as patch:
            signalled(patch, path, call, number)
            capsys.readouterr()
            assert command("run", str(experiment), f"output={json.dumps(str(tmp_path))}") == 75, path
            assert capsys.readouterr().err.endswith(SAID)

    stopped_at("rbft.clips.ingest:sha256_of", 5, signal.SIGTERM)
    assert not (run / "manifest.json").exists()
    assert 0 < len(list((tmp_path / "cache" / "frames" / "probes").rglob("*.json"))) < 16

    stopped_at("rbft.models.generate:_Asked.__call__", 42, signal.SIGINT)
    [texts] = run.glob("rationales/*.jsonl")
    assert len(read_jsonl(texts, Rationale)) == 4, "the first batch; half texts of the second are given up"

    stopped_at("rbft.training.supervised:AnswerTrainer.compute_loss", 5, signal.SIGTERM)
    [save] = run.glob("checkpoints/.*.work/checkpoint-*")
    assert save.name == "checkpoint-2", "the step in hand was finished and saved, long before save_every_steps"
    assert is_sealed(save)

    with monkeypatch.context() as patch:
        steps = signalled(patch, "rbft.training.supervised:AnswerTrainer.compute_loss", 1, signal.SIGTERM)
        assert command("run", str(experiment), f"output={json.dumps(str(tmp_path))}") == 75
        assert len(steps) == 1, "the last step, after which the child is made"
    assert len(list(run.glob("checkpoints/[!.]*"))) == 2
    assert command("run", str(experiment), f"output={json.dumps(str(tmp_path))}") == 0
    same_artifacts(run, whole)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("number", "as_json"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
def test_predict_asked_to_end_keeps_what_it_printed(
    number: signal.Signals, as_json: bool, whole: Path, experiment: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The signal comes with the second of four clips, which is finished."""
    [folder] = [f for f in whole.glob("checkpoints/[!.]*") if read_card(f).checkpoint.stage == "label"]
    clips = [str(path) for path in sorted(experiment.parent.rglob("*.mp4"))[:4]]
    monkeypatch.setattr(stopping, "GRACE_SECONDS", 600.0)
    signalled(monkeypatch, "rbft.serving.predictor:Classifier._one", 2, number)
    assert command("predict", str(folder), *clips, *["--json"] * as_json) == 75
    printed = capsys.readouterr()
    assert [clip for clip in clips if Path(clip).name in printed.out.replace("\n", "")] == clips[:2]
    if as_json:
        assert [json.loads(line)["path"] for line in printed.out.splitlines()] == clips[:2]
    assert printed.err.splitlines()[-1] == (
        "rbft: interrupted; 2 of 4 clips were classified and printed: give the command again with the others"
    )


def test_a_lost_terminal_ends_no_check(experiment: Path, tmp_path: Path) -> None:
    """The connection drops while the progress bar is drawn: SIGHUP, and writes that fail from then on."""
    clips = json.loads(experiment.read_text(encoding="utf-8"))["clips"]
    told = tmp_path / "told.jsonl"
    terminal, child_end = pty.openpty()
    with told.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "rbft", "check", clips, "--json", "--workers", "1"], stdin=child_end, stdout=out,
            stderr=child_end, start_new_session=True, env=os.environ | {"TERM": "xterm"},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
    os.close(child_end)
    assert os.read(terminal, 1), "it draws"
    os.close(terminal)
    assert process.wait(timeout=300) == 0
    assert len(told.read_text(encoding="utf-8").splitlines()) == 16


def test_a_reader_of_the_faults_that_ends_leaves_the_exit_code() -> None:
    """`2>&1 | head`: the last words go nowhere, which is no reason for another end."""
    ours, theirs = os.pipe()
    os.close(ours)
    ran = subprocess.run([sys.executable, "-m", "rbft", "compare", "none-a", "none-b"], stderr=theirs, check=False)
    os.close(theirs)
    assert ran.returncode == 2


# -- nightly -------------------------------------------------------------------------------------------------------


@pytest.mark.nightly
def test_twenty_signals_at_random_times(experiment: Path, whole: Path, tmp_path: Path) -> None:
    """The real command again and again, SIGTERM after 0 to 20 s: each ends within 25 s; the run is the same."""
    rng, kept, latest = random.Random(8), 0, 0.0
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", "rbft", "run", str(experiment), "training.epochs=6"]
    told = []
    for number in range(20):
        output = tmp_path / f"run-{number}"
        process = subprocess.Popen([*arguments, f"output={json.dumps(str(output))}"], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, env=environment)  # fmt: skip
        stage = output / "stopped" / "checkpoints"
        while process.poll() is None and not list(stage.glob(".*.work")):
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 6))
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        code = process.wait()
        latest = max(latest, time.monotonic() - began)
        saved = [save for save in stage.glob(".*.work/checkpoint-*") if is_sealed(save)]
        children = list(stage.glob("[!.]*"))
        kept += code == 0 or bool(saved or children)
        told.append((code, sorted(s.name for s in saved), len(children)))
        print(f"\n{number + 1}: {told[-1]} after {latest:.1f} s at most, {kept} saved", flush=True)
        assert code in (0, 75)
        assert subprocess.run([*arguments, f"output={json.dumps(str(output))}"], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, env=environment, check=False).returncode == 0  # fmt: skip
        same_artifacts(output / "stopped", tmp_path / "run-0" / "stopped")
    print(f"\n{kept} of 20 saved, the last ended after {latest:.1f} s: {told}")
    assert kept >= 19
    assert latest < 25
