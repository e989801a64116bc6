"""`python -m tests.training.three_nodes EXPERIMENT SEED`: training on three nodes, which are lost one after another.

The first is lost announced, before any checkpoint is scheduled, the second without a word, some steps after a
checkpoint, the third as well, and for good: what is left has no room for what ran on it. The last line, in JSON, says
of each loss how far the run had come.
"""

import itertools
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION

from raysel.cluster import use_private_token
from tests.training.terminal import Terminal, training_workers, whole_checkpoints

CHECKPOINT_STEPS = 150
DEADLINE_SECONDS = 600


def workers_on(node: Any) -> list[psutil.Process]:
    [raylet] = node.all_processes["raylet"]
    return training_workers(raylet.process.pid)


def drain(node: Any, address: str) -> None:
    """What `ray drain-node` does, and a cluster's autoscaler when the machine is about to be taken away."""
    deadline = int(1000 * (time.time() + DEADLINE_SECONDS))
    accepted, why_not = GcsClient(address=address).drain_node(
        node.node_id, DRAIN_NODE_REASON_PREEMPTION, "taken away", deadline
    )
    assert accepted, why_not


class Losses:
    """The run, and the nodes besides the head: what loses them."""

    def __init__(self, experiment: Path, cluster: Cluster, draw: random.Random) -> None:
        self.cluster, self.draw, self.store = cluster, draw, experiment.parent / "store"
        self.others = [cluster.add_node(num_cpus=1) for _ in range(2)]
        # Ray Train looks for announced losses every 5 seconds and waits for room 60, by default.
        intervals = {"RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.2", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5"}
        environment = {**os.environ, **intervals, "RAY_ADDRESS": cluster.address}
        self.shown = Terminal(experiment, "training.max_failures=5", environment=environment)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert self.shown.driver.poll() is None, self.shown.output
            time.sleep(0.05)

    def newest(self) -> int:
        """After how many steps the newest whole checkpoint is; 0 where there is none."""
        return max(whole_checkpoints(self.store), default=0)

    def lose(self, after: int, *, announced: bool = False) -> dict[str, int]:
        """Lose a node with a worker on it, at least so many steps after the next checkpoint, announced before any.

        Steps are shown late, and a node takes a moment to kill: the checkpoint after that one is far away.
        """
        before = self.newest()
        assert announced == (before == 0)
        self.wait_for(lambda: announced or self.newest() > before)
        self.wait_for(lambda: self.shown.steps() >= self.newest() + after)
        # The head may have one of the two workers.
        victim = self.draw.choice([node for node in self.others if workers_on(node)])
        if announced:
            assert self.newest() == 0
            drain(victim, self.cluster.address)
            self.wait_for(lambda: self.newest() > 0)
            self.wait_for(lambda: self.shown.steps() > self.newest() + 10)
        trained, workers = self.shown.steps(), len(workers_on(victim))
        self.cluster.remove_node(victim, allow_graceful=False)
        self.others.remove(victim)
        return {"workers": workers, "trained": trained, "kept": self.newest(), "since": len(self.shown.output)}


def main(experiment: Path, seed: int) -> int:
    draw = random.Random(seed)
    use_private_token()
    # Ray gives up a node that does not answer five times in a row, every 3 seconds by default.
    config = {"health_check_period_ms": 500}
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": config}
    run = Losses(experiment, Cluster(initialize_head=True, head_node_args=head), draw)
    lost = [run.lose(draw.randrange(1, 30), announced=True)]
    run.others.append(run.cluster.add_node(num_cpus=1))
    lost += [run.lose(draw.randrange(10, 40)) for _ in range(2)]
    code = run.shown.wait()
    for loss, following in itertools.pairwise([*lost, {"since": None}]):
        loss["after"] = run.shown.least_steps(loss["since"], following["since"])
    print(run.shown.output)
    print(json.dumps(lost))
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
