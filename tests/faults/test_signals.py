"""SIGTERM, Ctrl-C and a lost terminal: a command ends at a safe point with 75, and the same command continues."""

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
from rbft.store import is_sealed
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


# -- the handlers --------------------------------------------------------------------------------------------------


def stoppable(body: str, *signals: signal.Signals, grace: float = 60.0) -> tuple[int, str, float]:
    """A small process whose block is stoppable, and is sent signals when it says so: its end, its words, its time."""
    script = (
        "import os, signal, sys, time\nfrom rbft import stopping\nfrom rbft.errors import StoppedError\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # a test that `nohup` started would prove nothing
        f"stopping.GRACE_SECONDS = {grace}\n"
        "def said(word):\n    print(word, flush=True)\n"
        f"try:\n    with stopping.stoppable():\n        {body}\n"
        "except StoppedError as error:\n    said(str(error))\n    sys.exit(error.exit_code)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        began = time.monotonic()
        for number in signals:
            assert process.stdout.readline() == "now\n"
            process.send_signal(number)
        words = process.stdout.read()
    return process.returncode, words, time.monotonic() - began


FOREIGN = (
    "import hashlib, threading; threading.Timer(0.2, said, ['now']).start(); "
    "hashlib.pbkdf2_hmac('sha512', b'', b'', 300_000_000)"
)
"""Minutes in which Python's own handlers have no turn."""
WAITING = "said('now'); [time.sleep(0.01) for _ in iter(stopping.asked, True)]; "


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_ends_at_the_next_check(number: signal.Signals) -> None:
    code, words, _ = stoppable(WAITING + "stopping.check(); said('never')", number)
    assert (code, words) == (75, "interrupted; the same command continues from here\n")


@pytest.mark.parametrize(
    "script",
    [
        "from rbft.stopping import while_importing\nwith while_importing():\n    os.kill(os.getpid(), signal.SIGINT)",
        "import rbft.cli\nfrom rbft.__main__ import command\n"
        "rbft.cli.app = lambda: os.kill(os.getpid(), signal.SIGTERM)\ncommand()",
    ],
    ids=["while the first modules are imported", "outside long work"],
)
def test_asked_to_end_with_nothing_begun_it_ends_at_once(script: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", f"import os, signal\n{script}"], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (75, SAID)


def test_a_second_sigterm_changes_nothing() -> None:
    code, words, _ = stoppable(WAITING + "said('now'); time.sleep(0.3); said('saved'); stopping.check()",
                               signal.SIGTERM, signal.SIGTERM)  # fmt: skip
    assert (code, words) == (75, "saved\ninterrupted; the same command continues from here\n")


def test_a_second_interrupt_ends_at_once() -> None:
    code, words, seconds = stoppable(WAITING + "said('now'); time.sleep(60)", signal.SIGINT, signal.SIGINT)
    assert code == -signal.SIGINT, "KeyboardInterrupt, which the command line makes 130"
    assert words == ""
    assert seconds < 30
    code, _, seconds = stoppable(WAITING + FOREIGN, signal.SIGINT, signal.SIGINT)
    assert code == 130, "in foreign code too, which no exception ends"
    assert seconds < 30


def test_what_comes_to_no_check_in_time_is_ended() -> None:
    """A model that is being loaded, say: foreign code that gives Python no turn for minutes."""
    code, words, seconds = stoppable(FOREIGN, signal.SIGTERM, grace=0.2)
    assert (code, words) == (75, "")
    assert seconds < 30


def test_the_grace_leaves_room_below_25_seconds() -> None:
    assert stopping.GRACE_SECONDS <= 24


def test_what_is_being_finished_is_not_stopped() -> None:
    body = WAITING + "exec('with stopping.finishing():\\n stopping.check(); said(1)'); stopping.check(); said('never')"
    code, words, _ = stoppable(body, signal.SIGTERM)
    assert (code, words.splitlines()[0], len(words.splitlines())) == (75, "1", 2)


def test_signals_of_forked_children_are_not_counted() -> None:
    """Ctrl-C reaches every process of a terminal; the readers of training are forks, and theirs is no second one."""
    body = (
        "child = os.fork() or (said('now'), time.sleep(1), os._exit(0)); "
        "[time.sleep(0.01) for _ in iter(stopping.asked, True)]; os.kill(child, 2); os.waitpid(child, 0); "
        "time.sleep(0.2); stopping.check()"
    )
    code, words, _ = stoppable(body, signal.SIGINT)
    assert (code, words) == (75, "interrupted; the same command continues from here\n")


def test_a_lost_terminal_is_not_heard_and_before_and_after_nothing_is_changed() -> None:
    body = "said('now'); time.sleep(0.3); said('went on')"
    assert stoppable(body, signal.SIGHUP)[:2] == (0, "went on\n")
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with stopping.stoppable(), stopping.stoppable():
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_library_installs_no_handlers() -> None:
    script = (
        "import signal\nbefore = [signal.getsignal(n) for n in (1, 2, 15)]\n"
        "import rbft\nfrom rbft import cli, stopping, store\n"
        "assert [signal.getsignal(n) for n in (1, 2, 15)] == before and signal.set_wakeup_fd(-1) == -1\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


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
