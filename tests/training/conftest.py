"""Training collects garbage whenever it begins: what was imported by then is no garbage, and is left out of it."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(scope="package", autouse=True)
def _imports_are_no_garbage() -> None:
    import rbft.training.reinforce  # noqa: F401

    gc.freeze()
