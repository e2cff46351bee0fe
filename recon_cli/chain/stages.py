"""The stages of `recon run`."""

from __future__ import annotations

from typing import Literal, get_args

Stage = Literal["profile", "rank", "split", "train", "compare"]
STAGES: tuple[Stage, ...] = get_args(Stage)
