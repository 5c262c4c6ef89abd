"""Memory, descriptors and processes stay flat over many clips and many predictions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.videos import picture, write_clip

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

MEASURED = """
import gc, json, os, sys
from pathlib import Path

def status(process, name):
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)

def children():
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, above = entry.joinpath("stat").read_text().rsplit(")", 1)[1].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(above) == os.getpid():
            found.append((int(entry.name), state))
    return found

def sample(done):
    below = children()
    sizes = [status(process, "VmRSS:") for process, _ in below]
    points.append([done, status(os.getpid(), "VmRSS:"), max(sizes, default=0), len(os.listdir("/proc/self/fd")),
                   sum(state == "Z" for _, state in below), len(below)])

points, every = [], int(sys.argv[2])
"""
CHECKED = """
import ctypes
from rbft.clips.cache import FrameCache
from rbft.clips.ingest import Reading
from rbft.clips.manifest import read_manifest
from rbft.experiment import ClipLimits, Sampling
from rbft.records import Grid
listing = read_manifest(Path(sys.argv[1]), labels={})
sampling = Sampling(min_pixels=28 * 28, max_pixels=28 * 28)
kept, let_go = [], []
def progress(_):
    kept.append(0)
    if len(kept) % every == 0:
        sample(len(kept))
for turn in ("first", "second"):
    cache = FrameCache(Path(sys.argv[3]) / turn) if sys.argv[3] else None
    reading = Reading(listing, sampling=sampling, grid=Grid(), limits=ClipLimits(), workers=1, cache=cache)
    found = reading.finish(progress)
    assert all(one.problem is None for one in found), found[0]
    del found, reading
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    let_go.append(status(os.getpid(), "VmRSS:"))
print(json.dumps({"points": points, "grown": let_go[1] - let_go[0]}))
"""
PREDICTED = """
import torch
torch.set_num_threads(1)
from rbft import Classifier
classifier = Classifier.load(sys.argv[1])
files = json.loads(sys.argv[3])
for number in range(int(sys.argv[4])):
    answers = classifier.answer(files)
    assert len(answers) == len(files)
    if number % every == 0:
        sample(number * len(files))
print(json.dumps({"points": points, "grown": 0}))
"""

OPEN = 2
"""Files that may be open or not while a sample is taken: the clip that is hashed, the note that is written."""


def measured(script: str, *arguments: str) -> tuple[np.ndarray, int]:
    """[points, 6]: things done, kB of this process, of its largest child, descriptors, zombies, children.

    Beside it the kB by which the process is larger after a second turn than after the first, with all results gone.
    """
    ran = subprocess.run([sys.executable, "-c", MEASURED + script, *arguments], stdout=subprocess.PIPE, text=True,
                         check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
    told = json.loads(ran.stdout)
    return np.array(told["points"]), int(told["grown"])


def slope(points: np.ndarray, column: int) -> float:
    """kB a thing, once everything is warm."""
    warm = points[len(points) // 5 :]
    return float(np.polyfit(warm[:, 0], warm[:, column], 1)[0])


def many_clips(folder: Path, number: int) -> Path:
    """One clip so many times, each with bytes of its own behind its end: a `free` box."""
    write_clip(folder / "one.mp4", [picture(n, 64, 48) for n in range(8)])
    data = (folder / "one.mp4").read_bytes()
    (folder / "clips").mkdir()
    for clip in range(number):
        box = (16).to_bytes(4, "big") + b"free" + clip.to_bytes(8, "big")
        (folder / "clips" / f"{clip}.mp4").write_bytes(data + box)
    rows = "".join(f"clips/{clip}.mp4\n" for clip in range(number))
    (folder / "clips.csv").write_text("path\n" + rows, encoding="utf-8")
    return folder / "clips.csv"


def test_200_readings_leave_no_descriptor_and_no_zombie(tmp_path: Path) -> None:
    points, _ = measured(CHECKED, str(many_clips(tmp_path, 100)), "10", str(tmp_path / "cache"))
    assert np.ptp(points[1:, 3]) <= OPEN, "descriptors"
    assert set(points[:, 4]) == {0}, "zombies"
    assert set(points[:, 5]) <= {0, 1}, "one child"
    warm = points[len(points) // 5 :]
    assert warm[-1, 1] - warm[0, 1] < 5_000 and warm[-1, 2] - warm[0, 2] < 5_000, "kB"


@pytest.mark.nightly
@pytest.mark.parametrize("cached", [False, True])
def test_memory_is_flat_over_10_000_readings(cached: bool, tmp_path: Path) -> None:
    number = 5_000
    cache = str(tmp_path / "cache") if cached else ""
    points, grown = measured(CHECKED, str(many_clips(tmp_path, number)), "100", cache)
    child = slope(points, 2)
    print(
        f"\n10,000 readings, {'cached' if cached else 'checked'}: {grown / number:.3f} kB a clip stay; child "
        f"{child:.3f} kB a clip, {points[-1, 2] / 1e3:.0f} MB; descriptors {sorted(set(points[:, 3].tolist()))}, "
        f"zombies {points[:, 4].max()}, {points[-1, 1] / 1e3:.0f} MB at the end, with the records of {number} clips"
    )
    assert grown / number < 1.0
    assert child < 1.0
    assert np.ptp(points[1:, 3]) <= OPEN
    assert points[:, 4].max() == 0


@pytest.mark.nightly
def test_memory_is_flat_over_2_000_predictions(tmp_path: Path) -> None:
    from rbft.experiment import Sampling
    from rbft.files import write_record
    from rbft.models.vlm import VLM
    from rbft.prompts import load_prompts
    from rbft.records import Checkpoint
    from rbft.store import CARD, Card, seal

    clips = many_clips(tmp_path, 10).parent / "clips"
    VLM.load("embedded").save(tmp_path / "model")
    child = Checkpoint(
        fingerprint="c", path="", stage="label", base="embedded", parent="b", data_fingerprint="",
        sampling_fingerprint="s", prompts_fingerprint="p", config_fingerprint="", seed=0, num_steps=1,
    )  # fmt: skip
    prompts = load_prompts("brief", persona="Expert", labels={"no": "nothing", "fall": "a fall"})
    sampling = Sampling(fps=2, min_pixels=7056, max_pixels=7056)
    write_record(tmp_path / "model" / CARD, Card(checkpoint=child, prompts=prompts, sampling=sampling,
                                                 length_normalisation="none"))  # fmt: skip
    seal(tmp_path / "model")
    files = json.dumps([str(path) for path in clips.iterdir()])
    points, _ = measured(PREDICTED, str(tmp_path / "model"), "2", files, "200")
    told = slope(points, 1)
    print(
        f"\n2,000 predictions in 200 calls: {told:.3f} kB a prediction, {points[-1, 1] / 1e3:.0f} MB at the end, "
        f"descriptors {sorted(set(points[:, 3].tolist()))}, zombies {points[:, 4].max()}"
    )
    assert told < 1.0
    assert np.ptp(points[1:, 3]) <= OPEN
    assert points[:, 4].max() == 0
