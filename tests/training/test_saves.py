"""Saved steps: every damage is seen and told, nothing in them is run, and one whole save outlives every kill."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from noise import NoiseClips
from rbft.experiment import Recipe
from rbft.models.vlm import VLM
from rbft.records import Example
from rbft.store import MANIFEST, seal
from rbft.training import saves, supervised
from rbft.training.saves import FILES, RANDOM, STATE, fault_of, newest_whole
from rbft.training.supervised import StageTrainer

RECIPE = Recipe(
    learning_rate=1e-2, vision_learning_rate=1e-3, batch_size=2, micro_batch_size=2, gradient_checkpointing=False,
    save_every_steps=2,
)  # fmt: skip


def train(source: Path, folder: Path, said: list[str], *, steps: int = 6, every: int = 2) -> dict[str, torch.Tensor]:
    """The weights after a stage."""
    vlm = VLM.load(source)
    examples = [
        Example(clip_id=str(i), prompt="cat or dog?", answer=("cat", "puppy")[i % 2], source="label") for i in range(6)
    ]
    recipe = RECIPE.model_copy(update={"save_every_steps": every})
    supervised.train(
        vlm, examples, NoiseClips(vlm.grid), recipe, steps=steps, seed=3, work=folder / "work", logs=folder / "logs",
        say=said.append,
    )  # fmt: skip
    return {name: p.detach().clone() for name, p in vlm.model.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def source(checkpoints: dict[str, Path]) -> Path:
    return checkpoints["qwen2_5_vl"]


@pytest.fixture(scope="module")
def finished(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A folder whose `work` holds the saves of steps 2 and 4, and the weights at the end."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, train(source, folder, [])


@pytest.fixture
def work(finished: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> Path:
    """The saves of steps 2 and 4, to be damaged."""
    return Path(shutil.copytree(finished[0] / "work", tmp_path / "work"))


def delete(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    raw = path.read_bytes()
    at = len(raw) // 2 if path.name != MANIFEST else raw.index(b'"optimizer.pt": "') + 20
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])


def truncate(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) * 2 // 3])


DAMAGES = (delete, empty, flip, truncate)
TOLD = {delete: "missing", empty: "changed", flip: "changed", truncate: "changed"}


def expected(name: str, damage: Callable[[Path], None]) -> str:
    if name != MANIFEST:
        return f"damaged ({TOLD[damage]}: {name})"
    if damage is delete:
        return "incomplete: it has no manifest.json, which is written last"
    return "damaged (changed: optimizer.pt)" if damage is flip else "manifest.json: not a FileManifest of this version"


# -- every file, every damage ----------------------------------------------------------------------------------------


def test_a_save_holds_these_files_and_no_other(work: Path) -> None:
    for save in ("checkpoint-2", "checkpoint-4"):
        assert sorted(path.name for path in (work / save).iterdir()) == sorted([*FILES, MANIFEST])
        assert fault_of(work / save) is None


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_damaged_save_is_named_and_the_one_before_is_used(
    name: str, damage: Callable[[Path], None], work: Path
) -> None:
    newest, older = work / "checkpoint-4", work / "checkpoint-2"
    damage(newest / name)
    said: list[str] = []
    assert newest_whole(work, said.append) == older
    passed, used = said
    assert passed.startswith(f"{newest}: passed over: {expected(name, damage)}")
    assert used == f"{older}: whole; the stage goes on from here"
    damage(older / name)
    said.clear()
    assert newest_whole(work, said.append) is None
    assert [line.split(": passed over")[0] for line in said[:2]] == [str(newest), str(older)]
    assert said[2:] == [f"{work}: no saved step is whole; the stage begins again"]


@pytest.mark.parametrize("name", FILES)
def test_a_save_that_was_sealed_without_a_file_is_refused(name: str, work: Path) -> None:
    (work / "checkpoint-4" / name).unlink()
    seal(work / "checkpoint-4")
    said: list[str] = []
    assert newest_whole(work, said.append) == work / "checkpoint-2"
    assert said[0] == f"{work / 'checkpoint-4'}: passed over: was sealed without {name}"


@pytest.mark.parametrize("sealed", [True, False])
def test_a_save_with_another_file_is_refused(sealed: bool, work: Path) -> None:
    """The Trainer would load a `scaler.pt` too, sealed or not."""
    (work / "checkpoint-4" / "scaler.pt").write_bytes(b"x")
    if sealed:
        seal(work / "checkpoint-4")
    assert fault_of(work / "checkpoint-4") == "holds scaler.pt, which no save has"
    (work / "checkpoint-4" / "scaler.pt").unlink()
    (work / "checkpoint-4" / ".nfs0001").write_bytes(b"x")
    assert newest_whole(work, lambda _: None) == (work / "checkpoint-2" if sealed else work / "checkpoint-4")


@pytest.mark.parametrize("name", FILES)
def test_a_sealed_file_that_cannot_be_read_is_refused(name: str, work: Path) -> None:
    (work / "checkpoint-4" / name).write_bytes(b"\x80\x02 nonsense")
    seal(work / "checkpoint-4")
    fault = fault_of(work / "checkpoint-4")
    assert fault is not None
    assert fault.startswith(f"{name} cannot be read: ")
    assert "\n" not in fault


def test_a_save_under_another_step_is_refused(work: Path) -> None:
    (work / "checkpoint-4").rename(work / "checkpoint-6")
    assert fault_of(work / "checkpoint-6") == f"{STATE} is of step 4"


@pytest.mark.parametrize("how", ["gone", "flipped"])
def test_a_stage_goes_on_from_the_older_save_to_the_same_end(
    how: str, finished: tuple[Path, dict[str, torch.Tensor]], source: Path, work: Path
) -> None:
    (delete if how == "gone" else flip)(work / "checkpoint-4" / "optimizer.pt")
    said: list[str] = []
    assert same(train(source, work.parent, said), finished[1])
    assert [line.split(": ")[1] for line in said] == ["passed over", "whole; the stage goes on from here"]


def test_without_any_whole_save_a_stage_begins_again(
    finished: tuple[Path, dict[str, torch.Tensor]], source: Path, work: Path
) -> None:
    for save in work.iterdir():
        (save / RANDOM).unlink()
    said: list[str] = []
    assert same(train(source, work.parent, said), finished[1])
    assert said[-1] == f"{work}: no saved step is whole; the stage begins again"


# -- files from strangers --------------------------------------------------------------------------------------------


class Malicious:
    """Unpickled, it makes a folder."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self._canary),))


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", RANDOM])
@pytest.mark.parametrize("plain", [True, False])
def test_a_pickle_that_would_run_is_not_run(
    name: str, plain: bool, finished: tuple[Path, dict[str, torch.Tensor]], source: Path, work: Path, tmp_path: Path
) -> None:
    """As pickle and in torch's format, in a save that a stranger has sealed: passed over, and the stage ends well."""
    canary, file = tmp_path / "canary", work / "checkpoint-4" / name
    bomb = {"state": Malicious(canary)}
    if plain:
        file.write_bytes(pickle.dumps(bomb))
    else:
        torch.save(bomb, file)
    seal(work / "checkpoint-4")
    said: list[str] = []
    assert newest_whole(work, said.append) == work / "checkpoint-2"
    assert said[0].startswith(f"{work / 'checkpoint-4'}: passed over: {name} cannot be read: ")
    if not plain and name == "optimizer.pt":
        assert same(train(source, work.parent, []), finished[1])
    assert not canary.exists()
    with pytest.raises(FileNotFoundError):  # the canary can sing
        pickle.loads(pickle.dumps(Malicious(tmp_path / "no" / "such")))


