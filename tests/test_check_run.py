"""`rbft check EXPERIMENT.yaml` refuses what `rbft run` refuses, in the same words, and starts nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from commands import command
from videos import picture, write_clip

RATIONALES_OF = "arms=[{{name: mine, stages: [{{kind: rationale, {}}}, {{kind: label}}]}}]"
SOUND = "6 clips, 2 labels: every clip can be read, and a run could start."


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two labels of three clips each: one of each for the test, two for training."""
    folder = tmp_path_factory.mktemp("clips")
    rows = ["path,label,split"]
    for number in range(6):
        write_clip(folder / f"{number}.mp4", [picture(20 * number + i) for i in range(10)])
        rows.append(f"{number}.mp4,{('still', 'moving')[number % 2]},{'test' if number < 2 else 'train'}")
    (folder / "clips.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder / "clips.csv"


def written(folder: Path, clips: Path, setting: str) -> Path:
    """An experiment file with one setting of its own."""
    key, _, value = setting.partition("=")
    head, _, rest = key.partition(".")
    settings = {"name": "mine", "clips": json.dumps(str(clips)), "model": "embedded", "prompts": "brief",
                "arms": "[zero-shot, direct]", "output": json.dumps(str(folder / "runs")), "workers": "1"}  # fmt: skip
    settings[head] = f"{{{rest}: {value}}}" if rest else value
    path = folder / "mine.yaml"
    path.write_text("".join(f"{k}: {v}\n" for k, v in settings.items()), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        (
            RATIONALES_OF.format("clips: unlabelled"),
            "arm 'mine', stage 1 (rationale): it learns rationales of unlabelled clips, and none of the 4 training "
            "clips is unlabelled",
        ),
        (
            RATIONALES_OF.format("self_share: 0.3"),
            "arm 'mine', stage 1 (rationale): self_share 0.3 asks for human rationales of 3 training clips; the "
            "manifest's `rationale` column has 0. Fill the column or raise self_share",
        ),
        (
            "evaluation.retention=nowhere.csv",
            "evaluation.retention: nowhere.csv: cannot be read: No such file or directory",
        ),
        (
            "evaluation.learning_curve=[0.4, 0.6]",
            "evaluation.learning_curve: shares 0.4 and 0.6 are both 2 of 4 labelled training clips; give fewer shares, "
            "further apart",
        ),
        ("prompts=nowhere.yaml", "prompts: no file 'nowhere.yaml'; give a file or one of default, brief"),
    ],
)
def test_check_refuses_what_run_refuses(
    setting: str, told: str, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = str(written(tmp_path, clips, setting))
    assert command("check", asked, "--json") == 2
    printed = capsys.readouterr()
    assert [json.loads(line)["status"] for line in printed.out.splitlines()] == ["ok"] * 6
    [fault] = [line for line in printed.err.splitlines() if line.startswith("rbft: fault: ")]
    assert fault == f"rbft: fault: {told}"
    assert command("run", asked) == 2
    assert capsys.readouterr().err.splitlines()[-1] == fault.replace("fault: ", "", 1)
    assert command("check", asked) == 2
    assert "A run would stop: 1 fault to mend first." in capsys.readouterr().out


def test_check_reads_the_general_clips_too_and_counts_their_memory(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A long one is heavier than any of the experiment's own; a broken one stops a run."""
    write_clip(tmp_path / "long.mp4", [picture(i) for i in range(64)])
    general = tmp_path / "general.csv"
    general.write_text("path,rationale\nlong.mp4,Subjects: a square.\n", encoding="utf-8")

    def peak() -> str:
        assert command("check", str(written(tmp_path, clips, setting))) == 0
        [row] = [line for line in capsys.readouterr().out.splitlines() if "writing" in line]
        return row

    setting = "domain=Expert"
    plain = peak()
    setting = f"evaluation.retention={json.dumps(str(general))}"
    assert peak() != plain
    (tmp_path / "long.mp4").write_bytes(b"no video")
    assert command("check", str(written(tmp_path, clips, setting)), "--json") == 2
    fault = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("rbft: fault: "))
    assert fault.startswith("rbft: fault: evaluation.retention: long.mp4 (row 2): unreadable: ")
    assert command("run", str(written(tmp_path, clips, setting))) == 2
    assert fault.removeprefix("rbft: fault: ") in capsys.readouterr().err


def test_a_sound_experiment_passes(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("check", str(written(tmp_path, clips, "arms=[zero-shot, direct]"))) == 0
    assert SOUND in capsys.readouterr().out
    assert not (tmp_path / "runs").exists(), "a check writes nothing"
