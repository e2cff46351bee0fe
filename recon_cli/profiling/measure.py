"""What a profile measures: the layers that count, which tasks reach them, and the cosines of their task gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from recon_cli.artifacts.scores import Z_LEVELS, HalvedIterations, LayerStage, ScoredFeature, ScoredLayer, UnrankedLayer
from recon_cli.config.schema import ProfileSection
from recon_cli.errors import ReconError, listed, quoted
from recon_cli.gradients.engine import LayerGrams
from recon_cli.layers.discovery import Layer
from recon_cli.profiling.cosines import cosines, pair_indices
from recon_cli.profiling.tally import ConflictTally


@dataclass
class Measurement:
    """What a profile has measured so far.

    :ivar layers: all layers of the network.
    :ivar buffer_owners: modules that own buffers and no parameters; they are no layers, but stand in a checkpoint.
    :ivar tallied: those of them that are counted: trainable, and not excluded.
    :ivar reached: for each tallied layer and task, whether the task's loss has reached the layer; [L, T].
    :ivar features_reached: the same for the shared representations that the settings name; [F, T].
    """

    tasks: tuple[str, ...]
    settings: ProfileSection
    layers: Sequence[Layer]
    buffer_owners: Sequence[str] = ()
    tallied: Sequence[Layer] = field(init=False)
    tally: ConflictTally = field(init=False)
    reached: torch.Tensor = field(init=False)
    features_reached: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.tallied = [layer for layer in self.layers if layer.trainable and self.includes(layer)]
        if not self.tallied:
            raise ReconError(
                "no trainable layer is left to profile",
                "check the patterns in `profile.include` and `profile.exclude`",
            )
        features = len(self.settings.features)
        # More rows than there are layers: one for all shared ones together, and one for each representation.
        self.tally = ConflictTally(
            len(self.tallied) + 1 + features,
            len(self.tasks),
            self.settings.stages,
            self.settings.severities,
            features,
            [layer.size for layer in self.tallied],
            halves=self.settings.halves_every is not None,
        )
        self.reached = torch.zeros(len(self.tallied), len(self.tasks), dtype=torch.bool)
        self.features_reached = torch.zeros(features, len(self.tasks), dtype=torch.bool)

    def includes(self, layer: Layer) -> bool:
        """Whether the patterns of the config let a layer be measured."""
        return layer.matches(self.settings.include) and not layer.matches(self.settings.exclude)

    @property
    def iterations(self) -> int:
        """The iterations measured."""
        return sum(self.tally.stage_iterations())

    @property
    def has_pairs(self) -> bool:
        """Whether any step had two tasks that share a layer."""
        return any(stage.pairs or stage.non_finite for stage in self.trunk())

    def shared(self) -> list[int]:
        """The indices of the tallied layers that two or more tasks reach."""
        return [index for index, row in enumerate(self.reached) if int(row.sum()) >= 2]

    def record(
        self,
        found: LayerGrams,
        stage: int,
        present: Sequence[int] | None = None,
        on_halves: LayerGrams | None = None,
    ) -> torch.Tensor:
        """Count one iteration.

        :param found: the Gram matrices of the tasks that are present.
        :param stage: the stage, counted from 0.
        :param present: the indices of those tasks, ascending; None for all.
        :param on_halves: the Gram matrices of all tasks on the first half of the batch and then on the second one, of
            the tallied layers; None if they were not measured.
        :returns: the cosines, float64, [L + 1, pairs], the last row that of all shared layers as one; NaN where a pair
            was not measured, +inf where a gradient was not finite.
        """
        grams = torch.cat([found.grams, found.features.grams]).cpu()
        reached = torch.cat([found.reached, found.features.reached])
        at = torch.arange(len(self.tasks)) if present is None else torch.tensor(present)
        there = torch.zeros(len(self.tasks), dtype=torch.bool)
        there[at] = True
        if len(at) < len(self.tasks):
            whole = torch.zeros(len(grams), len(self.tasks), len(self.tasks), dtype=grams.dtype)
            whole[:, at.unsqueeze(1), at] = grams
            grams, partly = whole, reached
            reached = torch.zeros(len(grams), len(self.tasks), dtype=torch.bool)
            reached[:, at] = partly
        layers = len(self.tallied)
        self.reached |= reached[:layers]
        self.features_reached |= reached[layers:]
        halves = None if on_halves is None else self._with_trunk(on_halves.grams.cpu(), on_halves.reached)
        features_grams, features_reached = grams[layers:], reached[layers:]
        grams, reached = self._with_trunk(grams[:layers], reached[:layers])
        grams, reached = torch.cat([grams, features_grams]), torch.cat([reached, features_reached])
        self.tally.add(stage, grams, reached, there, found.features.entropies.cpu(), halves)
        grams, reached = grams[: layers + 1], reached[: layers + 1]
        i, j = pair_indices(len(self.tasks))
        return cosines(grams).nan_to_num(torch.inf).masked_fill(~(reached[:, i] & reached[:, j]), torch.nan)

    def _with_trunk(self, grams: torch.Tensor, reached: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What was found for the tallied layers, and a row more, for all shared ones as one."""
        shared = self.reached.sum(1) >= 2
        trunk, trunk_reached = grams[shared].sum(0, keepdim=True), reached[shared].any(0, keepdim=True)
        return torch.cat([grams, trunk]), torch.cat([reached, trunk_reached])

    def state(self) -> dict[str, Any]:
        """What was measured so far, as plain data and tensors, which are the measurement's own."""
        return {
            "layers": [layer.name for layer in self.tallied],
            "reached": self.reached,
            "features": list(self.settings.features),
            "features_reached": self.features_reached,
            "counts": self.tally.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what another measurement of the same network and settings holds.

        :raises ReconError: if it is one of another network or of other settings.
        """
        self.check(state)
        self.tally.restore(state["counts"])
        self.reached.copy_(state["reached"])
        self.features_reached.copy_(state["features_reached"])

    def check(self, state: Mapping[str, Any]) -> None:
        """Refuse what another measurement holds.

        :raises ReconError: if it is one of another network or of other settings.
        """
        own = [layer.name for layer in self.tallied]
        if state["layers"] != own:
            changed = sorted(set(own) ^ set(state["layers"]))
            raise ReconError(
                f"the saved state is of another network: {listed(changed) or 'its layers are ordered anew'}"
            )
        if state["features"] != list(self.settings.features):
            raise ReconError(f"the saved state is of other features: {listed(state['features']) or 'none'}")

    def check_shared(self) -> None:
        """Refuse a network in which no layer is shared.

        :raises ReconError: saying what each task reaches.
        """
        if self.shared():
            return
        reach = []
        for task, column in zip(self.tasks, self.reached.T, strict=True):
            names = [layer.name for layer, hit in zip(self.tallied, column, strict=True) if hit]
            reach.append(f"{quoted(task)} reaches {listed(names, 3) or 'none'}")
        raise ReconError(f"no layer is shared by two tasks: {'; '.join(reach)}")

    def check_measured(self) -> None:
        """Refuse to make scores of nothing.

        :raises ReconError: if no layer is shared, or no measured step had two tasks that share one.
        """
        self.check_shared()
        if not self.has_pairs:
            raise ReconError(
                "no measured step had two tasks that share a layer",
                "measure more steps, or let batches have the labels of more tasks",
            )

    def check_features(self, found: LayerGrams) -> None:
        """Refuse a representation that is not shared.

        :param found: what a step gave in which all tasks were there.
        :raises ReconError: saying which tasks reach it.
        """
        for name, row in zip(self.settings.features, self.features_reached | found.features.reached, strict=True):
            if int(row.sum()) < 2:
                tasks = self._tasks_of(row)
                reach = f"the loss of {quoted(tasks[0])} alone reaches" if tasks else "no loss reaches"
                raise ReconError(
                    f"{reach} the output of module {quoted(name)}, which `features` names",
                    "name a module whose output two or more tasks use; those inside a compiled or TorchScript network "
                    "are not seen",
                )

    def halved_iterations(self) -> HalvedIterations | None:
        """In how many iterations halves of batches were measured; None if that was not asked for."""
        every = self.settings.halves_every
        if every is None:
            return None
        done = self.tally.halved()
        return HalvedIterations(every=every, iterations=done, skipped=-(-self.iterations // every) - done)

    def trunk(self) -> tuple[LayerStage, ...]:
        """What was counted for the gradients of all shared layers, taken as one vector (Recon, Fig. 1 and Table 6)."""
        return self.tally.layer_stages(len(self.tallied))

    def counted(self) -> dict[str, Any]:
        """What of the scores document is measured, by its names there."""
        tally, trunk = self.tally, len(self.tallied)
        return {
            "tasks": self.tasks,
            "iterations": self.iterations,
            "stage_iterations": tally.stage_iterations(),
            "windows": tally.windows(),
            "task_iterations": tally.task_iterations(),
            "pair_iterations": tally.pair_iterations(),
            "halves": self.halved_iterations(),
            "severities": tuple(self.settings.severities),
            "z_levels": Z_LEVELS,
            "trunk": self.trunk(),
            "trunk_series": tally.layer_series(trunk),
            "trunk_between": tally.between(trunk),
            "layers": self.scored_layers(),
            "features": self.scored_features(),
            "unranked": self.unranked_layers(),
        }

    def scored_layers(self) -> tuple[ScoredLayer, ...]:
        """The shared layers and their counts, in the network's order."""
        return tuple(
            ScoredLayer(
                name=layer.name,
                type=layer.type,
                aliases=layer.aliases,
                parameters=tuple(layer.parameters),
                size=layer.size,
                bytes=layer.bytes,
                tasks=self._tasks_of(self.reached[index]),
                stages=self.tally.layer_stages(index),
                series=self.tally.layer_series(index),
                between=self.tally.between(index),
            )
            for index in self.shared()
            for layer in [self.tallied[index]]
        )

    def scored_features(self) -> tuple[ScoredFeature, ...]:
        """The shared representations that the settings name, and what was measured of them."""
        return tuple(
            ScoredFeature(
                name=name,
                tasks=self._tasks_of(row),
                stages=self.tally.feature_stages(index),
                series=self.tally.feature_series(index),
            )
            for index, (name, row) in enumerate(zip(self.settings.features, self.features_reached, strict=True))
        )

    def unranked_layers(self) -> tuple[UnrankedLayer, ...]:
        """The other layers, and why they are not ranked."""
        shared = {self.tallied[index].name for index in self.shared()}
        index_of = {layer.name: index for index, layer in enumerate(self.tallied)}
        result = []
        for layer in self.layers:
            if layer.name in shared:
                continue
            tasks: tuple[str, ...] = ()
            reason: Literal["private", "excluded", "unused", "frozen"]
            if layer.name in index_of:
                tasks = self._tasks_of(self.reached[index_of[layer.name]])
                reason = "private" if tasks else "unused"
            else:
                reason = "excluded" if layer.trainable else "frozen"
            names = tuple(layer.parameters)
            result.append(
                UnrankedLayer(name=layer.name, aliases=layer.aliases, reason=reason, tasks=tasks, parameters=names)
            )
        result += [UnrankedLayer(name=name, reason="buffers") for name in self.buffer_owners]
        return tuple(result)

    def _tasks_of(self, row: torch.Tensor) -> tuple[str, ...]:
        return tuple(task for task, hit in zip(self.tasks, row, strict=True) if hit)
