"""The RB-FT job as a user composes it from another tool's command lines, and the environment that this tool lives in.

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import yaml
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


# -- ms-swift ------------------------------------------------------------------------------------------------------


class Swift:
    """ms-swift: `swift infer` and `swift sft`, twice each."""

    name = "swift"
    title = "ms-swift"
    environment = Environment(
        "swift",
        "swift.pipelines, transformers, qwen_vl_utils",
        ("ms-swift==4.6.0", "transformers==5.19.0", "torch==2.15.0", "torchvision==0.29.2", "qwen-vl-utils==0.0.14",
         "decord==0.6.0"),
    )  # fmt: skip

    def variables(self, job: Job) -> dict[str, str]:
        """How frames are sampled and sized is told to ms-swift through the environment."""
        sampling = job.experiment.sampling
        return {
            "FPS": f"{sampling.fps:g}",
            "FPS_MIN_FRAMES": str(sampling.min_frames),
            "FPS_MAX_FRAMES": str(sampling.max_frames),
            "VIDEO_MIN_PIXELS": str(sampling.min_pixels),
            "VIDEO_MAX_PIXELS": str(sampling.max_pixels),
        }

    def do(self, job: Job, folder: Path, shell: Shell) -> Done:
        """Rationales, stage I, stage II, labels."""
        write_text(folder / "tokens.py", plugin(job.checkpoint))
        rationale, label = job.prompts.rationale(), job.prompts.label()
        tokens = job.experiment.rationales.max_new_tokens
        texts = self._ask(job, folder, shell, "rationales", job.checkpoint, job.train, rationale, tokens)
        first = self._learn(job, folder, shell, "stage-1", job.checkpoint, rationale, texts)
        second = self._learn(job, folder, shell, "stage-2", first, label, [str(row.label) for row in job.train])
        answers = self._ask(job, folder, shell, "labels", second, job.test, label, job.label_tokens)
        return Done(tuple(texts), tuple(answers), self._step_ms(folder / "stage-2"))

    def _ask(
        self,
        job: Job,
        folder: Path,
        shell: Shell,
        name: str,
        model: Path,
        rows: Sequence[Row],
        prompt: str,
        tokens: int,
    ) -> list[str]:
        write_lines(folder / f"{name}.jsonl", [self.row(row, prompt) for row in rows])
        batch = job.experiment.rationales.batch_size
        self._run(folder, shell, "infer", name, self.inference(model, name, max_new_tokens=tokens, batch_size=batch))
        return [str(line["response"]) for line in read_lines(folder / f"{name}-written.jsonl")]

    def _learn(
        self, job: Job, folder: Path, shell: Shell, name: str, model: Path, prompt: str, answers: Sequence[str]
    ) -> Path:
        rows = zip(job.train, answers, strict=True)
        write_lines(folder / f"{name}.jsonl", [self.row(row, prompt, answer) for row, answer in rows])
        self._run(folder, shell, "sft", name, self.training(job, model, name))
        return newest_checkpoint(folder / name)

    def _run(self, folder: Path, shell: Shell, command: str, name: str, settings: Mapping[str, Any]) -> None:
        write_text(folder / f"{name}.yaml", yaml.safe_dump(dict(settings), sort_keys=False))
        shell(name, [str(self.environment.python.parent / "swift"), command, f"{name}.yaml"])

    @staticmethod
    def row(row: Row, prompt: str, answer: str | None = None) -> dict[str, Any]:
        """One clip in ms-swift's data format; with an answer, one to learn."""
        messages = [{"role": "user", "content": f"<video>{prompt}"}]
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
        return {"messages": messages, "videos": [str(row.path)]}

    @staticmethod
    def inference(model: Path, name: str, *, max_new_tokens: int, batch_size: int) -> dict[str, Any]:
        """The settings of `swift infer`."""
        return {
            **_SWIFT_MODEL,
            "model": str(model),
            "load_args": False,
            "infer_backend": "transformers",
            "val_dataset": f"{name}.jsonl",
            "result_path": f"{name}-written.jsonl",
            "max_batch_size": batch_size,
            "max_new_tokens": max_new_tokens,
            "temperature": 0,
            "stream": False,
        }

    @staticmethod
    def training(job: Job, model: Path, name: str) -> dict[str, Any]:
        """The settings of `swift sft`: all weights, a learning rate of its own for the vision tower."""
        recipe = job.experiment.training
        return {
            **_SWIFT_MODEL,
            "model": str(model),
            "tuner_type": "full",
            "freeze_vit": False,
            "freeze_aligner": False,
            "fp16": False,
            "bf16": False,
            "dataset": f"{name}.jsonl",
            "num_train_epochs": recipe.epochs,
            "per_device_train_batch_size": recipe.micro_batch_size,
            "gradient_accumulation_steps": recipe.batch_size // recipe.micro_batch_size,
            "learning_rate": recipe.learning_rate,
            "aligner_lr": recipe.learning_rate,
            "vit_lr": recipe.vision_learning_rate,
            "lr_scheduler_type": recipe.scheduler,
            "warmup_ratio": recipe.warmup_ratio,
            "weight_decay": recipe.weight_decay,
            "adam_beta2": 0.999,
            "max_grad_norm": recipe.max_grad_norm,
            "gradient_checkpointing": recipe.gradient_checkpointing,
            "vit_gradient_checkpointing": recipe.gradient_checkpointing,
            "logging_steps": 1,
            "save_steps": recipe.save_every_steps,
            "save_only_model": True,
            "seed": 0,
            "output_dir": name,
            "add_version": False,
            "check_model": False,  # would ask its hub for newer weights, and for 20 s where no network is
        }

    @staticmethod
    def _step_ms(stage: Path) -> float:
        [end] = [line for line in read_lines(stage / "logging.jsonl") if "train_runtime" in line]
        return 1_000 * float(end["train_runtime"]) / int(str(end["global_step/max_steps"]).partition("/")[0])


