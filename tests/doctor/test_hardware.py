"""Processors, memory, processes and the GPU, each in every state that a machine can be in."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rbft.doctor import hardware
from rbft.doctor.findings import Finding
from rbft.doctor.hardware import (
    GIB,
    gpu_finding,
    import_all,
    memory_finding,
    process_findings,
    processor_finding,
    processor_quota,
)


def test_processors_and_what_a_container_grants(tmp_path: Path) -> None:
    assert processor_finding(8, None) == Finding(name="processors", state="ok", found="8")
    assert processor_finding(8, 8.0).state == "ok"
    assert processor_finding(8, 1.5) == Finding(
        name="processors", state="note", found="8, of which the container grants 1.5",
        advice="set OMP_NUM_THREADS=2 and `workers: 2`, or grant more",
    )  # fmt: skip
    assert processor_quota(tmp_path) is None
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert processor_quota(tmp_path) is None
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("250000\n")
    assert processor_quota(tmp_path) == 2.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert processor_quota(tmp_path) is None
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert processor_quota(tmp_path) == 1.5


def test_memory_and_what_a_container_grants() -> None:
    assert memory_finding(16 * GIB, []) == Finding(name="memory", state="ok", found="16.0 GiB")
    granted = memory_finding(16 * GIB, [8 * GIB, 2**63])
    assert (granted.state, granted.found) == ("ok", "16.0 GiB, of which the container grants 8.0")
    small = memory_finding(16 * GIB, [2 * GIB])
    assert (small.state, small.found, small.advice) == (
        "note", "16.0 GiB, of which the container grants 2.0",
        "the embedded model wants 4 GiB; `memory_gib` sets what a run may use",
    )  # fmt: skip


def test_small_shared_memory_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(64 * 2**20, 0, 0))
    finding = next(process_findings())
    assert finding == Finding(
        name="fork", state="note", found="/dev/shm has 64 MiB, through which batches come",
        advice="a container gets more with --shm-size=8g; too little ends training with a bus error",
    )  # fmt: skip


def test_a_system_without_fork(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert hardware._shared_finding(tmp_path / "none").found == "batches are made ahead by other processes"
    monkeypatch.setattr(hardware.multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    finding = next(process_findings())
    assert (finding.state, finding.found, finding.advice) == (
        "note", "not on this system", "batches are made between steps, which is slower; nothing to do"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "said"),
    [(1, "no namespaces"), (2, "no prctl"), (3, "neither namespaces nor prctl")],
)
def test_a_process_that_cannot_be_isolated(monkeypatch: pytest.MonkeyPatch, code: int, said: str) -> None:
    monkeypatch.setattr(hardware.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=code))
    *_, finding = process_findings()
    assert finding == Finding(
        name="isolation", state="note", found=f"{said}: the system or a container does not allow it",
        advice="clips are still read in bounded processes that open local files alone; nothing to do",
    )  # fmt: skip


CARD = {"name": "H100", "memory": 80 * GIB, "bfloat16": True, "fails": None}


def torch(build: str | None = "CUDA 13.2", gpus: tuple[dict[str, Any], ...] = (), said: tuple[str, ...] = ()) -> Any:
    return {"torch": "2.15.0", "build": build, "gpus": list(gpus), "said": list(said)}


@pytest.mark.parametrize(
    ("asked", "environment", "driver", "state", "said", "advice"),
    [
        (None, {}, False, "fault", "cannot be asked: torch cannot be imported", "see torch above"),
        (torch(gpus=(CARD, CARD)), {}, True, "ok",
         "CUDA 13.2: H100 with 80.0 GiB, H100 with 80.0 GiB, bfloat16, driver 595.58.03", ""),
        (torch(gpus=({**CARD, "name": "T4", "bfloat16": False},)), {}, True, "note",
         "CUDA 13.2: T4 with 80.0 GiB, without bfloat16",
         "rbft computes in bfloat16: expect it to be slow on this GPU"),
        (torch(gpus=(CARD, {**CARD, "name": "V100", "fails": "AcceleratorError: no kernel image\nis available"})),
         {}, True, "fault",
         "CUDA 13.2: H100 with 80.0 GiB, V100 with 80.0 GiB; V100 computes nothing: AcceleratorError: no kernel image "
         "is available",
         "end what else uses it; where torch has no kernels for it, install one that has (pytorch.org/get-started); or "
         "hide it, and rbft works on the CPU: CUDA_VISIBLE_DEVICES="),
        (torch(None), {}, True, "note", "a driver is here, but this torch is built for CPUs alone",
         "install a torch with CUDA: see pytorch.org/get-started"),
        (torch(None), {}, False, "note", "none: this torch is built for CPUs, and no NVIDIA driver is here",
         "rbft works on the CPU, which is enough for the embedded model"),
        (torch(), {"CUDA_VISIBLE_DEVICES": ""}, True, "note", "CUDA 13.2, hidden: CUDA_VISIBLE_DEVICES is ''",
         "unset it, or name a GPU: 0"),
        (torch(), {"CUDA_VISIBLE_DEVICES": "0"}, False, "note",
         "none: torch has CUDA 13.2, but no NVIDIA driver is here",
         "rbft works on the CPU, which is enough for the embedded model"),
        (torch(said=("The NVIDIA driver on your\nsystem is too old",)), {}, True, "note",
         "CUDA 13.2 and a driver, driver 595.58.03, but no GPU: The NVIDIA driver on your system is too old",
         "run nvidia-smi"),
        (torch(), {}, True, "note", "CUDA 13.2 and a driver, driver 595.58.03, but no GPU: torch does not say why",
         "run nvidia-smi"),
    ],
)  # fmt: skip
def test_a_gpu_or_why_there_is_none(
    tmp_path: Path, asked: Any, environment: dict[str, str], driver: bool, state: str, said: str, advice: str
) -> None:
    file = tmp_path / "version"
    if driver:
        file.write_text(
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  595.58.03  Mon Jan 12 2026\nGCC version: 13.3\n"
        )
    found = gpu_finding(asked, environment, file)
    assert (found.state, found.found, found.advice) == (state, said, advice)


def stubs(folder: Path, **modules: str) -> dict[str, str]:
    """An environment in which these modules stand before the real ones."""
    for name, code in modules.items():
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


FAKE_TORCH = """
__version__ = "2.15.0"
class version: cuda, hip = "13.2", None
class cuda:
    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    get_device_properties = staticmethod(lambda index: type("Card", (), {"name": "H100", "total_memory": 2**36}))
    is_bf16_supported = staticmethod(lambda including_emulation: not including_emulation)
