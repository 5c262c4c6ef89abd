"""Settings of a curation: one engine of three a step, prompts of a chain with their fields; every fault at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from commands import command
from rbft.curation import BUILT_IN_CHAINS, Curation, Engine, load_chain
from rbft.errors import ExperimentError
from rbft.rationales.job import load_curation

ROOT = Path(__file__).parents[1]


def write(folder: Path, document: dict[str, Any], name: str = "home.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def test_the_smallest_file_and_what_stands_beside_it(tmp_path: Path) -> None:
    (tmp_path / "clips.csv").touch()
    (tmp_path / "said.jsonl").touch()
    (tmp_path / "model").mkdir()
    asked = {"clips": "clips.csv", "engine": {"model": "model"}, "reason": {"answers": "said.jsonl"}, "revise": "none"}
    job = load_curation(write(tmp_path, asked), ["open_accuracy=0.7", "engine.batch_size=3"])
    assert job.name == "home" and job.clips == str(tmp_path / "clips.csv") and job.open_accuracy == 0.7
    assert job.engine == Engine(model=str(tmp_path / "model"), batch_size=3)
    assert job.of("reason") == Engine(answers=str(tmp_path / "said.jsonl"))
    assert job.of("represent") == job.engine and not job.revises and job.steps == ("represent", "reason")


def test_an_endpoints_model_is_a_name_and_no_folder(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    engine = {"endpoint": "http://localhost:8000/v1", "model": "model"}
    assert load_curation(write(tmp_path, {"clips": "c", "engine": engine})).engine == Engine.model_validate(engine)


def test_every_fault_of_a_file_in_one_message(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(
        tmp_path,
        {
            "represent": {"model": "x", "answers": "y"},
            "reason": {"endpoint": "ftp://x", "model": "y"},
            "revise": {"max_new_tokens": 0, "model": "m", "retrys": 3},
            "open_accuracy": 2,
        },
    )
    assert command("curate", str(path)) == 2
    told = capfd.readouterr().err
    for line in (
        "represent: `answers` were written elsewhere; leave out `model` and `endpoint`",
        "reason: endpoint 'ftp://x' is no address; it begins with http:// or https://",
        "max_new_tokens: Input should be greater than or equal to 1 (given: 0)",
        "retrys: no such setting; did you mean 'retries'?",
        "open_accuracy: Input should be less than or equal to 1 (given: 2)",
    ):
        assert f"rbft: {path}: " in told and line in told, line


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"engine": {"model": "x"}}, "give either `clips` (their labels are asked) or `questions` (VideoRFT's JSON"),
        ({"clips": "a", "questions": "b", "engine": {"model": "x"}}, "give either `clips` (their labels are asked) or"),
        ({"questions": "b", "labels": ["a", "b"], "engine": {"model": "x"}}, "`labels` belong to `clips`; questions"),
        ({"clips": "a", "represent": {"model": "x"}, "revise": "none"}, "nobody writes the step 'reason'; give `reas"),
        ({"clips": "a", "engine": {}}, "engine: nobody writes; give `model` (local), `endpoint` and `model`"),
        ({"clips": "a", "engine": {"model": "m", "endpoint": "https://me:pw@x/v1"}}, "endpoint holds a user, a passw"),
        ({"clips": "a", "engine": {"model": "m", "endpoint": "https://x/v1", "input_price": 1}}, "input_price and out"),
        ({"clips": "a", "engine": {"model": "m", "endpoint": "http://x:99999/v1"}}, "it holds no space, and a port is"),
        ({"clips": "a", "engine": {"model": "m", "endpoint": "http://x:80a/v1"}}, "it holds no space, and a port is a"),
        ({"clips": "a", "engine": {"model": "m", "endpoint": "http://x/v1 y"}}, "it holds no space, and a port is a n"),
        ({"clips": "a", "labels": ["a"], "engine": {"model": "x"}}, "one label ('a') cannot be classified"),
        ([], "a curation is a mapping of names to values"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(document: Any, text: str, tmp_path: Path) -> None:
    path = tmp_path / "home.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(ExperimentError) as error:
        load_curation(path)
    assert text in str(error.value) and "pw" not in str(error.value).replace("passw", "")


def test_engines_that_are_not_there_are_named_together(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(
        tmp_path,
        {
            "clips": "clips.csv",
            "represent": {"endpoint": "http://localhost:1/v1", "model": "m", "key_from": "RBFT_NO_SUCH_KEY"},
            "reason": {"answers": "none.jsonl"},
            "revise": {"model": "./no-folder"},
            "chain": "none.yaml",
        },
    )
    assert command("curate", str(path)) == 2
    told = capfd.readouterr().err
    for line in (
        "represent: the environment variable RBFT_NO_SUCH_KEY is empty; put the key of http://localhost:1/v1 into it, "
        "or leave out key_from where the server needs none",
        "reason: none.jsonl: cannot be read: No such file or directory",
        "revise: no-folder: no such model folder; give a folder, a Hugging Face name, or `embedded`",
        "chain: no file 'none.yaml'; give a file or one of default, brief",
    ):
        assert f"rbft: {line}\n" in told


@pytest.mark.parametrize("key", ["kéy", "…", "two\nlines"])
def test_what_no_header_can_hold_is_no_key(
    key: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBFT_SOME_KEY", key)
    engine = {"endpoint": "http://localhost:1/v1", "model": "m", "key_from": "RBFT_SOME_KEY"}
    assert command("curate", str(write(tmp_path, {"clips": "clips.csv", "engine": engine}))) == 2
    told = capfd.readouterr().err
    assert (
        "the environment variable RBFT_SOME_KEY holds no key: there are line breaks in it, or letters outside" in told
    )
    assert key not in told


def test_the_help_teaches(capfd: pytest.CaptureFixture[str]) -> None:
    assert command("curate", "--help") == 0
    told = " ".join(capfd.readouterr().out.replace("│", " ").split())
    for part in ("engine: {endpoint:", "key_from", "revise: none", "cot.jsonl", "nothing is asked twice"):
        assert part in told, part


def test_the_base_writes_what_names_no_engine() -> None:
    base = Engine(model="embedded")
    curation = Curation(revise=Engine(answers="x")).with_default(base)
    assert [curation.of(step) for step in curation.steps] == [base, base, Engine(answers="x")]
    own = Curation(engine=Engine(model="own", max_new_tokens=7), revise="none")
    assert own.with_default(base) == own and own.max_new_tokens == 7
    assert Curation().chain_for("brief") == "brief" and Curation().chain_for("x.yaml") == "default"
    assert Curation(chain="mine.yaml").chain_for("brief") == "mine.yaml"


# -- prompts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILT_IN_CHAINS)
def test_built_in_chains_render(name: str) -> None:
    prompts = load_chain(name)
    assert prompts.name == name and prompts.form == {"default": "json", "brief": "text"}[name]
    told = prompts.represent.format(num_frames=3, times="0, 1, 2", duration="3.0")
    assert "{{" not in told
    assert "«r»" in prompts.reason.format(representation="«r»", question="«q»")
    assert "«t»" in prompts.revise.format(question="«q»", think="«t»", answer="«a»")


def test_the_example_of_the_prompt_is_json_of_the_schema() -> None:
    """What stands in the prompt as the form to write is itself a representation."""
    from rbft.rationales.represent import Representation, read_representation

    told = load_chain("default").represent.format(num_frames=1, times="0", duration="1.0")
    shown = told[told.index("{") : told.rindex("}") + 1]
    assert isinstance(read_representation(shown, num_frames=1, start_seconds=0, end_seconds=1), Representation)


def test_faults_of_a_chains_prompts_are_told_at_once(tmp_path: Path) -> None:
    document = yaml.safe_load((ROOT / "src/rbft/prompts/curate.yaml").read_text(encoding="utf-8"))
    document |= {
        "represent": "{frames}", "repair": "{prompt:>3} {faults}", "reason": "{question}", "revise": "{think",
        "names_notes": ["("],
    }  # fmt: skip
    path = write(tmp_path, document, "own.yaml")
    with pytest.raises(ExperimentError) as error:
        load_chain(str(path))
    may = "may hold ['duration', 'num_frames', 'times']"
    assert error.value.faults == [
        f"{path}: represent: holds the fields ['frames'], needs [] and {may}",
        f"{path}: repair: a field is a bare name, without `:` or `!`",
        f"{path}: reason: holds the fields ['question'], needs ['question', 'representation'] and may hold []",
        f"{path}: revise: expected '}}' before end of string; a brace that is meant as text is doubled",
        f"{path}: names_notes: '(' is not a regular expression: missing ), unterminated subpattern at position 0",
    ]
    path.write_text("form: xml\n")
    with pytest.raises(ExperimentError) as error:
        load_chain(str(path))
    assert f"{path}: form: Input should be 'json' or 'text'" in error.value.faults
    path.write_text("- a\n")
    with pytest.raises(ExperimentError, match="the prompts of a chain are a mapping of names to texts"):
        load_chain(str(path))
