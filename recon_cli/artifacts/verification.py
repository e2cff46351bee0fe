"""What `recon verify` found."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from recon_cli.artifacts.document import Document


class Verification(Document):
    """What `recon verify` found."""

    SCHEMA: ClassVar[str] = "recon.verification/1"
    MADE_BY: ClassVar[str] = "recon verify"

    passed: bool
    kept: int = Field(description="tensors found unchanged under their own names")
    copies: int = Field(description="copies of split tensors found equal to the source's")
    ran: bool = Field(
        default=False,
        description="whether both are programs that were run, and their outputs and gradients compared",
    )
    not_run: str | None = Field(default=None, description="why programs that were to be run were not; else null")
    problems: tuple[str, ...]
