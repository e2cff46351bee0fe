"""How gradients become a step: the precision they are computed in, clipping, the optimizer, and its schedule."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

from recon_cli.config.schema import Config
from recon_cli.errors import ReconError, did_you_mean, quoted
from recon_cli.experiment.targets import find_target, user_code

_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Optimization:
    """Makes steps from gradients.

    :param config: names the optimizer, the schedule and the precision.
    :param model: the network whose trainable parameters are moved.
    :raises ReconError: if the optimizer or the schedule cannot be made.
    """

    def __init__(self, config: Config, model: nn.Module, device: torch.device) -> None:
        self._device = device
        self._type = _TYPES.get(config.precision)
        self.accumulate = config.optimizer.accumulate
        self._clip_norm = config.optimizer.clip_norm
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not self._parameters:
            raise ReconError("the model has no trainable parameter")
        self._optimizer = _make_optimizer(config, self._parameters)
        self._scheduler = _make_scheduler(config, self._optimizer)
        self._per = None if config.scheduler is None else config.scheduler.per
        self._follows = isinstance(self._scheduler, lr_scheduler.ReduceLROnPlateau)
        if self._follows and self._per == "step":
            raise ReconError(
                "`ReduceLROnPlateau` looks at what an epoch came to", "leave out `per: step` under `scheduler`"
            )
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._type is torch.float16)
        # It has no factor until it is asked to scale something.
        self._scaler.scale(torch.ones((), device=device))

    @property
    def rates(self) -> list[float]:
        """The present learning rate of each group of parameters."""
        return [float(group["lr"]) for group in self._optimizer.param_groups]

    @property
    def awaits(self) -> str | None:
        """Whether the schedule waits for high or for low values, `max` or `min`; None if it looks at none."""
        return self._scheduler.mode if self._follows else None

    @property
    def scale(self) -> float:
        """What losses are multiplied by for the backward passes, against underflow."""
        return float(self._scaler.get_scale())

    def forward(self) -> AbstractContextManager[Any]:
        """What forward passes and losses run in."""
        return nullcontext() if self._type is None else torch.autocast(self._device.type, dtype=self._type)

    def step(self) -> None:
        """Move the parameters by their gradients, which are those of losses times `scale`.

        :raises ReconError: if the optimizer or the schedule fails.
        """
        with user_code("the optimizer's step"):
            if self._clip_norm is not None:
                self._scaler.unscale_(self._optimizer)
                nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
            self._scaler.step(self._optimizer)
            self._scaler.update()
        self._after_step()

    def skip(self) -> None:
        """Make no step from gradients that overflowed, and scale by half as much from now on.

        The schedule goes on, as it does where the scaler itself leaves a step out.

        :raises ReconError: if the schedule fails.
        """
        self._scaler.update(self.scale / 2)
        self._after_step()

    def after_epoch(self, value: float | None) -> None:
        """Let the schedule go on.

        :param value: what the epoch came to, for a schedule that waits until this gets no better; None if that is not
            known, which such a schedule passes over.
        """
        if self._per == "epoch" and not (self._follows and value is None):
            self._follow(value if self._follows else None)

    def state(self) -> dict[str, Any]:
        """All that the next steps depend on."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "scheduler": None if self._scheduler is None else self._scheduler.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where another one of the same config was."""
        with user_code("the restoring of the optimizer's state"):
            self._optimizer.load_state_dict(state["optimizer"])
            if self._scheduler is not None:
                self._scheduler.load_state_dict(state["scheduler"])
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])

    def _after_step(self) -> None:
        if self._per == "step":
            self._follow(None)

    def _follow(self, value: float | None) -> None:
        assert self._scheduler is not None
        with user_code("the step of the learning rate's schedule"), warnings.catch_warnings():
            # The first steps are skipped where a scaler has yet to find its factor.
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            if value is None:
                self._scheduler.step()
            else:
                self._scheduler.step(value)


def find_optimizer(target: str) -> Callable[..., Any]:
    """What a config's optimizer names.

    :raises ReconError: if there is no such thing.
    """
    return _find_in(torch.optim, "torch.optim", "optimizer", target)


def find_scheduler(target: str) -> Callable[..., Any]:
    """What a config's schedule names.

    :raises ReconError: if there is no such thing.
    """
    return _find_in(lr_scheduler, "torch.optim.lr_scheduler", "schedule", target)


def _find_in(library: Any, title: str, kind: str, target: str) -> Callable[..., Any]:
    if ":" in target:
        return find_target(target)
    found = getattr(library, target, None)
    if not isinstance(found, type):
        known = [name for name, value in vars(library).items() if isinstance(value, type) and name[0].isupper()]
        raise ReconError(f"{title} has no {kind} {quoted(target)}", did_you_mean(target, known))
    return found


def _make_optimizer(config: Config, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    target = config.optimizer.target
    make = find_optimizer(target)
    with user_code(f"optimizer.target {quoted(target)}"):
        optimizer = make(parameters, **config.optimizer.kwargs)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ReconError(
            f"optimizer.target {quoted(target)} returned a {quoted(type(optimizer).__name__)}; "
            f"a torch.optim.Optimizer was expected"
        )
    return optimizer


def _make_scheduler(config: Config, optimizer: torch.optim.Optimizer) -> Any:
    if config.scheduler is None:
        return None
    target = config.scheduler.target
    make = find_scheduler(target)
    with user_code(f"scheduler.target {quoted(target)}"):
        scheduler = make(optimizer, **config.scheduler.kwargs)
    if not callable(getattr(scheduler, "step", None)) or not hasattr(scheduler, "state_dict"):
        raise ReconError(
            f"scheduler.target {quoted(target)} returned a {quoted(type(scheduler).__name__)}; "
            f"a schedule of torch.optim.lr_scheduler was expected"
        )
    return scheduler
