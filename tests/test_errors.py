"""The tree of exceptions, their exit codes, and that they survive the way out of a child process."""

from __future__ import annotations

import pickle
import re

import pytest

from rbft import errors
from rbft.errors import ClipError, ManifestError, RbftError, StoreError, UserError


def classes() -> list[type[RbftError]]:
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RbftError)]


def test_the_docstring_draws_the_real_tree() -> None:
    drawn: dict[str, str] = {}
    above: list[str] = []
    for line in str(errors.__doc__).splitlines():
        branch = re.match(r"((?:│   )*)(?:[├└]── )?(\w+Error) {2,}\S", line)
        if branch:
            depth = len(branch[1]) // 4 + ("── " in line)
            above[depth:] = [branch[2]]
            drawn[branch[2]] = above[depth - 1] if depth else "Exception"
    assert drawn == {kind.__name__: kind.__base__.__name__ for kind in classes()}


def test_every_class_says_what_it_is_for() -> None:
    assert all(vars(kind)["__doc__"] for kind in classes())


def test_exit_codes() -> None:
    assert {kind.__name__: kind.exit_code for kind in classes()} == {
        "RbftError": 1,
        "BudgetError": 1,
        "StoreError": 1,
        "StoppedError": 75,
        "UserError": 2,
        "ExperimentError": 2,
        "ManifestError": 2,
        "ClipError": 2,
        "LineageError": 2,
        "CheckpointError": 2,
        "EngineError": 2,
        "ShortMemoryError": 2,
    }


def test_all_faults_are_in_the_message() -> None:
    assert UserError("one").faults == ["one"]
    error = ManifestError(fault for fault in ("one", "two"))
    assert error.faults == ["one", "two"]
    assert str(error) == "one\ntwo"


def test_a_clip_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(ClipError("a: b.mp4", "partial", "53 of 120 frames: 44 %")))
    assert type(error) is ClipError
    assert (error.path, error.reason, error.detail) == ("a: b.mp4", "partial", "53 of 120 frames: 44 %")
    assert error.faults == ["a: b.mp4: partial: 53 of 120 frames: 44 %"]


@pytest.mark.parametrize("kind", [kind for kind in classes() if issubclass(kind, UserError) and kind is not ClipError])
def test_faults_stay_apart_in_pickling(kind: type[UserError]) -> None:
    error = pickle.loads(pickle.dumps(kind(["one", "two\nlines"])))
    assert type(error) is kind
    assert error.faults == ["one", "two\nlines"]


def test_a_store_error_survives_pickling() -> None:
    assert str(pickle.loads(pickle.dumps(StoreError("full")))) == "full"
