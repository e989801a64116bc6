"""How many workers a training gets on the cluster that it finds, and what each takes."""

from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from raysel.errors import UserError
from raysel.stage import StageRun
from raysel.training.settings import TrainingSettings
from raysel.training.worker_group_stage import Workers, _has_lost_a_worker, choose_workers


@pytest.mark.parametrize(
    ("asked", "given"),
    [({}, (2, 1)), ({"workers": 1}, (1, 2)), ({"workers": 1, "cpus_per_worker": 1}, (1, 1))],
)
def test_workers_share_the_cpus_or_take_what_they_are_told(
    cluster: Any, progress: Any, asked: dict[str, int], given: tuple[int, int]
) -> None:
    run = StageRun({}, {}, {}, None, cluster, progress)  # type: ignore[arg-type]
    assert choose_workers(run, TrainingSettings(**asked)) == Workers(*given, gpu=False)


def test_what_never_fits_is_refused_with_the_arithmetic(cluster: Any, progress: Any) -> None:
    run = StageRun({}, {}, {}, None, cluster, progress)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"training\.workers asks for 2 workers x 2 CPU = 4 CPU; the cluster"):
        choose_workers(run, TrainingSettings(workers=2, cpus_per_worker=2))


def test_a_worker_that_raised_is_none_that_died() -> None:
    """Only of the dead is it asked whether their memory was short: a mistake keeps its own name."""
    died = WorkerHealthCheckFailedError("polling it failed", failure=ActorDiedError())
    assert _has_lost_a_worker([ConnectionError("closed by the other"), died])
    assert not _has_lost_a_worker([KeyError("label"), RuntimeError("closed by the other")])
    assert not _has_lost_a_worker([WorkerHealthCheckFailedError("polling it failed", failure=ValueError())])
