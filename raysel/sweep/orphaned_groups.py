"""Freeing what a trial held whose process is gone."""

import time

import ray
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.util.placement_group import PlacementGroup, remove_placement_group

DYING_SECONDS = 60.0


def free_orphaned_groups() -> int:
    """Remove this job's placement groups whose creator is dead; how many there were.

    A placement group that an actor made is freed when the actor and its whole job have ended. A Ray Train controller
    is such an actor: one that is killed with its trial would keep its workers' CPUs and GPUs to the end of the sweep,
    and a group that was still waiting for room would take them as soon as they are free. Ray's own cleaner knows no
    waiting groups, and needs the dashboard.
    """
    orphaned = [table for table in _groups_of_actors() if table.creator_actor_dead]
    for table in orphaned:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(table.placement_group_id)))
    return len(orphaned)


def free_groups_of_ended_trials() -> None:
    """Do so until no actor of this job has a placement group: after the last trial, whose actors die one by one."""
    deadline = time.monotonic() + DYING_SECONDS
    while _groups_of_actors() and time.monotonic() < deadline:
        free_orphaned_groups()
        time.sleep(0.2)


def _groups_of_actors() -> list[PlacementGroupTableData]:
    """This job's placement groups that an actor made and that were not removed."""
    job = bytes.fromhex(ray.get_runtime_context().get_job_id())
    tables = map(PlacementGroupTableData.FromString, state._connect_and_get_accessor().get_placement_group_table())
    return [
        table
        for table in tables
        if table.creator_job_id == job
        # What the driver itself made, and Tune holds, has no creator.
        and table.creator_actor_id != ray.ActorID.nil().binary()
        and not table.is_detached
        and table.state != PlacementGroupTableData.REMOVED
    ]
