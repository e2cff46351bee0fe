"""Pixels of JPEG and PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from recon_cli.datasets.libraries import data_library
from recon_cli.errors import ReconError, quoted


def read_colours(path: Path, size: tuple[int, int] | None = None) -> torch.Tensor:
    """Read an image of any kind as red, green and blue.

    :param size: height and width to which it is resized, linearly and without aliasing; None for its own.
    :returns: uint8, [3, H, W].
    :raises ReconError: naming the file, if it is missing, damaged or no image.
    """
    image = _opened(path).convert("RGB")
    if size is not None:
        image = image.resize((size[1], size[0]), data_library("PIL.Image").Resampling.BILINEAR)
    return _pixels(image, 3).movedim(2, 0).contiguous()


def read_values(path: Path) -> torch.Tensor:
    """Read an image whose pixels are numbers: grey values, or places in a palette, whose colours do not count.

    :returns: uint8, [H, W].
    :raises ReconError: naming the file, if it is missing, damaged, no image, or an image of colours.
    """
    image = _opened(path)
    if image.mode not in ("L", "P"):
        raise ReconError(
            f"{quoted(path)} is an image of the kind {quoted(image.mode)}; one byte for each pixel was expected"
        )
    return _pixels(image, 1)[..., 0]


def _opened(path: Path) -> Any:
    """An image of Pillow with its pixels, and its file closed."""
    try:
        with data_library("PIL.Image").open(path) as image:
            image.load()
            return image
    except OSError as error:
        if error.strerror:
            raise ReconError(f"cannot read {quoted(path)}: {error.strerror}") from None
        raise ReconError(f"{quoted(path)} is damaged, or no image") from error
    # A damaged PNG is a syntax error to Pillow.
    except (SyntaxError, ValueError) as error:
        raise ReconError(f"{quoted(path)} is damaged: {error}") from None


def _pixels(image: Any, channels: int) -> torch.Tensor:
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, channels)
