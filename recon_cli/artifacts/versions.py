"""The versions of what made a file."""

from __future__ import annotations

from recon_cli.artifacts.document import Record


class Versions(Record):
    """The versions of what made a file."""

    recon: str
    torch: str | None = None
