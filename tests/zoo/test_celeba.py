"""ResNet-18 on CelebA."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from recon_cli.zoo import celeba_resnet18


def test_a_head_sees_each_quarter_of_an_image_of_64_pixels():
    model = celeba_resnet18(("Bald", "Male"), width=4).double().eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    features = x
    for name in ("conv1", "bn1"):
        features = getattr(model, name)(features)
    features = F.max_pool2d(features.clamp(min=0), 3, 2, padding=1)
    for name in ("layer1", "layer2", "layer3", "layer4"):
        features = getattr(model, name)(features)
    assert features.shape == (2, 32, 2, 2)
    for task, output in model(x).items():
        head = model.heads[task]
        torch.testing.assert_close(output, features.flatten(1) @ head.weight.T + head.bias)
