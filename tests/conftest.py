"""What the tests share: one Ray for the whole session, small models made on the spot, the real data where it is."""

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from rich.console import Console

from raysel.progress import Progress
from tests import last_words

# Its assertions say what they found, as a test's do.
pytest.register_assert_rewrite("tests.browser")
REPOSITORY = Path(__file__).parent.parent
# A busy machine is no failure: no test has a deadline of its own.
hypothesis.settings.register_profile("raysel", deadline=None)
hypothesis.settings.load_profile("raysel")
# Credentials for the S3 server of the tests. Set before Ray starts: its workers inherit the environment.
os.environ.setdefault("AWS_ACCESS_KEY_ID", "tests")
os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "of-no-use-elsewhere")
# How often Ray Train looks whether its workers are done: every 2 seconds by default.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
# As for a Ray of a run's own: a seventh less of two cores in the tests of stages.
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "30000")
# Says why where pytest ends without a summary.
LISTENER = pytest.StashKey[subprocess.Popen[str]]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    config = item.config
    if LISTENER not in config.stash:
        captured = os.dup(2)
        with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            config.stash[LISTENER] = last_words.listen(captured)
        os.close(captured)
    last_words.tell(config.stash[LISTENER], item.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (listener := session.config.stash.get(LISTENER, None)) is not None:
        last_words.tell(listener, last_words.THE_END)
        listener.communicate()


# A machine that stalls is no failure either. Ray gives up a node that has not answered five times in a row, about a
# minute by default, and with it everything that runs.
PATIENCE = {"health_check_failure_threshold": 60}


@pytest.fixture(scope="session")
def ray_address() -> str:
    """A local Ray with two CPUs for the whole session; RAY_ADDRESS lets child processes join it."""
    import ray

    from raysel.cluster import no_dashboard_to_find, use_private_token

    use_private_token()
    local: dict[str, Any] = {"address": "local", "num_cpus": 2, "include_dashboard": False, "namespace": "raysel"}
    with no_dashboard_to_find():
        context = ray.init(**local, log_to_driver=False, _system_config=PATIENCE)
    address = context.address_info["gcs_address"]
    os.environ["RAY_ADDRESS"] = address
    yield address
    os.environ.pop("RAY_ADDRESS", None)
    ray.shutdown()


@pytest.fixture(scope="session")
def cluster(ray_address: str):
    from raysel.cluster import Cluster

    with Cluster() as joined:
        yield joined


@pytest.fixture(scope="session")
def s3_bucket() -> Iterator[str]:
    """A bucket on an S3 server (moto) of its own process on loopback, as a URI with `{}` for the prefix."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            assert server.poll() is None, "the S3 server did not start"
            try:
                urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT"))
                break
            except urllib.error.URLError:
                continue
        yield f"s3://bucket/{{}}?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The system's Chromium, started once."""
    from tests.browser import Browser, find_chromium

    executable = find_chromium()
    if executable is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    with Browser(executable) as started:
        yield started


@pytest.fixture
def progress() -> Progress:
    return Progress(Console(quiet=True), "test")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real multilingual data: $RAYSEL_DATA, by default ../shared/data beside the repository."""
    folder = Path(os.environ.get("RAYSEL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "corpus.parquet").exists():
        pytest.skip(f"the real data is not at {folder} (set RAYSEL_DATA)")
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight two-layer Llama in float32 with a byte-level BPE tokenizer and a chat template, as a folder."""
    from tests.small_models import save_tiny_llama

    return save_tiny_llama(tmp_path_factory.mktemp("tiny_llama"))


@pytest.fixture(scope="session")
def tiny_mt5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight mT5 with two layers on either side, in float32 and without dropout, as a folder."""
    from tests.small_models import save_tiny_mt5

    return save_tiny_mt5(tmp_path_factory.mktemp("tiny_mt5"), dropout_rate=0.0)
