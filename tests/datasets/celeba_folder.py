"""A small CelebA in the folders of its own site."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from recon_cli.zoo.resnet import CELEBA_ATTRIBUTES

PARTITIONS = [0, 0, 1, 0, 2, 1]


def label(image: int, attribute: int) -> int:
    return 1 if (image * 7 + attribute * 3) % 5 < 2 else -1


def attribute_lines() -> list[str]:
    rows = [
        f"{image:06d}.jpg  " + " ".join(f"{label(image, attribute):2d}" for attribute in range(40))
        for image in range(1, len(PARTITIONS) + 1)
    ]
    return [str(len(rows)), " ".join(CELEBA_ATTRIBUTES) + " ", *rows]


def write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(line + "\n" for line in lines))


def write_folder(root: Path) -> None:
    """Three images for training, two for validation and one for testing."""
    (root / "img_align_celeba").mkdir()
    for number in range(1, len(PARTITIONS) + 1):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        # Lossless, whatever its name: Pillow looks at the content.
        Image.fromarray(pixels).save(root / "img_align_celeba" / f"{number:06d}.jpg", format="PNG")
    write_lines(root / "list_attr_celeba.txt", attribute_lines())
    write_lines(
        root / "list_eval_partition.txt",
        [f"{number:06d}.jpg {partition}" for number, partition in enumerate(PARTITIONS, start=1)],
    )
