"""Multi-Fashion+MNIST (Lin et al., 2019): a FashionMNIST item and an MNIST digit in one image, and a task for each.

The item stands in the upper left and the digit in the lower right of a 36x36 image; where they overlap, the brighter
pixel shows. The pairing is drawn from a seed and is not the one that the literature used: results are comparable to the
paper's, not identical.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch.utils.data import Dataset

from recon_cli.datasets.idx import read_idx
from recon_cli.errors import ReconError, quoted

SIDE = 36
ITEM_SIDE = 28
TASKS = ("fashion", "mnist")
SMALL_DATA = Path(__file__).parent / "data"

Sample = tuple[torch.Tensor, dict[str, torch.Tensor]]


class MultiFashionMNIST(Dataset[Sample]):
    """Images with two labels each.

    :ivar images: uint8, [N, 36, 36].
    :ivar labels: task -> int64, [N], classes 0 to 9.
    """

    def __init__(self, images: torch.Tensor, labels: dict[str, torch.Tensor]) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        """The image, float32 in [0, 1], [1, 36, 36], and its labels by task."""
        image = self.images[index].unsqueeze(0).float() / 255
        return image, {task: labels[index] for task, labels in self.labels.items()}


def multi_fashion_mnist(
    root: str | None = None, *, train: bool = True, seed: int = 0, items: int | None = None
) -> MultiFashionMNIST:
    """Build the full set from the IDX files of FashionMNIST and MNIST: 120,000 training or 20,000 test images.

    Every item and every digit is used twice, in pairs drawn at random.

    :param root: the folder with `fashion-mnist/` and `mnist/`, each with the files under their usual names
        (`train-images-idx3-ubyte` and so on, with or without `.gz`). Default: the environment variable `RECON_DATA`.
    :param train: whether the training part is built, or the test part.
    :param seed: seeds the pairing.
    :param items: only the first so many images; None for all.
    :raises ReconError: naming the file that is missing, truncated, or does not match its partner.
    """
    root = root or os.environ.get("RECON_DATA")
    if not root:
        raise ReconError(
            "it is not known where FashionMNIST and MNIST lie",
            "pass `kwargs: {root: folder}`, or set the environment variable RECON_DATA",
        )
    part = "train" if train else "t10k"
    fashion_images, fashion_labels = _read_pair(Path(root) / "fashion-mnist", part)
    mnist_images, mnist_labels = _read_pair(Path(root) / "mnist", part)
    if len(fashion_images) != len(mnist_images):
        raise ReconError(
            f"{quoted(root)} holds {len(fashion_images)} items and {len(mnist_images)} digits; as many were expected"
        )
    generator = torch.Generator().manual_seed(seed)
    upper = _twice_shuffled(len(fashion_images), generator)[:items]
    lower = _twice_shuffled(len(mnist_images), generator)[:items]
    labels = {"fashion": fashion_labels[upper].long(), "mnist": mnist_labels[lower].long()}
    return MultiFashionMNIST(overlay(fashion_images[upper], mnist_images[lower]), labels)


def small_multi_fashion_mnist(*, train: bool = True) -> MultiFashionMNIST:
    """The part of the set that ships with Recon: the first 4,000 training or 1,000 test images of seed 0."""
    part = "train" if train else "t10k"
    images = read_idx(SMALL_DATA / f"{part}-images-idx3-ubyte.gz", 3)
    labels = {task: read_idx(SMALL_DATA / f"{part}-{task}-labels-idx1-ubyte.gz", 1).long() for task in TASKS}
    return MultiFashionMNIST(images, labels)


def overlay(items: torch.Tensor, digits: torch.Tensor) -> torch.Tensor:
    """Put items into the upper left and digits into the lower right of larger images; the brighter pixel shows.

    :param items: uint8, [N, 28, 28].
    :param digits: uint8, [N, 28, 28].
    :returns: uint8, [N, 36, 36].
    """
    images = items.new_zeros(len(items), SIDE, SIDE)
    images[:, :ITEM_SIDE, :ITEM_SIDE] = items
    corner = images[:, SIDE - ITEM_SIDE :, SIDE - ITEM_SIDE :]
    torch.maximum(corner, digits, out=corner)
    return images


def _read_pair(folder: Path, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    images_path = folder / f"{part}-images-idx3-ubyte.gz"
    labels_path = folder / f"{part}-labels-idx1-ubyte.gz"
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise ReconError(
            f"{quoted(images_path)} holds {len(images)} images, but {quoted(labels_path)} {len(labels)} labels"
        )
    if images.shape[1:] != (ITEM_SIDE, ITEM_SIDE):
        raise ReconError(f"the images in {quoted(images_path)} are of size {tuple(images.shape[1:])}, not 28x28")
    if labels.max() > 9:
        raise ReconError(f"{quoted(labels_path)} holds the label {int(labels.max())}; 0 to 9 were expected")
    return images, labels


def _twice_shuffled(number: int, generator: torch.Generator) -> torch.Tensor:
    return torch.cat([torch.randperm(number, generator=generator) for _ in range(2)])
