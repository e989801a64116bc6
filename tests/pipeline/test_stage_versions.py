"""A stage's version rises when its code changes: otherwise an old artifact would be reused as if it were new."""

import json

from tests.stage_sources import LOCK, present


def test_a_changed_stage_has_a_new_version() -> None:
    recorded, now = json.loads(LOCK.read_text(encoding="utf-8")), present()
    changed = {
        stage: sorted(
            module
            for module in now[stage]["sources"].keys() | recorded.get(stage, {}).get("sources", {}).keys()
            if now[stage]["sources"].get(module) != recorded.get(stage, {}).get("sources", {}).get(module)
        )
        for stage in now
        if now[stage] != recorded.get(stage)
    }
    assert not changed, (
        f"the sources of these stages changed: {changed}; where a result can differ raise the stage's version in "
        "raysel/steps.py, then run `make lock`"
    )
