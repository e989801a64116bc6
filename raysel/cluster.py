"""Joining or starting Ray, running work on it, and the leases that keep two runs from doing the same work.

Work comes in two shapes. `map_tasks` runs a function over small descriptions of work (a file to read, a pair of
blocks), each an idempotent Ray task. `map_actors` streams descriptions through a pool of Ray Data actors that hold
something heavy (a model). Descriptions and summaries travel through the driver, rows never do.
"""

import contextlib
import errno
import functools
import logging
import os
import secrets
import socket
import time
import traceback
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import ray
from ray import cloudpickle
from ray.exceptions import AuthenticationError, OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

from raysel.errors import UserError
from raysel.interruption import raise_if_interrupted
from raysel.memory_errors import MemoryShortError, Shortage, kernel_kills, shortage_of, told_shortage

NAMESPACE = "raysel"
LEASE_POLL_SECONDS = 1.0
ANSWER_SECONDS = 10.0
CANCEL_TRIES = 30
STALL_SECONDS = 2 * 3600.0
HOPELESS = 12
WORKER_DIED = "its worker process ended without a word (killed, or the machine was out of memory)"
DASHBOARD_SETTING = "RAY_API_SERVER_ADDRESS"
NOWHERE = "http://127.0.0.1:9"  # refused at once
# For a Ray of this process's own. A worker that is idle for a second is ended, by Ray's default, and the next stage
# imports torch and transformers anew; and nobody gives notice that the one machine is about to be taken away.
OF_ONE_MACHINE = {
    "RAY_idle_worker_killing_time_threshold_ms": "30000",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
# A task whose worker was killed for its memory would be tried again without end (Ray 2.60).
OF_EVERY_DRIVER = {"RAY_task_oom_retries": "3"}
TOKEN_SETTINGS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@dataclass(frozen=True)
class Moment:
    """seconds: since 1970; kernel_kills: how many processes the kernel of this machine had ended for their memory."""

    seconds: float
    kernel_kills: int | None

    @classmethod
    def now(cls) -> "Moment":
        return cls(time.time(), kernel_kills())

    def kernel_has_killed_since(self) -> bool:
        return self.kernel_kills is not None and (kernel_kills() or 0) > self.kernel_kills


@dataclass
class Cluster:
    """A connection to Ray. Use as a context manager: what it started, it stops."""

    address: str | None = None
    num_cpus: int | None = None
    _started: bool = field(default=False, init=False, repr=False)
    _holder: Any = field(default=None, init=False, repr=False)
    _set: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    def __enter__(self) -> "Cluster":
        if ray.is_initialized():
            return self
        address = self.address or os.environ.get("RAY_ADDRESS")
        is_joined = bool(address) and address != "local"
        wished = OF_EVERY_DRIVER | ({} if is_joined else OF_ONE_MACHINE)
        self._set = {name: value for name, value in wished.items() if name not in os.environ}
        os.environ.update(self._set)
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL, "namespace": NAMESPACE}
        if address and address != "local":
            refuse_unless_answering(address)
            try:
                ray.init(address=address, **quiet)
            except (AuthenticationError, ConnectionError) as error:
                if _wants_token(error):
                    raise UserError(
                        f"the Ray cluster at {address!r} wants a token, and this process has none or another: "
                        "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the cluster's token file"
                    ) from error
                raise UserError(
                    f"what answers at {address!r} (cluster.address or RAY_ADDRESS) is no Ray head"
                ) from error
        else:
            use_private_token()
            # address="local": the address file of a driver that was killed would otherwise be believed.
            with no_dashboard_to_find():
                ray.init(address="local", num_cpus=self.num_cpus, include_dashboard=False, **quiet)
        self._started = True
        return self

    def __exit__(self, *_: object) -> None:
        self._holder = None
        if self._started:
            ray.shutdown()
            self._started = False
            for name in self._set:
                os.environ.pop(name, None)

    def cpus(self) -> int:
        return int(ray.cluster_resources().get("CPU", 1))

    def gpus(self) -> int:
        return int(ray.cluster_resources().get("GPU", 0))

    def cpus_and_memory(self) -> list[tuple[int, int]]:
        """Of each node, its CPUs and the bytes of memory that Ray lets workers use."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return [(int(node.get("CPU", 0)), int(node.get("memory", 0))) for node in nodes]

    def places(self, *, num_cpus: float, num_gpus: float = 0) -> int:
        """How many workers of `num_cpus` and `num_gpus` (not both 0) the nodes hold at the same time."""
        each = {resource: number for resource, number in (("CPU", num_cpus), ("GPU", num_gpus)) if number}
        return places([node["Resources"] for node in ray.nodes() if node["Alive"]], each)

    def cpus_each(self, workers: int) -> int:
        """The most whole CPUs that each of `workers` workers can have at the same time, at least 1."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        share = self.cpus() // workers
        return next((cpus for cpus in range(share, 1, -1) if places(nodes, {"CPU": cpus}) >= workers), 1)

    def refuse_unless_placeable(self, what: str, workers: int, *, num_cpus: float, num_gpus: float = 0) -> None:
        """`UserError` where `workers` such workers can never run together, with the arithmetic."""
        each = {resource: number for resource, number in (("CPU", num_cpus), ("GPU", num_gpus)) if number}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if each and workers > (held := places(nodes, each)):
            kinds = Counter(" + ".join(f"{node.get(name, 0):g} {name}" for name in ("CPU", "GPU")) for node in nodes)
            raise UserError(
                f"{what} asks for {workers} workers x {' + '.join(f'{n:g} {name}' for name, n in each.items())} = "
                f"{' + '.join(f'{workers * n:g} {name}' for name, n in each.items())}; the cluster has "
                f"{', '.join(f'{count} node of {kind}' for kind, count in kinds.items())} and holds {held} of them "
                "at once; lower the workers or what each takes, or join a larger cluster"
            )

    def map_tasks(
        self,
        function: Callable[..., Any],
        items: Sequence[tuple[Any, ...]],
        *,
        num_cpus: float = 1,
        num_gpus: float = 0,
        retries: int = 3,
        stall_seconds: float = STALL_SECONDS,
    ) -> Iterator[tuple[int, Any]]:
        """Run `function(*item)` for every item as Ray tasks; yield (index of the item, result) as they finish.

        A task lost with its worker is run again up to `retries` times. At most four tasks per slot wait at once.
        `MemoryShortError` where one runs out of memory, or loses its worker to that each time. `TimeoutError` when no
        task finished for `stall_seconds`. Stopping early cancels what still runs.
        """
        self.refuse_unless_placeable(function.__name__, 1, num_cpus=num_cpus, num_gpus=num_gpus)

        @functools.wraps(function)
        def telling(*arguments: Any) -> Any:
            with told_shortage():
                return function(*arguments)

        remote = ray.remote(telling).options(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=retries)
        slots = max(1, int(self.cpus() / max(num_cpus, 0.1)))
        waiting: dict[Any, int] = {}
        todo, started = iter(enumerate(items)), Moment.now()
        try:
            while True:
                while len(waiting) < 4 * slots and (following := next(todo, None)) is not None:
                    waiting[remote.remote(*following[1])] = following[0]
                if not waiting:
                    return
                raise_if_interrupted()
                done, _ = ray.wait(list(waiting), num_returns=1, timeout=stall_seconds)
                if not done:
                    raise TimeoutError(_stalled(function.__name__, stall_seconds))
                index = waiting.pop(done[0])
                try:
                    result = _result(done[0])
                except WorkerCrashedError as error:
                    if not started.kernel_has_killed_since():
                        raise
                    raise MemoryShortError(replace(shortage_of(error), killed=True)) from error
                yield index, result
        finally:
            if ray.is_initialized():
                _cancel(list(waiting))

    def run_task(self, function: Callable[..., Any], *arguments: Any, num_cpus: float = 1, num_gpus: float = 0) -> Any:
        """Run one function on the cluster and give its result."""
        return next(iter(self.map_tasks(function, [arguments], num_cpus=num_cpus, num_gpus=num_gpus)))[1]

    def map_actors(
        self,
        worker: type,
        arguments: Mapping[str, Any],
        items: Sequence[Mapping[str, Any]],
        *,
        workers: int,
        num_cpus: float = 1,
        num_gpus: float = 0,
        tries: int = 3,
        at_once: int = 1,
        stall_seconds: float = STALL_SECONDS,
    ) -> Iterator[dict[str, Any]]:
        """Stream `items` through a pool of `workers` Ray Data actors; yield what each call returned, as it comes.

        `worker(**arguments)` is made once per actor; `worker.process(item)` gets one item and returns a small
        dict of plain values; `at_once` calls of it run in an actor at the same time, in threads. An item whose actor
        dies, or raises what is not the user's mistake, is tried again when all others are done, the last time alone.
        `ItemsFailedError` at the end, with those that failed `tries` times, or as soon as the first dozen have all
        failed; `MemoryShortError` where an item runs out of memory, or its actor is killed for that each time;
        `TimeoutError` when no item was finished for `stall_seconds`. Stopping early stops the actors.
        """
        left = dict(enumerate(items))
        if not left:
            return
        self.refuse_unless_placeable(worker.__name__, workers, num_cpus=num_cpus, num_gpus=num_gpus)
        reasons: dict[int, str] = {}
        attempt, succeeded, started = 0, False, Moment.now()
        for attempt in range(tries):
            # An item may be lost with another one that kills their actor, twice at most: its last try is alone.
            alone = attempt == tries - 1 and tries > 1
            for batch in [{index: item} for index, item in left.items()] if alone else [left]:
                pool = _ActorPool(
                    worker,
                    dict(arguments),
                    # What a lost node leaves room for.
                    workers=max(1, min(workers, len(batch), self.places(num_cpus=num_cpus, num_gpus=num_gpus))),
                    num_cpus=num_cpus,
                    num_gpus=num_gpus,
                    at_once=at_once if attempt == 0 else 1,
                    stall_seconds=stall_seconds,
                )
                with contextlib.closing(pool.stream(batch)) as stream, _among(pool.workers):
                    for index, outcome in stream:
                        if isinstance(outcome, _Failure):
                            reasons[index] = outcome.reason
                            if not succeeded and len(reasons) >= HOPELESS:
                                raise ItemsFailedError(reasons, attempt + 1, untried=len(left) - len(reasons))
                        else:
                            succeeded = True
                            del left[index]
                            yield outcome
            if not left:
                return
            if not succeeded and len(left) >= HOPELESS:
                break
        if not left.keys() <= reasons.keys() and (shortage := self.memory_kill_since(started)) is not None:
            raise MemoryShortError(replace(shortage, workers=workers))
        raise ItemsFailedError({index: reasons.get(index, WORKER_DIED) for index in left}, attempt + 1)

    def memory_kill_since(self, started: Moment) -> Shortage | None:
        """What is known of a worker that was killed for its memory since `started`: one of this driver by Ray on any
        node, or any process by the kernel of this machine; None where there was none."""
        from ray._private.state import state
        from ray.core.generated.common_pb2 import WorkerExitType
        from ray.core.generated.gcs_pb2 import WorkerTableData

        # An actor that is killed and started again says no more than that (Ray 2.60); the cluster's table has it all.
        own = {ray.get_runtime_context().get_job_id(), ray.JobID.nil().hex(), ""}  # or not told whose
        for entry in state._connect_and_get_accessor().get_worker_table():
            worker = WorkerTableData.FromString(entry)
            if worker.exit_type != WorkerExitType.NODE_OUT_OF_MEMORY or worker.job_id.hex() not in own:
                continue
            if worker.end_time_ms >= 1000 * started.seconds:
                return shortage_of(OutOfMemoryError(worker.exit_detail))
        return replace(shortage_of(MemoryError()), killed=True) if started.kernel_has_killed_since() else None

    @contextlib.contextmanager
    def lease(self, key: str, on_wait: Callable[[], None] = lambda: None) -> Iterator[bool]:
        """Hold the lease `key` while the block runs; yields whether somebody else held it first.

        The holder is an actor of this driver, so the lease goes when this driver does. A lease saves work; the
        attempt protocol, not the lease, guards correctness.
        """
        if self._holder is None:
            self._holder = ray.remote(_LeaseHolder).options(num_cpus=0).remote()
        options: dict[str, Any] = {"name": "leases", "namespace": NAMESPACE, "lifetime": "detached", "num_cpus": 0}
        retried = {"get_if_exists": True, "max_restarts": -1, "max_task_retries": -1}
        book = ray.remote(_LeaseBook).options(**options, **retried).remote()
        token = uuid.uuid4().hex
        waited = False
        while not ray.get(book.take.remote(key, token, self._holder)):
            if not waited:
                on_wait()
            waited = True
            time.sleep(LEASE_POLL_SECONDS)
        try:
            yield waited
        finally:
            if ray.is_initialized():
                ray.get(book.give_back.remote(key, token))


