"""What there is to report, as plain data: the store stays behind, the page lies ahead."""

from dataclasses import dataclass, field

from raysel.report.audit import Audit
from raysel.report.comparison import Comparison
from raysel.report.curriculum import Curriculum
from raysel.report.diagnostics import Diagnostics
from raysel.report.diversity import Diversity
from raysel.report.examples import EndSample, Example
from raysel.report.heldout_loss import HeldoutLoss
from raysel.report.language_subset import LanguageSubset
from raysel.report.overlap import OverlapLine
from raysel.report.projection import VectorMap
from raysel.report.provenance import Published
from raysel.report.score_summary import ScoreSummary
from raysel.report.training_log import TrainingLog


@dataclass(frozen=True)
class Findings:
    """A part that the run did not come to is None or empty.

    published: every step; languages: rows of the corpus by language; tasks: (task, rows, languages that have it);
    scores and selected_scores: of all samples and of those of the subset; chosen: `pool`, `quota`, `subset` -> rows by
    language, where quota_binding says whether a quota was asked for; subset: of which languages, where not of all.
    """

    published: list[Published] = field(default_factory=list)
    languages: dict[str, int] = field(default_factory=dict)
    tasks: list[tuple[str | None, int, int]] = field(default_factory=list)
    audit: Audit | None = None
    heldout: int = 0
    subset: LanguageSubset | None = None
    scores: ScoreSummary | None = None
    selected_scores: ScoreSummary | None = None
    diagnostics: Diagnostics | None = None
    ends: list[EndSample] = field(default_factory=list)
    map: VectorMap | None = None
    chosen: dict[str, dict[str, int]] = field(default_factory=dict)
    quota_binding: bool = False
    overlap: list[OverlapLine] = field(default_factory=list)
    diversity: Diversity | None = None
    curriculum: Curriculum | None = None
    log: TrainingLog | None = None
    heldout_loss: HeldoutLoss | None = None
    comparison: Comparison | None = None
    examples: list[Example] = field(default_factory=list)

    def summary_of(self, step: str) -> dict[str, object]:
        """The facts that a step published about itself; empty where it did not run."""
        return next((published.summary for published in self.published if published.name == step), {})
