"""SIGKILL while a save is written, again and again, at random instants: one whole save is always left, and used."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rbft.training.saves import newest_whole

KILLS = 30
STEPS = 100
SERVER = """
import json, os, sys
from pathlib import Path
from safetensors.torch import save_file
from noise import NoiseClips
from rbft.experiment import Recipe
from rbft.models.vlm import VLM
from rbft.records import Example
from rbft.training.supervised import train

# Imports are made once; each line of input is a folder, trained in by a child of its own.
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if child:
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)
        continue
    vlm, folder = VLM.load(asked["source"]), Path(asked["folder"])
    examples = [Example(clip_id=str(i), prompt="cat?", answer="cat", source="label") for i in range(6)]
    recipe = Recipe(learning_rate=1e-2, batch_size=2, micro_batch_size=2, gradient_checkpointing=False,
                    save_every_steps=1)
    said = []
    train(vlm, examples, NoiseClips(vlm.grid), recipe, steps=asked["steps"], seed=3, work=folder / "work",
          logs=folder / "logs", say=said.append)
    save_file({name: p.detach().contiguous() for name, p in vlm.model.named_parameters()}, folder / "end.safetensors")
    os._exit(0)
"""


def steps_begun(work: Path) -> int:
    return max((int(save.name.rpartition("-")[2]) for save in work.glob("checkpoint-*")), default=0)


@pytest.mark.nightly
def test_thirty_kills_while_saving_lose_no_step_and_load_no_broken_save(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """A save is made after every step. Each kill falls within a save: from when its folder is there, to its seal."""
    (tmp_path / "server.py").write_text(SERVER, encoding="utf-8")
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    rng, kills, in_save = random.Random(6), 0, 0
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "server.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    ) as server:  # fmt: skip
        assert server.stdin is not None
        assert server.stdout is not None

        def start(folder: Path) -> int:
            asked = {"source": str(checkpoints["qwen2_5_vl"]), "folder": str(folder), "steps": STEPS}
            print(json.dumps(asked), file=server.stdin, flush=True)
            return int(server.stdout.readline())  # type: ignore[union-attr]

        start(tmp_path / "whole")
        assert int(server.stdout.readline()) == 0
        cut, sealed = tmp_path / "cut", 0
        while kills < KILLS:
            child = start(cut)
            aim = sealed + 1
            deadline = time.monotonic() + 120
            while steps_begun(cut / "work") < aim and time.monotonic() < deadline:
                time.sleep(0.0005)
            time.sleep(rng.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
            assert os.WIFSIGNALED(int(server.stdout.readline())), "it was killed, and had not ended"
            kills += 1
            said: list[str] = []
            newest = newest_whole(cut / "work", said.append)
            begun = steps_begun(cut / "work")
            in_save += bool(said)
            step = 0 if newest is None else int(newest.name.rpartition("-")[2])
            assert step >= begun - 1, "at most the save in hand is lost"
            assert step >= sealed, "what was whole stays"
            assert step < STEPS - 3, "kills are spread over the stage"
            sealed = step
        start(cut)
        assert int(server.stdout.readline()) == 0
        server.stdin.close()
    assert in_save > KILLS // 5, "many of the kills left half a save"
    whole, again = (load_file(tmp_path / name / "end.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    print(f"{kills} kills, {in_save} of them in a save; 0 broken saves used")
