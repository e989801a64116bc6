"""The study files that ship with raysel, and what a wrong one is told."""

import io
import re
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from raysel.errors import UserError
from raysel.execution import run_folder
from raysel.runner import previous_steps, write_record
from raysel.studies import settings
from raysel.studies.analysis import label
from raysel.studies.command import tell_question
from raysel.studies.plan import Plan, merged, read_plan
from raysel.studies.settings import StudyError, load_shared, load_study, names
from raysel.sweep.command import refuse_what_is_not_evaluated
from raysel.sweep.trials import trial_folder, trial_name, value_at
from tests.conftest import REPOSITORY

ASKED = {
    "separability-band", "rho", "selectors", "curriculum", "proxy", "cross-model", "dataset-transfer", "translation",
    "language-count", "language-strategy", "feature-ablation", "monolingual", "transfer", "pretrain-overlap",
    "pretrain-controlled", "pareto",
}  # fmt: skip
DEMO_LANGUAGES = {"ar", "de", "el", "en", "es", "fr", "hi", "ja", "ko", "ru", "sw", "th", "tr", "vi", "zh"}


def test_the_studies_are_those_that_the_papers_ask() -> None:
    assert set(names()) == ASKED


OWN = """\
name: own
corpus: {path: corpus.jsonl, heldout: 0.1}
model: {path: model}
languages: {pretrain: shares.csv}
preselect: {rho: 0.2}
training: {learning_rate: 1.0e-5}
evaluation: {tasks: ling-informed, dev_share: 0.1}
"""


def plan_of(name: str, form: str, folder: Path, *overrides: str) -> Plan:
    """The small form, or the full one over an experiment of the user's."""
    file = folder / "own.yaml"
    file.write_text(OWN)
    return read_plan(name, [f"storage={folder}", *overrides], None if form == "small" else file)


FORMS = pytest.mark.parametrize("form", ["small", "full"])


@FORMS
@pytest.mark.parametrize("name", names())
def test_every_study_can_be_read_and_each_of_its_conditions_is_an_experiment(
    name: str, form: str, tmp_path: Path
) -> None:
    plan = plan_of(name, form, tmp_path)
    search = plan.search(plan.made.supposed())
    experiments = [search.trial(point, seed, name="trial") for point in search.points() or [] for seed in search.seeds]
    own = {of.seed if of.corpus.seed is None else of.corpus.seed for of in experiments}
    assert own == {0}  # what is held out is the same in all
    assert all(experiment.evaluation.models == ["tuned"] for experiment in experiments)
    assert not any(warning for experiment in experiments for warning in experiment.warnings() if "unknown" in warning)


@FORMS
@pytest.mark.parametrize("name", names())
def test_every_study_has_a_control_that_must_be_seen_and_one_that_must_not(
    name: str, form: str, tmp_path: Path
) -> None:
    plan = plan_of(name, form, tmp_path)
    assert {control.expected for control in plan.controls.values()} == {"detected", "not detected"}
    for key in plan.controls:
        assert [condition.control for condition in plan.conditions].count(key) == 2


@FORMS
@pytest.mark.parametrize("name", names())
def test_what_is_compared_with_is_there(name: str, form: str, tmp_path: Path) -> None:
    plan = plan_of(name, form, tmp_path)
    compared = plan.compared
    keys = {key for condition in plan.conditions for key in condition.parameters}
    for key in filter(None, (compared.across, *compared.lines, *compared.reference)):
        assert key in keys
    asked = [condition.parameters for condition in plan.conditions if condition.control is None]
    assert any(all(of.get(key) == value for key, value in compared.reference.items()) for of in asked)
    if form == "small":
        assert {lang for langs in compared.groups.values() for lang in langs} <= DEMO_LANGUAGES


@pytest.mark.parametrize("name", names())
def test_every_study_is_asked_in_words(name: str) -> None:
    study = load_study(name)
    assert study.question.endswith("?")
    assert study.claim.endswith(".")
    for text in (study.small.shows, study.small.cannot_show, study.full.shows, study.full.cannot_show):
        assert text.endswith(".")
        assert text[0].islower()  # it ends a sentence that the page begins


@FORMS
def test_what_is_made_first_is_used_and_is_there(form: str, tmp_path: Path) -> None:
    shared = load_shared()
    for name in names():
        plan = plan_of(name, form, tmp_path)
        own_form, known = plan.form, plan.made.supposed()
        assert plan.wanted() <= known.keys()
        own = {f"made://corpus/{key}" for key in own_form.corpora} | {f"made://model/{key}" for key in own_form.models}
        by_models = {f"made://corpus/{of.corpus}" for of in own_form.models.values() if of.corpus}
        assert own_form.corpus is None or own_form.corpus in own_form.corpora
        assert own <= plan.wanted() | by_models, name
        assert set(own_form.shared_controls) <= shared.controls.keys()


