"""Sizes in bytes as people write them; units are of 1024."""

from __future__ import annotations

import re

from recon_cli.errors import ReconError, quoted

BYTE_UNITS = {"b": 1, "kb": 2**10, "kib": 2**10, "mb": 2**20, "mib": 2**20, "gb": 2**30, "gib": 2**30}


def split_unit(text: str) -> tuple[float, str] | None:
    """A number and the unit behind it, in lower case; None if the text is no such thing."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z%]*)", text.strip())
    return (float(match[1]), match[2].lower()) if match else None


def option_bytes(text: str, option: str) -> int:
    """Read the size that an option was given.

    :raises ReconError: naming the option, if it is none.
    """
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise ReconError(f"{option}: {error}") from None


def parse_bytes(text: str) -> int:
    """Read `600KB`, `2MiB` or `1.5GB`.

    :raises ValueError: if the text is no size above zero.
    """
    found = split_unit(text)
    size = int(found[0] * BYTE_UNITS.get(found[1], 0)) if found else 0
    if size < 1:
        raise ValueError(f"{quoted(text)} is no size in bytes, such as `600KB`, `2MiB` or `1.5GB`")
    return size
