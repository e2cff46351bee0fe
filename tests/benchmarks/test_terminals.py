"""The pictures of the terminal in docs/."""

from __future__ import annotations

import html
import re

import pytest

from benchmarks.terminals import PICTURES, picture
from tests.cli.test_terminal import on_a_terminal


def texts(svg: str) -> list[str]:
    """What a picture says, word by word."""
    return html.unescape(" ".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg))).replace("\xa0", " ").split()


def test_a_picture_says_what_a_terminal_shows(scores):
    drawn = picture(f"rank {scores.name}", scores.parent)
    code, shown = on_a_terminal("rank", scores.name, cwd=scores.parent, watched="stdout")
    assert code == 0
    words = re.sub(r"\x1b\[[0-9;]*m", "", shown).split()
    assert "".join(words) in "".join(texts(drawn))
    assert drawn == picture(f"rank {scores.name}", scores.parent)


@pytest.mark.parametrize("path", sorted(PICTURES.glob("terminal_*.svg")), ids=lambda path: path.stem)
def test_the_pictures_that_ship_are_small_and_load_nothing(path):
    svg = path.read_text(encoding="utf-8")
    assert "recon" in texts(svg)
    assert len(svg) < 100_000
    assert "url(" not in svg.replace("url(#", "")
    assert re.findall(r"https?://[^\"]*", svg) == ["http://www.w3.org/2000/svg"]
