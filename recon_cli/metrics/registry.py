"""Every metric by its name."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

from pydantic import ValidationError

from recon_cli.artifacts.document import first_problem
from recon_cli.errors import ReconError, did_you_mean, listed, quoted
from recon_cli.metrics.accuracy import Accuracy, PixelAccuracy
from recon_cli.metrics.angles import AngleMean, AngleMedian, AngleWithin
from recon_cli.metrics.auc import AUC
from recon_cli.metrics.errors import AbsError, RelError
from recon_cli.metrics.f1 import F1
from recon_cli.metrics.metric import Metric
from recon_cli.metrics.miou import MeanIoU

METRICS: dict[str, type[Metric]] = {
    "accuracy": Accuracy,
    "pixel_accuracy": PixelAccuracy,
    "miou": MeanIoU,
    "f1": F1,
    "auc": AUC,
    "abs_error": AbsError,
    "rel_error": RelError,
    "angle_mean": AngleMean,
    "angle_median": AngleMedian,
    "angle_within": AngleWithin,
}


def make_metric(name: str, kwargs: Mapping[str, Any]) -> Metric:
    """A metric that has counted nothing.

    :param kwargs: its arguments.
    :raises ReconError: if there is no such metric, or it cannot be made with these arguments.
    """
    found = METRICS.get(name)
    if found is None:
        raise ReconError(
            f"there is no metric {quoted(name)}",
            did_you_mean(name, METRICS)
            or f"there are {listed(METRICS, len(METRICS))}; name your own as package.module:name",
        )
    known = list(signature(found).parameters)
    for argument in kwargs:
        if argument not in known:
            raise ReconError(
                f"the metric {quoted(name)} has no argument {quoted(argument)}",
                did_you_mean(argument, known) or (f"it has {listed(known)}" if known else "it has none"),
            )
    try:
        return found(**kwargs)
    except ValidationError as error:
        raise ReconError(f"the metric {quoted(name)} cannot be made so: {first_problem(error)}") from None
