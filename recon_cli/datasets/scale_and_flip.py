"""What work on the folders of MTAN trains with: a random crop, enlarged to the image's size, and a random flip.

Labels are known by name: `segmentation`, int64, [H, W]; `depth`, float32, [1, H, W]; `normal`, float32, [3, H, W].
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

Sample = tuple[torch.Tensor, dict[str, torch.Tensor]]

SCALES = (1.0, 1.2, 1.5)


def scale_and_flip(image: torch.Tensor, labels: dict[str, torch.Tensor]) -> Sample:
    """Enlarge a crop by one of `SCALES`, and mirror every second sample, as torch's global generator draws it.

    :param image: float32, [C, H, W].
    """
    scale = SCALES[_drawn(len(SCALES))]
    height, width = image.shape[-2:]
    top, left = _drawn(height - int(height / scale) + 1), _drawn(width - int(width / scale) + 1)
    image, labels = enlarged(image, labels, scale, top, left)
    return flipped(image, labels) if _drawn(2) else (image, labels)


def enlarged(image: torch.Tensor, labels: dict[str, torch.Tensor], scale: float, top: int, left: int) -> Sample:
    """A crop, enlarged to the size of the whole: images and normals linearly, classes and depths to the nearest pixel.

    What is seen larger is nearer, so depths are divided by the scale; as published, inverse depths are too. Normals
    between pixels are not brought back to length 1.

    :param scale: how much smaller the crop is than the whole, 1 or more.
    :param top: the crop's first row.
    :param left: the crop's first column.
    """
    if scale == 1:
        return image, labels
    size = image.shape[-2:]
    rows = slice(top, top + int(size[0] / scale))
    columns = slice(left, left + int(size[1] / scale))

    def linear(values: torch.Tensor) -> torch.Tensor:
        return F.interpolate(values[None, :, rows, columns], size, mode="bilinear", align_corners=True)[0]

    def nearest(values: torch.Tensor) -> torch.Tensor:
        return F.interpolate(values[None, :, rows, columns], size, mode="nearest")[0]

    ways = {
        "segmentation": lambda classes: nearest(classes[None].float())[0].long(),
        "depth": lambda depths: nearest(depths) / scale,
        "normal": linear,
    }
    return linear(image), {name: ways[name](values) for name, values in labels.items()}


def flipped(image: torch.Tensor, labels: dict[str, torch.Tensor]) -> Sample:
    """A sample as a mirror shows it, left and right exchanged: normals point the other way along x."""
    labels = {name: values.flip(-1) for name, values in labels.items()}
    if "normal" in labels:
        labels["normal"] = labels["normal"] * torch.tensor([-1.0, 1.0, 1.0]).view(3, 1, 1)
    return image.flip(-1), labels


def _drawn(number: int) -> int:
    return int(torch.randint(number, ()))
