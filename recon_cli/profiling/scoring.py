"""The scores document of a training that was measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from recon_cli._version import __version__
from recon_cli.artifacts.method import Method
from recon_cli.artifacts.scores import Scores, Settled
from recon_cli.artifacts.versions import Versions
from recon_cli.experiment.build import Experiment
from recon_cli.experiment.device import device_name
from recon_cli.profiling.recording import Recording
from recon_cli.updating.training import Training


@dataclass(frozen=True)
class Origin:
    """Where scores come from.

    :ivar method: the update rule.
    :ivar config_digest: of the config's file.
    :ivar steps: the steps of the whole run.
    """

    method: Method
    seed: int
    config_digest: str
    steps: int


def scores_of(
    recording: Recording,
    training: Training,
    experiment: Experiment,
    origin: Origin,
    settled: Settled | None = None,
) -> Scores:
    """What was measured so far.

    :param settled: what the training stopped for, if it stopped before its last step because that had settled.
    """
    measurement = recording.measurement
    return Scores(
        **measurement.counted(),
        complete=training.step == origin.steps or settled is not None,
        settled=settled,
        steps=training.step,
        steps_requested=origin.steps,
        iterations_requested=recording.sampling.count(origin.steps),
        method=origin.method,
        seed=origin.seed,
        device=device_name(experiment.device),
        batch_restarts=experiment.batches.restarts,
        config_digest=origin.config_digest,
        model_digest=experiment.model_digest,
        checkpoint_digest=experiment.checkpoint_digest,
        versions=Versions(recon=__version__, torch=torch.__version__),
        # The flow is that of the network before it was branched.
        flow=training.flow if experiment.manifest is None else None,
    )
