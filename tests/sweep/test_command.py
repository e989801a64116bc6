"""What a sweep refuses at its start, on the cluster that it finds."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from raysel.errors import UserError
from raysel.sweep.command import concurrency_of
from raysel.sweep.trials import Search, read_search

EXPERIMENT = {"name": "e", "model": {"base": {}}, "corpus": {"path": "c.jsonl"}}
SPACE = {"parameters": {"preselect.rho": {"grid": [0.1, 0.3]}}, "objective": {"of": "heldout_loss"}}


def search(folder: Path, workers: int | None, limits: dict[str, Any], **more: Any) -> Search:
    training = {} if workers is None else {"training": {"workers": workers} | more}
    (folder / "e.yaml").write_text(yaml.safe_dump(EXPERIMENT | training))
    (folder / "s.yaml").write_text(yaml.safe_dump(SPACE | {"limits": limits}))
    return read_search(folder / "e.yaml", folder / "s.yaml", [])


def test_what_can_never_be_scheduled_is_refused_with_the_arithmetic(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training\.workers asks for 3 workers x 1 CPU = 3 CPU; the cluster"):
        concurrency_of(search(tmp_path, 3, {}), cluster, Console(quiet=True))


def test_trials_whose_workers_take_few_cpus_fit_side_by_side(cluster: Any, tmp_path: Path) -> None:
    """A worker takes every CPU there is, unless it is said how many."""
    console = Console(quiet=True)
    room = [concurrency_of(search(tmp_path, 1, {}, **more), cluster, console) for more in ({}, {"cpus_per_worker": 1})]
    assert room == [1, 2]
    with pytest.raises(UserError, match=r"training\.workers asks for 1 workers x 3 CPU = 3 CPU; the cluster"):
        concurrency_of(search(tmp_path, 1, {}, cpus_per_worker=3), cluster, console)


@pytest.mark.parametrize(("workers", "asked", "expected"), [(None, None, 1), (1, None, 1), (2, 2, 2)])
def test_as_many_trials_as_have_room_or_as_many_as_asked_for(
    cluster: Any, tmp_path: Path, workers: int | None, asked: int | None, expected: int
) -> None:
    console = Console(record=True, quiet=False, file=(tmp_path / "out").open("w"), soft_wrap=True)
    limits = {} if asked is None else {"concurrency": asked}
    assert concurrency_of(search(tmp_path, workers, limits), cluster, console) == expected
    told = console.export_text()
    assert ("limits.concurrency 2: 1 at a time can train" in told) == (asked == 2)
