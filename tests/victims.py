"""Small commands of every kind, to be killed: what they are given, what they write, which of their calls count."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbft.clips.pool import available_processors
from rbft.tiny.night_yard import LABEL_DEFINITIONS, write_night_yard
from rbft.tiny.yard_questions import write_yard_questions

SIZE = {"fps": 2, "min_pixels": 7056, "max_pixels": 7056}
TRAINING = {"learning_rate": 3e-4, "micro_batch_size": 2, "batch_size": 2, "save_every_steps": 1}
REINFORCE = {
    "samples": 3, "max_new_tokens": 32, "batch_size": 2, "learning_rate": 1e-4, "temperature": 1.5,
    "cut_off": "scored", "save_every_steps": 1,
}  # fmt: skip
ARMS: list[Any] = ["zero-shot", "rb-ft"]
MORE_ARMS: list[Any] = [*ARMS, {"name": "cot+grpo", "stages": [{"kind": "cot"}, {"kind": "reinforce"}]}]

READ = "rbft.clips.pool:Reader.ask"
WRITE = "rbft.rationales.generate:generate"
LEARN = "rbft.training.supervised:AnswerTrainer.training_step"
SAMPLE = "rbft.training.reinforce:ReinforceTrainer._sampled"
SCORE = "rbft.evaluation.predict:score_answers"
ANSWER = "rbft.evaluation.questions:generate"
ASK = "rbft.rationales.engines:generate"
ASK_TEXT = "rbft.rationales.engines:generate_text"


@dataclass(frozen=True)
class Victim:
    """A command; `noted` are its calls of which `in_flight` are at once, so done again after a kill.

    Of a command that keeps nothing (`check`, `predict`, `explain CLIP`) none is noted: it begins anew.
    """

    arguments: tuple[str, ...]
    noted: tuple[str, ...] = ()
    in_flight: int = 1
    start: str | None = None
    """The folder that it begins with a copy of."""


def write_yard(folder: Path) -> Path:
    """Six training clips and four test clips; the experiment `run.yaml` beside them."""
    clips = write_night_yard(folder / "yard", num_train=6, num_test=4, seed=3, workers=1)
    asked = {
        "name": "made", "clips": str(clips), "model": "embedded", "prompts": "brief", "labels": LABEL_DEFINITIONS,
        "domain": "Night Yard Security Expert", "arms": ARMS, "seeds": [0], "workers": 1, "sampling": SIZE,
        "rationales": {"max_new_tokens": 32, "batch_size": 3}, "training": TRAINING, "reinforce": REINFORCE,
        "evaluation": {"batch_size": 3, "resamples": 100},
    }  # fmt: skip
    _write(folder / "run.yaml", asked)
    _write(folder / "more.yaml", asked | {"arms": MORE_ARMS})
    curated = {
        "name": "made", "clips": str(clips), "labels": LABEL_DEFINITIONS, "sampling": SIZE, "workers": 1,
        "prompts": "brief", "engine": {"model": "embedded", "max_new_tokens": 48, "batch_size": 3},
    }  # fmt: skip
    _write(folder / "curate.yaml", curated)
    return clips


def write_questions(folder: Path) -> None:
    """Six questions about three training clips, as many about test clips; the experiment `questions.yaml` beside."""
    write_yard_questions(folder / "asked", num_train=3, num_test=3, num_cot=2, per_clip=2, seed=3, workers=1)
    asked = {
        "name": "made", "model": "embedded", "prompts": "brief", "seeds": [0], "workers": 1, "sampling": SIZE,
        "questions": {name: str(folder / "asked" / f"{name}.jsonl") for name in ("train", "cot", "test")},
        "training": TRAINING, "reinforce": REINFORCE, "evaluation": {"batch_size": 3, "resamples": 100},
    }  # fmt: skip
    _write(folder / "questions.yaml", asked)


def _write(path: Path, settings: dict[str, Any]) -> None:
    path.write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML


RUN = Victim(("run", "../run.yaml"), (READ, WRITE, LEARN, SCORE))
VICTIMS = {
    "check": Victim(("check", "../run.yaml", "--json")),
    "run": Victim(("run", "../more.yaml"), (READ, WRITE, LEARN, SAMPLE, SCORE)),
    "questions": Victim(("run", "../questions.yaml"), (READ, LEARN, SAMPLE, ANSWER)),
    "curate": Victim(("curate", "../curate.yaml"), (READ, ASK, ASK_TEXT)),
    "ask": Victim(("ask", "embedded", "../asked/test.jsonl", "--out", "runs/asked", "--batch-size", "2"),
                  (READ, ANSWER), in_flight=available_processors()),
    "predict": Victim(("predict", "../model", "../yard/clips/test-00000.mp4", "../yard/clips/test-00001.mp4", "--json",
                       "--rationale")),
    "explain clips": Victim(("explain", "../model", "../yard/clips/test-00000.mp4", "../yard/clips/test-00001.mp4")),
    "explain a run": Victim(("explain", "runs/made", "--objects", "boxes"), (READ, SCORE), start="whole"),
}  # fmt: skip
