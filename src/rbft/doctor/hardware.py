"""The machine: processors, memory, processes, and what torch sees of a GPU. Torch is asked in a process of its own."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rbft.doctor.findings import Finding, fault, note, ok

GIB = 2**30
_PATIENCE_SECONDS = 300
_LEAST_MEMORY, _LEAST_SHARED = 4 * GIB, GIB
_MODULES = {"pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn"}
"""Packages whose module has another name."""

_ASK = """
import importlib, json, sys, warnings
def say(**what):
    print(json.dumps(what), flush=True)
warnings.simplefilter("ignore")
for package, module in json.loads(sys.argv[1]).items():
    say(importing=package)
    try:
        importlib.import_module(module)
        say(imported=package)
    except BaseException as error:
        say(broken=package, why=f"{type(error).__name__}: {error}")
try:
    import torch
except BaseException:
    sys.exit()
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    seen = torch.cuda.is_available()
gpus = []
for index in range(torch.cuda.device_count() if seen else 0):
    facts = torch.cuda.get_device_properties(index)
    half = torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        one = torch.ones(8, 8, dtype=torch.bfloat16, device=f"cuda:{index}")
        fails = None if (one @ one).sum().item() == 512 else "8 x 8 ones do not multiply to 512"
    except Exception as error:
        fails = f"{type(error).__name__}: {error}"
    gpus.append({"name": facts.name, "memory": facts.total_memory, "bfloat16": half, "fails": fails})
build = torch.version.cuda and f"CUDA {torch.version.cuda}" or torch.version.hip and f"ROCm {torch.version.hip}"
say(torch=torch.__version__, build=build, gpus=gpus, said=[str(one.message) for one in said])
"""


@dataclass(frozen=True)
class Imported:
    """What a process found that imported the packages: why some are broken, and what torch sees (None: no torch)."""

    broken: Mapping[str, str] = field(default_factory=dict)
    torch: Mapping[str, Any] | None = None


def import_all(packages: list[str], environment: Mapping[str, str]) -> Imported:
    """Import packages in a process of their own, so that one that crashes is named and takes nothing with it."""
    modules = {package: _MODULES.get(package, package) for package in packages}
    try:
        ran = subprocess.run(
            [sys.executable, "-P", "-c", _ASK, json.dumps(modules)],
            capture_output=True, text=True, errors="replace", check=False, timeout=_PATIENCE_SECONDS,
            env=dict(environment),
        )  # fmt: skip
        output, code = ran.stdout, ran.returncode
    except subprocess.TimeoutExpired as error:
        output, code = bytes(error.stdout or b"").decode("utf-8", "replace"), None
    broken: dict[str, str] = {}
    begun = torch = None
    for line in output.splitlines():
        try:
            told = json.loads(line)
        except ValueError:  # what a library prints while it is imported
            continue
        match told:
            case {"importing": str(name)}:
                begun = name
            case {"broken": str(name), "why": str(why)}:
                broken[name], begun = " ".join(why.split())[:300], None
            case {"imported": _}:
                begun = None
            case {"torch": _}:
                torch = told
    if begun is not None:
        how = f"does not end within {_PATIENCE_SECONDS} s" if code is None else f"ends Python with exit code {code}"
        broken[begun] = f"importing it {how}"
    return Imported(broken, torch)


def processor_finding(available: int, quota: float | None) -> Finding:
    """Processors that this process may use; `quota`: how many a container grants it."""
    if quota is not None and quota < available:
        return note(
            "processors",
            f"{available}, of which the container grants {quota:g}",
            f"set OMP_NUM_THREADS={max(1, round(quota))} and `workers: {max(1, round(quota))}`, or grant more",
        )
    return ok("processors", f"{available}")


def memory_finding(total: int, limits: list[int]) -> Finding:
    """Memory of the machine, and what a container grants of it."""
    usable = min([total, *limits])
    said = f"{total / GIB:.1f} GiB" + (f", of which the container grants {usable / GIB:.1f}" if usable < total else "")
    if usable < _LEAST_MEMORY:
        return note("memory", said, "the embedded model wants 4 GiB; `memory_gib` sets what a run may use")
    return ok("memory", said)


def processor_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Processors that a container grants, None where nothing limits them."""
    newer = root / "cpu.max"
    older = [root / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period")]
    if newer.is_file():
        words = newer.read_text(encoding="ascii").split()
    elif all(file.is_file() for file in older):
        words = [file.read_text(encoding="ascii").strip() for file in older]
    else:
        return None
    return int(words[0]) / int(words[1]) if words[0].isdecimal() and int(words[1]) else None


def process_findings() -> Iterator[Finding]:
    """Whether batches can be made ahead, and readers kept from the network."""
    if "fork" not in multiprocessing.get_all_start_methods():
        yield note("fork", "not on this system", "batches are made between steps, which is slower; nothing to do")
    else:
        yield _shared_finding()
    if sys.platform == "linux":
        yield _isolation_finding()


def _shared_finding(folder: Path = Path("/dev/shm")) -> Finding:
    if not folder.is_dir():
        return ok("fork", "batches are made ahead by other processes")
    size = shutil.disk_usage(folder).total
    if size < _LEAST_SHARED:
        return note(
            "fork",
            f"{folder} has {size / 2**20:.0f} MiB, through which batches come",
            "a container gets more with --shm-size=8g; too little ends training with a bus error",
        )
    return ok("fork", f"batches are made ahead by other processes; {folder} has {size / GIB:.1f} GiB")


def _isolation_finding() -> Finding:
    """Whether a process may cut itself off from the network (unshare), and end with its parent (prctl)."""
    code = (
        "import ctypes, os, sys; c = ctypes.CDLL(None, use_errno=True); "
        "ends = c.prctl(1, 9, 0, 0, 0) == 0; alone = c.unshare(0x10000000 | 0x40000000) == 0; "
        "sys.exit(2 * (not ends) + (not alone))"
    )
    missing = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=False).returncode
    if missing == 0:
        return ok("isolation", "a process can be cut off from the network (namespaces) and end with its parent (prctl)")
    lacks = {1: "no namespaces", 2: "no prctl"}.get(missing, "neither namespaces nor prctl")
    return note(
        "isolation", f"{lacks}: the system or a container does not allow it",
        "clips are still read in bounded processes that open local files alone; nothing to do",
    )  # fmt: skip