def use_private_token() -> None:
    """Give the Ray that this process is about to start a token of its own, known to its child processes only.

    Ray would otherwise write one to `~/.ray/auth_token`, readable by all; a later `ray start --head` of the same user
    then demands it, while `ray job submit` does not send it.
    """
    if not any(os.environ.get(name) for name in TOKEN_SETTINGS):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@contextlib.contextmanager
def no_dashboard_to_find() -> Iterator[None]:
    """What runs on a Ray that is started in the block does not look for the dashboard, which is not there.

    Ray Train's actor that watches over placement groups asks for it, and asks the Ray that `ray start` started last on
    this machine. Where that one is gone, it waits 30 seconds, and the end of each shorter training 12 for that actor
    (Ray 2.60).
    """
    before = os.environ.get(DASHBOARD_SETTING)
    os.environ[DASHBOARD_SETTING] = NOWHERE
    try:
        yield
    finally:
        if before is None:
            del os.environ[DASHBOARD_SETTING]
        else:
            os.environ[DASHBOARD_SETTING] = before


def refuse_unless_answering(address: str) -> None:
    """`UserError` where nothing listens at `address`: Ray itself tries again for seven minutes."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    where = "(cluster.address or RAY_ADDRESS)"
    if not (host and port.isdigit()):
        raise UserError(f"{address!r} {where} is not HOST:PORT, 'auto' or 'local'")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        raise UserError(f"no Ray cluster answers at {address!r} {where}: {error}") from error


def places(nodes: Sequence[Mapping[str, float]], each: Mapping[str, float]) -> int:
    """How many workers that take `each` (amount by resource, none 0) fit on `nodes` (resources of each) at once."""
    return sum(min(int(node.get(name, 0) / number + 1e-9) for name, number in each.items()) for node in nodes)


class ItemsFailedError(Exception):
    """`reasons`: why each item, by its index, failed the last of its `tries` tries.

    untried: how many others there are, where so many failed and none succeeded that the rest was not tried.
    """

    def __init__(self, reasons: Mapping[int, str], tries: int, untried: int = 0) -> None:
        super().__init__(f"{len(reasons)} items failed {tries} times: {dict(reasons)}")
        self.reasons, self.tries, self.untried = dict(reasons), tries, untried


@dataclass(frozen=True)
class _Failure:
    """What an item's try raised, and in which actor."""

    reason: str
    actor: str


