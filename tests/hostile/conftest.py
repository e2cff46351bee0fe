"""What the tests of hostile files share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Result

SPLIT = ("--tasks", "a,b", "-o", "out.safetensors", "--layers")


@pytest.fixture
def refused(recon: Callable[..., Result]) -> Callable[..., str]:
    """Check that `recon split` refuses a file in one sentence with these words in it, and leaves the folder alone."""

    def check(path: object, *words: str, layer: str = "w") -> str:
        before = {each: each.stat().st_size for each in Path().rglob("*") if each.is_file()}
        result = recon("split", path, *SPLIT, layer).refuses(*words)
        # What is found only while bytes are moved is found behind a note of what is written.
        message, *hints = [line for line in result.err.splitlines() if not line.startswith("note: ")]
        assert message.startswith("error: ")
        assert len(hints) <= 1 and all(hint.startswith("hint: ") for hint in hints), result.err
        assert result.err.isascii() or "\x1b" not in result.err
        assert {each: each.stat().st_size for each in Path().rglob("*") if each.is_file()} == before
        return result.err

    return check


@pytest.fixture
def split(recon: Callable[..., Result]) -> Callable[..., Path]:
    """Split a layer of a file for the tasks a and b; gives the branched file."""

    def run(path: object, layer: str = "w") -> Path:
        result = recon("split", path, *SPLIT, layer).succeeds()
        assert "\x1b" not in result.out + result.err
        assert "\0" not in result.out + result.err
        return Path("out.safetensors")

    return run
