"""`python -m tests.training.three_nodes EXPERIMENT SEED LOSS`: training on three nodes, one of which is lost.

LOSS is `kill` (without a word, some steps after a checkpoint), `kill-for-good` (where the other nodes have no room for
what ran on it) or `drain` (announced, then killed; no checkpoint is scheduled). The last line, in JSON, says how far
the run had come when the node went.
"""

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


def main(experiment: Path, seed: int, loss: str) -> int:
    draw, store = random.Random(seed), experiment.parent / "store"
    use_private_token()
    head = {"num_cpus": 0 if loss == "kill-for-good" else 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    others = [cluster.add_node(num_cpus=1) for _ in range(2)]
    # How often Ray Train looks for announced losses, and how long it waits for room: 5 and 60 seconds by default.
    intervals = {"RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.2", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15"}
    environment = {**os.environ, **intervals, "RAY_ADDRESS": cluster.address}
    never = ["training.checkpoint_steps=1000000"] if loss == "drain" else []
    shown = Terminal(experiment, *never, environment=environment)

    def wait_for(condition: Callable[[], bool]) -> None:
        while not condition():
            assert shown.driver.poll() is None, shown.output
            time.sleep(0.05)

    # Well after a checkpoint and well before the next: steps are shown late, and a node takes a moment to kill.
    wanted = draw.randrange(20, 80) if loss == "drain" else draw.choice([100, 200]) + draw.randrange(10, 40)
    wait_for(lambda: shown.steps() >= wanted)
    # The head may have one of the two workers.
    victim = draw.choice([node for node in others if workers_on(node)])
    if loss == "drain":
        assert not whole_checkpoints(store)
        drain(victim, cluster.address)
        wait_for(lambda: bool(whole_checkpoints(store)))
    wait_for(lambda: shown.steps() > whole_checkpoints(store)[-1] + 10)
    trained, workers = shown.steps(), workers_on(victim)
    cluster.remove_node(victim, allow_graceful=False)
    kept = whole_checkpoints(store)
    code = shown.wait()
    print(shown.output)
    print(json.dumps({"drawn": wanted, "workers": len(workers), "trained": trained, "checkpoints": kept}))
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
