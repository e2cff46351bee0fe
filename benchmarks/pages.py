"""Tables of a page of docs/ that are made anew: each stands between `<!-- name -->` and `<!-- end -->`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_END = "<!-- end -->\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def page_with(page: str, name: str, content: str) -> str:
    """The page with other content where the name stands.

    :param content: ends with a new line.
    :raises ValueError: if there is no such place.
    """
    mark = f"<!-- {name} -->\n"
    before, found, rest = page.partition(mark)
    _, end, after = rest.partition(_END)
    if not found or not end:
        raise ValueError(f"the page has no place called {name!r}")
    return f"{before}{mark}{content}{_END}{after}"