@dataclass
class _ActorPool:
    """One pass of items through Ray Data actors. See `Cluster.map_actors`."""

    worker: type
    arguments: dict[str, Any]
    workers: int
    num_cpus: float
    num_gpus: float
    at_once: int
    stall_seconds: float

    def stream(self, items: Mapping[int, Mapping[str, Any]]) -> Generator[tuple[int, Any], None, None]:
        """(index, result or `_Failure`) of each item whose actor lived, as they come; no actor is left at the end."""
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
                _ActorWorker,
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
                        if isinstance(outcome, _Failure):
                            # After an error on a GPU everything else in its process fails as well.
                            with contextlib.suppress(ValueError):
                                ray.kill(ray.get_actor(outcome.actor), no_restart=False)
                        yield index, outcome
        except ray.data.exceptions.ExecutionTimeoutError as error:
            raise TimeoutError(_stalled(self.worker.__name__, self.stall_seconds)) from error
        finally:
            # Ray Data lets its actors go without stopping them. After an error, or with an item that hangs, they would
            # live on and keep their CPUs, and the next pool would wait for ever.
            _kill_actors(names)


class _ActorWorker:
    """Adapts a class with `process(item)` to Ray Data's batches of one row.

    Items and results cross pickled: as Arrow columns a tuple would come back as a list, and an empty dict as None. A
    `UserError` crosses as a result, since Ray Data wraps what is raised in an error of its own and drops the cause; so
    does a full disk, which no other try would mend.
    """

    def __init__(self, worker: type, arguments: dict[str, Any]) -> None:
        self.mistake: UserError | None = None
        self.broken: str | None = None
        try:
            with told_shortage():
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
            return index, _Failure(self.broken, ray.get_runtime_context().get_actor_name())
        try:
            with told_shortage():
                return index, self.worker.process(item)
        except UserError as error:
            return index, error
        except Exception as error:  # noqa: BLE001 - whatever it is, the item is tried again and in the end named
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                return index, error
            reason = "".join(traceback.format_exception(error))
            return index, _Failure(reason, ray.get_runtime_context().get_actor_name())