bfloat16 = "bfloat16"
class ones:
    def __init__(self, *size, dtype, device): assert (size, dtype, device) == ((8, 8), "bfloat16", "cuda:0")
    def __matmul__(self, other): return self
    def sum(self): return self
    def item(self): return 512.0
"""


def test_torch_is_asked_in_a_process_of_its_own(tmp_path: Path) -> None:
    """What a library prints is passed over, one that fails says why, one that ends Python is named."""
    environment = stubs(
        tmp_path, torch=FAKE_TORCH, chatty="print('{} welcome')", failing="raise OSError('libfoo.so:\\n not found')"
    )
    found = import_all(["torch", "chatty", "failing"], environment)
    assert found.broken == {"failing": "OSError: libfoo.so: not found"}
    assert found.torch == {
        "torch": "2.15.0", "build": "CUDA 13.2", "said": [],
        "gpus": [{"name": "H100", "memory": 2**36, "bfloat16": True, "fails": None}],
    }  # fmt: skip
    fails = FAKE_TORCH.replace("return 512.0", "raise RuntimeError('no kernel image')")
    found = import_all(["torch"], stubs(tmp_path, torch=fails))
    assert found.torch is not None and found.torch["gpus"][0]["fails"] == "RuntimeError: no kernel image"
    deadly = stubs(tmp_path, deadly="import os; os._exit(11)")
    found = import_all(["chatty", "deadly", "torch"], deadly)
    assert (found.broken, found.torch) == ({"deadly": "importing it ends Python with exit code 11"}, None)


def test_an_import_that_does_not_end_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: Any, **__: Any) -> None:
        raise subprocess.TimeoutExpired("python", 300, output=b'{"importing": "torch"}\n')

    monkeypatch.setattr(hardware.subprocess, "run", late)
    found = import_all(["torch"], {})
    assert (found.broken, found.torch) == ({"torch": "importing it does not end within 300 s"}, None)
