"""The ways to do one step of training and to find the layers' cosines on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from benchmarks.profile.bench import Bench
from benchmarks.profile.published import Published
from recon_cli.gradients.engine import GramEngine
from recon_cli.profiling.cosines import cosines
from recon_cli.profiling.profiler import ConflictProfiler

try:
    from torchjd.autogram import Engine
    from torchjd.autojac import mtl_backward

    HAS_TORCHJD = True
except ImportError:
    HAS_TORCHJD = False


class Way(Protocol):
    """A way to do a step."""

    def __call__(self) -> torch.Tensor | None:
        """Do a step; give the cosines of the shared layers, float64, [L, T (T - 1) / 2], where the way has them."""


class Joint:
    """A plain step of joint training with the mean of the losses."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def __call__(self) -> None:
        """Do a step."""
        self._bench.optimizer.zero_grad()
        torch.autograd.backward(torch.stack(self._bench.losses()).mean())
        self._bench.optimizer.step()


class Unsampled:
    """A step that `ConflictProfiler` does not sample."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._names = [f"task{number}" for number in range(bench.tasks)]
        self._profiler = ConflictProfiler(bench.model, self._names, every=1 << 30)
        # The first step is a sampled one.
        self()

    def __call__(self) -> None:
        """Do a step."""
        self._bench.optimizer.zero_grad()
        self._profiler.backward(dict(zip(self._names, self._bench.losses(), strict=True)))
        self._bench.optimizer.step()


class Ours:
    """The engine of `recon profile` and `ConflictProfiler`."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._engine = GramEngine(bench.model, bench.layers)
        self._weights = torch.full((bench.tasks,), 1 / bench.tasks, device=bench.device)

    def __call__(self) -> torch.Tensor:
        """Do a step."""
        self._bench.optimizer.zero_grad()
        with self._engine.watching():
            losses = self._bench.losses()
        found = self._engine.backward(losses, self._weights)
        self._bench.optimizer.step()
        return cosines(found.grams)


class Sequential:
    """One `autograd.grad` per task, one Gram matrix per layer, the joint gradient from the same rows."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def __call__(self) -> torch.Tensor:
        """Do a step."""
        bench = self._bench
        bench.optimizer.zero_grad()
        parameters = [*bench.shared, *bench.private]
        last = bench.tasks - 1
        found = [
            torch.autograd.grad(loss, parameters, retain_graph=task < last, allow_unused=True)
            for task, loss in enumerate(bench.losses())
        ]
        of = dict(zip(parameters, zip(*found, strict=True), strict=True))
        grams = []
        for layer in bench.layers:
            own = list(layer.parameters.values())
            rows = torch.stack([torch.cat([of[p][task].reshape(-1) for p in own]) for task in range(bench.tasks)])
            grams.append((rows @ rows.T).double())
            for parameter, mean in zip(own, torch.split(rows.mean(0), [p.numel() for p in own]), strict=True):
                parameter.grad = mean.view_as(parameter)
        for parameter in bench.private:
            (gradient,) = (gradient for gradient in of[parameter] if gradient is not None)
            parameter.grad = gradient / bench.tasks
        bench.optimizer.step()
        return cosines(torch.stack(grams))


class Autojac:
    """TorchJD's Jacobians of the losses, by its way for shared trunks; one Gram matrix per layer from them.

    :param parallel_chunk_size: how many tasks go through the trunk at once, under `vmap`; None is all, 1 is without it.
    """

    def __init__(self, bench: Bench, parallel_chunk_size: int | None) -> None:
        self._bench = bench
        self._parallel_chunk_size = parallel_chunk_size

    def __call__(self) -> torch.Tensor:
        """Do a step."""
        bench = self._bench
        bench.optimizer.zero_grad()
        features = bench.features()
        mtl_backward(bench.losses_of(features), features=features, parallel_chunk_size=self._parallel_chunk_size)
        grams = []
        for layer in bench.layers:
            rows = torch.cat([_jacobian(parameter).flatten(1) for parameter in layer.parameters.values()], dim=1)
            grams.append((rows @ rows.T).double())
        for parameter in bench.shared:
            parameter.grad = _jacobian(parameter).mean(0)
            del parameter.jac  # type: ignore[attr-defined]  # where TorchJD leaves the Jacobian
        for parameter in bench.private:
            assert parameter.grad is not None
            parameter.grad /= bench.tasks
        bench.optimizer.step()
        return cosines(torch.stack(grams))


class Autogram:
    """TorchJD's engine for the Gram matrix of the whole trunk, and the backward pass that has to follow it."""

    def __init__(self, bench: Bench) -> None:
        # Its hooks stay, and every forward pass has to be followed by a Gram matrix.
        self._bench = bench.clone()
        self._engine = Engine(self._bench.model.trunk, batch_dim=None)

    def __call__(self) -> None:
        """Do a step; there are no cosines of layers."""
        bench = self._bench
        bench.optimizer.zero_grad()
        losses = torch.stack(bench.losses())
        self._engine.compute_gramian(losses)
        torch.autograd.backward(losses, torch.full_like(losses, 1 / bench.tasks))
        bench.optimizer.step()


def _jacobian(parameter: torch.nn.Parameter) -> torch.Tensor:
    jacobian: torch.Tensor = parameter.jac  # type: ignore[attr-defined]  # where TorchJD leaves it
    return jacobian


JOINT, OURS = "joint", "ours"
WAYS: dict[str, Callable[[Bench], Way]] = {
    JOINT: Joint,
    OURS: Ours,
    "sequential": Sequential,
    "published": Published,
    "autojac": lambda bench: Autojac(bench, None),
    "autojac, chunks of 1": lambda bench: Autojac(bench, 1),
    "autogram": Autogram,
}
TORCHJD = ("autojac", "autojac, chunks of 1", "autogram")


def installed() -> dict[str, Callable[[Bench], Way]]:
    """The ways whose libraries are there."""
    return {name: way for name, way in WAYS.items() if HAS_TORCHJD or name not in TORCHJD}
