"""What ms-swift and LLaMA-Factory are told: their data files, their settings, and the commands a user would run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from benchmarks.speed.peers import (
    Done,
    Environment,
    Job,
    Peer,
    Shell,
    newest_checkpoint,
    read_lines,
    write_lines,
    write_text,
)

from rbft.clips.manifest import Row

Ask = Callable[[str, Path, Sequence[Row], str, int], list[str]]
"""Name of the step, model, clips, prompt, most tokens: what the model writes about each clip."""
Learn = Callable[[str, Path, str, Sequence[str]], Path]
"""Name of the step, model, prompt, an answer for each training clip: the trained model."""


def four_steps(job: Job, ask: Ask, learn: Learn) -> tuple[list[str], list[str]]:
    """Rationales, stage I, stage II, labels: what was written about the training clips, and about the test clips."""
    rationale, label = job.prompts.rationale(), job.prompts.label()
    texts = ask("rationales", job.checkpoint, job.train, rationale, job.experiment.rationales.max_new_tokens)
    first = learn("stage-1", job.checkpoint, rationale, texts)
    second = learn("stage-2", first, label, [str(row.label) for row in job.train])
    return texts, ask("labels", second, job.test, label, job.label_tokens)


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
        texts, answers = four_steps(
            job, partial(self._ask, job, folder, shell), partial(self._learn, job, folder, shell)
        )
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
        texts, answers = four_steps(
            job, partial(self._ask, job, folder, shell), partial(self._learn, job, folder, shell)
        )
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
