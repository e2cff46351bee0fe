"""The kinds of files that checkpoints are read from."""

from __future__ import annotations

from typing import Literal, TypeAlias

CheckpointFormat: TypeAlias = Literal["safetensors", "torch"]
"""A kind of file by the name that documents give it."""
