"""Frames to model input: uint8 patches in the vision tower's order, and one affine on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from rbft.records import Grid


@dataclass(frozen=True)
class VisualInput:
    """The pixels of one clip, and what the model needs to place them.

    pixels: uint8 patches [P, 3·t·p·p] with grid_thw int64 [3] = (T/t, H/p, W/p); or float frames [T, 3, H, W] without.
    `seconds_per_grid` is the time between two temporal patches (None: the model is not told).
    """

    pixels: torch.Tensor
    grid_thw: torch.Tensor | None = None
    seconds_per_grid: float | None = None

    def __post_init__(self) -> None:
        if self.grid_thw is not None:
            assert len(self.pixels) == int(self.grid_thw.prod()), (self.pixels.shape, self.grid_thw)

    def __repr__(self) -> str:
        grid = None if self.grid_thw is None else self.grid_thw.tolist()
        return f"VisualInput(pixels={list(self.pixels.shape)}, grid_thw={grid})"

    def with_seconds_per_grid(self, seconds: float | None) -> VisualInput:
        """The same with the time between two temporal patches."""
        return replace(self, seconds_per_grid=seconds)

    @staticmethod
    def batch(clips: Sequence[VisualInput]) -> dict[str, torch.Tensor]:
        """Several clips: `pixels` concatenated, `video_grid_thw` [B, 3], `second_per_grid_ts` float32 [B]."""
        made = {"pixels": torch.cat([c.pixels for c in clips])}
        grids = [c.grid_thw for c in clips if c.grid_thw is not None]
        seconds = [c.seconds_per_grid for c in clips if c.seconds_per_grid is not None]
        if grids:
            made["video_grid_thw"] = torch.stack(grids)
        if seconds:
            made["second_per_grid_ts"] = torch.tensor(seconds, dtype=torch.float32)
        return made


def patchify(frames: np.ndarray, grid: Grid) -> VisualInput:
    """Cut frames uint8 [T, H, W, 3] into patches uint8 [P, 3·t·p·p].

    The order is that of Qwen's video processor: patches of one merged square stand together. A last odd frame is
    repeated to fill its temporal patch.
    """
    p, m, t = grid.patch_size, grid.merge_size, grid.temporal_patch_size
    steps, height, width = -(-len(frames) // t), frames.shape[1] // p, frames.shape[2] // p
    row = np.dtype((np.void, p))  # the p bytes of one row of a patch and one colour move as one
    patches = np.empty((steps, height // m, width // m, m, m, 3, t, p), row)
    for step in range(steps):
        block = frames[step * t : (step + 1) * t]
        if missing := t - len(block):
            block = np.concatenate([block, np.repeat(block[-1:], missing, axis=0)])
        colours_first = np.ascontiguousarray(block.transpose(3, 0, 1, 2)).view(row)
        cut = colours_first.reshape(3, t, height // m, m, p, width // m, m)
        patches[step] = cut.transpose(2, 5, 3, 6, 0, 1, 4)  # row, column, row in square, column in square, c, t, y
    pixels = torch.from_numpy(patches.view(np.uint8).reshape(steps * height * width, 3 * t * p * p))
    return VisualInput(pixels=pixels, grid_thw=torch.tensor([steps, height, width]))


def affine_to(mean: Sequence[float], std: Sequence[float], grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift, float32 [3·t·p·p] each, that turn a uint8 patch into the processor's normalised values."""
    repeat = grid.temporal_patch_size * grid.patch_size**2
    mean_c, std_c = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
    scale, shift = 1 / (255 * std_c), -mean_c / std_c
    return scale.repeat_interleave(repeat).float(), shift.repeat_interleave(repeat).float()


def normalised(pixels: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """uint8 patches [P, 3·t·p·p] to the processor's float32 values, on their device, by the affine of `affine_to`."""
    values = pixels.float()
    return torch.addcmul(shift, values, scale, out=values)
