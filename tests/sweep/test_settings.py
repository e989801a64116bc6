"""What a space file may say, and what is said about one that cannot be used."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysel.sweep.settings import Objective, Parameter, Space, SpaceError, load_space

GRID = "a.b: {grid: [1, 2]}"


def load(tmp_path: Path, text: str) -> Space:
    path = tmp_path / "space.yaml"
    path.write_text(text, encoding="utf-8")
    return load_space(path)


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(SpaceError) as refused:
        load(tmp_path, text)
    assert str(tmp_path / "space.yaml") in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("{}", "a.b: give exactly one of grid, choice, uniform, loguniform, int, simplex (found none)"),
        (
            "{grid: [1], int: [1, 2]}",
            "give exactly one of grid, choice, uniform, loguniform, int, simplex (found grid,",
        ),
        ("{grid: []}", "grid is empty: there is nothing to try"),
        ("{choice: []}", "choice is empty: there is nothing to try"),
        ("{grid: 3}", "a.b.grid: Input should be a valid list (found 3)"),
        ("{grid: [2020-01-01]}", "a.b.grid.0: input was not a valid JSON value"),
        ("{grid: [.nan]}", "Input should be a finite number"),
        ("{grid: [{1: 2}]}", "Input should be a valid string (found 1)"),
        ("{uniform: [2, 1]}", "the lower end comes first, and the ends differ (found 2.0 and 1.0)"),
        ("{int: [3, 3]}", "the lower end comes first, and the ends differ (found 3 and 3)"),
        ("{int: [1, 2.5]}", "a.b.int.1: Input should be a valid integer"),
        ("{loguniform: [0, 1]}", "loguniform needs ends above 0 (found 0.0)"),
        ("{uniform: [0, .inf]}", "a.b.uniform.1: Input should be a finite number"),
        ("{uniform: [0, 1, 2]}", "a.b.uniform"),
        ("{simplex: [x]}", "simplex needs at least two names, each once (found x)"),
        ("{simplex: [x, y, x]}", "simplex needs at least two names, each once (found x, y, x)"),
        ("{simplex: [x, y], total: 0}", "a.b.total: Input should be greater than or equal to 1 (found 0)"),
        ("{uniform: [0, 1], total: 3}", "total goes with simplex"),
        ("{gird: [1]}", "unknown key 'parameters.a.b.gird': did you mean parameters.a.b.grid?"),
        ("{integer: [1, 2]}", "unknown key 'parameters.a.b.integer': did you mean parameters.a.b.int?"),
        ("{itn: [1, 2]}", "did you mean parameters.a.b.int?"),
        ("3", "parameters.a.b: this is a section of keys and values, e.g. {key: value} (found 3)"),
    ],
)
def test_a_parameter_that_cannot_be_used_says_why(tmp_path: Path, parameter: str, message: str) -> None:
    assert message in refusal(tmp_path, f"parameters: {{a.b: {parameter}}}\nobjective: {{metric: acc}}\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a space is a mapping with parameters and an objective, and this file holds nothing"),
        ("[1]", "and this file holds a list"),
        ("a: [", "is not YAML"),
        ("objective: {metric: acc}", "parameters: give keys of the experiment with their values, or points"),
        (
            "parameters: {}\nobjective: {metric: acc}",
            "parameters: give keys of the experiment with their values, or points",
        ),
        (f"parameters: {{{GRID}}}", "objective: is needed and not given"),
        (f"parameters: {{{GRID}}}\nobjective: []", "objective: List should have at least 1 item"),
        (f"parameters: {{{GRID}}}\nobjective: acc", "objective: Input should be a valid list (found 'acc')"),
        (f"parameters: {{{GRID}, {GRID}}}\nobjective: {{metric: acc}}", "the key 'a.b' is given twice"),
        (f"parameters: {{{GRID}}}\nobjective: {{metirc: acc}}", "did you mean objective.0.metric?"),
        (f"parameters: {{{GRID}}}\nobjective: {{metric: acc}}\nsearchr: tpe", "'searchr': did you mean searcher?"),
        (f"parameters: {{{GRID}}}\nobjective: {{metric: acc}}\ntrials: 3", "did you mean limits.trials?"),
        (f"parameters: {{{GRID}}}\nobjective: {{metric: acc}}\nseeds: [0, 1, 0]", "seeds: each once (found [0, 1, 0])"),
        (f"parameters: {{{GRID}}}\nobjective: {{metric: acc}}\nseeds: [-1]", "seeds.0: Input should be greater than"),
        (f"parameters: {{{GRID}}}\nobjective: {{metric: acc}}\nsearcher: tpe", "limits.trials: searcher tpe draws"),
        (
            "parameters: {a: {int: [1, 2]}}\nobjective: {metric: acc}\nsearcher: grid",
            "searcher grid tries listed values; a is drawn: searcher random or tpe",
        ),
        (
            f"parameters: {{{GRID}}}\nobjective: {{metric: a}}\nsearcher: tpe\nlimits: {{trials: 1}}\nseeds: [0, 1]",
            "limits.trials 1 is less than one point with each of the seeds",
        ),
        ("parameters: {seed: {grid: [1]}}\nobjective: {metric: acc}", "seed cannot be tried: write seeds: [0, 1, 2]"),
        ("parameters: {storage: {grid: [x]}}\nobjective: {metric: acc}", "storage cannot be tried: all trials share"),
        ("parameters: {cluster.nodes: {grid: [1]}}\nobjective: {metric: acc}", "cluster.nodes cannot be tried"),
        (
            "parameters: {mixture.total: {grid: [5]}, mixture: {grid: [{quota: even}]}}\nobjective: {metric: acc}",
            "mixture holds mixture.total: give values of the section or of its keys, not of both",
        ),
        (
            f"parameters: {{{GRID}}}\nobjective: [{{metric: acc}}, {{of: heldout_loss}}, {{of: trained_tokens}}]",
            "objective: List should have at most 2 items",
        ),
    ],
)
def test_a_space_that_cannot_be_used_says_why(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(tmp_path, text)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"'.*nowhere\.yaml' cannot be read"):
        load_space(tmp_path / "nowhere.yaml")
    (tmp_path / "space.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(SpaceError, match="cannot be read"):
        load_space(tmp_path / "space.yaml")


def test_keys_that_only_begin_alike_are_no_section_and_its_key(tmp_path: Path) -> None:
    text = "parameters: {mixture.total: {grid: [5]}, mixture.total_rows: {grid: [6]}}\nobjective: {metric: acc}\n"
    assert list(load(tmp_path, text).parameters) == ["mixture.total", "mixture.total_rows"]


def test_norwegian_is_a_language(tmp_path: Path) -> None:
    text = "parameters: {languages.chosen: {grid: [[no, sv], [on]]}}\nobjective: {metric: acc, languages: [no]}\n"
    space = load(tmp_path, text)
    assert space.parameters["languages.chosen"].values == [["no", "sv"], ["on"]]
    assert space.objective[0].languages == ["no"]


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({}, "of results needs a metric, e.g. acc"),
        ({"of": "heldout_loss", "metric": "acc"}, "the others have none"),
        ({"of": "heldout_loss", "tasks": ["xcopa_*"]}, "tasks: heldout_loss does not tell them apart"),
        ({"of": "trained_tokens", "languages": ["sw"]}, "languages: trained_tokens does not tell them apart"),
        ({"metric": "acc", "tasks": []}, "at least 1 item"),
    ],
)
def test_an_objective_says_what_it_lacks(given_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Objective(**given_)


@pytest.mark.parametrize(
    ("given_", "maximized", "label"),
    [
        ({"metric": "acc"}, True, "acc"),
        ({"metric": "acc", "direction": "minimize"}, False, "acc"),
        ({"metric": "acc", "tasks": ["xcopa_*"], "languages": ["sw", "ta"]}, True, "acc (xcopa_*; sw, ta)"),
        ({"metric": "perplexity"}, False, "perplexity"),
        ({"of": "heldout_loss", "languages": ["sw"]}, False, "held-out loss of sw"),
        ({"of": "heldout_loss", "direction": "maximize"}, True, "held-out loss"),
        ({"of": "trained_tokens"}, False, "trained tokens"),
    ],
)
def test_what_is_better_and_how_it_is_called(given_: dict[str, Any], maximized: bool, label: str) -> None:
    objective = Objective(**given_)
    assert (objective.is_maximized, objective.label) == (maximized, label)


@pytest.mark.parametrize(
    ("parameters", "search"),
    [
        ({"a": {"grid": [1]}, "b": {"choice": [1]}}, "grid"),
        ({"a": {"grid": [1]}, "b": {"int": [1, 2]}}, "random"),
    ],
)
def test_the_searcher_follows_from_the_parameters(parameters: dict[str, Any], search: str) -> None:
    asked = {"parameters": parameters, "objective": {"metric": "acc"}, "limits": {"trials": 4}}
    assert Space(**asked).search == search
    assert Space(**asked, searcher="tpe").search == "tpe"


def test_settings_without_effect_are_reported() -> None:
    asked: dict[str, Any] = {"parameters": {"a": {"grid": [1]}}, "objective": {"metric": "acc"}}
    idle = Space(**asked, ahead=2, asha={"first_percent": 10}).without_effect()
    assert [reason.partition(":")[0] for reason in idle] == ["ahead", "asha"]
    searched = {"searcher": "tpe", "limits": {"trials": 3}, "ahead": 2, "seed": 1}
    assert Space(**asked, **searched, scheduler="asha", asha={"first_percent": 10}).without_effect() == []


ENDS = st.tuples(st.integers(-5, 5), st.integers(-5, 5))


@given(st.sampled_from(["uniform", "loguniform", "int"]), ENDS)
def test_ends_are_in_order_and_of_a_logarithm_positive(kind: str, ends: tuple[int, int]) -> None:
    low, high = ends
    if low < high and (low > 0 or kind != "loguniform"):
        assert Parameter(**{kind: ends}).ends == ends
    else:
        with pytest.raises(ValueError, match=r"the lower end comes first|needs ends above 0"):
            Parameter(**{kind: ends})


@given(st.sets(st.sampled_from(["grid", "choice", "uniform", "loguniform", "int", "simplex"])))
def test_exactly_one_kind(kinds: set[str]) -> None:
    values: dict[str, Any] = {"grid": [1], "choice": [1], "simplex": ["x", "y"]}
    asked = {kind: values.get(kind, (1, 2)) for kind in kinds}
    if len(kinds) == 1:
        assert Parameter(**asked).kind == kinds.pop().replace("int", "integer")
    else:
        with pytest.raises(ValueError, match="give exactly one of"):
            Parameter(**asked)
