"""Mild random changes to training clips, so that the domain shift is a matter of degree, not of kind."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

GRIDS = ((56, 84), (84, 112), (112, 84), (84, 56), (56, 112), (112, 112))
"""Other frame sizes (height, width) seen in a share of the batches."""


def _each(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    return (low + (high - low) * torch.rand(count, generator=generator)).view(-1, 1, 1, 1, 1)


def augmented(frames: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Tint, lost colour, contrast, brightness, blur, coarse blocks and noise on half the clips of a batch.

    `frames` are 0..255 float32 `[B, T, H, W, 3]`; so is the result. The other half stays as it is.
    """
    batch = len(frames)
    chosen = (torch.rand(batch, generator=generator) < 0.5).nonzero().flatten()
    if not len(chosen):
        return frames
    video, count = frames[chosen], len(chosen)
    grey = video.mean(-1, keepdim=True)
    video = torch.lerp(video, grey, _each(-0.1, 0.5, count, generator).clamp(min=0) * strength)
    tint = 1 + strength * 0.14 * (2 * torch.rand(count, 1, 1, 1, 3, generator=generator) - 1)
    centre = video.mean((1, 2, 3, 4), keepdim=True)
    contrast = 1 - strength * _each(-0.1, 0.35, count, generator)
    video = (centre + (video - centre) * contrast) * tint + strength * _each(-16, 16, count, generator)
    video = _softened(video, generator, strength)
    sigma = strength * _each(-6, 13, count, generator).clamp(min=0)
    video = video + sigma * torch.randn(video.shape, generator=generator)
    return frames.index_copy(0, chosen, video.clamp(0, 255).round())


def _softened(video: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Blurs, and mixes in 2-pixel blocks, by a random amount a clip."""
    count, num_frames = video.shape[:2]
    flat = video.permute(0, 1, 4, 2, 3).flatten(0, 2).unsqueeze(1)
    blurred = avg_pool2d(flat, 3, stride=1, padding=1, count_include_pad=False)
    blocks = interpolate(avg_pool2d(flat, 2), scale_factor=2.0, mode="nearest")
    shape = (count, num_frames, 3, *video.shape[2:4])
    soft = [x.view(shape).permute(0, 1, 3, 4, 2) for x in (blurred, blocks)]
    video = torch.lerp(video, soft[0], strength * _each(-0.6, 0.8, count, generator).clamp(min=0))
    return torch.lerp(video, soft[1], strength * _each(-0.5, 0.5, count, generator).clamp(min=0))


def regridded(frames: Tensor, generator: torch.Generator, share: float = 0.15) -> Tensor:
    """The whole batch at another frame size, in `share` of the calls."""
    if float(torch.rand(1, generator=generator)) >= share:
        return frames
    height, width = GRIDS[int(torch.randint(len(GRIDS), (1,), generator=generator))]
    flat = frames.permute(0, 1, 4, 2, 3).flatten(0, 1)
    scaled = interpolate(flat, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return scaled.unflatten(0, frames.shape[:2]).permute(0, 1, 3, 4, 2)
