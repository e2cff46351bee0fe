"""PASCAL-Context with the labels of four tasks, in the folders of the archive `PASCAL_MT` (Maninis et al., 2019).

    root/ImageSets/Context/train.txt, val.txt    the images' names
    root/JPEGImages/NAME.jpg
    root/semseg/VOC12/NAME.png                   classes of PASCAL VOC; where there is none,
    root/semseg/pascal-context/NAME.png          the same classes, from PASCAL-Context
    root/human_parts/NAME.mat                    PASCAL-Part
    root/sal_distill/NAME.png                    saliency by a network
    root/normals_distill/NAME.png                normals by a network
    root/pascal-context/trainval/NAME.mat        classes of PASCAL-Context, which say where the normals count

The archive's fifth task, edges, is not among the four of Recon's paper.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import torch
from torch.nn import functional as F
from torch.utils.data import Dataset

from recon_cli.datasets.folders import check_split, file_names, text_lines
from recon_cli.datasets.images import read_colours, read_values
from recon_cli.datasets.mat import read_classes_of_context, read_human_parts
from recon_cli.errors import ReconError, quoted

Split = Literal["train", "val"]
Sample = tuple[torch.Tensor, dict[str, torch.Tensor]]

SIDE = 512
"""Height and width to which all images are padded; the largest of them has 500."""

IGNORED = 255
"""The class of pixels that have none."""

NUMBER_OF_CLASSES = 21
"""The background and the classes of PASCAL VOC."""

WITH_NORMALS = Path(__file__).parent / "data" / "pascal-context-with-normals.json"
"""Names and numbers of the classes of PASCAL-Context on which normals count: those of NYUv2, and `tvmonitor`."""

_IMAGES = "JPEGImages"
_VOC, _CONTEXT = "semseg/VOC12", "semseg/pascal-context"
_PARTS, _SALIENCY, _NORMALS = "human_parts", "sal_distill", "normals_distill"
_CLASSES = "pascal-context/trainval"


class PascalContext(Dataset[Sample]):
    """Images with four labels for each pixel, read when they are asked for.

    :param root: the folder `PASCAL_MT`.
    :param split: `train` or `val`.
    :raises ReconError: if a folder or the list of images is missing, or an image of the list has not all of its files.
    """

    def __init__(self, root: Path, split: Split) -> None:
        self._root = root
        self._with_normals = torch.tensor(list(json.loads(WITH_NORMALS.read_text(encoding="utf-8")).values()))
        listing = root / "ImageSets" / "Context" / f"{split}.txt"
        self._names = [name for name in text_lines(listing) if name]
        if not self._names:
            raise ReconError(f"{quoted(listing)} is empty: it names no image")
        self._in_voc = file_names(root / _VOC)
        self._check(listing, _IMAGES, ".jpg", file_names(root / _IMAGES))
        self._check(listing, _CONTEXT, ".png", file_names(root / _CONTEXT) | self._in_voc)
        for folder, ending in ((_PARTS, ".mat"), (_SALIENCY, ".png"), (_NORMALS, ".png"), (_CLASSES, ".mat")):
            self._check(listing, folder, ending, file_names(root / folder))

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        """An image, float32 in [-1, 1], [3, 512, 512], and its labels; around a smaller image all of them are void.

        :raises ReconError: naming the file that is damaged, of another size, or holds what it should not.
        """
        name = self._names[index]
        image = read_colours(self._root / _IMAGES / f"{name}.jpg")
        size = (image.shape[1], image.shape[2])
        if max(size) > SIDE:
            raise ReconError(
                f"{quoted(self._root / _IMAGES / f'{name}.jpg')} has {size[0]}x{size[1]} pixels; "
                f"at most {SIDE}x{SIDE} were expected"
            )
        labels = {
            "segmentation": _padded(self._segmentation(name, size), IGNORED),
            "human_parts": _padded(self._human_parts(name, size), IGNORED),
            "saliency": _padded(self._saliency(name, size), IGNORED),
            "normal": _padded(self._normal(name, size), 0),
        }
        return _padded(image / 127.5 - 1, 0), labels

    def _check(self, listing: Path, folder: str, ending: str, files: frozenset[str]) -> None:
        for name in self._names:
            if name + ending not in files:
                raise ReconError(
                    f"{quoted(listing)} names {quoted(name)}, but there is no "
                    f"{quoted(self._root / folder / (name + ending))}"
                )

    def _segmentation(self, name: str, size: tuple[int, int]) -> torch.Tensor:
        path = self._root / (_VOC if f"{name}.png" in self._in_voc else _CONTEXT) / f"{name}.png"
        classes = _of_size(path, read_values(path), size).long()
        wrong = classes[(classes >= NUMBER_OF_CLASSES) & (classes != IGNORED)]
        if len(wrong):
            raise ReconError(
                f"{quoted(path)} holds the class {wrong[0]}; 0 to {NUMBER_OF_CLASSES - 1} and {IGNORED} were expected"
            )
        return classes

    def _human_parts(self, name: str, size: tuple[int, int]) -> torch.Tensor:
        classes = read_human_parts(self._root / _PARTS / f"{name}.mat", size)
        # Of an image without parts it is not known whether it shows no body, or nobody marked it.
        return classes if classes.any() else torch.full_like(classes, IGNORED)

    def _saliency(self, name: str, size: tuple[int, int]) -> torch.Tensor:
        path = self._root / _SALIENCY / f"{name}.png"
        return (_of_size(path, read_values(path), size) > 127).float()[None]

    def _normal(self, name: str, size: tuple[int, int]) -> torch.Tensor:
        path, classes_path = self._root / _NORMALS / f"{name}.png", self._root / _CLASSES / f"{name}.mat"
        normals = _of_size(path, read_colours(path), size) / 127.5 - 1
        classes = _of_size(classes_path, read_classes_of_context(classes_path), size)
        return normals * torch.isin(classes, self._with_normals)


def pascal_context(root: str, split: Split = "train") -> PascalContext:
    """PASCAL-Context for four tasks: 4,998 training and 5,105 validation images, padded to 512x512.

        segmentation  int64, [512, 512], the background and 20 classes of PASCAL VOC; 255 where there is none
        human_parts   int64, [512, 512], 1 to 6 for head, torso, upper and lower arms, upper and lower legs, else 0;
                      255 everywhere, if the image has none
        saliency      float32, [1, 512, 512], 0 or 1; 255 around the image
        normal        float32, [3, 512, 512], of length 1 but for the rounding of the file; 0 where there is none

    :param root: the folder `PASCAL_MT` that the archive unpacks to.
    :param split: `train` or `val`.
    :raises ReconError: if there is no such split, a folder or the list of images is missing, or an image of the list
        has not all of its files.
    """
    check_split("PASCAL-Context", split, ("train", "val"))
    return PascalContext(Path(root), split)


def _of_size(path: Path, values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if values.shape[-2:] != size:
        height, width = values.shape[-2:]
        raise ReconError(f"{quoted(path)} is for {height}x{width} pixels, but the image has {size[0]}x{size[1]}")
    return values


def _padded(values: torch.Tensor, void: float) -> torch.Tensor:
    """`values` in the middle of `SIDE` x `SIDE` pixels, and `void` around them."""
    down, right = SIDE - values.shape[-2], SIDE - values.shape[-1]
    return F.pad(values, (right // 2, right - right // 2, down // 2, down - down // 2), value=void)
