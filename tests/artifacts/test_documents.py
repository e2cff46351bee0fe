"""What all documents have in common."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docs.make_schemas import KINDS, schema_path, schema_text
from recon_cli.artifacts import strict_json
from recon_cli.artifacts.document import Document
from recon_cli.artifacts.manifest import Manifest
from recon_cli.artifacts.ranking import Ranking
from recon_cli.artifacts.scores import Scores
from recon_cli.errors import ReconError

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_what_is_encoded_is_parsed_to_the_same(value):
    for indent in (None, 2):
        data = strict_json.encode(value, indent=indent)
        assert data.isascii()
        assert strict_json.parse(data, "this") == value


@given(st.binary(max_size=60))
def test_any_bytes_are_parsed_or_refused(data):
    try:
        found = strict_json.parse(data, "these bytes")
    except ReconError as error:
        assert "these bytes" in error.message
    else:
        assert found == json.loads(data)


def test_a_document_written_and_read_is_the_same(recon, scores, ranking, checkpoint):
    recon("split", checkpoint, "--ranking", ranking, "--top-k", 1, "-o", "b.safetensors").succeeds()
    for kind, path in ((Scores, scores), (Ranking, ranking), (Manifest, Path("b.manifest.json"))):
        document = kind.read(path)
        assert document.to_bytes() == path.read_bytes()
        assert path.read_text().startswith('{"schema":' if kind.INDENT is None else '{\n  "schema":')


def test_a_document_does_not_replace_a_file_unasked(scores):
    document = Scores.read(scores)
    before = scores.read_bytes()
    with pytest.raises(ReconError, match="exists already"):
        document.write(scores)
    document.write(scores, overwrite=True)
    assert scores.read_bytes() == before


@pytest.mark.parametrize("kind", KINDS)
def test_the_published_schema_is_that_of_the_code(kind: type[Document]):
    assert schema_path(kind).read_text() == schema_text(kind), "run `make schemas`"


def test_every_record_of_a_document_has_a_line():
    content = {"schema": "x/1", "sizes": {"before": {"a": 1}, "after": {}}, "tensors": [{"key": "w"}, {"key": "v"}],
               "branches": [{"of": [{}, {"a": 2}]}, {"of": []}], "odd": [{"key": "}, {"}, {}]}  # fmt: skip
    assert strict_json.encode(content, indent=2).decode() == (
        '{\n  "schema": "x/1",\n'
        '  "sizes": {\n    "before": {"a": 1},\n    "after": {}\n  },\n'
        '  "tensors": [\n    {"key": "w"},\n    {"key": "v"}\n  ],\n'
        '  "branches": [\n    {"of": [{}, {"a": 2}]},\n    {"of": []}\n  ],\n'
        '  "odd": [\n    {"key": "}, {"},\n    {}\n  ]\n}\n'
    )
