"""Files of MATLAB, as PASCAL-Context and PASCAL-Part come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from recon_cli.datasets.libraries import data_library
from recon_cli.errors import ReconError, listed, quoted

PERSON = 15
"""The number of the class person in PASCAL VOC."""

BODY = (
    ("hair", "head", "lear", "lebrow", "leye", "mouth", "nose", "rear", "rebrow", "reye"),
    ("neck", "torso"),
    ("luarm", "ruarm"),
    ("lhand", "llarm", "rhand", "rlarm"),
    ("luleg", "ruleg"),
    ("lfoot", "llleg", "rfoot", "rlleg"),
)
"""The parts of PASCAL-Part that are one class: head, torso, upper arms, lower arms, upper legs and lower legs."""

_CLASSES = {part: number for number, parts in enumerate(BODY, start=1) for part in parts}


def read_classes_of_context(path: Path) -> torch.Tensor:
    """The classes of PASCAL-Context, 1 to 459, of an image's pixels; 0 where there is none.

    :returns: int64, [H, W].
    :raises ReconError: naming the file, if it is missing, damaged or holds something else.
    """
    content = _read(path)
    if "LabelMap" not in content or content["LabelMap"].ndim != 2:
        raise ReconError(f"{quoted(path)} is no annotation of PASCAL-Context: it has no table `LabelMap`")
    return torch.from_numpy(content["LabelMap"].astype("int64"))


def read_human_parts(path: Path, size: tuple[int, int]) -> torch.Tensor:
    """The part of the body that each pixel of an image shows, by an annotation of PASCAL-Part.

    :param size: height and width of the image.
    :returns: int64, [H, W]: a class of `BODY` from 1, 0 elsewhere.
    :raises ReconError: naming the file, if it is missing, damaged, of another size or holds something else.
    """
    content = _read(path)
    classes = torch.zeros(size, dtype=torch.long)
    try:
        persons = [each for each in content["anno"][0, 0]["objects"].flat if each["class_ind"].item() == PERSON]
        parts = [(str(part["part_name"].item()), part["mask"]) for person in persons for part in person["parts"].flat]
    except (KeyError, IndexError, ValueError, AttributeError):
        raise ReconError(f"{quoted(path)} is no annotation of PASCAL-Part") from None
    for name, mask in parts:
        if name not in _CLASSES:
            raise ReconError(f"{quoted(path)} names a part {quoted(name)}", f"there are {listed(_CLASSES, 99)}")
        if mask.shape != size:
            raise ReconError(
                f"{quoted(path)} is for {'x'.join(map(str, mask.shape))} pixels, but the image has {size[0]}x{size[1]}"
            )
        classes[torch.from_numpy(mask.astype(bool))] = _CLASSES[name]
    return classes


def _read(path: Path) -> Any:
    try:
        return data_library("scipy.io").loadmat(str(path))
    except ReconError:
        raise
    except OSError as error:
        raise ReconError(f"cannot read {quoted(path)}: {error.strerror or error}") from None
    # SciPy's parser fails in any way.
    except Exception as error:
        raise ReconError(f"{quoted(path)} is damaged, or not a file of MATLAB") from error
