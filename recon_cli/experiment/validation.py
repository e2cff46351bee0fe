"""The data that a network is evaluated on, all of it, in its own order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import torch
from torch.utils.data import DataLoader

from recon_cli.config.schema import DataSection, ValidationSection
from recon_cli.errors import ReconError, quoted
from recon_cli.experiment.batches import END, Batch, as_batch, make_loader, next_or_end
from recon_cli.experiment.ranks import ALONE, Ranks
from recon_cli.experiment.targets import user_code

_SEED = 0


class ValidationData:
    """Batches of one pass over the data, the same ones as often as they are asked for.

    :param section: names the data.
    :param training: the training data, whose batch size and key of inputs count where the section has none.
    :param ranks: of every `ranks.size` batches, each rank takes the one at its place; some may have one more.
    :ivar filler: after a pass in which others had one more batch, one of theirs; else None.
    """

    def __init__(
        self, section: ValidationSection, training: DataSection, device: torch.device, ranks: Ranks = ALONE
    ) -> None:
        self._section = DataSection(
            target=section.target,
            kwargs=section.kwargs,
            batch_size=section.batch_size or training.batch_size,
            shuffle=False,
            drop_last=False,
            workers=section.workers,
            inputs=section.inputs or training.inputs,
        )
        self._what = f"validation.target {quoted(section.target)}"
        self._device = device
        self._ranks = ranks
        self._loader = make_loader("validation.target", self._section, _SEED)
        self.filler: Batch | None = None

    def __iter__(self) -> Iterator[Batch]:
        if isinstance(self._loader, DataLoader) and self._loader.generator is not None:
            # It seeds the workers, which are to draw the same random numbers every time.
            self._loader.generator.manual_seed(_SEED)
        with user_code(self._what):
            batches = iter(self._loader)
        raw: object = END
        for place in count():
            last = raw
            try:
                with user_code(self._what):
                    raw = next_or_end(batches)
            except ReconError:
                # Its workers would never end as long as this frame is known to an error.
                del batches
                raise
            if raw is END:
                break
            if place % self._ranks.size == self._ranks.rank:
                yield as_batch(raw, self._section, self._device)
        begun = place % self._ranks.size
        self.filler = as_batch(last, self._section, self._device) if 0 < begun <= self._ranks.rank else None
        if place == 0:
            raise ReconError(
                f"{self._what} gave no batch", "return a Dataset or a list of batches, which can be gone through again"
            )
