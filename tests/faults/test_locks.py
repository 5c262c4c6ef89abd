"""One process at a time works in a run directory, whatever the verb; and nobody outlives a killed parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from tests.commands import command
from tests.videos import picture, write_clip

from rbft.clips.questions import QuestionRow, write_questions
from rbft.errors import StoreError
from rbft.experiment import Experiment
from rbft.files import held
from rbft.tiny.night_yard import write_night_yard

RACER = """
import sys, time
from pathlib import Path
from rbft.errors import StoreError
from rbft.files import held
print("ready", flush=True)
for line in sys.stdin:
    folder, start = line.split()
    while time.monotonic() < float(start):
        pass
    try:
        with held(Path(folder)):
            print("won", flush=True)
            sys.stdin.readline()
    except StoreError as error:
        assert "works here; wait until it has ended" in str(error), error
        print("refused", flush=True)
        sys.stdin.readline()
"""


def test_of_two_processes_at_the_same_moment_exactly_one_holds_a_folder(tmp_path: Path) -> None:
    """A hundred races, in folders that one of them has to make; the loser holds nothing."""
    pair = [
        subprocess.Popen([sys.executable, "-c", RACER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    wins = [0, 0]

    def say(text: str) -> None:
        for racer in pair:
            assert racer.stdin is not None
            racer.stdin.write(text)
            racer.stdin.flush()

    def heard() -> list[str]:
        return [racer.stdout.readline().strip() for racer in pair if racer.stdout is not None]

    assert heard() == ["ready", "ready"]
    for number in range(100):
        say(f"{tmp_path / str(number)} {time.monotonic() + 0.002}\n")
        ends = heard()
        assert sorted(ends) == ["refused", "won"], number
        wins[ends.index("won")] += 1
        say("\n")
    for racer in pair:
        racer.communicate()
        assert racer.returncode == 0
    print(f"\n{wins[0]} to {wins[1]}")


def test_of_many_threads_exactly_one_holds_a_folder(tmp_path: Path) -> None:
    start, done, ends = threading.Barrier(8), threading.Barrier(8), []

    def race() -> None:
        start.wait()
        try:
            with held(tmp_path):
                ends.append("won")
                done.wait()
        except StoreError:
            ends.append("refused")
            done.wait()

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ends) == ["refused"] * 7 + ["won"]


def test_every_verb_that_writes_into_a_folder_holds_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`run` is in test_flow; here `curate`, `ask`, `explain` of a run, and the clips of `demo`."""
    write_clip(tmp_path / "a.mp4", [picture(n) for n in range(8)])
    (tmp_path / "clips.csv").write_text("path,label,split\na.mp4,no,train\n", encoding="utf-8")
    question = QuestionRow(question_id="1", path="a.mp4", kind="numerical", text="How many?", answer="1")
    write_questions(tmp_path / "questions.jsonl", [question])
    (tmp_path / "answers.jsonl").write_text('{"id": "a.mp4", "text": "x"}\n', encoding="utf-8")
    settings = {
        "name": "curated", "output": str(tmp_path), "clips": str(tmp_path / "clips.csv"), "prompts": "brief",
        "labels": {"no": "nothing", "fall": "a fall"}, "engine": {"answers": str(tmp_path / "answers.jsonl")},
    }  # fmt: skip
    (tmp_path / "curation.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    run = tmp_path / "run"
    run.mkdir()
    experiment = Experiment.model_validate(
        {"name": "run", "clips": "clips.csv", "output": str(tmp_path), "model": "embedded", "domain": "Yard",
         "labels": {"no": "nothing", "fall": "a fall"}, "arms": ["zero-shot"]}
    )  # fmt: skip
    (run / "experiment.json").write_text(experiment.model_dump_json(), encoding="utf-8")
    for name in ("manifest.json", "report.json"):
        (run / name).write_text("{}", encoding="utf-8")
    verbs = {
        "curated": ("curate", str(tmp_path / "curation.yaml")),
        "asked": ("ask", "embedded", str(tmp_path / "questions.jsonl"), "--out", str(tmp_path / "asked")),
        "run": ("explain", str(run)),
        "night-yard": ("demo", "--output", str(tmp_path)),
    }
    for folder, arguments in verbs.items():
        with held(tmp_path / folder):
            there = sorted(path.name for path in (tmp_path / folder).iterdir())
            assert command(*arguments) == 1, arguments
            assert f"rbft: {tmp_path / folder}: another rbft (process {os.getpid()} on " in capsys.readouterr().err
            assert sorted(path.name for path in (tmp_path / folder).iterdir()) == there, "nothing is written"


# -- a killed parent -----------------------------------------------------------------------------------------------


def children_of(parent: int) -> list[int]:
    """All that descend from a process."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            above = int(entry.joinpath("stat").read_text().rsplit(")", 1)[1].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if above == parent:
            found += [int(entry.name), *children_of(int(entry.name))]
    return found


def lives(process: int) -> bool:
    """Whether a process is there and no zombie that waits for its new parent."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def killed_with(script: list[str], number: int, ready: Path) -> list[int]:
    """A process that has so many children, and has written something, is killed: who lives on after 5 s."""
    parent = subprocess.Popen([sys.executable, *script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(children := children_of(parent.pid)) < number or not any(ready.rglob("*")):
        assert parent.poll() is None, "it works"
        time.sleep(0.005)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    latest = time.monotonic() + 5
    while any(map(lives, children)) and time.monotonic() < latest:
        time.sleep(0.01)
    return [child for child in children if lives(child)]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_readers_end_with_a_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / "clips" / "a.mp4", [picture(n, 320, 240) for n in range(200)])
    rows = ["path,start,end", *(f"a.mp4,{i / 100},{7.0 + i / 1000}" for i in range(400))]
    (tmp_path / "clips" / "clips.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    script = (
        "import sys\nfrom pathlib import Path\nfrom rbft.clips.cache import FrameCache\n"
        "from rbft.clips.ingest import inspect_clips\nfrom rbft.clips.manifest import read_manifest\n"
        "from rbft.experiment import ClipLimits, Sampling\nfrom rbft.records import Grid\n"
        "listing = read_manifest(Path(sys.argv[1]), labels={})\n"
        "inspect_clips(listing, sampling=Sampling(), grid=Grid(), limits=ClipLimits(), workers=2, "
        "cache=FrameCache(Path(sys.argv[2])))\n"
    )
    cache = tmp_path / "cache"
    assert killed_with(["-c", script, str(tmp_path / "clips" / "clips.csv"), str(cache)], 2, cache) == []


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_renderers_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom rbft.tiny.night_yard import write_night_yard\n"
        "write_night_yard(Path(sys.argv[1]), num_train=400, num_test=2, seed=1, workers=2)\n"
    )
    assert killed_with(["-c", script, str(tmp_path / "yard")], 2, tmp_path / "yard" / "clips") == []
    write_night_yard(tmp_path / "yard", num_train=4, num_test=2, seed=1, workers=1)


@pytest.mark.skipif(sys.platform != "linux", reason="a request to Linux")
def test_forks_of_a_command_end_with_a_killed_parent(tmp_path: Path) -> None:
    """The processes that read ahead for a GPU look for their parent every 5 s only, if they look."""
    script = (
        "import os, sys, time\nfrom rbft.stopping import stoppable\n"
        "with stoppable():\n    for _ in range(2):\n        os.fork() or time.sleep(100)\n"
        "    open(sys.argv[1] + '/x', 'w').close()\n    time.sleep(100)\n"
    )
    (tmp_path / "ready").mkdir()
    assert killed_with(["-c", script, str(tmp_path / "ready")], 2, tmp_path / "ready") == []
