"""The house rules: who may import Ray, and which way imports run."""

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "raysel"
MODULES = sorted(
    ".".join(("raysel", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
)
# The rooms above the pipeline, each above those before it: they run whole experiments.
ABOVE = ["sweep", "studies"]
ROOMS = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}


# A kernel is imported only where its compiler is installed.
WITHOUT_A_LIBRARY = set() if find_spec("triton") else {"raysel.separability.fused"}


def imports_of(module: str) -> set[str]:
    base = PACKAGE.parent.joinpath(*module.split("."))
    path = base.with_suffix(".py") if base.with_suffix(".py").exists() else base / "__init__.py"
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


# What Ray Tune runs, and what runs Ray Tune.
TUNE = {f"raysel.sweep.{name}" for name in ("tuning", "trial_run", "orphaned_groups")}
# What runs in a trial's process joins the cluster.
JOINS_THE_CLUSTER = {"raysel.sweep.experiment_run"}


def may_import_ray(module: str) -> bool:
    return module in TUNE or module == "raysel.cluster" or (module.endswith("stage") and module != "raysel.stage")


def test_only_stages_and_the_cluster_import_ray() -> None:
    offenders = [m for m in MODULES if not may_import_ray(m) and any(i.split(".")[0] == "ray" for i in imports_of(m))]
    assert not offenders


def test_every_other_module_imports_with_ray_blocked() -> None:
    names = [
        module
        for module in MODULES
        if not may_import_ray(module) and module not in WITHOUT_A_LIBRARY | JOINS_THE_CLUSTER
    ]
    code = (
        "import importlib, sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'ray': raise ImportError('ray is blocked')\n"
        "sys.meta_path.insert(0, Blocked())\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "assert 'ray' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_settings_import_neither_torch_nor_ray() -> None:
    code = "import sys, raysel.experiment, raysel.cli; print({'torch', 'ray', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module: str) -> None:
    parts = module.split(".")
    room = parts[1] if len(parts) > 1 and parts[1] in ROOMS else None
    if room is None:
        return
    higher = ABOVE[ABOVE.index(room) + 1 :] if room in ABOVE else ABOVE
    assert not {name for name in imports_of(module) if name.split(".")[:2] in [["raysel", above] for above in higher]}
    if room in ABOVE:
        return
    upward = {"raysel.pipeline", "raysel.runner", "raysel.cli", "raysel.experiment", "raysel.inspection"}
    used = imports_of(module)
    assert not used & upward
    if not module.endswith("stage"):
        assert not used & {"raysel.storage", "raysel.store", "raysel.cluster"} or module in STORE_IN_A_ROOM
    stages = {name for name in MODULES if name.endswith("stage") and name != "raysel.stage"}
    assert not {other for other in used & stages if other.split(".")[1] != room}
    if room == "models":
        assert not {
            name for name in used if name.split(".")[0] == "raysel" and name.split(".")[1] in ROOMS - {"models"}
        }


STORE_IN_A_ROOM = {
    # Opens the user's files through the store's filesystems.
    "raysel.corpus.files",
    # What runs on the training workers: they stream token shards and write checkpoints themselves.
    "raysel.training.batches",
    "raysel.training.checkpoints",
    "raysel.training.loop",
    "raysel.training.queued_tokens",
    "raysel.training.token_shards",
    # What the tasks that tokenise are given, whether the model is a folder or an artifact.
    "raysel.training.tokenizer_source",
}
