"""pytest that ends past Python says in which test, and what that test had said."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.last_words import troubles


@pytest.mark.parametrize("ends", ["os._exit(1)", "pass"])
def test_an_end_without_a_summary_says_why(tmp_path: Path, ends: str) -> None:
    (tmp_path / "test_it.py").write_text(
        "import os, sys\n"
        "def test_first(): print('of no interest', file=sys.stderr)\n"
        f"def test_last():\n    os.write(2, b'the GCS is lost')\n    {ends}\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if ends == "pass":
        assert (done.returncode, done.stderr) == (0, "")
        return
    assert done.returncode == 1
    said = done.stderr.split()
    assert " ".join(said[:6]) == "pytest ended without a summary, in"
    assert said[6].endswith("test_it.py::test_last")
    assert " ".join(said[7:]) == "the test's stderr: the GCS is lost"


def test_of_rays_logs_what_tells_of_trouble(tmp_path: Path) -> None:
    lines = {
        "gcs_server.out": "[2026-01-02 03:04:05,678 I 1 2] all is well\n[state-dump] 7 calls\n",
        "raylet.out": "[2026-01-02 03:04:05,678 C 1 2] (raylet) check failed\n  7 calls\n",
        "raylet.err": "a stack\n",
        "python-core-driver-01_77.log": "[2026-01-02 03:04:05,678 E 1 2] lost\n",
        "python-core-driver-01_7.log": "[2026-01-02 03:04:05,678 E 1 2] of another process\n",
    }
    for name, text in lines.items():
        (tmp_path / name).write_text(text)
    assert troubles(tmp_path, 77).splitlines() == [
        f"{tmp_path}/raylet.out:",
        "  [2026-01-02 03:04:05,678 C 1 2] (raylet) check failed",
        f"{tmp_path}/raylet.err:",
        "  a stack",
        f"{tmp_path}/python-core-driver-01_77.log:",
        "  [2026-01-02 03:04:05,678 E 1 2] lost",
    ]
