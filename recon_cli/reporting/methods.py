"""The update rules, for people."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType

from recon_cli.artifacts.methods import ListedParameter, Methods
from recon_cli.reporting.tables import add_row, make_table


def methods_view(methods: Methods) -> Iterable[RenderableType]:
    """One row for each rule, then the parameters, then the papers, which are too long to stand beside the rest."""
    table = make_table("name", "kind", "needs", "costs beside joint training")
    for method in methods.methods:
        add_row(table, [method.name, method.kind, ", ".join(method.needs), method.cost])
    yield table
    yield ""
    parameters = make_table("rule", "parameter", "default", "may be", "what it is")
    for method in methods.methods:
        for parameter in method.parameters:
            name, default = parameter.name, shown_default(parameter)
            add_row(parameters, [method.name, name, default, allowed(parameter), parameter.description])
    yield parameters
    yield ""
    papers = make_table("rule", "paper")
    for method in methods.methods:
        add_row(papers, [method.name, method.paper])
    yield papers


def shown_default(parameter: ListedParameter) -> str:
    """The default of a parameter, as people write it."""
    return parameter.default if isinstance(parameter.default, str) else f"{parameter.default:g}"


def allowed(parameter: ListedParameter) -> str:
    """What a parameter may be, as a phrase."""
    return ", ".join(parameter.choices) or parameter.bounds or "any number"
