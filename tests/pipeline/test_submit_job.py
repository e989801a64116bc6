"""`ray job submit -- python jobs/run.py ...` on a started head node, in a network of its own."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# Ray's head node does not stay on loopback, so it starts where nothing but loopback is.
SCRIPT = """
set -e
ip link set lo up
umask 077
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$WORK/token" RAY_ADDRESS=
python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$WORK/token"
trap 'ray stop --force > /dev/null 2>&1' EXIT
ray start --head --port=6399 --num-cpus=2 --temp-dir="$SHORT" --disable-usage-stats > "$WORK/head.txt" 2>&1 \\
    || cat "$WORK/head.txt"
cd "$REPOSITORY"
ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
    python jobs/score.py experiments/demo.yaml --set storage="$WORK/store" --set model.base=null \\
    --set model.path="$MODEL" --set embedding.token_budget=2048
"""


@pytest.mark.slow
def test_a_job_runs_the_line_on_the_cluster(tmp_path: Path, tiny_llama: Path) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a network namespace needs root and unshare")
    # A copy without what git ignores: that is what a user submits, and .venv may be large.
    work, repository = tmp_path / "work", tmp_path / "repository"
    work.mkdir()
    shutil.copytree(REPOSITORY, repository, ignore=shutil.ignore_patterns(".git", ".venv", "out", ".*_cache", "tests"))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    places = {"WORK": work, "HOME": work, "REPOSITORY": repository, "MODEL": tiny_llama, "PATH": path}
    environment = os.environ | {name: str(place) for name, place in places.items()}
    # A private pid namespace: whatever the head node started ends with it.
    isolated = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child", "bash", "-c", SCRIPT]
    # Ray puts sockets below its folder, and a socket's path has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as short:
        environment["SHORT"] = short
        done = subprocess.run(isolated, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "mean separability" in done.stdout
    assert len(list((work / "store" / "scores").glob("*/manifest.json"))) == 1
