"""What only the run knows reaches its report: where its record is, what was there before, on how many devices."""

import json
import re
import shlex
from pathlib import Path

import yaml

from raysel.experiment import load_experiment
from raysel.report.formats import decimal
from raysel.runner import report_run, run_experiment
from raysel.store import Store


def test_the_report_tells_what_the_run_found_in_the_store(ray_address: str, tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    for lang, text in {"en": "hello world", "ru": "привет мир"}.items():
        rows = [{"id": f"{lang}-{i}", "lang": lang, "prompt": f"{text} {i}?", "response": text} for i in range(40)]
        (tmp_path / "corpus" / f"{lang}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {"name": "asked", "storage": "a store", "corpus": {"path": "corpus"}, "model": {"path": str(tiny_llama)}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(content))
    run_experiment(load_experiment(tmp_path / "small.yaml"), until="quota")
    folder = tmp_path / "a store" / "runs" / "asked"
    report_run(str(folder))

    store = Store(str(tmp_path / "a store"))
    steps = json.loads((folder / "run.json").read_text())["steps"]
    made = [store.artifact(step["stage"], step["fingerprint"]) for name, step in steps.items() if name != "report"]
    manifests = [artifact.manifest for artifact in made if artifact]
    assert all(manifest["devices"] == {"CPU": 2, "GPU": 0} for manifest in manifests)
    starts = [event for event in store.events() if event["event"] == "start"]
    assert all(event["devices"] == {"CPU": 2, "GPU": 0} for event in starts)

    page = re.sub(r"<[^>]*>|\s+", " ", (folder / "report.html").read_text())
    page = re.sub(r" +", " ", page)
    hours = 2 * sum(manifest["wall_seconds"] for manifest in manifests) / 3600
    assert f"{decimal(hours, 2)} CPU-hours made what this page shows" in page
    assert f"All {len(manifests)} steps were in the store before: nothing but this page was computed" in page
    command = f"raysel run {shlex.quote(str(folder))}/experiment.yaml"
    assert command.replace("'", "&#39;") in page
    assert "Selection missing : nothing was selected yet" in page
