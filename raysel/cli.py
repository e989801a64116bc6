"""The `raysel` command. Exit codes: 0 done, 2 the user's input is wrong, 1 anything else."""

import errno
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from raysel.errors import IncompleteError, UserError
from raysel.memory_errors import told_shortage

app = typer.Typer(
    help="Choose multilingual instruction data by language separability, fine-tune on it, and see what that did.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

ExperimentFile = Annotated[Path, typer.Argument(metavar="EXPERIMENT.yaml", help="the experiment file")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change one key, e.g. preselect.rho=0.4")
]
INTERRUPTED = 130
STAGE_OF_COMMAND = {"score": "scores", "select": "subset", "train": "model", "evaluate": "results"}


def _run(experiment: Path, overrides: list[str] | None, until: str | None) -> None:
    from raysel.experiment import load_experiment
    from raysel.runner import run_experiment

    loaded = load_experiment(experiment, overrides or [])
    if until == "results" and not loaded.evaluation.is_asked:
        raise UserError("evaluation.tasks and heldout_samples are not set: there is nothing to evaluate on")
    raise typer.Exit(run_experiment(loaded, until=until))


@app.command()
def run(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="stop after this stage")] = None,
) -> None:
    """The whole line, from corpus to report, resuming what exists."""
    from raysel.steps import STAGES

    if until is not None and until not in STAGES:
        raise UserError(f"--until {until}: there is no such stage; the stages are {', '.join(STAGES)}")
    _run(experiment, overrides, until)


@app.command()
def score(experiment: ExperimentFile, overrides: Overrides = None) -> None:
    """The line up to the separability scores."""
    _run(experiment, overrides, STAGE_OF_COMMAND["score"])


@app.command()
def select(experiment: ExperimentFile, overrides: Overrides = None) -> None:
    """The line up to the selected subset."""
    _run(experiment, overrides, STAGE_OF_COMMAND["select"])


@app.command()
def train(experiment: ExperimentFile, overrides: Overrides = None) -> None:
    """The line up to the tuned model."""
    _run(experiment, overrides, STAGE_OF_COMMAND["train"])


@app.command()
def evaluate(experiment: ExperimentFile, overrides: Overrides = None) -> None:
    """The line up to the evaluation results of the base and the tuned model."""
    _run(experiment, overrides, STAGE_OF_COMMAND["evaluate"])


@app.command()
def sweep(
    experiment: ExperimentFile,
    space: Annotated[Path, typer.Argument(metavar="SPACE.yaml", help="which keys are tried with which values")],
    overrides: Overrides = None,
) -> None:
    """Search over the experiment with Ray Tune: every trial an experiment with changed keys, nothing made twice."""
    from raysel.sweep.command import run_sweep

    raise typer.Exit(run_sweep(experiment, space, overrides or []))


@app.command()
def study(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="left out: which studies there are")] = None,
    experiment: Annotated[
        Path | None,
        typer.Argument(metavar="[EXPERIMENT.yaml]", help="over this experiment; left out: in small, in minutes"),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """One question of the papers from end to end, with its figure."""
    from raysel.studies.command import list_studies, run_study

    if name is None:
        list_studies()
    else:
        raise typer.Exit(run_study(name, overrides or [], experiment))


@app.command()
def plan(
    experiment: ExperimentFile,
    space: Annotated[Path | None, typer.Argument(metavar="[SPACE.yaml]", help="of a sweep over this space")] = None,
    overrides: Overrides = None,
    study: Annotated[str | None, typer.Option("--study", metavar="NAME", help="of a study over it")] = None,
    rows: Annotated[
        int | None, typer.Option("--rows", min=1, help="rows of the corpus, for the GPU-hours; left out: as published")
    ] = None,
    tokens_per_row: Annotated[
        float | None, typer.Option("--tokens-per-row", min=1, help="tokens of a prompt with its response, on average")
    ] = None,
) -> None:
    """What would run and why, what is reused, memory, disk and time; of an experiment, or of a sweep or study over
    it."""
    from rich.console import Console

    from raysel.experiment import load_experiment
    from raysel.runner import print_plan

    console = Console(soft_wrap=True)
    if study is not None:
        if space is not None:
            raise UserError("--study and SPACE.yaml: a study has conditions of its own; leave one of the two out")
        from raysel.studies.cost import print_study_plan

        print_study_plan(study, experiment, overrides or [], console, rows, tokens_per_row)
    elif space is not None:
        if rows is not None or tokens_per_row is not None:
            raise UserError("--rows and --tokens-per-row are of one experiment's plan; leave SPACE.yaml out")
        from raysel.sweep.plan import print_sweep_plan

        print_sweep_plan(experiment, space, overrides or [], console)
    else:
        loaded = load_experiment(experiment, overrides or [])
        print_plan(loaded, console, rows=rows, tokens_per_row=tokens_per_row)


@app.command()
def inspect(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    samples: Annotated[int, typer.Option("-n", min=1, help="how many samples")] = 5,
) -> None:
    """Samples as the model sees them: template, tokens, which are trained on, which token is taken."""
    from rich.console import Console

    from raysel.experiment import load_experiment
    from raysel.inspection import print_samples

    print_samples(load_experiment(experiment, overrides or []), samples, Console(soft_wrap=True))


@app.command("base-model")
def base_model(
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="a corpus file or folder")],
    out_dir: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="where the model goes: a new or empty folder")],
    overrides: Overrides = None,
) -> None:
    """A small base model from a corpus: tokenizer, then training, by the project's own stages."""
    from raysel.base_model import make_base_model

    make_base_model(corpus, out_dir, overrides or [])


