"""The run directory: sealed folders that notice every change, cards, lineage, and timings that survive a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rbft.errors import CheckpointError, LineageError, StoreError
from rbft.experiment import Sampling
from rbft.files import read_record, sha256_of, write_record
from rbft.prompts import load_prompts
from rbft.records import Checkpoint
from rbft.store import (
    CARD,
    MANIFEST,
    TRAIN_AGAIN,
    Card,
    FileManifest,
    RunStore,
    check_lineage,
    is_sealed,
    publish,
    read_card,
    seal,
    verify,
)


def checkpoint(path: str = "runs/x/checkpoints/k1", **changes: Any) -> Checkpoint:
    fields: dict[str, Any] = {
        "fingerprint": "k1", "path": path, "stage": "label", "base": "embedded", "parent": "k0",
        "data_fingerprint": "d", "sampling_fingerprint": "s", "prompts_fingerprint": "p", "config_fingerprint": "c",
        "seed": 0, "num_steps": 3,
    }  # fmt: skip
    return Checkpoint(**(fields | changes))


def card() -> Card:
    prompts = load_prompts("brief", persona="Expert", labels={"no": "nothing", "fall {x}": "a fall"})
    return Card(checkpoint=checkpoint(), prompts=prompts, sampling=Sampling(fps=2), length_normalisation="none")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sealed folder with a card, weights and a folder below."""
    made = tmp_path / "k1"
    (made / "below").mkdir(parents=True)
    (made / "model.safetensors").write_bytes(bytes(range(40)))
    (made / "below" / MANIFEST).write_text("{}")
    write_record(made / CARD, card())
    seal(made)
    return made


