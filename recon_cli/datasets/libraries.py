"""The libraries that read some of the papers' data; Recon itself needs none of them."""

from __future__ import annotations

import importlib
from typing import Any

from recon_cli.errors import ReconError, quoted


def data_library(module: str) -> Any:
    """Import a module of a library that comes with the extra `data`.

    :param module: its name: `numpy`, `scipy.io` or `PIL.Image`.
    :raises ReconError: if it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ReconError(
            f"this data is read with {quoted(module)}, which cannot be imported: {error}",
            "install what reads it: pip install 'recon_cli[data]'",
        ) from None
