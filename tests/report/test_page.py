"""The page as a file: one, the same each time, that loads nothing and that no name breaks out of."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon_cli.errors import printable
from recon_cli.report.page import embedded, page_of
from tests.report.making import HOSTILE, chain, content, scores

VOID = {"meta", "link", "input", "br", "img"}


class Parsed(HTMLParser):
    """The elements of a page, and what scripts and styles hold."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[dict[str, str | None], str]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(page.decode("ascii"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.raw.append((dict(attrs), ""))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("script", "style"):
            self.raw[-1] = (self.raw[-1][0], self.raw[-1][1] + data)
        else:
            self.texts.append(data)

    @property
    def findings(self) -> dict:
        (data,) = [text for attributes, text in self.raw if attributes.get("type") == "application/json"]
        return json.loads(data)


def hostile_page() -> bytes:
    layers = {name: [[-0.5, 0.5]] for name in HOSTILE}
    return page_of(content(scores(layers, tasks=HOSTILE[:2])))


def test_the_policy_names_the_style_and_the_script_and_allows_nothing_else():
    parsed = Parsed(page_of(content(scores({"a": [[-0.5, 0.5]]}))))
    (policy,) = [attributes["content"] for _, attributes in parsed.elements if "http-equiv" in attributes]
    hashes = {
        "style" if not attributes and text.lstrip().startswith(":root") else "script":
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for attributes, text in parsed.raw if "type" not in attributes
    }  # fmt: skip
    assert policy == (
        f"default-src 'none'; script-src 'sha256-{hashes['script']}'; style-src 'sha256-{hashes['style']}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def test_the_page_names_no_address_and_nothing_to_load():
    page = page_of(content(scores({"a": [[-0.5, 0.5]]}))).decode("ascii")
    addresses = set(re.findall(r"[a-z]+://[^\s\"'<)]+", page))
    # A namespace is a name, and nothing is loaded from it.
    assert addresses == {"http://www.w3.org/2000/svg"}
    loading = {"src", "href", "srcset", "data", "action", "style", "onload", "onclick"}
    found = [(tag, name, value) for tag, attributes in Parsed(page.encode()).elements
             for name, value in attributes.items() if name in loading]  # fmt: skip
    assert found == [("link", "href", "data:,")]


def test_the_script_writes_text_only():
    script = Parsed(page_of(content(scores({"a": [[0.5]]})))).raw[-1][1]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)


def test_hostile_names_stay_text():
    tame = Parsed(page_of(content(scores({f"layer{place}": [[-0.5, 0.5]] for place in range(len(HOSTILE))}))))
    parsed = Parsed(hostile_page())
    assert [tag for tag, _ in parsed.elements] == [tag for tag, _ in tame.elements]
    assert {attribute for _, attributes in parsed.elements for attribute in attributes} == {
        attribute for _, attributes in tame.elements for attribute in attributes
    }
    names = [layer["name"] for layer in parsed.findings["layers"]]
    assert names == [printable(name) for name in HOSTILE]
    assert all(name in "".join(parsed.texts) for name in names)


@given(st.dictionaries(st.text(), st.text() | st.floats(allow_nan=False, allow_infinity=False, width=16), max_size=5))
def test_embedded_data_is_json_that_ends_no_script(data):
    text = embedded(data)
    assert not set(text) & set("<>&\u2028\u2029")
    assert text.isascii()
    assert json.loads(text).keys() == data.keys()
    for name, value in json.loads(text).items():
        assert value == (pytest.approx(data[name], rel=1e-5) if isinstance(value, float) else data[name])


def test_the_same_content_gives_the_same_bytes():
    one, other = (page_of(content(scores({"a": [[-0.5, 0.5]], "b": [[0.5, 0.1]]}))) for _ in range(2))
    assert one == other


def test_without_scripts_the_page_has_the_ranking():
    page = page_of(content(scores({"conv": [[-0.5, 0.5]], "fc": [[-0.5, -0.5]]}))).decode()
    (fallback,) = re.findall(r"<noscript>(.*)</noscript>", page)
    rows = [re.findall(r"<t[dh][^>]*>(?:<bdi>)?([^<]*)", row) for row in re.findall(r"<tr>.*?</tr>", fallback)]
    assert rows == [
        ["#", "layer", "score", "rate", "parameters"],
        ["1", "fc", "2", "100.0%", "20"],
        ["2", "conv", "1", "50.0%", "10"],
    ]


def test_many_layers_and_tasks_make_a_page_of_a_few_hundred_kilobytes():
    tasks = [f"task {place}" for place in range(40)]
    pairs = len(list(combinations(tasks, 2)))
    wide = [(place * 37 % 199 - 99) / 100 + 0.003 for place in range(pairs)]
    names = [f"encoder.layers.{place}.attention.out_proj" for place in range(500)]
    profile = scores({name: [wide] * 4 for name in names}, tasks=tasks, flow=chain(names, tasks))
    page = page_of(content(profile))
    assert len(page) < 600_000
    assert len(Parsed(page).findings["layers"]) == 500