def test_what_the_user_says_of_the_experiment_counts(tmp_path: Path) -> None:
    plan = plan_of("pretrain-controlled", "full", tmp_path, "evaluation.heldout_samples=50")
    assert plan.data["evaluation"]["heldout_samples"] == 50  # the study's own: 100
    assert plan.data["corpus"]["path"] == str(tmp_path / "corpus.jsonl")


def test_other_settings_have_a_folder_of_their_own_and_no_sweep_has_it(tmp_path: Path) -> None:
    some = [
        plan_of("rho", form, tmp_path, *changes)
        for form in ("small", "full")
        for changes in ([], ["training.learning_rate=1.0e-4"])
    ]
    assert [plan.run_name for plan in some[::2]] == ["study-rho", "study-own-rho"]
    assert len({plan.run_name for plan in some}) == 4
    for plan in some:
        assert plan.search(plan.made.supposed()).name == plan.run_name


def test_an_experiment_without_a_storage_has_the_usual_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(OWN)
    assert read_plan("rho", [], Path("own.yaml")).data["storage"] == str(tmp_path / "out")


@pytest.mark.parametrize("name", names())
def test_the_papers_experiments_are_what_the_study_can_be_asked_of(name: str, tmp_path: Path) -> None:
    given = [f"{key}={value}" for key, value in load_study(name).full.given.items()]
    for file in load_study(name).full.experiments:
        plan = read_plan(name, [f"storage={tmp_path}", *given], REPOSITORY / "experiments" / file)
        search = plan.search(plan.made.supposed())
        trial = search.trial(search.space.points[0], plan.seeds[0], name="trial")
        if plan.form.measure != "coverage":
            # Where the data lies is the user's; the tasks, their development items and metrics are known.
            evaluation = trial.evaluation.model_copy(update={"data": None})
            refuse_what_is_not_evaluated(search, trial.model_copy(update={"evaluation": evaluation}))


def test_an_unknown_study_is_told_which_there_are() -> None:
    with pytest.raises(StudyError, match=r"no study 'roh'; the studies are .*\brho\b"):
        read_plan("roh")


def test_changes_are_those_of_an_experiment(tmp_path: Path) -> None:
    plan = read_plan("rho", [f"storage={tmp_path}", "training.learning_rate=1.0e-4"])
    assert plan.data["training"]["learning_rate"] == pytest.approx(1e-4)
    with pytest.raises(UserError, match=r"did you mean .*rho"):
        read_plan("rho", ["preselect.roh=0.1"])


@pytest.mark.parametrize(
    ("name", "override"),
    [
        ("rho", "name=x"),
        ("rho", "seed=7"),
        ("rho", "preselect.rho=0.3"),
        ("rho", "preselect={rho: 0.3}"),
        ("language-strategy", "languages.k=7"),  # in some points only
        ("monolingual", "languages.chosen=[th]"),
    ],
)
def test_what_a_study_decides_itself_cannot_be_set(name: str, override: str) -> None:
    with pytest.raises(StudyError, match=rf"study {name} decides {override.partition('=')[0]} itself"):
        read_plan(name, [override])


@pytest.mark.parametrize(
    ("name", "override"),
    [
        ("transfer", "languages.chosen=[en, ar]"),  # ar is among the unseen
        ("transfer", "languages={strategy: all}"),  # takes them away
        ("transfer", "mixture.quota=even"),
        ("pretrain-overlap", "model.path=other"),
        ("pretrain-overlap", "languages.pretrain=other.csv"),
    ],
)
def test_what_groups_of_languages_are_named_after_cannot_be_set(name: str, override: str) -> None:
    groups = " and ".join(load_study(name).compared.groups)
    with pytest.raises(StudyError, match=rf"compares {groups}, which {override.partition('=')[0]} decides"):
        read_plan(name, [override])


@FORMS
@pytest.mark.parametrize("name", names())
def test_what_groups_follow_is_what_the_study_sets(name: str, form: str, tmp_path: Path) -> None:
    plan = plan_of(name, form, tmp_path)
    for key in plan.compared.groups_follow:
        assert value_at(plan.data, key) is not None


def test_a_group_that_follows_nothing_of_the_experiment_leaves_it_to_the_user(tmp_path: Path) -> None:
    read_plan("transfer", [f"storage={tmp_path}", "mixture.pivot_rows=30"])


