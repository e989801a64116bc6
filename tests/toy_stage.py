"""A stage small enough to be killed at every step: three shards through an `Attempt`, in a process of its own.

`run_in_child` runs it in a child of a fork server that has imported everything already (a case takes some 50 ms), and
the child ends itself with SIGKILL where it is told to.
"""

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

import pyarrow as pa

from raysel import tables
from raysel.store import Artifact, Attempt, Store

SHARDS = 3
STAGE, FINGERPRINT = "toy", "0f" * 12
FILE_EVENTS = ("open", "os.rename", "os.link", "os.remove", "os.mkdir")


def choose() -> dict[str, Any]:
    return {"scale": 10}


def shard_rows(index: int, plan: dict[str, Any]) -> pa.Table:
    """Rows that depend on the plan and take a few KB, so that a write can be cut short."""
    counts = [index * plan["scale"] + i * i % 97 for i in range(500)]
    return pa.table({"lang": ["sw"] * 500, "task": [None] * 500, "count": counts}, schema=tables.QUOTA)


def run(attempt: Attempt, choose: Callable[[], dict[str, Any]] = choose) -> Artifact:
    """The stage: carries on from the finished shards, then publishes."""
    plan = attempt.plan(choose)
    finished = attempt.finished(plan)
    records = [
        finished.get(("quota", index)) or attempt.write_table("quota", index, shard_rows(index, plan), plan=plan)
        for index in range(SHARDS)
    ]
    return attempt.publish(records, settings={"scale": 10}, inputs={}, version=1, summary={"shards": SHARDS})


@dataclass(frozen=True)
class Killed:
    """Where the child dies, counted from 0: before which step on the disk (`event`), before or after which whole file
    (`before_write`, `after_write`), in the middle of the first file of more than `file_bytes`, or once `while_sending`
    bytes of a file have been handed to object storage."""

    event: int | None = None
    before_write: int | None = None
    after_write: int | None = None
    file_bytes: int | None = None
    while_sending: int | None = None


class DyingStore(Store):
    """A store whose process dies before or after the n-th file that it writes; every write is the real one."""

    def write_bytes(self, path: str, data: Any, *, once: bool = False) -> None:
        counted, killed = self.__dict__["counted"], self.__dict__["killed"]
        counted.append(path)
        if killed.before_write == len(counted) - 1:
            die()
        super().write_bytes(path, data, once=once)
        if killed.after_write == len(counted) - 1:
            die()


def run_in_child(uri: str, killed: Killed) -> int:
    """The child's exit code: 0 if it outlived the work, -9 if it was killed where `killed` says."""
    child = start_child(uri, killed)
    child.join()
    return child.exitcode


def start_child(uri: str, killed: Killed = Killed()) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "raysel.store", "tests.toy_stage"])
    child = context.Process(target=_child, args=(uri, killed))
    child.start()
    return child


def _child(uri: str, killed: Killed) -> None:
    store = DyingStore(uri)
    store.__dict__.update(counted=[], killed=killed)
    attempt = store.attempt(STAGE, FINGERPRINT)
    if killed.file_bytes is not None:
        # Python ignores the signal of the limit on a file's size; by default it ends the process in mid-write.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (killed.file_bytes, killed.file_bytes))
    if killed.while_sending is not None:
        with store.filesystem.open_output_stream(store.full(f"{attempt.address}/{attempt.name}/large")) as stream:
            stream.write(bytes(killed.while_sending))
            die()
    if killed.event is not None:
        seen = 0

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            if event in FILE_EVENTS and FINGERPRINT in str(arguments[0]):
                seen += 1
                if seen - 1 == killed.event:
                    die()

        sys.addaudithook(watch)
    run(attempt)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
