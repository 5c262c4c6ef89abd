"""The real command and its memory: a table before any work, what cannot fit stops it, running out is explained."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from commands import command
from rbft.files import read_record
from rbft.models.memory import GIB, Device
from rbft.models.sources import resolve
from rbft.results import Report
from rbft.store import read_card
from rbft.training.plan import MemoryPlan
from videos import picture, write_clip

TINY = 1.51
"""GiB in all: 10 MiB for tensors, less than the embedded model's weights."""
FOR_LORA = 1.53
"""31 MiB for tensors: the embedded model's LoRA fits, its full fine-tuning does not."""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two labels of four clips each, half of them for the test."""
    folder = tmp_path_factory.mktemp("memory")
    rows = ["path,label,split"]
    for number in range(8):
        write_clip(folder / f"{number}.mp4", [picture(20 * number + i) for i in range(10)])
        rows.append(f"{number}.mp4,{('still', 'moving')[number % 2]},{'test' if number < 4 else 'train'}")
    (folder / "clips.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    path = folder / "mine.yaml"
    path.write_text(
        "clips: clips.csv\nmodel: embedded\nprompts: brief\narms: [direct]\nseeds: [0]\nworkers: 1\n"
        "rationales: {max_new_tokens: 16}\nevaluation: {resamples: 200}\n"
        "sampling: {min_pixels: 4704, max_pixels: 4704}\nsplit: {near_duplicates: note}\n",
        encoding="utf-8",
    )
    return path


def run(experiment: Path, folder: Path, *settings: str) -> int:
    return command("run", str(experiment), f"output={json.dumps(str(folder))}", *settings)


def written(path: Path, **settings: Any) -> Path:
    """The experiment with further settings, beside itself."""
    other = path.with_name("other.yaml")
    more = "".join(f"{name}: {json.dumps(value)}\n" for name, value in settings.items())
    other.write_text(path.read_text(encoding="utf-8") + more, encoding="utf-8")
    return other


def test_what_cannot_fit_stops_before_any_work(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(experiment, tmp_path, f"memory_gib={TINY}") == 2
    told = capsys.readouterr().err.splitlines()
    assert "Traceback" not in "\n".join(told)
    faults = [line for line in told if "does not fit the memory" in line]
    assert faults[0].startswith(
        "rbft: training does not fit the memory: LoRA of rank 16, checkpointing with micro-batch "
    )
    assert faults[0].endswith("10 MiB are there. Next: a smaller model, or a larger memory_gib if more is there")
    assert [line.split(" does")[0] for line in faults[1:]] == ["rbft: scoring labels", "rbft: writing"]
    assert "rbft: Memory: embedded, 3.2 million parameters, on CPU with 1.5 GiB, 10 MiB of them for tensors" in told
    assert not (tmp_path / "mine" / "checkpoints").exists()
    assert command("check", str(written(experiment, memory_gib=TINY))) == 2
    printed = capsys.readouterr().out
    assert "fault: training does not fit the memory" in " ".join(printed.split())
    assert "MiB expected at the peak" in printed


def test_check_shows_the_table_after_the_clips(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("check", str(experiment)) == 0
    lines = capsys.readouterr().out.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("Memory: embedded, 3.2 million parameters, on "))
    assert lines[start + 1].startswith("Tokens per clip: ")
    assert lines[start + 3].startswith("* full fine-tuning    "), "the first row: nothing is recomputed"
    assert lines[start + 9] == "Training: full fine-tuning, 16 clips a step as 1 x 16, without gradient checkpointing"
    assert command("check", str(experiment), "--json") == 0
    said = capsys.readouterr()
    assert all(json.loads(line)["clip_id"] for line in said.out.splitlines())
    assert "rbft: memory: " in said.err and "scoring labels" in said.err


def test_lora_is_chosen_where_full_does_not_fit_and_the_report_says_so(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["rationales.batch_size=1", "evaluation.batch_size=1"]
    assert run(experiment, tmp_path, f"memory_gib={FOR_LORA}", *small) == 0
    told = capsys.readouterr().err
    root = tmp_path / "mine"
    plan = read_record(root / "memory.json", MemoryPlan)
    assert plan.why_lora is not None
    assert plan.why_lora in told
    assert all(line in told for line in plan.lines())
    assert plan.why_lora in read_record(root / "report.json", Report).notes
    [first] = (root / "checkpoints").iterdir()
    assert run(experiment, tmp_path, *small) == 0
    assert list((root / "checkpoints").iterdir()) == [first], "a run stays what it began as"
    assert read_record(root / "memory.json", MemoryPlan).why_lora == (
        "LoRA is trained instead of every weight, because this run began with it; "
        "training.method=full trains every weight, from the beginning"
    )
    assert run(experiment, tmp_path, *small, "training.method=full") == 0
    [other] = [folder for folder in (root / "checkpoints").iterdir() if folder != first]
    assert read_card(other).checkpoint.parent == read_card(first).checkpoint.parent
    capsys.readouterr()
    again = ["training.method=full", "training.micro_batch_size=2", "training.gradient_checkpointing=true"]
    assert run(experiment, tmp_path, *again) == 0
    assert "examples" not in capsys.readouterr().err, "however batches are cut, the child is the same"
    assert run(experiment, tmp_path, f"memory_gib={FOR_LORA}", "training.method=full") == 2
    assert "training does not fit the memory: full fine-tuning, checkpointing" in capsys.readouterr().err


def test_a_finished_run_is_reported_and_explained_on_a_smaller_machine(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(experiment, tmp_path) == 0
    root = tmp_path / "mine"
    kept = {path: path.read_bytes() for path in (root / "checkpoints").rglob("*") if path.is_file()}
    planned = (root / "memory.json").read_bytes()
    monkeypatch.setattr("rbft.preparing.this_device", lambda _: Device("CPU", "cpu", int(TINY * GIB)))
    assert command("explain", str(root), "--attention", "--objects", "motion") == 2
    assert "found no object in 4 test clips" in capsys.readouterr().err, "these clips have none; memory is no matter"
    assert (root / "memory.json").read_bytes() == planned
    assert run(experiment, tmp_path) == 0
    assert "examples" not in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (root / "checkpoints").rglob("*") if path.is_file()} == kept


def test_a_run_ends_without_complaints_of_libraries(experiment: Path, tmp_path: Path) -> None:
    """In a process of its own: what libraries say when an interpreter ends is seen there alone."""
    asked = ["run", str(experiment), f"output={json.dumps(str(tmp_path))}", "arms=[zero-shot]"]
    done = subprocess.run([sys.executable, "-m", "rbft", *asked], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "leaked" not in done.stderr


def test_a_model_of_the_hub_that_is_here_in_part_is_no_fault(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = resolve("embedded").folder / "config.json"
    (tmp_path / "config.json").write_bytes(config.read_bytes())
    monkeypatch.setattr("rbft.models.vlm.try_to_load_from_cache", lambda *_, **__: str(tmp_path / "config.json"))
    assert command("check", str(experiment), "--model", "owner/name", "--json") == 0
    [note] = [line for line in capsys.readouterr().err.splitlines() if "memory" in line]
    assert note.startswith("rbft: note: owner/name: its processor cannot be loaded: ")
    assert note.endswith("; the memory that a run needs is not known")


def test_running_out_is_explained(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocate(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("rbft.chains.train_stage", allocate)
    assert run(experiment, tmp_path) == 2
    told = capsys.readouterr().err.splitlines()
    assert "rbft: out of memory on CPU: CUDA out of memory. Tried to allocate 2.00 GiB." in told
    assert told[-1].startswith("rbft: Next: end what else uses this memory; ask for smaller batches (")
    assert "rbft: MiB expected at the peak" in "\n".join(told)


def test_predict_out_of_memory_ends_with_the_table(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocate(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    assert run(experiment, tmp_path) == 0
    [checkpoint] = (tmp_path / "mine" / "checkpoints").iterdir()
    clip = str(experiment.with_name("0.mp4"))
    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr("rbft.evaluation.predict.LabelQuery.answer", allocate)
        assert command("predict", str(checkpoint), clip) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "rbft: out of memory on CPU: CUDA out of memory. Tried to allocate 2.00 GiB."
    assert told[1].startswith(f"rbft: Memory: {checkpoint}, 3.2 million parameters, on CPU with ")
    assert [line.split("  ")[0] for line in told[3:6]] == [
        "rbft: MiB expected at the peak", "rbft: * scoring labels", "rbft: * writing",
    ]  # fmt: skip
    assert told[6:] == [
        "rbft: Next: end what else uses this memory; shorten the clips, or classify on a device with more of it"
    ]
    monkeypatch.setattr("rbft.serving.predictor.VLM.load", allocate)
    assert command("predict", str(checkpoint), clip) == 2
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == told[0]
    assert second.startswith(f"rbft: Memory: {checkpoint}, 3.2 million parameters, 12 MiB of weights, on CPU with ")
    assert third == "rbft: Next: end what else uses this memory; classify on a device with more of it"
