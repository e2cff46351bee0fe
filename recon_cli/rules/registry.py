"""Every update rule by its name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from recon_cli.errors import ReconError, did_you_mean, listed, quoted
from recon_cli.rules.aligned_mtl import AlignedMTL
from recon_cli.rules.cagrad import CAGrad
from recon_cli.rules.cosreg import CosReg
from recon_cli.rules.dwa import DWA
from recon_cli.rules.famo import FAMO
from recon_cli.rules.graddrop import GradDrop
from recon_cli.rules.gradnorm import GradNorm
from recon_cli.rules.gradops import GradOPS
from recon_cli.rules.gradvac import GradVac
from recon_cli.rules.imtl import IMTL
from recon_cli.rules.imtl_g import IMTLG
from recon_cli.rules.imtl_l import IMTLL
from recon_cli.rules.joint import Joint
from recon_cli.rules.mgda import MGDA
from recon_cli.rules.nash_mtl import NashMTL
from recon_cli.rules.pcgrad import PCGrad
from recon_cli.rules.rgw import RGW
from recon_cli.rules.rlw import RLW
from recon_cli.rules.rotograd import RotoGrad
from recon_cli.rules.rule import Rule, Scale
from recon_cli.rules.uncertainty import Uncertainty

RULES: dict[str, type[Rule[Any]]] = {
    rule.NAME: rule
    for rule in (
        Joint, RLW, DWA, Uncertainty, GradNorm, IMTLL, IMTL, FAMO,
        PCGrad, GradVac, GradDrop, RGW, MGDA, CAGrad, NashMTL, AlignedMTL, IMTLG, GradOPS, RotoGrad,
        CosReg,
    )
}  # fmt: skip


def find_rule(name: str) -> type[Rule[Any]]:
    """The rule of a name.

    :raises ReconError: if there is none.
    """
    found = RULES.get(name)
    if found is None:
        known = f"there are {listed(RULES, len(RULES))}"
        raise ReconError(f"there is no update rule {quoted(name)}", did_you_mean(name, RULES) or known)
    return found


def make_rule(name: str, tasks: Sequence[str], *, scale: Scale = "mean", seed: int = 0, **parameters: Any) -> Rule[Any]:
    """An update rule for one group of shared parameters.

    :param name: as `recon methods` lists it.
    :param tasks: the tasks' names, in order.
    :param scale: the size of the update: `mean`, where equal gradients g give g, or `published`.
    :param seed: of the rule's own generator.
    :param parameters: of the rule.
    :raises ReconError: if there is no such rule, scale or parameter, or the seed is none.
    """
    found = find_rule(name)
    if scale not in get_args(Scale):
        raise ReconError(f"there is no scale {quoted(scale)}", f"there are {listed(get_args(Scale))}")
    if not tasks:
        raise ReconError("an update rule needs at least one task")
    if not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise ReconError(f"{quoted(seed)} is no seed: it has to be a whole number of at most 64 bits, not below zero")
    return found(tasks, scale=scale, seed=seed, **parameters)
