"""Tasks whose outputs are images, by data set, and what their networks share."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

CITYSCAPES = {"segmentation": 7, "depth": 1}
"""The tasks on CityScapes and the channels of their outputs."""

NYUV2 = {"segmentation": 13, "depth": 1, "normals": 3}
"""The tasks on NYUv2 and the channels of their outputs."""

PASCAL_CONTEXT = {"segmentation": 21, "human_parts": 7, "saliency": 1, "normals": 3}
"""The tasks on PASCAL-Context and the channels of their outputs."""


class UnitVectors(nn.Module):
    """Divides the vector at every pixel by its length."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map vectors [N, channels, H, W] to vectors of length one."""
        return F.normalize(x, dim=1)


def end_of(task: str) -> nn.Module:
    """What comes last in the head of a task: surface normals, the task `normals`, become unit vectors."""
    return UnitVectors() if task == "normals" else nn.Identity()
