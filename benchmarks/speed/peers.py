"""Another tool that does the RB-FT job by its command lines, and the environment that it lives in.

A peer is told what our experiment file says: checkpoint, clips, prompts, frames, recipe. It gets YAML files of its own
kind and a data set of its own kind, and is run in a virtual environment of its own, one process a command.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from tokenizers import Tokenizer

from rbft.clips.manifest import Row, read_manifest
from rbft.experiment import Experiment
from rbft.models.sources import resolve
from rbft.prompts import Prompts, load_prompts

BUILD = Path("build/peers")
NO_GPU_NO_HUB = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "USE_HF": "1", "OMP_NUM_THREADS": "1"}


# -- what is to be done --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """An experiment's job in the words that every tool understands."""

    experiment: Experiment
    prompts: Prompts
    checkpoint: Path
    train: tuple[Row, ...]
    test: tuple[Row, ...]

    @property
    def label_tokens(self) -> int:
        """How many tokens a label may take: the longest one with its end of turn, and eight more, as in rbft."""
        tokenizer = Tokenizer.from_file(str(self.checkpoint / "tokenizer.json"))
        longest = max(len(tokenizer.encode(label, add_special_tokens=False).ids) for label in self.prompts.labels)
        return longest + 1 + 8


def job_of(experiment: Experiment) -> Job:
    """The job of an experiment whose manifest says which clips are for training."""
    listing = read_manifest(Path(experiment.clips), labels=experiment.labels)
    assert not listing.faults, listing.faults
    return Job(
        experiment=experiment,
        prompts=load_prompts(experiment.prompts, persona=experiment.domain, labels=listing.labels),
        checkpoint=resolve(experiment.model).folder.resolve(),
        train=tuple(row for row in listing.rows if row.split == "train"),
        test=tuple(row for row in listing.rows if row.split == "test"),
    )


@dataclass(frozen=True)
class Done:
    """What came of the job: texts about training clips and labels of test clips, in the order of the manifest.

    `label_step_ms` is one optimizer step of stage II by the tool's own log, `processor_seconds` that of all processes
    together; `seconds` are those of the single commands.
    """

    rationales: tuple[str, ...]
    answers: tuple[str, ...]
    label_step_ms: float
    processor_seconds: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)


# -- environments --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Environment:
    """A virtual environment with pinned packages below `build/peers`."""

    name: str
    imported: str
    packages: tuple[str, ...]

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return (BUILD / self.name / "bin" / "python").absolute()

    def make(self) -> None:
        """Create it, where these packages are not there yet; bytecode is compiled, as `make` does for rbft."""
        ready, wanted = BUILD / self.name / "ready.txt", "\n".join(self.packages)
        if ready.is_file() and ready.read_text(encoding="utf-8") == wanted:
            return
        shutil.rmtree(BUILD / self.name, ignore_errors=True)
        uv = Path(sys.executable).parent / "uv"
        program = str(uv) if uv.exists() else "uv"
        subprocess.run([program, "venv", "--quiet", "--python", sys.executable, str(BUILD / self.name)], check=True)
        install = [program, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(self.python)]
        subprocess.run([*install, *self.packages], check=True)
        ready.write_text(wanted, encoding="utf-8")

    def warm(self) -> None:
        """Read its packages once, so that the first timed command finds them in memory as later ones do."""
        subprocess.run([str(self.python), "-c", f"import {self.imported}"], capture_output=True, check=True)

    def title(self, name: str) -> str:
        """The tool's name with the versions that count: its own, and those of transformers and torch."""
        pinned = [package.partition("==") for package in self.packages]
        versions = {package: version for package, _, version in pinned}
        return f"{name} {pinned[0][2]} (transformers {versions['transformers']}, torch {versions['torch']})"


# -- running -------------------------------------------------------------------------------------------------------


class Shell(Protocol):
    """Runs one command of a recipe."""

    def __call__(self, name: str, command: Sequence[str]) -> None:
        """Run it to its end; raises SystemExit with what it said where it fails."""


@dataclass
class Commands:
    """A shell that keeps what commands say in files and how long each took, in seconds."""

    folder: Path
    variables: Mapping[str, str]
    seconds: dict[str, float] = field(default_factory=dict)

    def __call__(self, name: str, command: Sequence[str]) -> None:
        """Run a command in the folder, with no more threads than one, no GPU and no model hub."""
        log = self.folder / f"{name}.log"
        begun = time.perf_counter()
        with log.open("w", encoding="utf-8") as said:
            variables = {**os.environ, **NO_GPU_NO_HUB, **self.variables}
            ended = subprocess.run(
                command, cwd=self.folder, env=variables, stdout=said, stderr=subprocess.STDOUT, check=False
            )
        self.seconds[name] = time.perf_counter() - begun
        if ended.returncode:
            said_last = log.read_text(encoding="utf-8", errors="replace")[-3_000:]
            raise SystemExit(f"{name} ended with {ended.returncode}:\n{said_last}\nall of it: {log}")


class Peer(Protocol):
    """Another tool, and how it is told to do the job."""

    name: ClassVar[str]
    title: ClassVar[str]
    environment: ClassVar[Environment]

    def variables(self, job: Job) -> dict[str, str]:
        """Environment variables that the tool reads its settings from."""

    def do(self, job: Job, folder: Path, shell: Shell) -> Done:
        """All of the job, in `folder`; what the tool says and leaves stays there."""


def do_job(peer: Peer, job: Job, folder: Path) -> Done:
    """The whole job with a peer, in a fresh folder."""
    folder.mkdir(parents=True)
    shell = Commands(folder, peer.variables(job))
    spent = children_seconds()
    done = peer.do(job, folder, shell)
    return replace(done, processor_seconds=children_seconds() - spent, seconds=shell.seconds)


def children_seconds() -> float:
    """Processor time of all processes that this one has started and waited for, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# -- files ---------------------------------------------------------------------------------------------------------


def write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def newest_checkpoint(folder: Path) -> Path:
    """The folder `checkpoint-N` of the highest N."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    if not found:
        raise SystemExit(f"{folder}: no checkpoint was saved")
    return found[-1].absolute()
