"""Arrays of numbers in `.npy` files."""

from __future__ import annotations

from pathlib import Path

import torch

from recon_cli.datasets.libraries import data_library
from recon_cli.errors import ReconError, quoted


def read_npy(path: Path) -> torch.Tensor:
    """Read an array of numbers of any type.

    :returns: float32, of the array's shape.
    :raises ReconError: naming the file, if it is missing, damaged or holds something else.
    """
    numpy = data_library("numpy")
    try:
        with path.open("rb") as file:
            array = numpy.lib.format.read_array(file)
    except OSError as error:
        raise ReconError(f"cannot read {quoted(path)}: {error.strerror or error}") from None
    # NumPy's parser of the header evaluates it, and fails in any way.
    except Exception as error:
        raise ReconError(f"{quoted(path)} is damaged, or not an array of NumPy") from error
    if array.dtype.kind not in "biuf":
        raise ReconError(f"{quoted(path)} holds values of the type {quoted(array.dtype)}; numbers were expected")
    return torch.from_numpy(numpy.array(array, dtype=numpy.float32, order="C"))
