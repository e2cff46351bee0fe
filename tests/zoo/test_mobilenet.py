"""MobileNetV2 with R-ASPP and decoders."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from recon_cli.zoo import mobilenet_v2


def test_the_backbone_has_the_tensors_that_torchvision_trained_on_imagenet():
    with torch.device("meta"):
        features = mobilenet_v2().features
    state = {f"features.{name}": tuple(tensor.shape) for name, tensor in features.state_dict().items()}
    assert state["features.0.0.weight"] == (32, 3, 3, 3)
    assert state["features.0.1.running_mean"] == (32,)
    assert state["features.1.conv.0.0.weight"] == (32, 1, 3, 3)
    assert state["features.1.conv.1.weight"] == (16, 32, 1, 1)
    assert state["features.1.conv.2.bias"] == (16,)
    assert state["features.7.conv.0.0.weight"] == (192, 32, 1, 1)
    assert state["features.7.conv.1.0.weight"] == (192, 1, 3, 3)
    assert state["features.7.conv.1.1.weight"] == (192,)
    assert state["features.7.conv.2.weight"] == (64, 192, 1, 1)
    assert state["features.17.conv.3.running_var"] == (320,)
    # The classifier has 3,504,872 parameters, of which a linear layer and the last convolution are not in the backbone.
    parameters = 3_504_872 - (1280 * 1000 + 1000) - (320 * 1280 + 2 * 1280)
    assert sum(parameter.numel() for parameter in features.parameters()) == parameters


def test_the_output_stride_is_16_with_dilation_behind_it():
    model = mobilenet_v2(width=0.1).eval()
    shapes = {}
    for name, module in model.named_modules():
        if name in {"raspp", "heads.saliency.low_level_reduce"}:
            module.register_forward_hook(lambda _, given, __, name=name: shapes.update({name: given[0].shape[2:]}))
    model(torch.randn(1, 3, 64, 96))
    assert shapes == {"raspp": (4, 6), "heads.saliency.low_level_reduce": (16, 24)}
    inner = [m for m in model.features.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert [m.dilation[0] for m in inner] == [1] * 14 + [2, 2, 2]


def test_a_block_adds_its_input_where_nothing_changes_size():
    model = mobilenet_v2(width=0.1).double().eval()
    for index, is_added in ((2, False), (3, True), (15, True), (17, False)):
        block = model.features[index]
        x = torch.randn(2, block.conv[0][0].in_channels, 6, 6, dtype=torch.float64)
        expected = block.conv[3](block.conv[2](block.conv[1](block.conv[0](x))))
        torch.testing.assert_close(block(x), x + expected if is_added else expected)


def test_raspp_joins_every_pixel_with_the_mean_of_the_image():
    raspp = mobilenet_v2(width=0.1).raspp.double()
    x = torch.randn(4, raspp.local[0].in_channels, 3, 5, dtype=torch.float64)
    raspp(x)
    raspp.eval()

    def layer(sequence: nn.Sequential, pixels: torch.Tensor) -> torch.Tensor:
        conv, norm = sequence[0], sequence[1]
        pixels = pixels @ conv.weight[:, :, 0, 0].T
        pixels = (pixels - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias
        return pixels.clamp(0, 6)

    pixels = x.movedim(1, -1)
    pooled = layer(raspp.pooled, pixels.mean((1, 2))).view(4, 1, 1, -1).expand(-1, 3, 5, -1)
    expected = layer(raspp.projection, torch.cat((layer(raspp.local, pixels), pooled), dim=-1))
    torch.testing.assert_close(raspp(x), expected.movedim(-1, 1))


def test_a_decoder_joins_both_resolutions():
    model = mobilenet_v2({"human_parts": 7}, width=0.1).double().eval()
    x = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    low = model.features[:4](x)
    deep = F.interpolate(model.raspp(model.features[4:](low)), size=(8, 12), mode="bilinear")
    head = model.heads["human_parts"]
    logits = head.conv_logits(head.conv_2(head.conv_1(torch.cat((head.low_level_reduce(low), deep), 1))))
    torch.testing.assert_close(model(x)["human_parts"], F.interpolate(logits, size=(32, 48), mode="bilinear"))


@pytest.mark.parametrize(("width", "stem", "last"), [(1.0, 32, 320), (1.4, 48, 448), (0.35, 16, 112), (0.01, 8, 8)])
def test_widths_are_rounded_to_multiples_of_8(width, stem, last):
    """At the widths for which MobileNetV2's authors trained networks, the channels are theirs."""
    with torch.device("meta"):
        model = mobilenet_v2(width=width)
    assert model.features[0][0].out_channels == stem
    assert model.raspp.local[0].in_channels == last