@app.command()
def languages(
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy",
            help="geo, typo, learn, sem, mixed (by k-means), fam, random, resource, pretrain or all",
        ),
    ],
    k: Annotated[int | None, typer.Option("-k", help="how many languages")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="of k-means and of draws")] = 0,
    candidates: Annotated[
        str | None,
        typer.Option("--candidates", help="sw,th,vi or a file with one on each line; default: Bactrian-X's 52"),
    ] = None,
    published: Annotated[bool, typer.Option("--published", help="the list as printed in arXiv 2410.07809")] = False,
    vectors: Annotated[
        Path | None, typer.Option("--vectors", help="semantic vectors in word2vec's text form, by ISO 639-3 code")
    ] = None,
    pretrain: Annotated[
        Path | None, typer.Option("--pretrain", help="CSV or JSON: language, share of the pre-training data")
    ] = None,
    cover: Annotated[str | None, typer.Option("--cover", help="pretrain: most, least or spread (the default)")] = None,
    rows: Annotated[Path | None, typer.Option("--rows", help="resource: CSV or JSON: language, rows")] = None,
    weights: Annotated[str | None, typer.Option("--weights", help='mixed: "syntax=1,geo=0.5"')] = None,
    leave_out: Annotated[bool, typer.Option("--leave-out", help="leave out candidates without features")] = False,
    ablation: Annotated[
        bool, typer.Option("--ablation", help="what leaving out each feature group changes (typo, mixed); no figure")
    ] = False,
    figure: Annotated[Path, typer.Option("--figure", help="where it is drawn: .svg, .png, .pdf")] = Path(
        "languages.svg"
    ),
) -> None:
    """A subset of languages: by family, geography, typology, learned or semantic features, resources or coverage."""
    from rich.console import Console

    from raysel.language_choice import print_ablation, print_choice, read_candidates, read_shares, read_weights
    from raysel.languages.choice import Sources

    sources: Sources = {
        "vectors": vectors,
        "weights": read_weights(weights),
        "rows": read_shares(rows),
        "shares": read_shares(pretrain),
        "without_features": "leave_out" if leave_out else None,
        "published": published,
    }
    if cover is not None:
        sources["cover"] = cover
    console, among = Console(soft_wrap=True), read_candidates(candidates)
    if ablation:
        print_ablation(strategy, k, seed=seed, candidates=among, sources=sources, console=console)
    else:
        print_choice(strategy, k, seed=seed, candidates=among, sources=sources, figure=figure, console=console)


@app.command()
def compare(
    first: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="published scores or results (their folder), a Parquet file with id, lang and separability, or an "
            "experiment file whose scores or results are published",
        ),
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="the other scoring, or the other model's results")],
    of: Annotated[
        str | None,
        typer.Option("--of", help="scores or results; default: results where both have them, else scores"),
    ] = None,
    rho: Annotated[float, typer.Option("--rho", help="scores: the top share of each language that is compared")] = 0.2,
    figure: Annotated[Path, typer.Option("--figure", help="scores: where it is drawn: .svg, .png, .pdf")] = Path(
        "compare.svg"
    ),
) -> None:
    """Two scorings of the same samples (rank agreement, top-rho overlap), or two models' results on the same items."""
    from rich.console import Console

    from raysel.evaluations import compare_evaluations, find_both
    from raysel.scorings import compare_scorings

    console = Console(soft_wrap=True)
    if (both := find_both(first, second, of)) is not None:
        compare_evaluations(*both, console=console)
    else:
        compare_scorings(first, second, rho=rho, figure=figure, console=console)


@app.command()
def report(
    run_dir: Annotated[str, typer.Argument(metavar="RUN_DIR", help="<storage>/runs/<name> of a run")],
) -> None:
    """The HTML report of a run, made anew from what the run has so far."""
    from raysel.runner import report_run

    report_run(run_dir)


@app.command()
def gc(
    storage: Annotated[str, typer.Argument(metavar="STORAGE", help="a storage folder or URI")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be removed")] = False,
) -> None:
    """Remove the artifacts that no run names."""
    from raysel.disk import readable
    from raysel.garbage import collect, find_garbage
    from raysel.store import Store

    store = Store(storage)
    garbage = find_garbage(store)
    if not dry_run:
        collect(store, garbage)
    done = "would remove" if dry_run else "removed"
    for path in [*garbage.artifacts, *garbage.files]:
        typer.echo(f"{done} {path}")
    counted = f"{len(garbage.artifacts)} artifacts and {len(garbage.files)} leftover files"
    typer.echo(f"{done} {counted}, {readable(garbage.bytes)}")


def main() -> None:
    """Entry point: turns a user's mistake into one clear message and exit code 2."""
    try:
        with told_shortage():
            app()
    except SystemExit as end:
        # Typer turns Ctrl-C into this exit code without a word.
        if end.code != INTERRUPTED:
            raise
        print("\nraysel: stopped; the same command carries on from here", file=sys.stderr)
        sys.exit(1)
    except UserError as error:
        sys.stdout.flush()
        print(f"raysel: {error}", file=sys.stderr)
        sys.exit(2)
    except IncompleteError as error:
        sys.stdout.flush()
        print(f"raysel: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        # From a Ray worker the error comes wrapped, its number lost: the text is what both have.
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        print(
            "raysel: the disk is full; nothing half-written counts. Free some room: the same command carries on",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
