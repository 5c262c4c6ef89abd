"""YAML from strangers: a tag, an alias, depth and size end in a message, wherever it is read, and do nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rbft.answers import load_thresholds
from rbft.clips.manifest import read_manifest
from rbft.curation import load_chain
from rbft.errors import ExperimentError
from rbft.experiment import load_experiment
from rbft.prompts import load_prompts
from rbft.rationales.job import load_curation


def override(path: Path) -> Any:
    """The file's text as the value of a setting on the command line."""
    base = path.with_name("base.yaml")
    base.write_text("clips: c\nmodel: m\n", encoding="utf-8")
    return load_experiment(base, [f"labels={path.read_text(encoding='utf-8')}"])


READERS: dict[str, Callable[[Path], Any]] = {
    "experiment": load_experiment,
    "override": override,
    "curation": load_curation,
    "prompts": lambda path: load_prompts(str(path), persona="p", labels={"a": "", "b": ""}),
    "chain": lambda path: load_chain(str(path)),
    "audit rules": load_thresholds,
}
LAUGHS = "\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30))])
ATTACKS = {
    "call": ("labels: !!python/object/apply:os.mkdir [CANARY]", "could not determine a constructor for the tag"),
    "new": ("labels: !!python/object/new:os.mkdir [CANARY]", "could not determine a constructor for the tag"),
    "module": ("? !!python/module:os\n: 1", "could not determine a constructor for the tag"),
    "laughs": (LAUGHS, "aliases (*name) are not used here"),
    "merge": ("a: &a {b: 1}\nc: {<<: *a}", "are not used here"),
    "deep": ("[" * 500, "nested more than 50 deep"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_ends_in_a_message_at_once(reader: str, attack: str, tmp_path: Path) -> None:
    text, said = ATTACKS[attack]
    path = tmp_path / "x.yaml"
    path.write_text(text.replace("CANARY", str(tmp_path / "canary")), encoding="utf-8")
    start = time.process_time()
    with pytest.raises(ExperimentError) as caught:
        READERS[reader](path)
    assert time.process_time() - start < 1.0, "ten times what a bomb of 10^29 nodes may take"
    assert said in str(caught.value)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("reader", [name for name in READERS if name != "override"])
def test_more_than_a_megabyte_is_no_settings_file(reader: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: " + "x" * 1_000_000, encoding="utf-8")
    with pytest.raises(ExperimentError, match="longer than 1000000 bytes; is this the file you meant"):
        READERS[reader](path)


def test_yaml_in_a_table_is_text(tmp_path: Path) -> None:
    label = "!!python/object/apply:os.mkdir [x]"
    (tmp_path / "clips.csv").write_text(f'path,label\na.mp4,"{label}"\nb.mp4,no\nc.mp4,*a\n', encoding="utf-8")
    listing = read_manifest(tmp_path / "clips.csv", labels={})
    assert [row.label for row in listing.rows] == [label, "no", "*a"] and listing.faults == ()