def test_the_trainer_itself_runs_no_pickle(source: Path, work: Path, tmp_path: Path) -> None:
    """Were the save not passed over: its loader refuses, too."""
    torch.save({"state": Malicious(tmp_path / "canary")}, work / "checkpoint-4" / "optimizer.pt")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(pickle.UnpicklingError):
        patch.setattr(saves, "fault_of", lambda folder: None)
        train(source, work.parent, [])
    assert not (tmp_path / "canary").exists()


# -- kills while saving ----------------------------------------------------------------------------------------------


class PulledPlugError(BaseException):
    """Not an Exception: nothing mends it."""


FAILPOINTS = {
    "before any file": (supervised, "save_file"),
    "after the weights": (StageTrainer, "_save_optimizer_and_scheduler"),
    "after the optimizer": (StageTrainer, "_save_rng_state"),
    "after the random state": (saves.TrainerState, "save_to_json"),
    "before the seal": (saves, "seal"),
    "in the seal": (__import__("rbft.store", fromlist=["x"]), "write_record"),
    "before the old one goes": (saves, "_saves"),
    "in the removal of the old one": (saves.shutil, "rmtree"),
}


@pytest.fixture
def pulled() -> Iterator[Callable[[Any, str, int], None]]:
    """Pull the plug at the given call of a function."""
    with pytest.MonkeyPatch.context() as patch:

        def pull(owner: Any, name: str, number: int) -> None:
            original, calls = getattr(owner, name), []

            def call(*given: Any, **more: Any) -> Any:
                calls.append(1)
                if len(calls) == number:
                    if name == "rmtree":  # half of it is gone
                        (Path(given[0]) / STATE).unlink()
                    raise PulledPlugError
                return original(*given, **more)

            patch.setattr(owner, name, call)

        yield pull
        patch.undo()


