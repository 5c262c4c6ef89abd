"""Nothing leaves the machine unasked: every connection that a command or a child of it tries is noted and refused."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import yaml

from connections import SITECUSTOMIZE, connections
from rbft.tiny.night_yard import LABEL_DEFINITIONS, write_night_yard


class Machine:
    """Runs commands with a note of every connection; nothing tells libraries to stay offline."""

    def __init__(self, folder: Path) -> None:
        (folder / "hook").mkdir()
        (folder / "hook" / "sitecustomize.py").write_text(SITECUSTOMIZE)
        self._noted = folder / "noted"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
        path = os.pathsep.join([str(folder / "hook"), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._env = kept | {
            "PYTHONPATH": path, "RBFT_TEST_NOTED": str(self._noted),
            "RBFT_TEST_HELPERS": str(Path(__file__).parents[1]), "HF_HOME": str(folder / "hub"),
        }  # fmt: skip

    def run(self, *command: str) -> None:
        done = subprocess.run([sys.executable, *command], env=self._env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]

    @property
    def noted(self) -> list[str]:
        return self._noted.read_text().splitlines() if self._noted.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """A run on a folder's model, small."""
    clips = write_night_yard(tmp_path / "yard", num_train=6, num_test=4, num_unlabelled=1, seed=3)
    document = {
        "name": "home", "clips": str(clips), "model": str(resources.files("rbft") / "tiny" / "checkpoint"),
        "prompts": "brief", "labels": LABEL_DEFINITIONS, "domain": "Night Yard Security Expert", "arms": ["rb-ft"],
        "seeds": [0], "output": str(tmp_path / "runs"), "sampling": {"fps": 2, "min_pixels": 7056, "max_pixels": 7056},
        "workers": 1, "rationales": {"max_new_tokens": 32}, "training": {"epochs": 1, "gradient_checkpointing": False},
        "evaluation": {"resamples": 100},
    }  # fmt: skip
    path = tmp_path / "home.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def test_a_connection_is_noted(machine: Machine) -> None:
    """Otherwise the other tests could not fail."""
    tries = "import contextlib, socket\nwith contextlib.suppress(OSError):\n    "
    machine.run("-c", f"{tries}socket.create_connection(('192.0.2.1', 9), 1)")
    machine.run("-c", f"{tries}socket.socket().connect(('127.0.0.1', 9))")
    machine.run(
        "-c",
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', '''{tries}socket.gethostbyname(\"x\")'''])",
    )
    assert [line.split()[0] for line in machine.noted] == [
        "socket.getaddrinfo", "socket.connect", "socket.gethostbyname",
    ]  # fmt: skip


def test_a_connection_of_this_process_is_noted() -> None:
    with connections() as noted, contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", 9), 1)
    assert [line.split()[0] for line in noted] == ["socket.getaddrinfo", "socket.connect"]
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", 9), 1)
    assert len(noted) == 2


@pytest.mark.nightly
def test_no_command_connects_anywhere(machine: Machine, experiment: Path, tmp_path: Path) -> None:
    """A check, a whole run, its classifier, its explanation, a curation by the local model."""
    machine.run("-m", "rbft", "check", str(experiment))
    machine.run("-m", "rbft", "run", str(experiment))
    clip = str(next((tmp_path / "yard" / "clips").glob("test-*.mp4")))
    [best, *_] = sorted((tmp_path / "runs" / "home" / "checkpoints").iterdir(), key=lambda f: -f.stat().st_mtime)
    machine.run("-m", "rbft", "predict", str(best), clip, "--rationale")
    machine.run("-m", "rbft", "explain", str(best), clip, "--out", str(tmp_path / "seen"))
    job = tmp_path / "curation.yaml"
    settings = yaml.safe_load(experiment.read_text())
    kept = {name: settings[name] for name in ("clips", "labels", "prompts", "output", "sampling", "workers")}
    job.write_text(yaml.safe_dump({"name": "made", "engine": {"model": "embedded", "max_new_tokens": 48}} | kept))
    machine.run("-m", "rbft", "curate", str(job))
    assert machine.noted == []
