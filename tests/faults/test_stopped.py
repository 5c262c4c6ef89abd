"""Terminals that are lost, and signals at random times."""

from __future__ import annotations

import fcntl
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

import pytest

from killing import same_results
from rbft.store import is_sealed


def test_a_lost_terminal_ends_no_check(base: Path, tmp_path: Path) -> None:
    """The connection drops while the progress bar is drawn: SIGHUP, and writes that fail from then on."""
    clips = json.loads((base / "run.yaml").read_text(encoding="utf-8"))["clips"]
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
    assert len(told.read_text(encoding="utf-8").splitlines()) == 10


def test_a_reader_of_the_faults_that_ends_leaves_the_exit_code() -> None:
    """`2>&1 | head`: the last words go nowhere, which is no reason for another end."""
    ours, theirs = os.pipe()
    os.close(ours)
    ran = subprocess.run([sys.executable, "-m", "rbft", "compare", "none-a", "none-b"], stderr=theirs, check=False)
    os.close(theirs)
    assert ran.returncode == 2


# -- nightly -------------------------------------------------------------------------------------------------------


@pytest.mark.nightly
def test_twenty_signals_at_random_times(base: Path, tmp_path: Path) -> None:
    """The real command again and again, SIGTERM after 0 to 20 s: each ends within 25 s; the run is the same."""
    rng, kept, latest = random.Random(8), 0, 0.0
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", "rbft", "run", str(base / "run.yaml"), "training.epochs=6"]
    told = []
    for number in range(20):
        output = tmp_path / f"run-{number}"
        process = subprocess.Popen([*arguments, f"output={json.dumps(str(output))}"], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, env=environment)  # fmt: skip
        stage = output / "made" / "checkpoints"
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
        same_results(output / "made", tmp_path / "run-0" / "made")
    print(f"\n{kept} of 20 saved, the last ended after {latest:.1f} s: {told}")
    assert kept >= 19
    assert latest < 25
