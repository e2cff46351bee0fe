"""Whether the tasks share the running statistics of layers that stay shared behind a split."""

from __future__ import annotations

from typing import Literal

AskedSharing = Literal["per-stream", "shared"]
"""What can be asked for: that every stream has its own, or that one set serves all tasks."""

Sharing = Literal["per-stream", "shared", "unknown"]
"""What was decided: one of these, or one set for all tasks because it was not known which layers those are."""
