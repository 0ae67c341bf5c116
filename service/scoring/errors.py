"""What stops a run of scoring."""

from __future__ import annotations

from service.errors import BertieError


class ScoringError(BertieError):
    """A file, folder or option of the run is not what it has to be. The run stops; one line says why."""

    slug = "scoring"
    title = "Scoring failed"
