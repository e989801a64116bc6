"""A pool of Ray Data actors that hold something heavy (a model) and work through small descriptions of work."""

import contextlib
import errno
import logging
import traceback
import uuid
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray import cloudpickle

from raysel.errors import UserError
from raysel.interruption import raise_if_interrupted


class ItemsFailedError(Exception):
    """`reasons`: why each item, by its index, failed the last of its `tries` tries.

    untried: how many others there are, where so many failed and none succeeded that the rest was not tried.
    """

    def __init__(self, reasons: Mapping[int, str], tries: int, untried: int = 0) -> None:
        super().__init__(f"{len(reasons)} items failed {tries} times: {dict(reasons)}")
        self.reasons, self.tries, self.untried = dict(reasons), tries, untried


@dataclass(frozen=True)
class Failure:
    """What an item's try raised, and in which actor."""

    reason: str
    actor: str


@dataclass
class ActorPool:
    """One pass of items through `workers` Ray Data actors, each made as `worker(**arguments)`."""

    worker: type
    arguments: dict[str, Any]
    workers: int
    num_cpus: float
    num_gpus: float
    at_once: int
    stall_seconds: float

    def stream(self, items: Mapping[int, Mapping[str, Any]]) -> Generator[tuple[int, Any], None, None]:
        """(index, result or `Failure`) of each item whose actor lived, as they come; no actor is left at the end."""
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it logs as an error it also raises
        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.execution_no_progress_timeout_s = self.stall_seconds
        context.max_errored_blocks = -1  # what a dead actor was at is left for the next pass
        pickled = [cloudpickle.dumps((index, dict(item))) for index, item in items.items()]
        blocks = [pa.table({"item": pa.array([item], pa.binary())}) for item in pickled]
        names: list[str] = []

        def named() -> dict[str, Any]:
            names.append(f"map_actors-{uuid.uuid4().hex}")
            return {"name": names[-1]}

        with ray.data.DataContext.current(context), warnings.catch_warnings():
            # The names are `ray_remote_args`, deprecated in 2.60 with nothing in their place.
            warnings.simplefilter("ignore", DeprecationWarning)
            results = ray.data.from_arrow(blocks).map_batches(
                _Adapter,
                fn_constructor_args=(self.worker, self.arguments),
                batch_size=1,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(
                    size=self.workers,
                    max_concurrent_calls_per_actor=self.at_once,
                    enable_true_multi_threading=True,
                    # An item waits at an actor only as long as another is worked on: what dies with it is little.
                    max_tasks_in_flight_per_actor=self.at_once,
                ),
                num_cpus=self.num_cpus,
                num_gpus=self.num_gpus,
                max_task_retries=0,
                ray_remote_args_fn=named,
            )
        batches = results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        try:
            with contextlib.closing(iter(batches)) as stream:
                for batch in stream:
                    raise_if_interrupted()
                    for index, outcome in map(cloudpickle.loads, batch["result"].to_pylist()):
                        if isinstance(outcome, (UserError, OSError)):
                            raise outcome
                        if isinstance(outcome, Failure):
                            # After an error on a GPU everything else in its process fails as well.
                            with contextlib.suppress(ValueError):
                                ray.kill(ray.get_actor(outcome.actor), no_restart=False)
                        yield index, outcome
        except ray.data.exceptions.ExecutionTimeoutError as error:
            raise TimeoutError(stalled(self.worker.__name__, self.stall_seconds)) from error
        finally:
            # Ray Data lets its actors go without stopping them. After an error, or with an item that hangs, they would
            # live on and keep their CPUs, and the next pool would wait for ever.
            _kill_actors(names)


class _Adapter:
    """Adapts a class with `process(item)` to Ray Data's batches of one row.

    Items and results cross pickled: as Arrow columns a tuple would come back as a list, and an empty dict as None. A
    `UserError` crosses as a result, since Ray Data wraps what is raised in an error of its own and drops the cause; so
    does a full disk, which no other try would mend.
    """

    def __init__(self, worker: type, arguments: dict[str, Any]) -> None:
        self.mistake: UserError | None = None
        self.broken: str | None = None
        try:
            self.worker = worker(**arguments)
        except UserError as error:
            self.mistake = error
        except Exception as error:  # noqa: BLE001 - a bad GPU, say: its items are tried elsewhere, and named in the end
            self.broken = "".join(traceback.format_exception(error))

    def __call__(self, batch: pa.Table) -> pa.Table:
        outcomes = [self.outcome(*cloudpickle.loads(item)) for item in batch["item"].to_pylist()]
        return pa.table({"result": pa.array(map(cloudpickle.dumps, outcomes), pa.binary())})

    def outcome(self, index: int, item: dict[str, Any]) -> tuple[int, Any]:
        if self.mistake is not None:
            return index, self.mistake
        if self.broken is not None:
            return index, Failure(self.broken, ray.get_runtime_context().get_actor_name())
        try:
            return index, self.worker.process(item)
        except UserError as error:
            return index, error
        except Exception as error:  # noqa: BLE001 - whatever it is, the item is tried again and in the end named
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                return index, error
            reason = "".join(traceback.format_exception(error))
            return index, Failure(reason, ray.get_runtime_context().get_actor_name())


def _kill_actors(names: Sequence[str]) -> None:
    for name in names if ray.is_initialized() else ():
        with contextlib.suppress(ValueError):  # gone already
            ray.kill(ray.get_actor(name))


def stalled(what: str, seconds: float) -> str:
    return (
        f"{what}: nothing was finished for {seconds:g} s; the cluster is taken by others, or a worker hangs. "
        "Run again to carry on from what is finished"
    )
