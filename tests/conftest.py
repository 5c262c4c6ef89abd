"""Fixtures that many tests share. Threads are few, because the machines that run tests are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from disks import Disk

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1]))  # for `benchmarks`
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

settings.register_profile("rbft", deadline=None)  # no test is on the clock
settings.load_profile("rbft")


LONGEST = ["test_kill.py"]
"""Files that take longest, for several workers to begin with: one that came last would keep them all waiting."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread here, as in the processes that tests start: sums in another order differ in their last bits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small random checkpoint of every family, on disk."""
    from factories import FAMILY_NAMES, build_checkpoint

    root = tmp_path_factory.mktemp("checkpoints")
    return {name: build_checkpoint(name, root / name) for name in FAMILY_NAMES}


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    """Of 4 MB, or of what a test asks for."""
    from disks import Disk

    root = tmp_path / "disk"
    root.mkdir()
    size = getattr(request, "param", "4m")
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "rbft", root], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("a file system of its own needs root")
    yield Disk(root)
    subprocess.run(["umount", "--lazy", root], check=True)