@pytest.mark.parametrize("point", FAILPOINTS)
def test_a_kill_while_saving_leaves_one_whole_save(
    point: str, source: Path, tmp_path: Path, pulled: Callable[[Any, str, int], None]
) -> None:
    """In the save of step 3, with those of 1 and 2 there: the newest whole one is 2, and from the seal on 3."""
    number = {"before the old one goes": 4, "in the removal of the old one": 1}.get(point, 3)
    pulled(*FAILPOINTS[point], number)
    with pytest.raises(PulledPlugError):
        train(source, tmp_path, [], steps=4, every=1)
    after = point in ("before the old one goes", "in the removal of the old one")
    assert newest_whole(tmp_path / "work", lambda _: None) == tmp_path / "work" / f"checkpoint-{3 if after else 2}"


def test_a_cut_save_of_a_later_step_does_not_push_the_whole_one_out(
    source: Path, tmp_path: Path, pulled: Callable[[Any, str, int], None]
) -> None:
    """Half of step 4's save lies there, then one is made of step 3: the higher number is no reason to keep it."""
    with pytest.raises(PulledPlugError), pytest.MonkeyPatch.context() as patch:
        original = StageTrainer._save_rng_state
        calls: list[int] = []

        def cut(self: StageTrainer, folder: str) -> None:
            calls.append(1)
            if len(calls) == 2:
                raise PulledPlugError
            original(self, folder)

        patch.setattr(StageTrainer, "_save_rng_state", cut)
        train(source, tmp_path, [], every=2)
    work = tmp_path / "work"
    assert {save.name for save in work.iterdir()} == {"checkpoint-2", "checkpoint-4"}
    pulled(saves, "seal", 1)
    said: list[str] = []
    with pytest.raises(PulledPlugError):
        train(source, tmp_path, said, every=3)
    assert newest_whole(work, lambda _: None) == work / "checkpoint-2"
    assert said[0].startswith(f"{work / 'checkpoint-4'}: passed over: incomplete")


def test_what_was_passed_over_goes_with_the_next_save(source: Path, work: Path) -> None:
    (work / "checkpoint-4" / STATE).unlink()
    train(source, work.parent, [], every=3)
    assert {save.name for save in work.iterdir()} == {"checkpoint-2", "checkpoint-3"}
    assert newest_whole(work, lambda _: None) == work / "checkpoint-3"


def test_a_save_knows_its_step(work: Path) -> None:
    assert json.loads((work / "checkpoint-4" / STATE).read_text())["global_step"] == 4
