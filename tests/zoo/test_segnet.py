"""SegNet and MTAN against their equations, written out with PyTorch's own pooling and unpooling."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from recon_cli.layers.discovery import discover_layers
from recon_cli.zoo import mtan, segnet

FILTERS = (3, 4, 5, 6, 7)
"""Of five different widths, so that no two stages can be mistaken for each other."""

STAGES = range(5)


class Network:
    """A network's tensors, and its layers as functions on them."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.state = model.state_dict()

    def conv(self, name: str, x: torch.Tensor, *, padding: int = 0) -> torch.Tensor:
        return F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], padding=padding)

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        mean, var, weight, bias = (
            self.state[f"{name}.{key}"].view(-1, 1, 1) for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def layer(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return self.norm(f"{name}.bn1", self.conv(f"{name}.conv1", x, padding=1)).clamp(min=0)

    def further(self, name: str, x: torch.Tensor) -> torch.Tensor:
        if f"{name}.0.conv1.weight" in self.state:
            return self.layer(f"{name}.1", self.layer(f"{name}.0", x))
        return self.layer(name, x)

    def mask(self, name: str, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(f"{name}.bn1", self.conv(f"{name}.conv1", x)).clamp(min=0)
        return self.norm(f"{name}.bn2", self.conv(f"{name}.conv2", x)).sigmoid()

    def head(self, task: str, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(f"heads.{task}.conv2", self.conv(f"heads.{task}.conv1", x, padding=1))
        return x / x.norm(dim=1, keepdim=True) if task == "normals" else x

    def trunk(self, x: torch.Tensor) -> dict[str, dict[int, torch.Tensor]]:
        """The features of every stage; `first` and `last` of the encoder, `up` and `out` of the decoder."""
        features: dict[str, dict[int, torch.Tensor]] = {"first": {}, "last": {}, "up": {}, "out": {}}
        where = {}
        for stage in STAGES:
            features["first"][stage] = self.layer(f"encoder_block.{stage}", x)
            features["last"][stage] = self.further(f"conv_block_enc.{stage}", features["first"][stage])
            x, where[stage] = F.max_pool2d(features["last"][stage], 2, return_indices=True)
        for stage in reversed(STAGES):
            features["up"][stage] = F.max_unpool2d(x, where[stage], 2)
            x = self.layer(f"decoder_block.{stage}", features["up"][stage])
            features["out"][stage] = x = self.further(f"conv_block_dec.{stage}", x)
        return features


def in_evaluation(model: torch.nn.Module, x: torch.Tensor) -> torch.nn.Module:
    model.double()
    for name, tensor in model.state_dict().items():
        if "running" in name or ".bn" in name:
            tensor.copy_(torch.rand(tensor.shape) + 0.5)
    return model.eval()


@pytest.fixture
def x() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 3, 64, 96, dtype=torch.float64)


def test_segnet_computes_an_encoder_a_decoder_and_heads(x):
    model = in_evaluation(segnet({"segmentation": 4, "normals": 3}, FILTERS), x)
    network = Network(model)
    features = network.trunk(x)["out"][0]
    for task, output in model(x).items():
        torch.testing.assert_close(output, network.head(task, features))


def test_mtan_lays_masks_on_the_features_of_segnet(x):
    model = in_evaluation(mtan({"segmentation": 4, "depth": 1}, FILTERS), x)
    network = Network(model)
    trunk = network.trunk(x)
    for task, output in model(x).items():
        own = torch.empty(2, 0, 64, 96)
        for stage in STAGES:
            seen = torch.cat([trunk["first"][stage], own], 1)
            own = network.mask(f"encoder_att.{task}.{stage}", seen) * trunk["last"][stage]
            own = F.max_pool2d(network.layer(f"encoder_block_att.{stage}", own), 2)
        for stage in reversed(STAGES):
            own = F.interpolate(own, scale_factor=2, mode="bilinear", align_corners=True)
            own = network.layer(f"decoder_block_att.{stage}", own)
            mask = network.mask(f"decoder_att.{task}.{stage}", torch.cat([trunk["up"][stage], own], 1))
            own = mask * trunk["out"][stage]
        torch.testing.assert_close(output, network.head(task, own))


def test_maxima_go_back_to_their_places_in_images_of_odd_size():
    """The last column has no part in pooling, so it comes back empty."""
    model = in_evaluation(segnet(filters=(3, 4)), torch.empty(0))
    _, encoded, unpooled, _ = model.trunk(torch.randn(2, 3, 8, 11, dtype=torch.float64))
    inner = unpooled[0]
    assert inner.shape == encoded[1].shape == (2, 4, 4, 5)
    assert not inner[..., 4].any()
    kept = inner != 0
    assert torch.equal(inner[kept], encoded[1][kept])
    blocks = inner[..., :4].unfold(2, 2, 2).unfold(3, 2, 2).amax((-2, -1))
    assert torch.equal(blocks, F.max_pool2d(encoded[1], 2))


def test_layers_have_the_names_of_the_published_scores():
    names = {layer.name for layer in discover_layers(mtan(filters=FILTERS))}
    blocks = [f"{kind}.{stage}" for kind in ("encoder_block", "decoder_block") for stage in STAGES]
    blocks += [f"{kind}.{stage}" for kind in ("encoder_block_att", "decoder_block_att") for stage in STAGES]
    for kind in ("conv_block_enc", "conv_block_dec"):
        blocks += [f"{kind}.0", f"{kind}.1"] + [f"{kind}.{stage}.{part}" for stage in (2, 3, 4) for part in (0, 1)]
    published = {f"{block}.{layer}" for block in blocks for layer in ("conv1", "bn1")}
    assert len(published) == 72
    assert {name for name in names if not name.startswith(("heads.", "encoder_att.", "decoder_att."))} == published


def test_the_weights_of_convolutions_are_drawn_by_xavier():
    torch.manual_seed(0)
    state = mtan(filters=(64, 64)).state_dict()
    weight = state["decoder_att.depth.0.conv1.weight"]
    assert weight.std().item() == pytest.approx((2 / (128 + 64)) ** 0.5, rel=0.05)
    assert not state["decoder_att.depth.0.conv1.bias"].any()
