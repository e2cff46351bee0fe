"""The IDX format of MNIST: a magic number with the number of dimensions, their sizes, and unsigned bytes."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch

from recon_cli.errors import ReconError, quoted

_GZIP = b"\x1f\x8b"
_UNSIGNED_BYTES = 0x08


def read_idx(path: Path, dimensions: int) -> torch.Tensor:
    """Read an IDX file of unsigned bytes, compressed with gzip or plain.

    :param path: the file; if it is not there, the same name with or without `.gz` is tried.
    :param dimensions: how many dimensions it must have: 3 for images, 1 for labels.
    :returns: a uint8 tensor of the file's shape.
    :raises ReconError: naming the file, if it is missing, truncated or something else.
    """
    path = _existing(path)
    data = _read(path)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != _UNSIGNED_BYTES:
        raise ReconError(f"{quoted(path)} is not an IDX file of unsigned bytes")
    if data[3] != dimensions:
        raise ReconError(f"{quoted(path)} has {data[3]} dimensions; {dimensions} were expected")
    start = 4 + 4 * dimensions
    if len(data) < start:
        raise ReconError(f"{quoted(path)} is truncated: it ends within its header")
    shape = struct.unpack(f">{dimensions}I", data[4:start])
    expected, found = math.prod(shape), len(data) - start
    if found != expected:
        what = "is truncated" if found < expected else "is too long"
        raise ReconError(f"{quoted(path)} {what}: it holds {found} bytes of data, its header says {expected}")
    if expected == 0:
        raise ReconError(f"{quoted(path)} is empty: its header says {shape}")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=start).view(shape)


def write_idx(path: Path, values: torch.Tensor) -> None:
    """Write a uint8 tensor as an IDX file, compressed so that the same values give the same bytes.

    :raises ValueError: if the tensor is of another type.
    """
    if values.dtype != torch.uint8:
        raise ValueError(f"IDX files hold uint8 here, not {values.dtype}")
    header = bytes([0, 0, _UNSIGNED_BYTES, values.dim()]) + struct.pack(f">{values.dim()}I", *values.shape)
    path.write_bytes(gzip.compress(header + bytes(values.flatten().tolist()), 9, mtime=0))


def _existing(path: Path) -> Path:
    other = path.with_suffix("") if path.suffix == ".gz" else path.with_name(path.name + ".gz")
    for candidate in (path, other):
        if candidate.is_file():
            return candidate
    raise ReconError(
        f"there is no IDX file {quoted(path)}, compressed or not",
        "download it into that folder under its usual name",
    )


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data.startswith(_GZIP) else data
    except EOFError:
        raise ReconError(f"{quoted(path)} is truncated: its compressed data ends early") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ReconError(f"{quoted(path)} is damaged: {error}") from None
    except OSError as error:
        raise ReconError(f"cannot read {quoted(path)}: {error.strerror}") from None
