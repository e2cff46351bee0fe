"""Branching a TorchScript file in a process of its own, which a mistake in a graph may end without a word."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

from recon_cli.artifacts.document import Record
from recon_cli.artifacts.manifest import SplitLayer, SplitStatistics, Way
from recon_cli.branching.plan import BranchingPlan, plan_branching
from recon_cli.checkpoints.programs.loading import check_script_supported
from recon_cli.errors import ReconError, quoted

_PROGRAM = "recon_cli.branching.programs.torchscript"
_OPEN_FILES = Path("/dev/fd")
_WAYS: tuple[Way, ...] = ("fork", "passes")


class Order(Record):
    """What the process is to do.

    :ivar ways: those that it may take, the best first; none if the target is there, and is only compared.
    :ivar keys: the names of the file's state dict.
    """

    source: str
    target: str
    ways: tuple[Way, ...]
    tasks: tuple[str, ...]
    layers: tuple[SplitLayer, ...]
    statistics: tuple[SplitStatistics, ...] | None
    keys: tuple[str, ...]

    @property
    def plan(self) -> BranchingPlan:
        """The plan of the file's state dict."""
        return plan_branching(self.keys, self.layers, self.tasks, statistics=self.statistics)


class Answer(Record):
    """What the process has done.

    :ivar way: how the file was branched; None if it was not.
    :ivar reason: why it was not done in the first way, or not at all.
    :ivar hint: what to do about that.
    :ivar training: how many of the network's operations train whatever its mode.
    :ivar evaluating: how many evaluate whatever its mode.
    """

    way: Way | None = None
    reason: str | None = None
    hint: str | None = None
    training: int = 0
    evaluating: int = 0


class BranchedScript:
    """A branched TorchScript file that has no name, and is gone when nothing holds it.

    :param source: a TorchScript file.
    :param plan: of its state dict.
    :param folder: where there is room for it.
    :ivar path: where it can be opened.
    :ivar way: how it computes.
    :ivar reason: why it was not made in the first way.
    :ivar training: how many of the network's operations train whatever its mode.
    :ivar evaluating: how many evaluate whatever its mode.
    :raises ReconError: if that is not possible.
    """

    def __init__(self, source: Path, plan: BranchingPlan, folder: Path) -> None:
        check_script_supported()
        with tempfile.TemporaryFile(dir=folder) as file:
            self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)
        self.path = _OPEN_FILES / str(self._descriptor)
        answer, end = self._ask(source, plan, _WAYS)
        if answer is None:
            first_end = end
            answer, end = self._ask(source, plan, _WAYS[1:])
            answer = answer and answer.model_copy(update={"reason": first_end})
        if answer is None or answer.way is None:
            reason, hint = (end, None) if answer is None else (answer.reason, answer.hint)
            raise ReconError(f"the TorchScript file {quoted(source)} cannot be branched: {reason}", hint)
        self.way, self.reason = answer.way, answer.reason
        self.training, self.evaluating = answer.training, answer.evaluating

    def _ask(self, source: Path, plan: BranchingPlan, ways: Sequence[Way]) -> tuple[Answer | None, str]:
        """What the process answers; None if it does not, and how it ended."""
        return _answer(_order(source, self.path, plan, ways), self._descriptor)


def stream_difference(source: Path, branched: Path, plan: BranchingPlan) -> str | None:
    """What a forked TorchScript file computes differently from its source, by their graphs; None if nothing.

    :param plan: of the source's state dict.
    """
    check_script_supported()
    answer, end = _answer(_order(source, branched, plan, ()))
    return end if answer is None else answer.reason


def _order(source: Path, target: Path, plan: BranchingPlan, ways: Sequence[Way]) -> Order:
    return Order(
        source=str(source.absolute()),
        target=str(target.absolute()),
        ways=tuple(ways),
        tasks=plan.tasks,
        layers=plan.layers,
        statistics=plan.statistics,
        keys=tuple(plan.places),
    )


def _answer(order: Order, *descriptors: int) -> tuple[Answer | None, str]:
    """What the process answers; None if it does not, and how it ended.

    :param descriptors: open files that it has to find.
    """
    # It finds the same modules, and takes none from the folder that the user happens to be in.
    paths = os.pathsep.join(str(Path(path).absolute()) for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-m", _PROGRAM],
        input=order.model_dump_json(),
        capture_output=True,
        text=True,
        errors="replace",
        pass_fds=descriptors,
        env={**os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1"},
        cwd=Path(__file__).parent,
        check=False,
    )
    if done.returncode == 0:
        return Answer.model_validate_json(done.stdout), ""
    if done.returncode < 0:
        return None, f"PyTorch ended with {signal.Signals(-done.returncode).name}"
    lines = done.stderr.strip().splitlines()
    return None, f"its process ended with an error{f' ({lines[-1]})' if lines else ''}"
