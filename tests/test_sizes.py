"""Sizes as people write them."""

from __future__ import annotations

import pytest

from recon_cli.sizes import parse_bytes


@pytest.mark.parametrize(
    ("text", "size"), [("1b", 1), ("600KB", 600 * 1024), (" 2MiB ", 2 * 1024**2), ("1.5 gb", 3 * 2**29)]
)
def test_sizes_are_in_units_of_1024(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "12", "0GB", "-1GB", "5%", "1TB", "1e3MB", "GB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="no size in bytes"):
        parse_bytes(text)
