"""What the documents say is so: the tree, links, promises, examples, and nothing of one machine in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rbft.curation import Engine
from rbft.experiment import Experiment, load_experiment
from rbft.rationales.job import CurationJob, load_curation

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_the_tree_has_one_line_for_every_source_file() -> None:
    tree = README.partition("## The tree")[2]
    told = re.findall(r"^ *([\w./-]+\.py) +\S", tree, flags=re.MULTILINE)
    files = [f for f in (ROOT / "src" / "rbft").rglob("*.py") if f.name != "__init__.py" or f.parent.name == "rbft"]
    assert sorted(told) == sorted(f.name for f in files)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_promises_name_tests_that_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", README)
    assert named
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{test}"


def test_the_page_about_faults_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    file, seen = "", 0
    for path, test in re.findall(r"`([\w/]+\.py)?(?:::(\w+))?`", page):
        if path.endswith("known_bad.yaml") or not (path or test):
            continue
        file = path or file
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in text, f"{file}::{test}"
        seen += 1
    assert seen > 80


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_valid_settings(file: Path) -> None:
    if file.name == "curation.yaml":
        assert isinstance(load_curation(file), CurationJob)
    else:
        assert isinstance(load_experiment(file), Experiment)


def test_the_night_yard_example_is_what_the_demo_runs() -> None:
    packaged = (ROOT / "src" / "rbft" / "tiny" / "night-yard.yaml").read_text(encoding="utf-8")
    assert (ROOT / "examples" / "night-yard.yaml").read_text(encoding="utf-8") == packaged


def test_the_guide_names_every_setting() -> None:
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    for section in ("sampling", "training", "rationales", "reinforce", "evaluation", "split", "limits", "curation"):
        fields = Experiment.model_fields[section].annotation.model_fields
        assert [name for name in fields if f"`{name}`" not in guide] == [], section
    told = re.findall(r"[a-z_]+", guide.partition("### Curated thoughts")[2].partition("\n## ")[0])
    assert [name for name in Engine.model_fields if name not in told] == []