@pytest.mark.parametrize("name", names())
def test_labels_are_words(name: str, tmp_path: Path) -> None:
    """No key, no YAML, no number behind what it counts; two conditions have two names."""
    for form in ("small", "full"):
        plan = plan_of(name, form, tmp_path)
        labels = [of.name or label(of.parameters, plan.compared) for of in plan.conditions if of.control is None]
        assert len(set(labels)) == len(labels)
        for said in [*labels, *plan.compared.groups]:
            assert not re.search(
                r"[_{}\[\]]|://|[a-z]\.[a-z]|\b(samples|languages|pairs)( per language)? \d|\b1 \w+s\b", said
            )


def test_settings_without_effect_are_told_once(tmp_path: Path) -> None:
    said = io.StringIO()
    for overrides in ([], ["selection.compare=[kmc]"]):
        tell_question(read_plan("rho", [f"storage={tmp_path}", *overrides]), Console(file=said, width=300))
    warnings = [line for line in said.getvalue().splitlines() if "warning" in line]
    reason = "with mixture.quota everything there is nothing to choose from"
    assert warnings == [f"warning: setting without effect: selection.compare: {reason}"]


@pytest.mark.parametrize("name", names())
def test_a_small_form_sets_nothing_without_effect(name: str, tmp_path: Path) -> None:
    plan = plan_of(name, "small", tmp_path)
    assert plan.search(plan.made.supposed()).warnings() == []


def test_what_is_only_measured_has_its_record_where_trials_have_theirs(tmp_path: Path) -> None:
    search = (plan := read_plan("pareto", [f"storage={tmp_path}"])).search(plan.made.supposed())
    folder = trial_folder(run_folder(search.name), 7)
    assert folder == "runs/study-pareto/trials/0007"
    experiment = search.trial(search.space.points[2], 1, name=trial_name(search.name, 7))
    write_record(plan.made.store, experiment, [], status="finished", until="diversity", folder=folder)
    assert plan.made.store.read_json(f"{folder}/run.json")["name"] == "study-pareto-0007"
    assert not (tmp_path / "runs/study-pareto-0007").exists()
    assert previous_steps(plan.made.store, experiment.name, folder) == {}


def test_a_storage_that_is_no_folder_is_refused() -> None:
    with pytest.raises(StudyError, match="is no folder"):
        read_plan("rho", ["storage=s3://bucket/place"])


def test_a_derived_corpus_is_read_as_it_is_written_whatever_the_users_own_is_like() -> None:
    plan = read_plan("rho", ["corpus.columns={prompt: instruction}", "corpus.preset=alpaca", "corpus.lang_from=file"])
    search = plan.search(plan.made.supposed())
    read = {
        experiment.corpus.path: (experiment.corpus.columns, experiment.corpus.preset, experiment.corpus.lang_from)
        for experiment in (search.trial(point, 0, name="trial") for point in search.points() or [])
    }
    assert read.pop("/corpus/confused") == ({}, None, None)
    (own,) = read.values()
    assert own == ({"prompt": "instruction"}, "alpaca", "file")


def test_the_conditions_of_a_derived_corpus_leave_the_own_one_to_make_it_from() -> None:
    plan = read_plan("translation")
    assert plan.data["corpus"]["path"] == "made://corpus/pairs"
    assert not plan.made.data["corpus"]["path"].startswith("made://")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"question": None}, "question"),
        ({"smal": {}}, "unknown key 'smal'"),
        ({"small": {"shows": "a.", "cannot_show": "b."}}, "parameters or points"),
        (
            {"small": {"shows": "a.", "cannot_show": "b.", "points": {"a": {}}, "parameters": {"x": {"grid": [1]}}}},
            "parameters or points",
        ),
    ],
)
def test_a_wrong_file_is_told_what_is_wrong(
    change: dict, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "FILES", tmp_path)
    good = {
        "title": "A", "question": "Why?", "source": "S", "claim": "C.",
        "small": {"shows": "a.", "cannot_show": "b.", "points": {"one": {"preselect.rho": 0.5}}},
        "full": {"shows": "a.", "cannot_show": "b.", "points": {"one": {"preselect.rho": 0.5}}, "experiments": ["x"]},
    }  # fmt: skip
    tmp_path.joinpath("mine.yaml").write_text(yaml.safe_dump(good))
    load_study("mine")
    tmp_path.joinpath("mine.yaml").write_text(yaml.safe_dump({**good, **change}))
    with pytest.raises(StudyError, match=said):
        load_study("mine")


def test_merging_keeps_what_is_not_said_again() -> None:
    below = {"a": {"x": 1, "y": {"z": 2}}, "b": 3}
    assert merged(below, {"a": {"y": {"w": 4}}, "b": 5}) == {"a": {"x": 1, "y": {"z": 2, "w": 4}}, "b": 5}
    assert below == {"a": {"x": 1, "y": {"z": 2}}, "b": 3}
