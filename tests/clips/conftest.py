"""Fixtures of the tests about clips."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from videos import picture, write_clip

SHARED = Path(os.environ.get("RBFT_SHARED", Path(__file__).parents[3] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of local clips; skips where it is not there."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the local clips of $RBFT_SHARED or {SHARED.name}/ beside the repository")
    return SHARED


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds at 10 fps, 64x48, H.264 with B-frames and a key frame every 8."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_clip(path, [picture(i) for i in range(30)], encoder={"crf": "10", "bf": "2", "g": "8"})


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """`make(name, number_of_frames_or_images, **how)` writes a clip into the test's folder."""

    def make_one(name: str, images: int | Sequence[np.ndarray] = 20, **how: object) -> Path:
        frames = [picture(i) for i in range(images)] if isinstance(images, int) else images
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_clip(path, frames, **how)  # type: ignore[arg-type]

    return make_one
