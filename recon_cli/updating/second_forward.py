"""A second forward pass on the same batch, which nothing can tell to have been made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from recon_cli.gradients.hook import Hook
from recon_cli.network_states import leaving_no_trace
from recon_cli.random_states import random_states, set_random_states

_Anything = TypeVar("_Anything")


class SecondForward:
    """Runs a network once more, with the random numbers that its first pass of the step had.

    Dropout so drops what it dropped; running statistics, and the random numbers to come, stay as they are.

    :param model: the network; a hook on it notes the random states at the first call of every step.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._noted: dict[str, Any] | None = None
        self._of_step: dict[str, Any] | None = None
        # TorchScript refuses it as a method of its own, but calls it.
        nn.Module.register_forward_pre_hook(model, Hook(self, SecondForward._note))

    def forget(self) -> None:
        """What is called next is the first forward pass of a step."""
        self._noted = None

    def close_first(self) -> None:
        """The first forward passes of the step are made: what is called next is of another step."""
        self._of_step, self._noted = self._noted, None

    def run(self, losses: Callable[[], _Anything]) -> _Anything:
        """What `losses` gives, which runs the network; nothing is differentiated."""
        with torch.no_grad(), leaving_no_trace(self._model):
            if self._of_step is not None:
                set_random_states(self._of_step)
            return losses()

    def _note(self, *_: Any) -> None:
        # What is being compiled may not ask for them: a second pass then draws anew.
        if self._noted is None and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self._noted = random_states()
