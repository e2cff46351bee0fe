"""Every cosine of a profile, from which conflicts at any severity can be counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from recon_cli.artifacts import strict_json
from recon_cli.artifacts.digests import digest_bytes
from recon_cli.artifacts.scores import Scores
from recon_cli.errors import ReconError, quoted

if TYPE_CHECKING:
    import torch


def cosines_path(scores: Path) -> Path:
    """Where the cosines lie that belong to a scores file: `scores.cosines.safetensors` beside `scores.json`."""
    return scores.with_name(f"{scores.name.removesuffix('.json')}.cosines.safetensors")


@dataclass(frozen=True)
class Cosines:
    """What `recon profile --save-cosines` writes.

    :ivar tasks: the tasks, T of them.
    :ivar layers: the shared layers, L of them, as the scores list them.
    :ivar cosines: float64, [iterations, L + 1, T (T - 1) / 2]: for each measured step, layer and pair of tasks i < j,
        in the order (0, 1), (0, 2), ...; the last row is that of all shared layers' gradients as one vector. NaN where
        the pair was not measured, +inf where a gradient was not finite.
    :ivar steps: int64, [iterations]: the training steps, counted from 0.
    :ivar stages: int64, [iterations]: their stages, counted from 1.
    :ivar scores_digest: the digest of the scores that were counted from them.
    """

    SCHEMA: ClassVar[str] = "recon.cosines/1"

    tasks: tuple[str, ...]
    layers: tuple[str, ...]
    cosines: torch.Tensor
    steps: torch.Tensor
    stages: torch.Tensor
    scores_digest: str

    @classmethod
    def metadata(cls, scores: Scores) -> dict[str, str]:
        """What the file says besides its tensors."""
        return {
            "schema": cls.SCHEMA,
            "tasks": _encode(scores.tasks),
            "layers": _encode([layer.name for layer in scores.layers]),
            "scores_digest": digest_bytes(scores.to_bytes()),
        }

    @classmethod
    def read(cls, path: str | Path) -> Cosines:
        """Read the cosines of a profile.

        :raises ReconError: if the file is missing, damaged, or another kind of file.
        """
        from safetensors import SafetensorError, safe_open

        name = quoted(path)
        try:
            with safe_open(Path(path), framework="pt") as file:
                metadata, keys = file.metadata() or {}, set(file.keys())
                if metadata.get("schema") != cls.SCHEMA or keys != {"cosines", "steps", "stages"}:
                    raise ReconError(
                        f"{name} holds no cosines of a profile", "`recon profile --save-cosines` writes them"
                    )
                cosines, steps, stages = (file.get_tensor(key) for key in ("cosines", "steps", "stages"))
        except FileNotFoundError:
            raise ReconError(f"there is no file {name}") from None
        except OSError as error:
            raise ReconError(f"cannot read {name}: {error.strerror or error}") from None
        except SafetensorError as error:
            raise ReconError(f"{name} is not a valid safetensors file: {error}") from None
        tasks, layers = (_decode(metadata.get(key, ""), key, name) for key in ("tasks", "layers"))
        pairs = len(tasks) * (len(tasks) - 1) // 2
        if cosines.shape != (len(steps), len(layers) + 1, pairs) or stages.shape != steps.shape:
            raise ReconError(f"{name}: its cosines are not those of {len(tasks)} tasks and {len(layers)} layers")
        return cls(tasks, layers, cosines, steps, stages, metadata.get("scores_digest", ""))

    def check_of(self, scores: Scores) -> None:
        """Refuse the cosines of another profile.

        :raises ReconError: if the scores were not counted from these cosines.
        """
        if self.scores_digest != digest_bytes(scores.to_bytes()):
            raise ReconError(
                "the cosines are not those that the scores were counted from", "give both files of one profile"
            )

    def conflicts(self, layer: str, severity: float, stage: int | None = None) -> int:
        """The S-conflict score of a layer (Recon, Definition 3), summed over iterations.

        :param layer: one of `layers`.
        :param severity: S, any number; the score counts the pairs with a cosine strictly below it.
        :param stage: a stage, counted from 1, or None for all.
        """
        rows = self.cosines[:, self.layers.index(layer)]
        if stage is not None:
            rows = rows[self.stages == stage]
        return int((rows < severity).sum())


def _encode(names: Sequence[str]) -> str:
    return strict_json.encode(list(names), indent=None).decode().rstrip()


def _decode(text: str, key: str, name: str) -> tuple[str, ...]:
    names = strict_json.parse(text.encode(), f"{quoted(key)} in {name}")
    if not isinstance(names, list) or not all(isinstance(item, str) for item in names):
        raise ReconError(f"{quoted(key)} in {name} is no list of names")
    return tuple(names)
