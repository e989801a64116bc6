"""Stage `report`: one self-contained HTML page of everything that a run published, made in one Ray task."""

from typing import Any

from raysel.report.settings import ReportSettings
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord


def run(run: StageRun) -> StageOutput:
    """Write `report.html` (table `report`). The summary has `sections`, what the page shows, in its order.

    settings: `report`, `name`, `seed`, `experiment` (the resolved experiment as plain data); inputs: whatever the run
    published of corpus, audit, contamination, clean, vectors, sums, scores, quota, pool, subset and those beside it,
    diversity, order, tokens, model, results_base, results_tuned. How it is executed: `folder`, where the run's record
    is, and `reused`, the steps whose artifacts were there before the run; both may be left out.
    """
    settings: ReportSettings = run.settings["report"]
    facts = {key: run.settings.get(key) for key in ("name", "experiment", "seed", "folder", "reused")}
    record = run.cluster.run_task(write_report, settings, facts, dict(run.inputs), run.attempt)
    return StageOutput([record], record.summary)


def write_report(
    settings: ReportSettings, facts: dict[str, Any], inputs: dict[str, Artifact], attempt: Attempt
) -> ShardRecord:
    """Ray task: read the artifacts, draw, and write the page. facts: what `make_page` takes beside the findings."""
    from raysel.report.gather_stage import gather
    from raysel.report.page import make_page

    findings = gather(inputs, settings, seed=facts["seed"])
    page = make_page(findings, **facts)
    return attempt.write_file("report", 0, "report.html", page.html, summary={"sections": page.sections})
