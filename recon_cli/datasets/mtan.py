"""CityScapes and NYUv2 as MTAN (Liu et al., 2019) prepared them: folders of arrays, one file for each image and label.

root/train/image/0.npy, 1.npy, ...          [H, W, 3], in [0, 1]
root/train/label/, or label_7/              [H, W], classes from 0; -1 where there is none
root/train/depth/                           [H, W, 1]; 0 where there is none
root/train/normal/                          [H, W, 3], of length 1; (0, 0, 0) where there is none
root/val/...                                the same
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch.utils.data import Dataset

from recon_cli.datasets.folders import check_split, file_names
from recon_cli.datasets.npy import read_npy
from recon_cli.datasets.scale_and_flip import Sample, scale_and_flip
from recon_cli.errors import ReconError, counted, quoted

Split = Literal["train", "val"]

IGNORED = -1
"""The class of pixels that have none."""


@dataclass(frozen=True)
class Classes:
    """A label that is a class for each pixel, int64, [H, W].

    :ivar folder: where its arrays are.
    :ivar number: how many classes there are.
    """

    folder: str
    number: int


@dataclass(frozen=True)
class Channels:
    """A label of numbers for each pixel, float32, [number, H, W].

    :ivar folder: where its arrays are.
    :ivar number: how many numbers a pixel has.
    """

    folder: str
    number: int


IMAGE = Channels("image", 3)
Label = Classes | Channels

CITYSCAPES: dict[str, Label] = {"segmentation": Classes("label_7", 7), "depth": Channels("depth", 1)}
NYUV2: dict[str, Label] = {
    "segmentation": Classes("label", 13),
    "depth": Channels("depth", 1),
    "normal": Channels("normal", 3),
}


class ArrayFolders(Dataset[Sample]):
    """Images with labels for each pixel, read when they are asked for.

    :param folder: a split's folder.
    :param labels: name -> which arrays they are, and of what kind.
    :param augment: whether samples are enlarged crops, and mirrored at random.
    :raises ReconError: if a folder is missing or empty, or an image has not all of its labels.
    """

    def __init__(self, folder: Path, labels: Mapping[str, Label], *, augment: bool) -> None:
        self._folder = folder
        self._labels = labels
        self._augment = augment
        self._names = _names(folder, [IMAGE.folder, *(label.folder for label in labels.values())])

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        """An image, float32, [3, H, W], and its labels.

        :raises ReconError: naming the file that is damaged, of another shape, or holds a class that there is not.
        """
        name = self._names[index]
        image = _channels(self._folder / IMAGE.folder / name, IMAGE.number)
        labels = {}
        for label, kind in self._labels.items():
            path = self._folder / kind.folder / name
            read = _classes if isinstance(kind, Classes) else _channels
            labels[label] = values = read(path, kind.number)
            if values.shape[-2:] != image.shape[-2:]:
                height, width = values.shape[-2:]
                raise ReconError(
                    f"{quoted(path)} is for {height}x{width} pixels, but the image has "
                    f"{image.shape[-2]}x{image.shape[-1]}"
                )
        return scale_and_flip(image, labels) if self._augment else (image, labels)


def cityscapes(root: str, split: Split = "train", *, augment: bool = False) -> ArrayFolders:
    """CityScapes: 2,975 training and 500 validation images, 128x256 (or 256x512, the authors' other size).

    Its labels are `segmentation`, 7 classes and -1, and `depth`, the inverse depth (disparity).

    :param root: the folder with `train/` and `val/`, each with `image/`, `label_7/` and `depth/`.
    :param split: `train` or `val`.
    :param augment: whether to train on random enlarged crops, half of them mirrored; not done in MTAN's paper.
    :raises ReconError: if there is no such split, a folder is missing, or an image has not all of its labels.
    """
    check_split("CityScapes", split, ("train", "val"))
    return ArrayFolders(Path(root) / split, CITYSCAPES, augment=augment)


def nyuv2(root: str, split: Split = "train", *, augment: bool = False) -> ArrayFolders:
    """NYUv2: 795 training and 654 validation images, 288x384.

    Its labels are `segmentation`, 13 classes and -1, `depth`, and `normal`, of length 1 or all 0.

    :param root: the folder with `train/` and `val/`, each with `image/`, `label/`, `depth/` and `normal/`.
    :param split: `train` or `val`.
    :param augment: whether to train on random enlarged crops, half of them mirrored; not done in MTAN's paper.
    :raises ReconError: if there is no such split, a folder is missing, or an image has not all of its labels.
    """
    check_split("NYUv2", split, ("train", "val"))
    return ArrayFolders(Path(root) / split, NYUV2, augment=augment)


def _names(folder: Path, kinds: Sequence[str]) -> list[str]:
    """The files' names in the order of their numbers; every folder has to have the same ones."""
    images, *labels = [{name for name in file_names(folder / kind) if _is_numbered(name)} for kind in kinds]
    if not images:
        raise ReconError(f"{quoted(folder / kinds[0])} has no file `0.npy`, `1.npy` and so on")
    for kind, names in zip(kinds[1:], labels, strict=True):
        if names != images:
            odd = min(names ^ images, key=_number)
            missing = folder / (kind if odd in images else kinds[0]) / odd
            raise ReconError(
                f"{quoted(folder / kind)} has {counted(len(names), 'array')} for {counted(len(images), 'image')}: "
                f"there is no {quoted(missing)}"
            )
    return sorted(images, key=_number)


def _is_numbered(name: str) -> bool:
    return name.endswith(".npy") and name.isascii() and name[:-4].isdecimal()


def _number(name: str) -> int:
    return int(name[:-4])


def _channels(path: Path, number: int) -> torch.Tensor:
    """An array [H, W, number] as [number, H, W]."""
    values = read_npy(path)
    if values.dim() != 3 or values.shape[2] != number:
        raise ReconError(f"{quoted(path)} is of shape {tuple(values.shape)}; [H, W, {number}] was expected")
    return values.movedim(2, 0).contiguous()


def _classes(path: Path, number: int) -> torch.Tensor:
    values = read_npy(path)
    if values.dim() != 2:
        raise ReconError(f"{quoted(path)} is of shape {tuple(values.shape)}; [H, W] was expected")
    classes = values.long()
    wrong = values[(classes != values) | (classes < IGNORED) | (classes >= number)]
    if len(wrong):
        raise ReconError(f"{quoted(path)} holds the class {wrong[0].item():g}; {IGNORED} to {number - 1} were expected")
    return classes
