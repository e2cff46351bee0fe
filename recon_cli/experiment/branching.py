"""How the network of an experiment is branched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from recon_cli.artifacts.digests import digest_file
from recon_cli.artifacts.manifest import Manifest, SplitPlan
from recon_cli.branching.manifests import read_record
from recon_cli.branching.runtime.module import BranchedModel, branch
from recon_cli.errors import ReconError, listed, quoted


@dataclass(frozen=True)
class Branching:
    """A manifest, and what the copies start from.

    :ivar path: its file.
    :ivar digest: of its file.
    :ivar reinitialise: whether every copy but the first begins anew instead of equal to the first.
    """

    manifest: Manifest | SplitPlan
    path: Path
    digest: str
    reinitialise: bool = False

    @classmethod
    def read(cls, path: Path, *, reinitialise: bool = False) -> Branching:
        """Read a manifest, that of a branched checkpoint, or a plan.

        :raises ReconError: if there is none.
        """
        return cls(read_record(path), path, digest_file(path), reinitialise)

    def branch(self, model: nn.Module, tasks: Sequence[str]) -> BranchedModel:
        """Branch a network.

        :param tasks: the names of its tasks.
        :raises ReconError: if the manifest is of other tasks or of another network.
        """
        if self.manifest.tasks != tuple(tasks):
            raise ReconError(
                f"{quoted(self.path)} is of the tasks {listed(self.manifest.tasks)}, the config of {listed(tasks)}",
                "split a ranking of this config",
            )
        return branch(model, self.manifest, reinitialise=self.reinitialise)
