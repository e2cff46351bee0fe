"""All that a page says: what was found, in words, in figures, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

from recon_cli.report.findings import Findings, findings_of, rankings_of
from recon_cli.report.materials import Materials
from recon_cli.report.overview import Key, keys_of, paragraphs_of, title_of
from recon_cli.report.provenance import Fact, facts_of, notes_of


@dataclass(frozen=True)
class Content:
    """What a page says.

    :ivar paragraphs: the overview.
    :ivar keys: the figures that matter most.
    :ivar notes: what is worth knowing about the documents.
    """

    title: str
    paragraphs: tuple[str, ...]
    keys: tuple[Key, ...]
    notes: tuple[str, ...]
    findings: Findings
    facts: tuple[Fact, ...]


def content_of(materials: Materials, severity: float | None) -> Content:
    """Work out what a page says.

    :param severity: as :func:`recon_cli.report.findings.rankings_of` takes it.
    :raises ReconError: if the documents do not belong together.
    """
    rankings = rankings_of(materials, severity)
    findings = findings_of(materials, rankings)
    return Content(
        title=title_of(findings),
        paragraphs=paragraphs_of(findings),
        keys=keys_of(findings),
        notes=notes_of(materials, rankings.own, findings.severity),
        findings=findings,
        facts=facts_of(materials),
    )
