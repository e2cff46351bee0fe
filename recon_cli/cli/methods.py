"""`recon methods`."""

from __future__ import annotations

from recon_cli.cli.options import Json, Quiet
from recon_cli.cli.output import Output


def command(json: Json = False, quiet: Quiet = False) -> None:
    """List the update rules: what each needs and costs, its parameters and its paper."""
    from recon_cli.reporting.methods import methods_view
    from recon_cli.rules.listing import list_methods

    found = list_methods()
    Output.choose(json=json, quiet=quiet).result(found, lambda: methods_view(found))
