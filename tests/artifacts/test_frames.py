"""Documents as data frames, against the documents' own JSON."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest

from recon_cli.artifacts.frames import Framed
from recon_cli.artifacts.manifest import Manifest
from recon_cli.artifacts.ranking import Ranking
from recon_cli.artifacts.scores import Scores
from recon_cli.errors import ReconError
from tests.conftest import AUTHORS_RANKING

PANDAS = {"text": "string", "integers": "Int64", "numbers": "float64", "texts": "object"}
POLARS = {"text": pl.String, "integers": pl.Int64, "numbers": pl.Float64, "texts": pl.List(pl.String)}


def by_pandas(document: Framed) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """The kinds of the columns of a frame of pandas, and its rows as JSON would have them."""
    frame = document.to_pandas()
    assert isinstance(frame, pd.DataFrame)
    kinds = {str(name): next(k for k, v in PANDAS.items() if str(kind) == v) for name, kind in frame.dtypes.items()}
    rows = frame.astype("object").to_dict("records")
    unknown = (None, pd.NA)
    return kinds, [
        {
            str(name): None if any(cell is each for each in unknown) or cell != cell else cell
            for name, cell in row.items()
        }
        for row in rows
    ]


def by_polars(document: Framed) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """The same of a frame of polars."""
    frame = document.to_polars()
    assert isinstance(frame, pl.DataFrame)
    kinds = {name: next(k for k, v in POLARS.items() if kind == v) for name, kind in frame.schema.items()}
    return kinds, frame.to_dicts()


both = pytest.mark.parametrize("read", [by_pandas, by_polars])


@both
def test_scores_are_a_row_for_each_layer_and_stage(scores, read):
    content = json.loads(scores.read_text())
    kinds, rows = read(Scores.read(scores))
    expected = [
        {
            "layer": layer["name"], "type": layer["type"], "parameters": layer["size"], "bytes": layer["bytes"],
            "tasks": layer["tasks"], "stage": number + 1,
            **{key: stage[key] for key in ("iterations", "pairs", "non_finite")},
            **{key: stage[key] for key in ("gds", "deviation", "gms", "opposition")},
            **{f"conflicts_{s:g}": n for s, n in zip(content["severities"], stage["conflicts"], strict=True)},
            **{f"z_conflicts_{z:g}": n for z, n in zip(content["z_levels"], stage["z_conflicts"], strict=True)},
            **{f"norm_{task}": norm for task, norm in zip(content["tasks"], stage["norms"], strict=True)},
            **{f"iterations_{t}": n for t, n in zip(content["tasks"], stage["norm_iterations"], strict=True)},
        }
        for layer in content["layers"]
        for number, stage in enumerate(layer["stages"])
    ]  # fmt: skip
    assert rows == expected
    assert len(rows) == 4 * len(content["layers"])
    assert {kinds[name] for name in ("layer", "type")} == {"text"}
    assert {kinds[name] for name in ("parameters", "stage", "pairs", "conflicts_-0.1")} == {"integers"}
    assert {kinds[name] for name in ("gds", "deviation", "norm_left")} == {"numbers"}
    assert kinds["tasks"] == "texts"


@both
def test_rankings_are_a_row_for_each_layer(recon, config, ranking, read):
    recon("profile", config(profile={"iterations": 20}), "-o", "long.json").succeeds()
    recon("rank", "long.json", "-S", "0", "--stability", "1", "-o", "stable.json").succeeds()
    for path in (ranking, Path("stable.json")):
        kinds, rows = read(Ranking.read(path))
        expected = []
        for place, layer in enumerate(json.loads(path.read_text())["layers"], start=1):
            low, high = layer.pop("interval")
            first, last = layer.pop("places") or (None, None)
            assert (first is None) == (path == ranking)
            del layer["parameters"], layer["between"]
            layer |= {"layer": layer.pop("name"), "parameters": layer.pop("size"), "place": place}
            layer |= {"interval_low": low, "interval_high": high, "place_low": first, "place_high": last}
            expected.append(layer)
        assert rows == expected
        assert [name for name, kind in kinds.items() if kind == "numbers"] == [
            "score", "rate", "interval_low", "interval_high", "share", "in_top",
        ]  # fmt: skip


@both
def test_what_a_plain_ranking_does_not_say_is_missing_but_the_types_are_the_same(ranking, read):
    plain = Ranking.read(AUTHORS_RANKING)
    kinds, rows = read(plain)
    assert [(row["layer"], row["score"]) for row in rows] == [(layer.name, layer.score) for layer in plain.layers]
    unknown = {"rate", "interval_low", "interval_high", "share", "pairs", "non_finite", "parameters", "bytes",
               "position", "in_top", "place_low", "place_high", "tier", "tasks"}  # fmt: skip
    assert {name for row in rows for name, cell in row.items() if cell is None} == unknown
    assert kinds == read(Ranking.read(ranking))[0]


@both
def test_manifests_are_a_row_for_each_split_layer(recon, ranking, checkpoint, read):
    recon("split", checkpoint, "--ranking", ranking, "--top-k", 2, "-o", "with.safetensors").succeeds()
    recon("split", checkpoint, "--layers", "conv", "--tasks", "a,b", "-o", "without.safetensors").succeeds()
    content = json.loads(Path("with.manifest.json").read_text())
    kinds, rows = read(Manifest.read("with.manifest.json"))
    shared, by_layer = content["cost"]["shared"], content["cost"]["by_layer"]
    for row, layer in zip(rows, content["layers"], strict=True):
        assert math.isclose(row.pop("added_operations"), by_layer[layer["name"]] / shared - 1, abs_tol=1e-12)
        assert row == {"layer": layer["name"], "aliases": [], "branches": 2,
                       "branch_left": "left", "branch_right": "right"}  # fmt: skip
    assert kinds == {"layer": "text", "aliases": "texts", "branches": "integers", "added_operations": "numbers",
                     "branch_left": "text", "branch_right": "text"}  # fmt: skip
    kinds, (row,) = read(Manifest.read("without.manifest.json"))
    assert row["added_operations"] is None
    assert kinds["added_operations"] == "numbers"


def test_the_example_of_the_documentation_counts_conflicts_over_all_stages(scores):
    document = Scores.read(scores)
    frame = document.to_pandas()
    whole = frame.groupby("layer", sort=False)[["pairs", "conflicts_-0.1"]].sum()
    assert list(whole.index) == [layer.name for layer in document.layers]
    assert list(whole["conflicts_-0.1"]) == [document.conflicts(layer, -0.1) for layer in document.layers]
    assert list(whole["pairs"]) == [document.pairs(layer) for layer in document.layers]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_library_that_is_not_there_is_named(ranking, monkeypatch, library):
    document = Ranking.read(ranking)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ReconError, match=f"{library} cannot be imported") as caught:
        getattr(document, f"to_{library}")()
    assert caught.value.hint == f"pip install {library}"
