"""CelebA (Liu et al., 2015): faces with 40 attributes, each a binary task, at 64x64 as in Sener and Koltun (2018).

    root/img_align_celeba/000001.jpg, ...
    root/list_attr_celeba.txt          the number of images; the attributes' names; for each image its name, and -1 or 1
    root/list_eval_partition.txt       for each image its name, and 0, 1 or 2 for training, validation and test

In the folders in which they are handed on, `Img/`, `Anno/` and `Eval/`, they are found as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch.utils.data import Dataset

from recon_cli.datasets.folders import check_split, file_names, text_lines
from recon_cli.datasets.images import read_colours
from recon_cli.errors import ReconError, counted, quoted

Split = Literal["train", "val", "test"]
Sample = tuple[torch.Tensor, dict[str, torch.Tensor]]

SIDE = 64
ATTRIBUTES = 40

_PARTITIONS = {"train": "0", "val": "1", "test": "2"}
_VALUES = {"-1": 0, "1": 1}


class CelebA(Dataset[Sample]):
    """Faces with a label for each attribute; images are read when they are asked for.

    :param folder: where the images are.
    :param names: their files' names.
    :param attributes: the attributes' names.
    :param labels: uint8, [N, attributes], 0 or 1.
    :ivar attributes: the attributes' names, which are the labels' names.
    """

    def __init__(self, folder: Path, names: Sequence[str], attributes: Sequence[str], labels: torch.Tensor) -> None:
        self.attributes = tuple(attributes)
        self._folder = folder
        self._names = names
        self._labels = labels

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        """An image, float32 in [0, 1], [3, 64, 64], and its labels, attribute -> float32, [], 0 or 1.

        :raises ReconError: naming the image that is damaged.
        """
        image = read_colours(self._folder / self._names[index], (SIDE, SIDE)).float() / 255
        return image, dict(zip(self.attributes, self._labels[index].float().unbind(), strict=True))


def celeba(root: str, split: Split = "train") -> CelebA:
    """CelebA: 162,770 training, 19,867 validation and 19,962 test images.

    :param root: the folder with `img_align_celeba/`, `list_attr_celeba.txt` and `list_eval_partition.txt`.
    :param split: `train`, `val` or `test`.
    :raises ReconError: if there is no such split, a file or an image that a list names is missing, or a line is wrong.
    """
    check_split("CelebA", split, tuple(_PARTITIONS))
    folder = _found(Path(root), "Img", "img_align_celeba")
    partition = _found(Path(root), "Eval", "list_eval_partition.txt")
    attributes_path = _found(Path(root), "Anno", "list_attr_celeba.txt")
    names = _names(partition, _PARTITIONS[split])
    attributes, labels_of = _labels(attributes_path)
    images = file_names(folder)
    for name in names:
        if name not in images:
            raise ReconError(f"{quoted(partition)} names {quoted(name)}, but there is no {quoted(folder / name)}")
        if name not in labels_of:
            raise ReconError(
                f"{quoted(partition)} names {quoted(name)}, of which {quoted(attributes_path)} says nothing"
            )
    labels = torch.frombuffer(bytearray().join(labels_of[name] for name in names), dtype=torch.uint8)
    return CelebA(folder, names, attributes, labels.view(-1, ATTRIBUTES))


def _found(root: Path, folder: str, name: str) -> Path:
    inside = root / folder / name
    return inside if inside.exists() else root / name


def _names(path: Path, partition: str) -> list[str]:
    """The names of a partition's images, in the order of the file."""
    names = []
    for number, line in enumerate(text_lines(path), start=1):
        fields = line.split()
        if len(fields) != 2 or fields[1] not in _PARTITIONS.values():
            raise ReconError(f"line {number} of {quoted(path)} is not the name of an image and 0, 1 or 2")
        if fields[1] == partition:
            names.append(fields[0])
    if not names:
        raise ReconError(f"{quoted(path)} names no image of the partition {partition}")
    return names


def _labels(path: Path) -> tuple[list[str], dict[str, bytes]]:
    """The attributes' names, and for each image's name its labels, a byte of 0 or 1 for each attribute."""
    number, *rest = text_lines(path) or [""]
    attributes = rest[0].split() if rest else []
    if not number.isdecimal() or len(set(attributes)) != ATTRIBUTES:
        raise ReconError(
            f"{quoted(path)} does not begin with the number of images and the names of {ATTRIBUTES} attributes"
        )
    labels = {}
    for line, text in enumerate(rest[1:], start=3):
        name, *values = text.split() or [""]
        if len(values) != ATTRIBUTES:
            raise ReconError(
                f"line {line} of {quoted(path)} has {counted(len(values), 'value')}; {ATTRIBUTES} were expected"
            )
        try:
            labels[name] = bytes([_VALUES[value] for value in values])
        except KeyError as error:
            raise ReconError(
                f"line {line} of {quoted(path)} has the value {quoted(error.args[0])}, not -1 or 1"
            ) from None
    if len(labels) != int(number):
        raise ReconError(f"{quoted(path)} is for {counted(len(labels), 'image')}, but its first line says {number}")
    return attributes, labels
