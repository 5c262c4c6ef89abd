"""Small file systems of their own, to be filled up, and what a full one is said to be."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

FULL = os.strerror(errno.ENOSPC)
ADVICE = "Free some space there, or name another `output`, and give the same command again"
PLACES = {
    "weights of a save": "rbft.training.supervised.StageTrainer._save",
    "optimizer of a save": "rbft.training.supervised.StageTrainer._save_optimizer_and_scheduler",
    "the child": "rbft.models.vlm.VLM.save",
}
"""What writes the files of a stage."""


class Disk:
    """A small file system of its own that can be filled up and cleared."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def free(self) -> int:
        return shutil.disk_usage(self.root).free

    def fill(self, leave: int = 0) -> None:
        """Take what is free but `leave` bytes."""
        with (self.root / "ballast").open("ab", buffering=0) as file:
            os.posix_fallocate(file.fileno(), file.tell(), self.free - leave)

    def clear(self) -> None:
        (self.root / "ballast").unlink(missing_ok=True)
