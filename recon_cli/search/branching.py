"""BMTAS and LTB: the branching is drawn by a Gumbel-softmax, and what is most probable in the end is the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recon_cli.search.candidates import Path
from recon_cli.search.gumbel import inverse_root, linear
from recon_cli.search.method import Found, Searching
from recon_cli.search.resources import Resources
from recon_cli.search.sampled import Sampled, SampledByParent, SampledByTask
from recon_cli.search.sampled_stage import SampledStage, Sampling
from recon_cli.search.supernet import SHARED

# Rates, temperatures and warm-up as in the authors' code; the resource loss has another unit there.
_BMTAS = Sampling(
    in_turn=True, alpha_lr=0.01, alpha_decay=5e-5, annealing=linear, first=5.0, last=0.1, warm_up=0.05,
    resource_weight=0.1,
)  # fmt: skip
# Temperatures and warm-up as in LibMTL with 100 epochs; the paper has no resource loss.
_LTB = Sampling(
    in_turn=False, alpha_lr=0.01, alpha_decay=0.0, annealing=inverse_root, first=5.0, last=0.5, warm_up=0.01,
    resource_weight=0.0,
)  # fmt: skip


def bmtas(searching: Searching) -> Found:
    """Every task draws a copy of each module (Bruggemann et al., BMVC 2020)."""
    return _search(searching, SampledByTask(searching.chain, searching.tasks), _BMTAS)


def ltb(searching: Searching) -> Found:
    """Every copy of a module draws its parent among those of the module before (Guo et al., ICML 2020)."""
    return _search(searching, SampledByParent(searching.chain, searching.tasks), _LTB)


def _search(searching: Searching, supernet: Sampled, sampling: Sampling) -> Found:
    material, tasks = searching.material, searching.tasks
    resources = Resources.of(searching.chain, tasks, searching.flow)
    own = sampling.given(material.config.search)
    stage = searching.learn(SampledStage(material, supernet, own, resources, searching.steps))
    return Found(paths_of(dict(zip(tasks, supernet.ways(), strict=True))), (stage,))


def paths_of(ways: Mapping[str, Sequence[int]]) -> dict[str, Path]:
    """The tasks' paths along a tree: tasks share a module if they have the same copies of it and of all before it.

    :param ways: for each task its copies of all modules.
    """
    return {
        task: tuple(_owner(tuple(way[: place + 1]), ways) for place in range(len(way))) for task, way in ways.items()
    }


def _owner(beginning: tuple[int, ...], ways: Mapping[str, Sequence[int]]) -> str:
    """Whose module lies at the end of a beginning of a way: everybody's, or of those that begin so."""
    if all(tuple(way[: len(beginning)]) == beginning for way in ways.values()):
        return SHARED
    return " ".join(map(str, beginning))