def gpu_finding(
    torch: Mapping[str, Any] | None, environment: Mapping[str, str], driver: Path = Path("/proc/driver/nvidia/version")
) -> Finding:
    """The GPUs that torch sees, or why it sees none."""
    if torch is None:
        return fault("gpu", "cannot be asked: torch cannot be imported", "see torch above")
    if gpus := torch["gpus"]:
        said = f"{torch['build']}: " + ", ".join(f"{gpu['name']} with {gpu['memory'] / GIB:.1f} GiB" for gpu in gpus)
        if failing := next((gpu for gpu in gpus if gpu["fails"]), None):
            return fault(
                "gpu", f"{said}; {failing['name']} computes nothing: {' '.join(failing['fails'].split())[:200]}",
                "end what else uses it; where torch has no kernels for it, install one that has (pytorch.org/"
                "get-started); or hide it, and rbft works on the CPU: CUDA_VISIBLE_DEVICES=",
            )  # fmt: skip
        if all(gpu["bfloat16"] for gpu in gpus):
            return ok("gpu", f"{said}, bfloat16{_driver(driver)}")
        return note("gpu", f"{said}, without bfloat16", "rbft computes in bfloat16: expect it to be slow on this GPU")
    hidden = environment.get("CUDA_VISIBLE_DEVICES")
    on_cpu = "rbft works on the CPU, which is enough for the embedded model"
    if torch["build"] is None:
        if driver.exists():
            return note(
                "gpu", "a driver is here, but this torch is built for CPUs alone",
                "install a torch with CUDA: see pytorch.org/get-started",
            )  # fmt: skip
        return note("gpu", "none: this torch is built for CPUs, and no NVIDIA driver is here", on_cpu)
    if hidden is not None and hidden.strip() in ("", "-1"):
        return note(
            "gpu", f"{torch['build']}, hidden: CUDA_VISIBLE_DEVICES is {hidden!r}", "unset it, or name a GPU: 0"
        )
    if not driver.exists():
        return note("gpu", f"none: torch has {torch['build']}, but no NVIDIA driver is here", on_cpu)
    why = " ".join(" ".join(torch["said"]).split())[:300] or "torch does not say why"
    return note("gpu", f"{torch['build']} and a driver{_driver(driver)}, but no GPU: {why}", "run nvidia-smi")


def _driver(file: Path) -> str:
    """`, driver 570.86` where one is loaded."""
    if not file.exists():
        return ""
    words = file.read_text(encoding="utf-8", errors="replace").split()
    numbers = [word for word in words if word[:1].isdigit() and "." in word]
    return f", driver {numbers[0]}" if numbers else ""