class _LeaseHolder:
    """Dies with its driver: that is how a lease ends when its owner was killed."""

    def ping(self) -> None: ...


class _LeaseBook:
    """Who holds which lease; one per cluster."""

    def __init__(self) -> None:
        self.leases: dict[str, tuple[str, Any]] = {}

    async def take(self, key: str, token: str, holder: Any) -> bool:
        current = self.leases.get(key)
        if current is not None and current[0] != token:
            try:
                await current[1].ping.remote()
            except RayActorError:
                pass
            else:
                return False
            if self.leases.get(key) is not current:
                return False
        self.leases[key] = (token, holder)
        return True

    async def give_back(self, key: str, token: str) -> None:
        if key in self.leases and self.leases[key][0] == token:
            del self.leases[key]


def _cancel(references: list[Any]) -> None:
    """Cancel tasks until all are over. Ray 2.60 loses a call that meets its task on the way to a worker: on a busy
    machine one task in ten ran on after a single call."""
    for _ in range(CANCEL_TRIES):
        if not references:
            return
        for reference in references:
            ray.cancel(reference, force=True)
        _, references = ray.wait(references, num_returns=len(references), timeout=1.0, fetch_local=False)


def _kill_actors(names: Sequence[str]) -> None:
    for name in names if ray.is_initialized() else ():
        with contextlib.suppress(ValueError):  # gone already
            ray.kill(ray.get_actor(name))


def _wants_token(error: BaseException | None) -> bool:
    """Whether an authentication error is among an error's causes; Ray wraps it in errors of other kinds on the way."""
    if error is None:
        return False
    named = isinstance(error, AuthenticationError) or "InvalidAuthToken" in str(error) or "AUTH_TOKEN" in str(error)
    return named or _wants_token(error.__cause__ or error.__context__)


@contextlib.contextmanager
def _among(workers: int) -> Iterator[None]:
    """Says of a shortage how many workers there were. Ray Data has tasks of its own, which may be killed as well."""
    try:
        yield
    except OutOfMemoryError as error:
        raise MemoryShortError(replace(shortage_of(error), workers=workers)) from error
    except MemoryShortError as short:
        raise MemoryShortError(replace(short.shortage, workers=workers)) from short


def _stalled(what: str, seconds: float) -> str:
    return (
        f"{what}: nothing was finished for {seconds:g} s; the cluster is taken by others, or a worker hangs. "
        "Run again to carry on from what is finished"
    )


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except OutOfMemoryError as error:
        raise MemoryShortError(shortage_of(error)) from error
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from error
        raise
