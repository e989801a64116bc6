"""A sweep on a terminal: rows, their order, what is left out, the time left."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from raysel.sweep.settings import Space
from raysel.sweep.table import RunningTrial, ranking_table, time_left, trials_table
from tests.sweep.made_sweep import GRID, grid_sweep, made_sweep, random_sweep


def printed(table: Table) -> list[str]:
    console = Console(width=400, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return [line.rstrip() for line in console.export_text().splitlines()]


def running(number: int, **changed: object) -> RunningTrial:
    point = grid_sweep().trials[number % 24].parameters
    return replace(RunningTrial(number, 1, point, "model", [(20, 2.25)], 12.0), **changed)


def test_ranking_has_the_records_numbers():
    sweep = grid_sweep()
    head, *lines = printed(ranking_table(sweep))
    assert head.split() == [
        *("rank", "rho", "method", "learning_rate", "acc,", "%", "less", "the", "next", "p", "beyond", "noise", "seeds")
    ]
    assert len(lines) == 12
    for ranked, line in zip(sweep.ranking, lines, strict=True):
        shown = ranked.objectives[0]
        assert line.split()[0] == str(ranked.rank)
        assert f"{100 * shown.value:.1f} [{100 * shown.low:.1f}, {100 * shown.high:.1f}]" in line
        assert line.endswith("1, 2")
    assert "  no  " in lines[0]


def test_ranking_of_the_best_says_how_many_others_there_are():
    assert printed(ranking_table(grid_sweep(), most=11))[-1] == "and 1 other point"
    assert "front" in printed(ranking_table(random_sweep(), most=3))[0]
    assert printed(ranking_table(made_sweep(GRID, [])))[-1] == "no point finished with all of its seeds"


def test_markup_in_values_is_no_markup():
    data = {"parameters": {"a.b": {"grid": ["[red]x[/red]", "[/]"]}}, "objective": {"of": "heldout_loss"}}
    sweep = made_sweep(data)
    assert any("[red]x[/red]" in line for line in printed(ranking_table(sweep)))
    table = trials_table(
        Space.model_validate(data), sweep.trials, [running(2, stage="[bold]", parameters={"a.b": "[/]"})], most=5
    )
    assert "[bold]" in printed(table)[1]


def test_running_trials_come_first_and_then_the_newest():
    sweep = grid_sweep()
    space = Space.model_validate(sweep.space)
    ended = [sweep.trials[k] for k in (0, 2, 1, 5, 3)]
    ended[3] = replace(ended[3], status="stopped", objectives=[], curve=[(20, 2.875)])
    lines = printed(trials_table(space, ended, [running(7), running(6)], most=5, seconds_left=4000))
    assert [line.split()[0] for line in lines[1:6]] == ["6", "7", "3", "5", "1"]
    assert "model" in lines[1]
    assert lines[1].split()[-4:] == ["at", "20%", "12", "s"]
    assert "2.250 at 20%" in lines[1]
    assert "stopped early" in lines[4]
    assert "2.875 at 20%" in lines[4]
    reached = sweep.trials[3].objectives[0]
    assert f"{100 * reached.value:.2f} [{100 * reached.low:.2f}, {100 * reached.high:.2f}]" in lines[3]
    assert lines[6] == "and 2 other trials; about 1 h 06 min left"


def test_more_run_than_there_is_room_for():
    sweep = grid_sweep()
    lines = printed(
        trials_table(Space.model_validate(sweep.space), sweep.trials, [running(k) for k in range(6)], most=2)
    )
    assert [line.split()[0] for line in lines[1:3]] == ["0", "1"]
    assert lines[3] == "and 28 other trials"


def test_nothing_ran_yet():
    assert len(printed(trials_table(Space.model_validate(GRID), [], [], most=5))) == 1


def test_time_left_by_hand():
    ended = [replace(grid_sweep().trials[0], seconds=seconds) for seconds in (90.0, 100.0, 500.0)]
    assert time_left([], [10.0], 3, 1) is None
    assert time_left(ended, [], 0, 2) == 0
    assert time_left(ended, [40.0], 0, 2) == 60
    # Two at once: 60 and 20 s are left of those that run, then 4 of 100 s in two rounds.
    assert time_left(ended, [40.0, 80.0], 4, 2) == pytest.approx(260)
    assert time_left(ended, [400.0], 1, 1) == 100


@given(st.lists(st.floats(0, 1e4), max_size=8), st.integers(0, 50), st.integers(1, 8))
def test_time_left_is_never_less_than_the_work_shared_out(seconds, waiting, concurrency):
    ended = [replace(ENDED, seconds=100.0)]
    left = time_left(ended, seconds, waiting, concurrency)
    work = sum(max(100 - each, 0) for each in seconds) + 100 * waiting
    assert left is not None
    assert left >= work / concurrency - 1e-9
    assert (left == 0) == (work == 0)


ENDED = grid_sweep().trials[0]
