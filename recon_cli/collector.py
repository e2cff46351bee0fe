"""Python's collector of cycles, kept out of work that makes none."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def paused_collector() -> Iterator[None]:
    """Let the collector rest meanwhile.

    It walks over all that was made each time that some more is made, and so takes half the time of whoever describes a
    hundred thousand tensors.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
