"""Learning rates over a step budget, and a training state that survives an interruption to the bit."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

WARM_UP_SHARE = 0.05
FLOOR = 0.02


def rate_at(step: int, total: int) -> float:
    """The share of the peak learning rate at `step` of `total`: linear warm-up, then a cosine down to the floor."""
    warm = max(1, round(total * WARM_UP_SHARE))
    if step < warm:
        return (step + 1) / warm
    done = min(1.0, (step - warm) / max(1, total - warm))
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done))


@dataclass
class Progress:
    """Where a training stands: the phase, its next step, and the phase's budget in steps (0 until it is measured)."""

    phase: str
    step: int
    total: int
    seed: int


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{index}.{name}": value for index, slots in state.items() for name, value in slots.items()}


def save_state(folder: Path, modules: dict[str, nn.Module], optimizer: AdamW, progress: Progress) -> None:
    """Writes weights, moments and progress beside their final place, then renames; nothing is pickled."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = _optimizer_tensors(optimizer)
    for prefix, module in modules.items():
        tensors |= {f"{prefix}.{name}": value.detach() for name, value in module.named_parameters()}
    temporary = folder / "state.safetensors.tmp"
    note = json.dumps(asdict(progress))
    save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, metadata={"progress": note})
    temporary.replace(folder / "state.safetensors")


def read_progress(folder: Path) -> Progress | None:
    """What a former run left in `folder`, or None."""
    path = folder / "state.safetensors"
    if not path.is_file():
        return None
    with safe_open(path, "pt") as file:
        return Progress(**json.loads(file.metadata()["progress"]))


def load_weights(folder: Path, modules: dict[str, nn.Module]) -> None:
    """Fills the modules' parameters from the state in `folder`."""
    with safe_open(folder / "state.safetensors", "pt") as file, torch.no_grad():
        for prefix, module in modules.items():
            for name, value in module.named_parameters():
                value.copy_(file.get_tensor(f"{prefix}.{name}"))


def load_moments(folder: Path, optimizer: AdamW) -> None:
    """Fills the optimizer's moments from the state in `folder`; it must have the same parameters in the same order."""
    state: dict[int, dict[str, Tensor]] = {}
    with safe_open(folder / "state.safetensors", "pt") as file:
        for key in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                state.setdefault(int(index), {})[name] = file.get_tensor(key)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
