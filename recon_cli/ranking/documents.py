"""Rankings of what files hold."""

from __future__ import annotations

from recon_cli.artifacts.cosines import Cosines
from recon_cli.artifacts.ranking import Ranking
from recon_cli.artifacts.scores import Scores
from recon_cli.errors import ReconError
from recon_cli.ranking.kinds import CONFLICTS
from recon_cli.ranking.rank import rank
from recon_cli.ranking.stability import rank_with_stability


def rank_document(
    content: object,
    source: str,
    severity: float | None,
    stage: int | None = None,
    cosines: Cosines | None = None,
    *,
    kind: str = CONFLICTS,
    k: int | None = None,
) -> Ranking:
    """Rank what a file holds: scores, or the authors' plain `{layer: score}`, which has one severity only.

    :param content: what the JSON holds.
    :param source: what the document is called in messages.
    :param severity: as :func:`recon_cli.ranking.rank.rank` takes it, as the others.
    :param k: how many layers count as the top, if it is to be said how certain that is.
    """
    if isinstance(content, dict) and content and "schema" not in content:
        if (severity, stage, cosines, kind, k) != (None, None, None, CONFLICTS, None):
            raise ReconError(
                f"{source} is a plain mapping from layers to scores, so it can only be ranked as it is",
                "leave --severity, --stage, --cosines, --score and --stability out",
            )
        return Ranking.from_content(content, source)
    scores = Scores.from_content(content, source)
    if k is None:
        return rank(scores, severity, stage, cosines, kind)
    return rank_with_stability(scores, k, severity, stage, cosines, kind)
