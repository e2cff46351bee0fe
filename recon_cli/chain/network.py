"""The network of a config as it is before any training, as a checkpoint."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path

import torch

from recon_cli.checkpoints.saving import save_state_dict
from recon_cli.config.schema import LoadedConfig
from recon_cli.experiment.device import repeatable
from recon_cli.experiment.sources import load_network
from recon_cli.experiment.targets import search_path


def write_network(config: LoadedConfig, path: Path, *, allow_code: bool) -> None:
    """Make the network from the config's seed, and write its weights.

    :raises ReconError: if it cannot be made.
    """
    # Standard output is for data, whatever the user's code prints.
    with search_path(config.folder), redirect_stdout(sys.stderr), repeatable(config.config.seed):
        network = load_network(config, torch.device("cpu"), allow_code=allow_code)
    save_state_dict(network.module.state_dict(), path, overwrite=True)
