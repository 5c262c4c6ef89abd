"""What tests that kill commands share: a server of forks, and a yard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from killing import ForkServer
from victims import write_yard


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    write_yard(folder)
    return folder
