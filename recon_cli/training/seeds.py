"""The seeds that a command line names."""

from __future__ import annotations

from recon_cli.errors import ReconError, quoted

_LIMIT = 2**63


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read `0,1,2`.

    :raises ReconError: if it is no list of seeds, or one stands in it twice.
    """
    seeds = []
    for part in text.split(","):
        number = part.strip()
        if not number.isdecimal() or not number.isascii() or int(number) >= _LIMIT:
            raise ReconError(f"--seeds {quoted(text)} is no list of seeds", "write it like `0,1,2`")
        if int(number) in seeds:
            raise ReconError(f"--seeds names {int(number)} twice")
        seeds.append(int(number))
    return tuple(seeds)
