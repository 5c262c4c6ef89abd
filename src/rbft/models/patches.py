"""The first layer of a vision tower as what it computes: one matrix over patches that are cut already.

transformers writes it as a three-dimensional convolution whose window is the whole patch. Convolutions take ways that
are made for other shapes: several times slower on a processor, and ten to fifty times in torch 2.9.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import linear

from rbft.models.varlen import register

register()  # a pickled model finds its way here, to this class, and nowhere else of rbft


class PatchProjection(torch.nn.Module):
    """A convolution of one window, applied as a matrix; it has the convolution's own parameters under their names."""

    def __init__(self, convolution: torch.nn.Conv3d) -> None:
        super().__init__()
        assert tuple(convolution.kernel_size) == tuple(convolution.stride), convolution
        self.weight, self.bias = convolution.weight, convolution.bias

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Patches [P, 3, t, p, p] to [P, D]."""
        return linear(patches.flatten(1), self.weight.flatten(1), self.bias)


def patches_as_rows(model: Any) -> None:
    """Replace the convolution of a loaded model's vision tower, in place."""
    embed = model.model.visual.patch_embed
    embed.proj = PatchProjection(embed.proj)
