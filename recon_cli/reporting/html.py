"""Documents as HTML, for notebooks: tables without colours of their own, in which every name is text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from recon_cli.artifacts.comparison import Comparison
from recon_cli.artifacts.conflict_comparison import ConflictComparison
from recon_cli.artifacts.document import Document
from recon_cli.artifacts.manifest import Manifest, SplitPlan
from recon_cli.artifacts.ranking import Ranking
from recon_cli.artifacts.result_comparison import ResultComparison
from recon_cli.artifacts.scores import Scores
from recon_cli.artifacts.search import SearchResult
from recon_cli.artifacts.tasks import TaskRelations
from recon_cli.errors import counted, printable
from recon_cli.inspection.documents import SUMMARIES
from recon_cli.reporting.comparison import comparison_rows
from recon_cli.reporting.conflict_comparison import reduction_rows
from recon_cli.reporting.ranking import ranking_rows
from recon_cli.reporting.result_comparison import result_comparison_rows
from recon_cli.reporting.scores import scores_rows
from recon_cli.reporting.search import search_rows
from recon_cli.reporting.split import split_rows
from recon_cli.reporting.tables import Rows
from recon_cli.reporting.tasks import tasks_rows

_MOST_ROWS = 100

_TABLES: Mapping[type[Document], Callable[[Any], Rows]] = {
    Scores: scores_rows,
    Ranking: ranking_rows,
    Manifest: split_rows,
    SplitPlan: split_rows,
    Comparison: comparison_rows,
    ConflictComparison: lambda comparison: reduction_rows(comparison, [run.name for run in comparison.runs]),
    ResultComparison: result_comparison_rows,
    TaskRelations: tasks_rows,
    SearchResult: search_rows,
}


def document_html(document: Document) -> str:
    """What a document says in short, and its table if it has one, of which the first rows are shown."""
    facts = Rows(["", ""], list(SUMMARIES[type(document)](document).items()))
    parts = [f"<p><code>{document.SCHEMA}</code></p>", _table(facts)]
    if type(document) in _TABLES:
        content = _TABLES[type(document)](document)
        parts.append(_table(Rows(content.columns, content.rows[:_MOST_ROWS])))
        if len(content.rows) > _MOST_ROWS:
            parts.append(f"<p>and {counted(len(content.rows) - _MOST_ROWS, 'more row')}</p>")
    # A name with dollar signs is no formula.
    return f'<div class="tex2jax_ignore mathjax_ignore">{"".join(parts)}</div>'


def _table(content: Rows) -> str:
    right = [column.startswith(">") for column in content.columns]
    head = _row("th", [column.removeprefix(">") for column in content.columns], right)
    # A table of facts has no names of columns.
    shown = f"<thead>{head}</thead>" if any(content.columns) else ""
    body = "".join(_row("td", [printable(str(cell)) for cell in row], right) for row in content.rows)
    return f"<table>{shown}<tbody>{body}</tbody></table>"


def _row(tag: str, texts: Sequence[str], right: Sequence[bool]) -> str:
    cells = [
        f'<{tag} style="text-align:{"right" if to_right else "left"}">{escape(text).replace(chr(10), "<br>")}</{tag}>'
        for text, to_right in zip(texts, right, strict=True)
    ]
    return f"<tr>{''.join(cells)}</tr>"