def fault(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        verify(folder)
    return str(caught.value).removeprefix(f"{folder}: ")


# -- sealed folders ------------------------------------------------------------------------------------------------


def test_a_sealed_folder_holds_the_checksum_of_every_file(folder: Path) -> None:
    verify(folder)
    assert is_sealed(folder)
    assert read_record(folder / MANIFEST, FileManifest).sha256 == {
        name: sha256_of(folder / name) for name in (CARD, "model.safetensors", f"below/{MANIFEST}")
    }
    before = (folder / MANIFEST).read_bytes()
    seal(folder)
    assert (folder / MANIFEST).read_bytes() == before


@pytest.mark.parametrize("name", [CARD, "model.safetensors", f"below/{MANIFEST}"])
def test_every_flipped_bit_is_noticed(name: str, folder: Path) -> None:
    raw = (folder / name).read_bytes()
    for at in {0, len(raw) // 2, len(raw) - 1}:
        for bit in range(8):
            (folder / name).write_bytes(raw[:at] + bytes([raw[at] ^ (1 << bit)]) + raw[at + 1 :])
            assert fault(folder) == f"damaged (changed: {name}); {TRAIN_AGAIN}"
            assert not is_sealed(folder)
    (folder / name).write_bytes(raw)
    verify(folder)


def test_every_flipped_bit_of_the_manifest_is_noticed(folder: Path) -> None:
    raw = (folder / MANIFEST).read_bytes()
    told = read_record(folder / MANIFEST, FileManifest)
    for at in range(len(raw)):
        (folder / MANIFEST).write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        try:
            same = FileManifest.model_validate_json((folder / MANIFEST).read_bytes()) == told
        except ValueError:
            same = False
        assert is_sealed(folder) == same, "only white space may differ"


def test_a_torn_manifest_is_a_damaged_checkpoint(folder: Path) -> None:
    raw = (folder / MANIFEST).read_bytes()
    for end in range(len(raw.rstrip())):
        (folder / MANIFEST).write_bytes(raw[:end])
        assert not is_sealed(folder)
    with pytest.raises(CheckpointError, match=rf"manifest\.json: not a FileManifest .*; {TRAIN_AGAIN}"):
        read_card(folder)


def test_missing_files_are_all_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "below" / MANIFEST).unlink()
    (folder / CARD).write_text("{}")
    assert fault(folder) == (f"damaged (missing: below/{MANIFEST}, model.safetensors; changed: {CARD}); {TRAIN_AGAIN}")
    assert not is_sealed(folder)


def test_an_added_file_is_refused_and_nothing_is_made_again(folder: Path) -> None:
    """transformers would read an added `adapter_config.json`; but training hours are not thrown away for a note."""
    (folder / "adapter_config.json").write_text("{}")
    (folder / "below" / "notes.txt").write_text("mine")
    assert fault(folder) == (
        "holds files that were not there when it was finished (adapter_config.json, below/notes.txt); "
        "move them elsewhere"
    )
    assert is_sealed(folder)
    with pytest.raises(CheckpointError, match=r"adapter_config\.json"):
        read_card(folder)


def test_hidden_files_are_let_be(folder: Path) -> None:
    (folder / ".DS_Store").write_bytes(b"x")
    verify(folder)
    assert is_sealed(folder)


def test_without_a_manifest_it_is_incomplete(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    assert fault(folder) == f"incomplete: it has no {MANIFEST}, which is written last; {TRAIN_AGAIN}"
    assert not is_sealed(folder)
    assert not is_sealed(folder / "none")


def test_publish_replaces_what_stood_there(folder: Path, tmp_path: Path) -> None:
    new = tmp_path / ".k1.finished"
    new.mkdir()
    (new / "model.safetensors").write_bytes(b"new")
    publish(new, folder)
    verify(folder)
    assert sorted(f.name for f in folder.iterdir()) == [MANIFEST, "model.safetensors"]
    assert not new.exists()


def test_publish_where_it_cannot(tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    with pytest.raises(StoreError) as caught:
        publish(new, tmp_path / "none" / "k1")
    told = "cannot be written: No such file or directory. Mend that, or name another place with `output` or --out"
    assert str(caught.value) == f"{tmp_path / 'none' / 'k1'}: {told}"
    assert is_sealed(new)


# -- cards ---------------------------------------------------------------------------------------------------------


def test_the_card_is_what_was_written_at_the_place_where_it_lies(folder: Path) -> None:
    moved = folder.rename(folder.with_name("moved"))
    written = card().model_copy(update={"checkpoint": checkpoint(str(moved))})
    assert read_card(moved).model_dump() == written.model_dump()
    folder = moved
    assert list(read_card(folder).prompts.labels) == ["no", "fall {x}"]


def test_a_card_that_cannot_be_read_says_why(folder: Path) -> None:
    def said(path: Path) -> str:
        with pytest.raises(CheckpointError) as caught:
            read_card(path)
        return str(caught.value)

    none = folder.with_name("none")
    assert said(none) == f"{none}: no such folder; give the folder of a checkpoint that rbft trained"
    assert said(folder / CARD).endswith("no such folder; give the folder of a checkpoint that rbft trained")
    assert said(folder / "below") == (
        f"{folder / 'below'}: no {CARD}: not a checkpoint that rbft trained, so it has no labels or prompts"
    )
    run = folder.with_name("run")
    (run / "checkpoints" / ".k1.work").mkdir(parents=True)
    told = "run its experiment again, which trains what its arms still lack"
    assert said(run) == f"{run}: a run directory without a finished checkpoint; {told}"
    (run / "checkpoints" / ".k1.work").rmdir()
    (run / "checkpoints").rmdir()
    (run / "experiment.json").write_text("{}")
    assert said(run) == f"{run}: a run directory without a finished checkpoint; {told}"
    (run / "checkpoints" / "k1").mkdir(parents=True)
    assert said(run) == f"{run}: a run directory; name one of its checkpoints: checkpoints/ holds k1"
    document = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(document | {"colour": "red"}))
    assert said(folder) == f"{folder}: damaged (changed: {CARD}); {TRAIN_AGAIN}"
    seal(folder)
    assert said(folder) == (
        f"{folder / CARD}: not a Card of this version: colour: Extra inputs are not permitted; " + TRAIN_AGAIN
    )


# -- lineage -------------------------------------------------------------------------------------------------------


def test_the_same_checkpoint_passes() -> None:
    check_lineage(checkpoint("elsewhere/k1"), checkpoint())


@pytest.mark.parametrize("name", ["fingerprint", "base", "sampling_fingerprint", "prompts_fingerprint"])
def test_a_wrong_parent_names_both_sides(name: str) -> None:
    with pytest.raises(LineageError) as caught:
        check_lineage(checkpoint("theirs/k1", **{name: "other"}), checkpoint("ours/k1"))
    ours = getattr(checkpoint(), name)
    assert str(caught.value) == (
        f"theirs/k1: its {name.replace('_', ' ')} is other, the stage expects {ours} (ours/k1)"
    )


def test_all_differences_at_once() -> None:
    with pytest.raises(LineageError) as caught:
        check_lineage(checkpoint(base="other", sampling_fingerprint="other"), checkpoint())
    assert len(caught.value.faults) == 2


# -- the run directory ---------------------------------------------------------------------------------------------


def test_places() -> None:
    store = RunStore(Path("runs") / "x")
    places = [place("k").as_posix() for place in (store.rationales, store.predictions, store.checkpoint, store.logs)]
    assert places == [
        "runs/x/rationales/k.jsonl", "runs/x/predictions/k.jsonl", "runs/x/checkpoints/k", "runs/x/logs/k",
    ]  # fmt: skip


def test_timings_add_up_over_runs_and_survive_a_torn_tail(tmp_path: Path) -> None:
    assert RunStore(tmp_path).timings() == ({}, [])
    path = tmp_path / "timing.jsonl"
    lines = [{"step": step, "key": "k", "seconds": s} for step, s in (("a", 0.1), ("b", 2.5), ("a", 0.2))]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path.write_text(text + '{"step":"a","key":"k","sec')
    assert RunStore(tmp_path).timings() == ({"a": 0.3, "b": 2.5}, [])
    with RunStore(tmp_path).timed("c", "k") as working:
        working()
        working()
    timings, _ = RunStore(tmp_path).timings()
    assert list(timings) == ["a", "b", "c"]
    assert path.read_text().startswith(text + '{"step":"c","key":"k","seconds":')
    assert timings["c"] >= 0


def test_only_work_that_was_done_and_ended_well_is_timed(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    with store.timed("nothing to do", "k"):
        pass
    with pytest.raises(ValueError, match="no"), store.timed("failed", "k") as working:
        working()
        raise ValueError("no")
    assert store.timings() == ({}, [])
    assert list(tmp_path.iterdir()) == []
