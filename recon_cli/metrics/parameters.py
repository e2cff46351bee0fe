"""Parameters of metrics, checked against their annotations."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, validate_call

Classes = Annotated[int, Field(ge=2)]
"""How many classes there are."""

checked = validate_call(config=ConfigDict(strict=True, allow_inf_nan=False))
"""A constructor that raises pydantic's `ValidationError` for arguments that are not of their annotated types."""
