"""What a notebook shows of a document."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from recon_cli.artifacts.comparison import Comparison
from recon_cli.artifacts.conflict_comparison import ConflictComparison
from recon_cli.artifacts.document import Document
from recon_cli.artifacts.manifest import Manifest, SplitPlan
from recon_cli.artifacts.ranking import Ranking
from recon_cli.artifacts.result_comparison import ResultComparison
from recon_cli.artifacts.scores import Scores
from recon_cli.inspection.documents import SUMMARIES
from tests.reporting.test_heat import ranking_of
from tests.results.making import results

ELEMENTS = {"div", "p", "code", "table", "thead", "tbody", "tr", "th", "td", "br"}


class Page(HTMLParser):
    """The tables of a piece of HTML, which has to be well formed and of nothing but tables and paragraphs."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.paragraphs: list[str] = []
        self.alignments: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ELEMENTS
        allowed = {"div": {"class"}, "td": {"style"}, "th": {"style"}}
        assert {name for name, _ in attrs} <= allowed.get(tag, set())
        if tag == "br":
            self.tables[-1][-1][-1] += "\n"
            return
        self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.alignments.append(dict(attrs)["style"] or "")
        elif tag == "p":
            self.paragraphs.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
        else:
            assert "p" in self.open
            self.paragraphs[-1] += data


def page(document: Document) -> Page:
    """What a notebook shows of a document."""
    return Page(document._repr_html_())


def test_a_ranking_shows_its_layers(ranking):
    document = Ranking.read(ranking)
    facts, (head, *rows) = page(document).tables
    assert ["tasks", "left, right"] in facts
    assert head == ["#", "layer", "score", "rate", "95% interval", "parameters"]
    assert [row[:4] for row in rows] == [
        [str(place), layer.name, f"{layer.score:.0f}", f"{100 * layer.score / layer.pairs:.2f}%"]
        for place, layer in enumerate(document.layers, start=1)
    ]
    assert [row[-1] for row in rows] == [f"{layer.size:,}" for layer in document.layers]


def test_what_a_ranking_does_not_know_of_a_layer_is_left_blank(ranking):
    content = json.loads(ranking.read_text())
    content["layers"][0]["size"] = content["layers"][0]["interval"] = None
    _, (_, first, *_) = page(Ranking.from_content(content, "it")).tables
    assert first[-2:] == ["", ""]


def test_scores_show_their_layers(scores):
    document = Scores.read(scores)
    facts, (head, *rows) = page(document).tables
    assert ["measured steps", "6 of 6, in 4 stages"] in facts
    assert head[:2] == ["layer", "cos < 0"]
    assert [row[0] for row in rows] == [*(layer.name for layer in document.layers), "all of them, as one"]
    for layer, row in zip((*document.layers, None), rows, strict=True):
        assert row[1] == f"{100 * document.conflicts(layer, 0.0) / document.pairs(layer):.2f}%"
        assert row[head.index("GMS")] == f"{document.gms(layer):.2f}"


def test_manifests_and_plans_show_the_split_layers(recon, ranking, checkpoint):
    split = ["split", checkpoint, "--ranking", ranking, "--top-k", 2]
    plan = SplitPlan.from_content(recon(*split, "--dry-run", "--json").succeeds().document, "it")
    recon(*split, "-o", "b.safetensors").succeeds()
    manifest = Manifest.read("b.manifest.json")
    assert manifest.cost is not None
    for document in (plan, manifest):
        facts, (head, *rows) = page(document).tables
        assert ["selection", "top-k 2"] in facts
        assert head == ["layer", "tasks of its branches", "added operations"]
        assert rows == [
            [layer.name, "left | right", f"{100 * document.cost.added_by(layer.name):.2f}%"]
            for layer in document.layers
        ]


def test_comparisons_show_what_is_compared(recon, scores, ranking):
    shutil.copy(scores, "copy.json")
    recon("rank", scores, "-S", "-0.1", "-o", "other.json").succeeds()
    recon("compare-conflicts", scores, "copy.json", "-o", "c.json").succeeds()
    conflicts = ConflictComparison.read("c.json")
    _, (head, *rows) = page(conflicts).tables
    assert [row[:2] for row in rows] == [[run.name, f"{run.pairs:,}"] for run in conflicts.runs]
    assert rows[1][head.index("reduction")] == f"{conflicts.runs[1].reduction_percent:.2f}%"

    rankings = recon("compare-rankings", ranking, "other.json", ranking, "--json", "--top-k", 1).succeeds().document
    comparison = Comparison.from_content(rankings, "it")
    _, (head, *rows) = page(comparison).tables
    assert [row[:3] for row in rows] == [
        [comparison.rankings[one], comparison.rankings[two], f"{comparison.distance[one][two]:.3f}"]
        for one, two in ((0, 1), (0, 2), (1, 2))
    ]
    assert head[-1] == "overlap of the first 1"

    for name, loss in (("joint", 2.0), ("better", 1.0)):
        Path(name).mkdir()
        results({"a/loss": loss}).write(Path(name) / "results.json")
    recon("compare-results", "joint", "better", "-o", "r.json").succeeds()
    _, (head, *rows) = page(ResultComparison.read("r.json")).tables
    assert head[1] == "a\nloss ↓"
    assert [row[1] for row in rows] == ["2.0000 ", "1.0000*"]


def test_hostile_names_are_text():
    names = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "&lt;b&gt;", "$x$", "</td></table>"]
    ranking = ranking_of(dict.fromkeys((*names, "a\x1b[31mred", "\u202eb"), 1.0))
    facts, (_, *rows) = page(ranking).tables
    assert [row[1] for row in rows] == [*names, "a\\x1b[31mred", "\\u202eb"]
    assert dict(facts)["first layers"] == ", ".join(f"{name} (1)" for name in names)
    # Notebooks take what stands between dollars for formulas, but not in an element of this class.
    assert ranking_of({"a": 1.0})._repr_html_().startswith('<div class="tex2jax_ignore mathjax_ignore">')


def test_a_long_table_is_cut_and_says_so():
    found = page(ranking_of({f"layer{place}": 1.0 for place in range(143)}))
    assert len(found.tables[1]) == 1 + 100
    assert found.paragraphs == ["recon.ranking/1", "and 43 more rows"]
    assert page(ranking_of({f"layer{place}": 1.0 for place in range(100)})).paragraphs == ["recon.ranking/1"]


def test_numbers_stand_to_the_right_and_nothing_has_a_colour(ranking):
    found = page(Ranking.read(ranking))
    assert set(found.alignments) == {"text-align:left", "text-align:right"}
    assert found.alignments[-1] == "text-align:right"


@pytest.mark.parametrize("kind", ["methods", "inspection"])
def test_documents_without_a_table_show_their_facts(recon, checkpoint, kind):
    command = ["methods"] if kind == "methods" else ["inspect", checkpoint]
    content = recon(*command, "--json").succeeds().document
    document = {each.SCHEMA: each for each in SUMMARIES}[content["schema"]].from_content(content, "it")
    (facts,) = page(document).tables
    assert dict(facts) == SUMMARIES[type(document)](document)
