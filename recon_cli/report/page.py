"""The page: one HTML file with its style, its script and what it shows inside; it loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from html import escape
from importlib.resources import files
from typing import Any

from recon_cli._version import __version__
from recon_cli.report.content import Content
from recon_cli.report.findings import Findings
from recon_cli.report.words import percent

_DIGITS = 6
"""So many significant digits of a number are shown at most."""


def page_of(content: Content) -> bytes:
    """The page, plain ASCII: the same content gives the same bytes."""
    style, script = _part("page.css"), _part("page.js")
    parts = {
        "policy": escape(_policy(style, script)),
        "version": escape(__version__),
        "title": escape(content.title),
        "style": style,
        "script": script,
        "overview": "".join(f'<p class="lead">{escape(paragraph)}</p>' for paragraph in content.paragraphs),
        "keys": _listed("keys", ((key.label, key.value) for key in content.keys)),
        "notes": "".join(f'<p class="note">{escape(note)}</p>' for note in content.notes),
        "ranking": _ranking(content.findings),
        "facts": _listed("facts", ((fact.name, fact.value) for fact in content.facts)),
        "findings": embedded(asdict(content.findings)),
    }
    return _filled(_part("page.html"), parts).encode("ascii", "xmlcharrefreplace")


def embedded(data: object) -> str:
    """Data as JSON that may stand inside a script element: no character of it could end that, or begin another."""
    text = json.dumps(_rounded(data), separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _policy(style: str, script: str) -> str:
    """What the page may do: run its script, apply its style, and load nothing."""
    return (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode("ascii")).digest()).decode("ascii")
    return f"'sha256-{digest}'"


def _filled(template: str, parts: Mapping[str, str]) -> str:
    # All at once: what stands in one part is no place for another.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], template)


def _part(name: str) -> str:
    return files("recon_cli.report").joinpath("web").joinpath(name).read_text(encoding="ascii")


def _rounded(data: Any) -> Any:
    if isinstance(data, float):
        return float(f"{data:.{_DIGITS}g}")
    if isinstance(data, dict):
        return {name: _rounded(value) for name, value in data.items()}
    return [_rounded(value) for value in data] if isinstance(data, (list, tuple)) else data


def _listed(kind: str, pairs: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)
    return f'<dl class="{kind}">{rows}</dl>' if rows else ""


def _ranking(findings: Findings) -> str:
    """The ranking as a plain table, for browsers that run no scripts."""
    rows = "".join(
        f'<tr><td>{place}</td><th scope="row"><bdi>{escape(layer.name)}</bdi></th><td>{layer.score:g}</td>'
        f"<td>{'' if layer.rate is None else percent(layer.rate)}</td>"
        f"<td>{'' if layer.size is None else f'{layer.size:,}'}</td></tr>"
        for place, layer in enumerate(findings.layers, start=1)
    )
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("#", "layer", "score", "rate", "parameters"))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>" if rows else ""
