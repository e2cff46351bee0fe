"""The metric that a config names: one of Recon's, or somebody else's class or function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from recon_cli.errors import ReconError, quoted
from recon_cli.experiment.targets import find_target, user_code
from recon_cli.metrics.foreign import Accumulating, ForeignMetric, FunctionMetric
from recon_cli.metrics.metric import Metric
from recon_cli.metrics.registry import make_metric

Better = Literal["higher", "lower"]


def find_metric(target: str, kwargs: Mapping[str, Any], better: Better | None = None) -> Metric:
    """A metric that has counted nothing.

    :param target: the name of one of Recon's, or `package.module:name`. A class is instantiated, and has `update` and
        `compute`, as those of torchmetrics; a function is called on every batch, and averaged.
    :param kwargs: of the class or the function.
    :param better: which values are better; None: the metric says so, in Recon's `HIGHER_IS_BETTER` or an attribute
        `higher_is_better`, as those of torchmetrics do. What is given here goes before such an attribute.
    :raises ReconError: if there is no such metric, it cannot be made, nothing says which values are better, or `better`
        is not what Recon's metric says.
    """
    if ":" not in target:
        return _agreeing(make_metric(target, kwargs), target, better)
    found = find_target(target)
    if not isinstance(found, type):
        return FunctionMetric(found, kwargs, target, higher_is_better=_direction(found, target, better))
    with user_code(f"the metric {quoted(target)}"):
        metric = found(**kwargs)
    if isinstance(metric, Metric):
        return _agreeing(metric, target, better)
    if not isinstance(metric, Accumulating):
        raise ReconError(f"the metric {quoted(target)} has no methods `update` and `compute`")
    return ForeignMetric(metric, target, higher_is_better=_direction(metric, target, better))


def _agreeing(metric: Metric, target: str, better: Better | None) -> Metric:
    """The metric, if its direction is the given one."""
    own: Better = "higher" if metric.HIGHER_IS_BETTER else "lower"
    if better not in (None, own):
        raise ReconError(
            f"`better: {better}` contradicts the metric {quoted(target)}, of which {own} values are better",
            "leave `better` out",
        )
    return metric


def _direction(metric: object, target: str, better: Better | None) -> bool:
    """Whether higher values are better."""
    if better is not None:
        return better == "higher"
    own = getattr(metric, "higher_is_better", None)
    if own is None:
        raise ReconError(
            f"nothing says whether higher or lower values of the metric {quoted(target)} are better",
            "set `better: higher` or `better: lower`",
        )
    return bool(own)
