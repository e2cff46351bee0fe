"""Writes the tables of docs/methods.md from what the update rules say of themselves: `make schemas`."""

from __future__ import annotations

from pathlib import Path

from recon_cli.artifacts.methods import ListedParameter
from recon_cli.reporting.methods import allowed, shown_default
from recon_cli.rules.listing import list_methods

PAGE = Path(__file__).parent / "methods.md"
_BEGIN, _END = "<!-- tables -->\n", "<!-- end of tables -->\n"


def tables() -> str:
    """One table of the rules, and one of their parameters."""
    methods = list_methods().methods
    lines = ["| name | kind | needs | scale as published | exception | paper |", "|---|---|---|---|---|---|"]
    lines += [
        f"| `{method.name}` | {method.kind} | {', '.join(method.needs)} | {method.published} | "
        f"{method.exception or ''} | {method.paper} |"
        for method in methods
    ]
    lines += ["", "| name | parameter | default | may be | what it is |", "|---|---|---|---|---|"]
    lines += [_row(method.name, parameter) for method in methods for parameter in method.parameters]
    return "\n".join(lines) + "\n"


def page_text(page: str) -> str:
    """The page with its tables made anew."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}{tables()}{_END}{after}"


def _row(name: str, parameter: ListedParameter) -> str:
    default, limits = shown_default(parameter), allowed(parameter)
    return f"| `{name}` | `{parameter.name}` | {default} | {limits} | {parameter.description} |"


if __name__ == "__main__":
    PAGE.write_text(page_text(PAGE.read_text()))
