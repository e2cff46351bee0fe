"""Which steps of a training run are measured.

The cosines of successive steps are nearly independent, so a ranking is as good as the number of samples is large,
wherever in the run they lie; spread over the whole of it, they cost least and miss no part.
"""

from __future__ import annotations

from dataclasses import dataclass

from recon_cli.config.schema import DEFAULT_SAMPLES
from recon_cli.errors import ReconError, quoted

DEFAULT_EVERY = 10
"""The measures' paper samples every tenth step; so does a loop whose length is not known."""


@dataclass(frozen=True)
class Sampling:
    """A number of samples spread evenly over a run, or every n-th step of one.

    :ivar steps: I, the steps of the run; None if that is not known.
    :ivar every: n: the steps 0, n, 2n, ... are measured.
    :ivar samples: N: the steps floor(i I / N) are measured, i = 0, 1, ..., or all of them if I <= N.
    :raises ReconError: if both or neither are given, or one of them is no positive number.
    """

    steps: int | None
    every: int | None = None
    samples: int | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "every", "samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ReconError(f"{quoted(name)} is {value}, but has to be 1 or more")
        if self.every is not None and self.samples is not None:
            raise ReconError("`every` and `samples` contradict each other", "give one of them")
        if self.samples is not None and self.steps is None:
            raise ReconError("`samples` needs `steps`, to know how far apart they lie")
        if self.every is None and self.samples is None:
            raise ReconError("neither `every` nor `samples` is given", "give one of them")

    @classmethod
    def choose(cls, steps: int | None, every: int | None, samples: int | None) -> Sampling:
        """The sampling that is asked for; by default 1,500 samples, or every tenth step of a run of unknown length."""
        if every is None and samples is None:
            every, samples = (DEFAULT_EVERY, None) if steps is None else (None, DEFAULT_SAMPLES)
        return cls(steps, every, samples)

    def count(self, steps: int) -> int:
        """How many of the first `steps` steps are measured."""
        if self.every is not None:
            return -(-steps // self.every)
        assert self.steps is not None
        assert self.samples is not None
        # floor(i I / N) < s just if i < s N / I.
        return -(-steps * min(self.samples, self.steps) // self.steps)

    def includes(self, step: int) -> bool:
        """Whether a step is measured.

        :param step: counted from 0.
        """
        return self.count(step + 1) > self.count(step)

    def stage(self, step: int, stages: int) -> int:
        """The part of the run that a step lies in, counted from 0; all is one part if the length is not known.

        :param stages: how many equal parts there are.
        """
        return 0 if self.steps is None else min(step * stages // self.steps, stages - 1)
