"""Both sides of one phase on a device, in turn: clips a second, operations, memory, and how long the device idles."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from benchmarks.gpu.model import SHAPES, Shape, Size, build
from benchmarks.speed.measuring import Measured, Work, at_least_one, in_turn, measured
from pydantic import computed_field
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from rbft.models.vlm import VLM, default_device
from rbft.records import Record

PEAK_TFLOPS = 989.4
"""Dense bfloat16 of an H100 or H200 with SXM, by its data sheet."""


class Side(Record):
    """What one side took for all clips of a row. None where it is not measured: memory and idling on a processor."""

    milliseconds: float
    clips_per_second: float
    tflops: float
    utilisation: float | None
    peak_gigabytes: float | None
    idle_share: float | None


class DeviceRow(Record):
    """One comparison on a device. `training` says what was trained: everything, adapters, or nothing."""

    phase: str
    case: str
    against: str
    clips: int
    training: str
    ours: Side
    theirs: Side
    equal: str

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ratio(self) -> float:
        """How many times less time ours takes."""
        return self.theirs.milliseconds / self.ours.milliseconds


class DeviceMeasured(Record):
    """The rows of one script, the device, and where and when it ran, as in `benchmarks.speed`."""

    device: str
    size: str
    rows: tuple[DeviceRow, ...]
    run: Measured


@dataclass(frozen=True)
class Setting:
    """What a script was asked for, ready to use."""

    vlm: VLM
    shape: Shape
    options: argparse.Namespace

    @property
    def on_gpu(self) -> bool:
        """Whether this is the real thing."""
        return self.vlm.device.type == "cuda"

    @property
    def limit(self) -> float:
        """How far apart losses and log-probabilities of a clip may lie: bfloat16 rounds, float32 hardly."""
        return 0.1 if self.on_gpu else 1e-3


def compared(
    setting: Setting, *, phase: str, case: str, against: str, clips: int, flops: float, equal: str,
    ours: Work, theirs: Work, training: str = "nothing",
) -> DeviceRow:  # fmt: skip
    """Time both works in turn, then look at the memory and the idling of each; `flops` is what all clips must cost."""
    times = in_turn(lambda: _whole(setting, ours), lambda: _whole(setting, theirs), repeats=setting.options.repeats)
    sides = []
    for work, milliseconds in zip((ours, theirs), times, strict=True):
        tflops = flops / milliseconds / 1e9
        peak = setting.options.peak_tflops if setting.on_gpu else None
        sides.append(
            Side(
                milliseconds=milliseconds,
                clips_per_second=1_000 * clips / milliseconds,
                tflops=tflops,
                utilisation=None if peak is None else tflops / peak,
                peak_gigabytes=_peak_gigabytes(work) if setting.on_gpu else None,
                idle_share=_idle_share(work) if setting.on_gpu else None,
            )
        )
    return DeviceRow(
        phase=phase, case=case, against=against, clips=clips, training=training, ours=sides[0], theirs=sides[1],
        equal=equal,
    )  # fmt: skip


def _whole(setting: Setting, work: Work) -> None:
    """The work to its end: a GPU answers before it has finished."""
    work()
    if setting.on_gpu:
        torch.cuda.synchronize()


def _peak_gigabytes(work: Work) -> float:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 1e9


def _idle_share(work: Work) -> float:
    """1 - time in kernels / wall time, of one run on one stream."""
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        wall = time.perf_counter() - start
    busy = sum(event.self_device_time_total for event in seen.key_averages()) / 1e6
    return max(0.0, 1 - busy / wall)


# -- the command line ----------------------------------------------------------------------------------------------


def main(
    doc: str, rows: Callable[[Setting], list[DeviceRow]], arguments: list[str] | None = None, *, trains: bool = False
) -> int:
    """The command line of one script; `rows` measures. One that `trains` has float32 weights and more options."""
    device = default_device()
    parser = _parser(doc, "7b" if device.type == "cuda" else "tiny")
    if trains:
        _add_training(parser)
    options = parser.parse_args(arguments)
    size: Size = options.size
    dtype = torch.bfloat16 if device.type == "cuda" and not trains else torch.float32
    setting = Setting(build(size, device, dtype), SHAPES[size], options)
    found = rows(setting)
    if options.json is not None:
        name = torch.cuda.get_device_name() if device.type == "cuda" else "processor"
        whole = DeviceMeasured(device=name, size=size, rows=tuple(found), run=measured("gpu", ()))
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(whole.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
    show(found)
    return 0


def _parser(doc: str, size: Size) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SHAPES), default=size, help=f"here {size}")
    parser.add_argument("--clips", type=at_least_one, default=16, help="clips of one step or pass")
    parser.add_argument("--micro", type=at_least_one, default=4, help="clips of one forward")
    parser.add_argument(
        "--repeats", type=at_least_one, default=5, help="how often both sides are timed; medians are shown"
    )
    parser.add_argument("--peak-tflops", type=float, default=PEAK_TFLOPS, help="dense bfloat16 peak of the GPU")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    return parser


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lora", action="store_true", help="train adapters: the 7B's full state takes 123.6 GiB")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations in training")
    parser.add_argument("--packed", action="store_true", help="pack clips on a processor too; on a GPU they always are")


def show(rows: list[DeviceRow]) -> None:
    """The rows as a table on the terminal, a line for each side."""
    table = Table("phase", "case", "trained", "side", "ms", "clips/s", "TFLOP/s", "utilisation", "peak GB", "idle", "x")
    for row in rows:
        for name, side in (("rbft", row.ours), (row.against, row.theirs)):
            ratio = f"{row.ratio:.3g}" if side is row.ours else ""
            table.add_row(row.phase, row.case, row.training, name, *_cells(side), ratio)
    Console(width=200).print(table)


def _cells(side: Side) -> list[str]:
    values = (side.milliseconds, side.clips_per_second, side.tflops, side.utilisation, side.peak_gigabytes)
    return ["not measured" if value is None else f"{value:.3g}" for value in (*values, side.idle_share)]
