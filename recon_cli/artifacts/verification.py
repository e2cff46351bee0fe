"""What `recon verify` found."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from recon_cli.artifacts.document import Document


class Verification(Document):
    """What `recon verify` found."""

    SCHEMA: ClassVar[str] = "recon.verification/1"
    MADE_BY: ClassVar[str] = "recon verify"

    passed: bool
    kept: int = Field(description="tensors found unchanged under their own names")
    copies: int = Field(description="copies of split tensors found equal to the source's")
    compared: Literal["run", "graphs"] | None = Field(
        default=None,
        description="how it was compared what programs compute: both were run, with outputs and gradients, or their "
        "graphs were laid side by side; null if it was not",
    )
    not_compared: str | None = Field(
        default=None, description="why it was not, for programs that were to be compared; else null"
    )
    problems: tuple[str, ...]
