"""The data flow of an experiment's network on one of its batches."""

from __future__ import annotations

from recon_cli.artifacts.dataflow import Dataflow
from recon_cli.dataflow.recording import copied, record
from recon_cli.experiment.batches import Batch
from recon_cli.experiment.build import Experiment
from recon_cli.experiment.targets import user_code


def flow_on(experiment: Experiment, batch: Batch) -> Dataflow:
    """Record the data flow of the network as its code has it, which stays as it is.

    :raises ReconError: if what the network does cannot be followed.
    """
    written = experiment.written
    with user_code("the model"), experiment.optimization.forward():
        own = Batch(copied(batch.inputs), None)
        return record(written, [task.name for task in experiment.tasks], lambda: own.call(written))
