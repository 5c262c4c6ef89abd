"""Reading clips ahead: the same clips, before torch is there, and nobody reads on when the block ends."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.commands import command
from tests.videos import picture, write_clip

from rbft.ahead import frame_cache, reading
from rbft.experiment import Experiment
from rbft.files import read_record
from rbft.models.family import stated_grid
from rbft.models.vlm import load_grid
from rbft.records import Manifest
from rbft.runs import run_experiment


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    rows = ["path,label,split"]
    for number, split in enumerate(["train", "train", "test", "test"]):
        write_clip(tmp_path / f"{number}.mp4", [picture(n + number) for n in range(8 + number)])
        rows.append(f"{number}.mp4,{'ab'[number % 2]},{split}")
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return Experiment.model_validate(
        {
            "name": "mine",
            "clips": str(tmp_path / "clips.csv"),
            "output": str(tmp_path / "runs"),
            "model": "embedded",
            "prompts": "brief",
            "domain": "Yard",
            "labels": {"a": "one", "b": "two"},
            "arms": ["zero-shot"],
            "sampling": {"min_pixels": 7056, "max_pixels": 7056},
            "workers": 1,
        }
    )


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"])
def test_a_stated_grid_is_the_one_that_transformers_reads(checkpoints: dict[str, Path], family: str) -> None:
    assert stated_grid(checkpoints[family]) == load_grid(checkpoints[family])


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "other"},
        {"auto_map": {"AutoConfig": "mine.Config"}},
        {"vision_config": {}},
        {"vision_config": {"patch_size": "large", "spatial_merge_size": 2, "temporal_patch_size": 2}},
        {"vision_config": None},
    ],
)
def test_what_a_configuration_leaves_open_is_for_transformers(
    checkpoints: dict[str, Path], tmp_path: Path, change: dict[str, object]
) -> None:
    stated = json.loads((checkpoints["qwen2_5_vl"] / "config.json").read_text(encoding="utf-8"))
    assert stated_grid(tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps(stated | change), encoding="utf-8")
    assert stated_grid(tmp_path) is None


def test_a_run_takes_the_clips_that_were_read_ahead(experiment: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    with reading(experiment) as ahead:
        assert ahead is not None
        first = run_experiment(experiment, ahead=ahead)
    with pytest.raises(AssertionError, match="finished once"):
        ahead.finish()
    assert "Reading clips: 4 clips in" in capsys.readouterr().err
    assert len(list(frame_cache(experiment).root.rglob("*.safetensors"))) == 4
    assert run_experiment(experiment).report == first.report


def test_a_reading_that_does_not_fit_the_run_is_not_taken(experiment: Experiment, tmp_path: Path) -> None:
    listed = (tmp_path / "clips.csv").read_text(encoding="utf-8")
    write_clip(tmp_path / "more.mp4", [picture(9 + n) for n in range(9)])
    with reading(experiment) as ahead:
        assert ahead is not None
        ahead.finish()
        (tmp_path / "clips.csv").write_text(listed + "more.mp4,a,test\n", encoding="utf-8")
        run_experiment(experiment, ahead=ahead)
    manifest = read_record(Path(experiment.output) / "mine" / "manifest.json", Manifest)
    assert [clip.split for clip in manifest.clips].count("test") == 3


@pytest.mark.parametrize("change", [{"model": "owner/name"}, {"model": "./none"}, {"clips": "none.csv"}])
def test_faults_and_hub_models_are_left_to_the_run(experiment: Experiment, change: dict[str, str]) -> None:
    with reading(experiment.model_copy(update=change)) as ahead:
        assert ahead is None


def test_nobody_reads_on_when_the_block_ends(experiment: Experiment) -> None:
    with pytest.raises(KeyboardInterrupt), reading(experiment):
        raise KeyboardInterrupt
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("rbft-reader")]


def test_the_command_tells_a_fault_of_the_clips_once(
    experiment: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "0.mp4").write_bytes(b"no video")
    (tmp_path / "x.yaml").write_text(experiment.model_dump_json(), encoding="utf-8")
    assert command("run", str(tmp_path / "x.yaml")) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if "0.mp4" in line]
    assert len(told) == 1
    assert "unreadable" in told[0]


# -- the end of the process ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["compare", "a.csv", "b.csv"], 2)])
def test_what_is_registered_for_the_end_is_done_and_the_code_kept(
    arguments: list[str], code: int, tmp_path: Path
) -> None:
    script = (
        "import atexit, sys\n"
        "class Held:\n    def __del__(self): print('taken apart')\n"
        "held = Held()\natexit.register(print, 'at the end')\n"
        f"sys.argv = ['rbft', *{arguments!r}]\n"
        "from rbft.__main__ import command\ncommand()\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == code
    assert ran.stdout.endswith("at the end\n"), "and the interpreter is not taken apart"
    assert ("a.csv" in ran.stderr) == (code == 2)


def test_an_error_that_nobody_expected_still_has_its_traceback(tmp_path: Path) -> None:
    script = (
        "import rbft.__main__ as entry\n"
        "def broken(): raise ZeroDivisionError('mine')\n"
        "entry.main = broken\nentry.command()\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.endswith("ZeroDivisionError: mine\n")
