"""`raysel base-model`: a small base model as a Hugging Face folder, made by the stages `corpus` and `base_model`."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from raysel.errors import UserError
from raysel.experiment import ExperimentError, checked, resolve_paths
from raysel.pipeline import expand
from raysel.runner import run_experiment
from raysel.store import Store


def make_base_model(corpus: str, out_dir: Path, overrides: Sequence[str] = ()) -> int:
    """Make the model in `out_dir`, which must not exist yet or be empty; returns the exit code, 0.

    `overrides` as on the command line; `storage` is `<out_dir>-artifacts` unless they say otherwise.
    """
    out_dir = out_dir.resolve()
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise UserError(f"OUT_DIR {str(out_dir)!r} exists already and is not an empty folder")
    # Beside the model: its artifacts stay there, so that a stopped run carries on and a second one reuses them.
    storage = str(out_dir.with_name(f"{out_dir.name}-artifacts"))
    data = {"name": "base-model", "storage": storage, "model": {"base": {}}, "corpus": {"path": corpus}}
    resolve_paths(data, Path.cwd(), overrides)
    experiment = checked(data, where="base-model")
    if experiment.model.base is None:
        raise ExperimentError("base-model makes a model: set keys of model.base, not model.path")
    code = run_experiment(experiment, until="base_model")
    store = Store(experiment.storage)
    step = expand(experiment, store, "base_model")[-1]
    artifact = store.artifact(step.stage, step.fingerprint)
    if artifact is None:
        raise FileNotFoundError(f"{step.address} was published and is gone")
    with TemporaryDirectory() as scratch:
        folder = artifact.local_folder("model", Path(scratch))
        shards = artifact.shards("model")
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(mkdtemp(prefix=f"{out_dir.name}-", dir=out_dir.parent))
        for shard in shards:
            name = Path(shard.path).name
            shutil.copyfile(folder / name, staged / name)
        if out_dir.exists():
            out_dir.rmdir()
        staged.rename(out_dir)
    print(f"base model: {out_dir}")
    return code