_SWIFT_MODEL = {
    "model_type": "qwen2_5_vl",
    "template": "qwen2_5_vl",
    "external_plugins": ["tokens.py"],
    "system": "",
    "torch_dtype": "float32",
    "attn_impl": "sdpa",
    "device_map": "cpu",
}


def plugin(checkpoint: Path) -> str:
    """ms-swift knows the visual tokens of the released vocabulary alone; this tells it those of the checkpoint."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    return (
        "from swift.template.templates.qwen import Qwen2_5VLTemplate\n\n"
        f"Qwen2_5VLTemplate.image_token_id = {config['image_token_id']}\n"
        f"Qwen2_5VLTemplate.video_token_id = {config['video_token_id']}\n"
    )


# -- LLaMA-Factory -------------------------------------------------------------------------------------------------


class LlamaFactory:
    """LLaMA-Factory: `llamafactory-cli train` four times, predicting and training in turn."""

    name = "llamafactory"
    title = "LLaMA-Factory"
    environment = Environment(
        "llamafactory",
        "llamafactory.train.tuner",
        ("llamafactory==0.9.5", "transformers==5.6.0", "torch==2.11.0", "torchaudio==2.11.0", "torchvision==0.26.0",
         "av==16.0.0", "jieba==0.42.1", "nltk==3.10.4", "rouge-chinese==1.0.3"),
    )  # fmt: skip

    def variables(self, job: Job) -> dict[str, str]:
        """Nothing is told through the environment."""
        return {}

    def do(self, job: Job, folder: Path, shell: Shell) -> Done:
        """Rationales, stage I, stage II, labels."""
        rationale, label = job.prompts.rationale(), job.prompts.label()
        tokens = job.experiment.rationales.max_new_tokens
        texts = self._ask(job, folder, shell, "rationales", job.checkpoint, job.train, rationale, tokens)
        first = self._learn(job, folder, shell, "stage-1", job.checkpoint, rationale, texts)
        second = self._learn(job, folder, shell, "stage-2", first, label, [str(row.label) for row in job.train])
        answers = self._ask(job, folder, shell, "labels", second, job.test, label, job.label_tokens)
        results = json.loads((folder / "stage-2" / "train_results.json").read_text(encoding="utf-8"))
        state = json.loads((folder / "stage-2" / "trainer_state.json").read_text(encoding="utf-8"))
        return Done(tuple(texts), tuple(answers), 1_000 * results["train_runtime"] / state["global_step"])

    def _ask(
        self,
        job: Job,
        folder: Path,
        shell: Shell,
        name: str,
        model: Path,
        rows: Sequence[Row],
        prompt: str,
        tokens: int,
    ) -> list[str]:
        self._data(folder, name, [self.row(row, prompt, "none") for row in rows])
        self._run(folder, shell, name, self.inference(job, model, name, max_new_tokens=tokens))
        return [str(line["predict"]) for line in read_lines(folder / name / "generated_predictions.jsonl")]

    def _learn(
        self, job: Job, folder: Path, shell: Shell, name: str, model: Path, prompt: str, answers: Sequence[str]
    ) -> Path:
        rows = zip(job.train, answers, strict=True)
        self._data(folder, name, [self.row(row, prompt, answer) for row, answer in rows])
        self._run(folder, shell, name, self.training(job, model, name))
        return folder / name

    def _data(self, folder: Path, name: str, rows: Sequence[dict[str, Any]]) -> None:
        write_lines(folder / f"{name}.jsonl", rows)
        index = folder / "dataset_info.json"
        known = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}
        write_text(index, json.dumps(known | {name: self.dataset(name)}, indent=1))

    def _run(self, folder: Path, shell: Shell, name: str, settings: Mapping[str, Any]) -> None:
        write_text(folder / f"{name}.yaml", yaml.safe_dump(dict(settings), sort_keys=False))
        shell(name, [str(self.environment.python.parent / "llamafactory-cli"), "train", f"{name}.yaml"])

    @staticmethod
    def row(row: Row, prompt: str, answer: str) -> dict[str, Any]:
        """One clip in LLaMA-Factory's ShareGPT format; there is no row without an answer, not even to predict."""
        user = {"from": "human", "value": f"<video>{prompt}"}
        return {"conversations": [user, {"from": "gpt", "value": answer}], "videos": [str(row.path)]}

    @staticmethod
    def dataset(name: str) -> dict[str, Any]:
        """The entry of one data file in `dataset_info.json`."""
        columns = {"messages": "conversations", "videos": "videos"}
        return {"file_name": f"{name}.jsonl", "formatting": "sharegpt", "columns": columns}

    @staticmethod
    def inference(job: Job, model: Path, name: str, *, max_new_tokens: int) -> dict[str, Any]:
        """The settings of a prediction."""
        return {
            **_factory_model(job, model),
            "do_predict": True,
            "predict_with_generate": True,
            "eval_dataset": name,
            "per_device_eval_batch_size": job.experiment.rationales.batch_size,
            "max_new_tokens": max_new_tokens,
            "do_sample": False,
            "output_dir": name,
        }

    @staticmethod
    def training(job: Job, model: Path, name: str) -> dict[str, Any]:
        """The settings of a training: all weights, one learning rate for all of them."""
        recipe = job.experiment.training
        return {
            **_factory_model(job, model),
            "do_train": True,
            "dataset": name,
            "num_train_epochs": recipe.epochs,
            "per_device_train_batch_size": recipe.micro_batch_size,
            "gradient_accumulation_steps": recipe.batch_size // recipe.micro_batch_size,
            "learning_rate": recipe.learning_rate,
            "lr_scheduler_type": recipe.scheduler,
            "warmup_ratio": recipe.warmup_ratio,
            "weight_decay": recipe.weight_decay,
            "max_grad_norm": recipe.max_grad_norm,
            "disable_gradient_checkpointing": not recipe.gradient_checkpointing,
            "logging_steps": 1,
            "save_strategy": "no",
            "seed": 0,
            "output_dir": name,
        }


def _factory_model(job: Job, model: Path) -> dict[str, Any]:
    """What every run of LLaMA-Factory is told."""
    sampling = job.experiment.sampling
    return {
        "model_name_or_path": str(model),
        "stage": "sft",
        "finetuning_type": "full",
        "freeze_vision_tower": False,
        "freeze_multi_modal_projector": False,
        "template": "qwen2_vl",
        "default_system": "",
        "flash_attn": "sdpa",
        "infer_dtype": "float32",
        "video_fps": sampling.fps,
        "video_maxlen": sampling.max_frames,
        "video_min_pixels": sampling.min_pixels,
        "video_max_pixels": sampling.max_pixels,
        "dataset_dir": ".",
        "report_to": "none",
    }


PEERS: dict[str, Callable[[], Peer]] = {"swift": Swift, "llamafactory": LlamaFactory}


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
