"""What the update rules say of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from pydantic.fields import FieldInfo

from recon_cli.artifacts.methods import ListedMethod, ListedParameter, Methods
from recon_cli.rules.registry import RULES
from recon_cli.rules.rule import Need, Rule

_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def list_methods() -> Methods:
    """All rules, in the order of the registry."""
    return Methods(methods=tuple(_method(rule) for rule in RULES.values()))


def cost_of(needs: Sequence[Need]) -> str:
    """What a step costs beside that of joint training."""
    costs = []
    if "rotations" in needs:
        costs.append("a backward pass per task down to the feature, and a rotation")
    elif "gram" in needs or "gradients" in needs:
        costs.append("a backward pass per task, all gradients held")
    if "second derivatives" in needs:
        costs.append("one through all of these")
    if "new losses" in needs:
        costs.append("a second forward pass")
    return ", ".join(costs) or "nothing"


def _method(rule: type[Rule[Any]]) -> ListedMethod:
    return ListedMethod(
        name=rule.NAME,
        title=rule.TITLE,
        kind=rule.KIND,
        needs=rule.NEEDS,
        cost=cost_of(rule.NEEDS),
        published=rule.PUBLISHED,
        exception=rule.EXCEPTION,
        paper=rule.PAPER,
        parameters=tuple(_parameter(name, field) for name, field in rule.PARAMETERS.model_fields.items()),
    )


def _parameter(name: str, field: FieldInfo) -> ListedParameter:
    assert field.description is not None
    bounds = [
        f"{sign} {getattr(limit, kind):g}"
        for limit in field.metadata
        for kind, sign in _SIGNS.items()
        if hasattr(limit, kind)
    ]
    return ListedParameter(
        name=name,
        description=field.description,
        default=field.default,
        choices=get_args(field.annotation),
        bounds=" and ".join(bounds) or None,
    )
