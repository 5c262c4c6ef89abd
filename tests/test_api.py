"""The public surface: names, commands and options (growth is a decision), and that asking for help loads no torch."""

from __future__ import annotations

import ast
import configparser
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.main import get_command

import rbft
from rbft.cli import app, main

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "torchvision", "transformers", "peft", "accelerate", "sklearn", "matplotlib", "scipy", "av")


def python(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "PYTHONWARNINGS": "error"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment, cwd=folder
    )


def loaded_by(code: str, modules: Sequence[str] = HEAVY) -> list[str]:
    """Which of these modules a fresh interpreter has loaded after running the code."""
    ending = f"\nimport json, sys\nprint(json.dumps([m for m in {list(modules)!r} if m in sys.modules]))"
    ran = python("-c", code + ending)
    assert ran.returncode == 0, ran.stderr
    found: list[str] = json.loads(ran.stdout.splitlines()[-1])
    return found


# -- names ---------------------------------------------------------------------------------------------------------


def test_public_names() -> None:
    """A name more or less is a decision: it is what users import."""
    assert rbft.__all__ == [
        "Answer", "Arm", "Checkpoint", "Classifier", "Clip", "Experiment", "Manifest", "Prediction", "Rationale",
        "RbftError", "Report", "Sampling", "Stage", "UserError", "__version__", "load_experiment", "run",
        "run_questions",
    ]  # fmt: skip
    assert dir(rbft) == rbft.__all__


def test_every_name_is_the_one_that_type_checkers_see() -> None:
    """The lazy names, and where they come from, are those of the TYPE_CHECKING block."""
    tree = ast.parse(Path(str(rbft.__file__)).read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    told = {
        alias.asname or alias.name: str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted([*told, "__version__"]) == rbft.__all__
    for name, module in told.items():
        assert getattr(rbft, name) is getattr(sys.modules[module], name)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError) as caught:
        _ = rbft.Clasifier
    assert str(caught.value).startswith("module 'rbft' has no attribute 'Clasifier'; there are Answer, Arm, ")


def test_it_is_typed() -> None:
    assert (Path(str(rbft.__file__)).parent / "py.typed").is_file()


# -- what is loaded ------------------------------------------------------------------------------------------------


def test_import_loads_nothing_heavy() -> None:
    assert loaded_by("import rbft") == []
    assert loaded_by("import rbft; rbft.Experiment, rbft.Report, rbft.load_experiment") == []


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["run", "--help"], ["check", "--help"], ["predict", "-h"]]
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"import contextlib, sys\nsys.argv = {['rbft', *arguments]!r}\n"
        "from rbft.cli import main\nwith contextlib.suppress(SystemExit):\n    main()"
    )
    assert loaded_by(code) == []


def test_modules_that_are_torch_free_load_no_torch() -> None:
    """What the import rules promise by name holds for what Python really loads."""
    rules = configparser.ConfigParser()
    rules.read(ROOT / ".importlinter")
    contract = rules["importlinter:contract:torch"]
    modules = []
    for name in contract["source_modules"].split():
        place = ROOT / "src" / Path(*name.split("."))
        modules += [name] if not place.is_dir() else [f"{name}.{file.stem}" for file in sorted(place.glob("[a-z]*.py"))]
    assert {"rbft.experiment", "rbft.store", "rbft.clips.manifest", "rbft.report.page"} < set(modules)
    code = "import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in modules)
    assert loaded_by(code, contract["forbidden_modules"].split()) == []


# -- commands ------------------------------------------------------------------------------------------------------


def test_commands_and_options() -> None:
    """The whole command line. A new option is a decision: a setting belongs into the experiment file first."""
    found = {
        name: [
            " ".join([*p.opts, *p.secondary_opts]) if p.param_type_name == "option" else str(p.name) for p in c.params
        ]
        for name, c in get_command(app).commands.items()  # type: ignore[attr-defined]
    }
    assert found == {
        "demo": ["overrides", "--output"],
        "check": [
            "clips", "--json", "--model", "--labels", "--fps", "--allow-outside --no-allow-outside", "--workers",
        ],
        "import": [
            "benchmark", "annotation", "--train", "--test", "--videos", "--out", "--drop-vague", "--drop-leaks",
            "--leave-out-missing",
        ],
        "run": ["experiment", "overrides"],
        "curate": ["settings", "overrides", "--json"],
        "predict": ["checkpoint", "clips", "--rationale", "--json"],
        "ask": [
            "model", "questions", "--videos", "--out", "--frames", "--fps", "--pixels", "--prompts",
            "--max-new-tokens", "--batch-size", "--leave-out-missing", "--json",
        ],
        "compare": ["a", "b", "--json"],
        "explain": [
            "checkpoint", "clips", "--out", "--label", "--experiment", "--masks", "--attention", "--objects", "--json",
        ],
        "doctor": ["--output", "--model", "--revision", "--json"],
    }  # fmt: skip
    assert [p.opts for p in get_command(app).params] == [["--version"]]


def test_every_command_and_option_has_help() -> None:
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        assert command.help, name
        for parameter in command.params:
            assert parameter.help, f"{name} {parameter.name}"
            assert parameter.help.endswith("."), f"{name} {parameter.name}"


def test_help_shows_every_command() -> None:
    ran = python("-m", "rbft", "--help")
    assert ran.returncode == 0
    for name in get_command(app).commands:  # type: ignore[attr-defined]
        assert f" {name} " in ran.stdout


def test_version() -> None:
    ran = python("-m", "rbft", "--version")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"rbft {rbft.__version__}\n", "")


def test_the_version_is_the_packages() -> None:
    assert f'\nversion = "{rbft.__version__}"\n' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    """Exit code and what is printed by the command, in this process (torch is loaded once)."""
    monkeypatch.setattr(sys, "argv", ["rbft", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert isinstance(caught.value.code, int)
    return (caught.value.code, *capsys.readouterr())


def test_a_file_that_is_not_there_is_one_plain_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (["none.yaml"], ["none.yaml", "seeds=[1]"]):
        assert told(capsys, monkeypatch, "run", *arguments) == (
            2, "", "rbft: none.yaml: cannot be read: No such file or directory\n",
        )  # fmt: skip


def test_all_faults_of_an_experiment_are_told_each_on_its_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text("clip: c\nseeds: [0]\narms: [rbft]\n", encoding="utf-8")
    code, _, said = told(capsys, monkeypatch, "run", "x.yaml")
    assert code == 2
    assert [line.split(": ")[:3] for line in said.splitlines()] == [
        ["rbft", "x.yaml", name] for name in ("clips", "model", "arms.0", "clip")
    ]
    assert said.endswith("rbft: x.yaml: clip: no such setting; did you mean 'clips'?\n")
    assert [file.name for file in tmp_path.iterdir()] == ["x.yaml"]


@pytest.mark.parametrize("arguments", [["compare", "a.csv", "b.csv"], ["rnu"]])
def test_a_fault_of_the_user_is_exit_code_2_without_a_traceback(arguments: list[str], tmp_path: Path) -> None:
    ran = python("-m", "rbft", *arguments, folder=tmp_path)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr
    assert "Traceback" not in ran.stderr
