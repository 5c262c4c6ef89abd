"""`rbft doctor`, the real command, on a machine that is well and on machines that are not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from rbft.doctor.findings import Examination, Finding, fault, note, ok, render_examination

HEAVY = ("torchvision", "transformers", "peft", "accelerate", "sklearn", "scipy", "matplotlib", "tensorboard")


def doctor(folder: Path, *options: str, **modules: str) -> tuple[int, dict[str, Finding], str]:
    """Exit code, findings by name and standard error, where these modules stand before the real ones."""
    stubs = folder / "stubs"
    stubs.mkdir()
    for name in (*HEAVY, *modules):
        (stubs / f"{name}.py").write_text(modules.get(name, ""), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": f"{stubs}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    ran = subprocess.run(
        [sys.executable, "-m", "rbft", "doctor", "--json", "--output", "out", *options],
        capture_output=True, text=True, check=False, cwd=folder, env=environment,
    )  # fmt: skip
    seen = Examination.model_validate_json(ran.stdout)
    return ran.returncode, {finding.name: finding for finding in seen.findings}, ran.stderr


def test_a_machine_without_a_working_torch_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    code, found, errors = doctor(tmp_path, torch="raise ImportError('libcudart.so.13: cannot open shared object')")
    assert (code, errors) == (2, "")
    assert "hf_secret" not in str(found)
    assert found["torch"].state == "fault"
    assert found["torch"].found.endswith(
        "is installed and cannot be imported: ImportError: libcudart.so.13: cannot open shared object"
    )
    assert found["gpu"].found == "cannot be asked: torch cannot be imported"
    rest = {name for name, finding in found.items() if finding.state == "fault"}
    assert rest == {"torch", "gpu"}
    assert [file.name for file in tmp_path.iterdir()] == ["stubs"], "nothing is left behind"


def test_a_machine_without_av_is_told_so(tmp_path: Path) -> None:
    code, found, errors = doctor(tmp_path, av="raise ImportError('libavcodec: bad')", torch="")
    assert (code, errors) == (2, "")
    assert found["clips"] == fault(
        "clips", "PyAV cannot be imported: libavcodec: bad", "pip install --force-reinstall 'av>=15'"
    )
    assert found["av"].state == "fault"


def test_what_is_well_a_note_or_a_fault_is_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [
        ok("python", "3.11"),
        note("gpu", "no\x1b[2J driver", "nothing to do"),
        fault("torch", "gone", "get it"),
    ]
    render_examination(findings, Console(width=60))
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "ok     python  3.11",
        "note   gpu     no\\x1b[2J driver",
        "               nothing to do",
        "fault  torch   gone",
        "               get it",
        "",
        "3 looked at, 1 worth knowing: 1 must be mended",
    ]
    render_examination(findings[:2], Console(width=60))
    assert capsys.readouterr().out.endswith("2 looked at, 1 worth knowing: rbft can be used\n")


def test_exit_codes_and_json() -> None:
    well = Examination(findings=(ok("a", "b"), note("c", "d", "e")))
    assert well.exit_code == 0
    assert Examination(findings=(*well.findings, fault("f", "g", "h"))).exit_code == 2
    assert json.loads(well.model_dump_json())["findings"][1] == {
        "name": "c", "state": "note", "found": "d", "advice": "e"
    }  # fmt: skip
