"""Work on a real two-CPU Ray: every item once, workers that die, users' mistakes, stopping early, leases."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from raysel.cluster import Cluster, ItemsFailedError, places, refuse_unless_answering
from raysel.errors import UserError
from raysel.memory_errors import MemoryShortError


class InputError(UserError):
    """A user's mistake whose constructor takes something else than the message."""

    def __init__(self, where: str, found: object) -> None:
        super().__init__(f"{where} holds {found!r}; write a number")
        self.found = found


def wait_until(condition: Callable[[], bool]) -> None:
    """Come back once `condition` holds; the time limit is pytest's."""
    while not condition():
        time.sleep(0.05)


def nothing_runs() -> bool:
    return ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]


def die_the_first_time(mark: Path) -> None:
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


# --- tasks -------------------------------------------------------------------------------------------------------


def square(number: int) -> int:
    return number * number


def square_in_reverse(number: int, last: int) -> int:
    time.sleep(0.02 * (last - number))
    return number * number


def square_after_a_death(number: int, folder: Path) -> int:
    if number in (2, 5):
        die_the_first_time(folder / str(number))
    return number * number


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def square_unless_seven(number: int) -> int:
    if number == 7:
        raise InputError("row 7", "seven")
    return number * number


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def divide(number: int) -> float:
    return 1 / number


def sleep_unless_first(number: int, folder: Path) -> int:
    """Leaves a trace; whichever call comes first, in whatever order they are taken up, comes back."""
    (folder / str(number)).touch()
    try:
        (folder / "first").touch(exist_ok=False)
    except FileExistsError:
        time.sleep(3600)
    return number


def fail_if_first(number: int, folder: Path) -> None:
    sleep_unless_first(number, folder)
    raise InputError("the first row", number)


def test_every_task_gives_its_result(cluster: Cluster) -> None:
    results = list(cluster.map_tasks(square, [(number,) for number in range(50)]))
    assert sorted(results) == [(number, number * number) for number in range(50)]
    assert list(cluster.map_tasks(square, [])) == []
    assert cluster.run_task(square, 12) == 144


def test_results_come_as_they_finish(cluster: Cluster) -> None:
    results = list(cluster.map_tasks(square_in_reverse, [(number, 7) for number in range(8)], num_cpus=0.25))
    assert sorted(results) == [(number, number * number) for number in range(8)]


def test_a_task_lost_with_its_worker_is_run_again(cluster: Cluster, tmp_path: Path) -> None:
    results = dict(cluster.map_tasks(square_after_a_death, [(number, tmp_path) for number in range(8)]))
    assert results == {number: number * number for number in range(8)}
    assert {path.name for path in tmp_path.iterdir()} == {"2", "5"}, "no worker died, so this proves nothing"


def test_a_task_that_kills_every_worker_is_given_up(cluster: Cluster) -> None:
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        list(cluster.map_tasks(die, [()], retries=1))


def test_a_users_mistake_in_a_task_arrives_as_itself(cluster: Cluster) -> None:
    with pytest.raises(InputError) as caught:
        list(cluster.map_tasks(square_unless_seven, [(number,) for number in range(20)]))
    assert type(caught.value) is InputError
    assert str(caught.value) == "row 7 holds 'seven'; write a number"
    assert caught.value.found == "seven"


def test_our_own_mistake_in_a_task_keeps_its_traceback(cluster: Cluster) -> None:
    with pytest.raises(ZeroDivisionError, match="in divide"):
        cluster.run_task(divide, 0)


def ask_for_a_petabyte(number: int) -> int:
    return len(bytearray(1 << 50)) + number


def test_a_task_that_runs_out_of_memory_says_what_was_free(cluster: Cluster) -> None:
    with pytest.raises(MemoryShortError, match=r"out of memory: an allocation failed on node .* free of") as caught:
        cluster.run_task(ask_for_a_petabyte, 0)
    assert caught.value.shortage.free > 0


def test_stopping_early_leaves_no_task(cluster: Cluster, tmp_path: Path) -> None:
    results = cluster.map_tasks(sleep_unless_first, [(number, tmp_path) for number in range(20)])
    assert len(next(results)) == 2
    wait_until(lambda: len(list(tmp_path.iterdir())) >= 3)
    results.close()
    wait_until(nothing_runs)
    assert cluster.run_task(square, 3) == 9
    assert len(list(tmp_path.iterdir())) < 20


def test_a_failed_task_stops_the_others(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        list(cluster.map_tasks(fail_if_first, [(number, tmp_path) for number in range(20)]))
    wait_until(nothing_runs)
    assert len(list(tmp_path.iterdir())) < 20


def test_tasks_that_hang_are_given_up(cluster: Cluster) -> None:
    with pytest.raises(TimeoutError, match=r"sleep: nothing was finished for 0\.5 s.* Run again to carry on"):
        list(cluster.map_tasks(sleep, [(3600,)] * 3, stall_seconds=0.5))
    wait_until(nothing_runs)


# --- actors ------------------------------------------------------------------------------------------------------


class Doubler:
    def __init__(self, by: int) -> None:
        self.by = by

    def process(self, item: dict[str, Any]) -> dict[str, Any]:
        return {"number": item["number"], "doubled": item["number"] * self.by, "pid": os.getpid()}


class Echo:
    def process(self, item: dict[str, Any]) -> dict[str, Any]:
        return item


class DiesOnce:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def process(self, item: dict[str, Any]) -> dict[str, Any]:
        if item["number"] == 4:
            die_the_first_time(self.mark)
        return item


class FailsAtSome:
    """Is killed at item 2, raises at item 5, and leaves a file for each try."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def process(self, item: dict[str, Any]) -> dict[str, Any]:
        # The name says which: the process may be killed by a neighbour's item between making the file and filling it.
        (self.folder / f"{item['number']}-{uuid.uuid4().hex}").touch()
        if item["number"] == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return item | {"inverse": 1 / (item["number"] - 5)}


class Hopeless:
    def process(self, item: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError("never")


class Meets:
    """Each call waits for another one: alone it would wait for ever."""

    def __init__(self) -> None:
        self.meeting = threading.Barrier(2)

    def process(self, item: dict[str, Any]) -> dict[str, Any]:
        self.meeting.wait()
        return {"pid": os.getpid()}


class RefusesFour:
    def process(self, item: dict[str, Any]) -> dict[str, Any]:
        if item["number"] == 4:
            raise InputError("row 4", "four")
        return item


class RefusesToStart:
    def __init__(self) -> None:
        raise InputError("the model's folder", "nothing")


class BreaksAtStart:
    """As on a bad GPU: the first `times` that are made raise what is no mistake of the user's."""

    def __init__(self, folder: Path, times: int) -> None:
        for number in range(times):
            try:
                (folder / str(number)).touch(exist_ok=False)
            except FileExistsError:
                continue
            raise RuntimeError("this card is broken")

    def process(self, item: dict[str, Any]) -> dict[str, Any]:
        return item


class Sleeper:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def process(self, item: dict[str, Any]) -> dict[str, Any]:
        sleep_unless_first(item["number"], self.folder)
        return item


def numbers(count: int) -> list[dict[str, Any]]:
    return [{"number": number} for number in range(count)]


@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_goes_through_an_actor_once(cluster: Cluster, workers: int) -> None:
    """With two workers the actors hold every CPU of the cluster: nothing else may need one."""
    results = list(cluster.map_actors(Doubler, {"by": 2}, numbers(20), workers=workers))
    assert sorted((item["number"], item["doubled"]) for item in results) == [(n, 2 * n) for n in range(20)]
    assert 1 <= len({item["pid"] for item in results}) <= workers


def test_no_items_need_no_actor(cluster: Cluster) -> None:
    assert list(cluster.map_actors(RefusesToStart, {}, [], workers=1)) == []


def test_items_and_results_keep_their_types(cluster: Cluster) -> None:
    items = [
        {"files": ("a", "b"), "empty": {}, "none": None, "bytes": b"\0\0", "list": [], "big": 2**70},
        {"files": [], "other": {"deep": {"er": (1, 2.5)}}, "path": Path("x")},
    ]
    assert sorted(cluster.map_actors(Echo, {}, items, workers=1), key=len, reverse=True) == items


def test_an_actor_that_dies_is_replaced_and_nothing_is_lost(cluster: Cluster, tmp_path: Path) -> None:
    mark = tmp_path / "died"
    results = list(cluster.map_actors(DiesOnce, {"mark": mark}, numbers(12), workers=2))
    assert mark.exists(), "no actor died, so this proves nothing"
    assert sorted(item["number"] for item in results) == list(range(12))


@pytest.mark.parametrize("at_once", [1, 3])
def test_items_that_fail_every_time_are_named_and_the_rest_goes_on(
    cluster: Cluster, tmp_path: Path, at_once: int
) -> None:
    """Each is tried three times, and an item that shares an actor with one of them is none the worse for it."""
    results = []
    with pytest.raises(ItemsFailedError) as failed:
        results.extend(cluster.map_actors(FailsAtSome, {"folder": tmp_path}, numbers(9), workers=2, at_once=at_once))
    assert sorted(item["number"] for item in results) == [n for n in range(9) if n not in (2, 5)]
    assert set(failed.value.reasons) == {2, 5}
    assert "ended without a word" in failed.value.reasons[2]
    assert "ZeroDivisionError" in failed.value.reasons[5]
    tries = Counter(int(file.name.partition("-")[0]) for file in tmp_path.iterdir())
    assert tries[2] == 3
    # Item 5 may go down with item 2 before it has begun, once.
    assert tries[5] == 3 or (tries[5] == 2 and at_once > 1)
    wait_until(nothing_runs)


def test_an_actor_that_cannot_start_is_replaced(cluster: Cluster, tmp_path: Path) -> None:
    results = list(cluster.map_actors(BreaksAtStart, {"folder": tmp_path, "times": 1}, numbers(9), workers=2))
    assert sorted(item["number"] for item in results) == list(range(9))
    assert (tmp_path / "0").exists()


def test_actors_that_can_never_start_are_named_by_their_error(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(ItemsFailedError) as failed:
        list(cluster.map_actors(BreaksAtStart, {"folder": tmp_path, "times": 1000}, numbers(3), workers=2))
    assert set(failed.value.reasons) == {0, 1, 2}
    assert all("this card is broken" in reason for reason in failed.value.reasons.values())


def test_when_the_first_dozen_all_fail_the_rest_is_not_tried(cluster: Cluster) -> None:
    with pytest.raises(ItemsFailedError) as failed:
        list(cluster.map_actors(Hopeless, {}, numbers(30), workers=2))
    assert len(failed.value.reasons) == 12
    assert failed.value.untried == 18
    wait_until(nothing_runs)


def test_calls_at_once_run_in_threads_of_one_actor(cluster: Cluster) -> None:
    results = list(cluster.map_actors(Meets, {}, numbers(4), workers=1, at_once=2))
    assert len({result["pid"] for result in results}) == 1
    assert len(results) == 4


class AsksForAPetabyte:
    def process(self, item: dict[str, Any]) -> dict[str, Any]:
        import torch

        return {"number": len(torch.empty(1 << 50, dtype=torch.uint8))}


def test_an_actor_that_runs_out_of_memory_ends_the_work(cluster: Cluster) -> None:
    with pytest.raises(MemoryShortError, match=r"tried to allocate 1125\.9 TB on node") as caught:
        list(cluster.map_actors(AsksForAPetabyte, {}, numbers(3), workers=2))
    assert (caught.value.shortage.asked, caught.value.shortage.workers) == (1 << 50, 2)
    wait_until(nothing_runs)


@pytest.mark.parametrize(("worker", "message"), [(RefusesFour, "row 4 holds 'four'"), (RefusesToStart, "holds 'noth")])
def test_a_users_mistake_in_an_actor_arrives_as_itself(cluster: Cluster, worker: type, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        list(cluster.map_actors(worker, {}, numbers(10), workers=2))
    assert type(caught.value) is InputError
    wait_until(nothing_runs)


def test_stopping_early_leaves_no_actor(cluster: Cluster, tmp_path: Path) -> None:
    results = cluster.map_actors(Sleeper, {"folder": tmp_path}, numbers(20), workers=2)
    assert next(results)["number"] in range(20)
    results.close()
    wait_until(nothing_runs)
    assert len(list(tmp_path.iterdir())) < 20


def test_actors_that_hang_are_given_up(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match=r"Sleeper: nothing was finished for 1 s"):
        list(cluster.map_actors(Sleeper, {"folder": tmp_path}, numbers(20), workers=1, stall_seconds=1))
    wait_until(nothing_runs)


# --- what fits ---------------------------------------------------------------------------------------------------


def test_what_never_fits_is_refused_with_the_arithmetic(cluster: Cluster) -> None:
    message = r"embedding asks for 3 workers x 1 CPU = 3 CPU; the cluster has 1 node of 2 CPU \+ 0 GPU and holds 2"
    with pytest.raises(UserError, match=message):
        cluster.refuse_unless_placeable("embedding", 3, num_cpus=1)
    with pytest.raises(UserError, match=r"1 workers x 1 CPU \+ 1 GPU = 1 CPU \+ 1 GPU; .* holds 0 of them"):
        cluster.refuse_unless_placeable("embedding", 1, num_cpus=1, num_gpus=1)
    with pytest.raises(UserError, match="square asks for 1 workers x 3 CPU"):
        list(cluster.map_tasks(square, [(1,)], num_cpus=3))
    with pytest.raises(UserError, match="Doubler asks for 3 workers"):
        list(cluster.map_actors(Doubler, {"by": 2}, numbers(3), workers=3))
    for workers, num_cpus in ((2, 1), (4, 0.5), (20, 0.1), (99, 0)):
        cluster.refuse_unless_placeable("embedding", workers, num_cpus=num_cpus)


def test_a_worker_must_fit_on_one_node() -> None:
    nodes = [{"CPU": 4, "GPU": 1}, {"CPU": 4}, {"CPU": 64, "GPU": 8}]
    assert places(nodes, {"CPU": 3}) == 1 + 1 + 21
    assert places(nodes, {"CPU": 1, "GPU": 1}) == 1 + 0 + 8
    assert places([{"CPU": 1}, {"CPU": 1}], {"CPU": 2}) == 0
    assert places([{"CPU": 1}], {"CPU": 0.1}) == 10
    assert places([], {"CPU": 1}) == 0


@given(st.lists(st.integers(0, 64), max_size=5), st.integers(1, 16), st.integers(0, 40))
def test_workers_that_are_said_to_fit_do_fit(cpus: list[int], each: int, workers: int) -> None:
    """Placing them one after the other succeeds exactly as long as `places` says."""
    held = places([{"CPU": float(count)} for count in cpus], {"CPU": each})
    free = list(cpus)
    for _ in range(workers):
        node = next((index for index, count in enumerate(free) if count >= each), None)
        if node is None:
            break
        free[node] -= each
        held -= 1
    assert held == sum(count // each for count in free)


# --- leases ------------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from raysel.cluster import Cluster
with Cluster() as cluster, cluster.lease(sys.argv[1]) as waited:
    print("held", waited, flush=True)
    sys.stdin.readline()
print("given back", flush=True)
"""


def holder_process(key: str) -> subprocess.Popen:
    """Another driver on the same Ray that holds the lease until it reads a line."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", HOLD, key], **pipes)


def test_a_lease_nobody_holds_is_had_at_once(cluster: Cluster) -> None:
    for _ in range(2):
        with cluster.lease("free") as waited, cluster.lease("another") as waited_too:
            assert not waited
            assert not waited_too


def test_a_lease_is_given_back_when_the_work_fails(cluster: Cluster) -> None:
    with pytest.raises(InputError), cluster.lease("failing"):
        raise InputError("x", 1)
    with cluster.lease("failing") as waited:
        assert not waited


def test_two_threads_of_one_driver_take_turns(cluster: Cluster) -> None:
    waiting, inside = threading.Event(), []

    def second() -> None:
        with cluster.lease("turns", waiting.set) as waited:
            inside.append(("second", waited))

    with cluster.lease("turns"):
        thread = threading.Thread(target=second)
        thread.start()
        waiting.wait()
        inside.append(("first", False))
    thread.join()
    assert inside == [("first", False), ("second", True)]


def test_a_second_driver_waits_until_the_lease_is_given_back(cluster: Cluster) -> None:
    owner = holder_process("shared")
    assert owner.stdout.readline() == "held False\n"
    said = []

    def release() -> None:
        said.append("waits")
        owner.stdin.write("\n")
        owner.stdin.flush()

    with cluster.lease("shared", release) as waited:
        assert waited
        assert said == ["waits"]
    assert owner.stdout.readline() == "given back\n"
    assert owner.wait() == 0


def test_the_lease_of_a_killed_driver_is_free(cluster: Cluster) -> None:
    owner = holder_process("orphaned")
    assert owner.stdout.readline() == "held False\n"
    with cluster.lease("orphaned", owner.kill) as waited:
        assert waited
    assert owner.wait() == -signal.SIGKILL


def test_leases_outlive_the_death_of_their_book(cluster: Cluster) -> None:
    with cluster.lease("book"):
        book = ray.get_actor("leases", namespace="raysel")
        ray.kill(book, no_restart=False)
        with cluster.lease("another"):
            pass
    with cluster.lease("book") as waited:
        assert not waited


# --- joining and starting ----------------------------------------------------------------------------------------


def test_an_address_where_nobody_listens_is_refused_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        for scheme in ("", "ray://"):
            with pytest.raises(UserError, match=r"no Ray cluster answers at .* \(cluster.address or RAY_ADDRESS\)"):
                refuse_unless_answering(f"{scheme}127.0.0.1:{unused.getsockname()[1]}")
    for address in ("nonsense", "localhost", "host:port", ":6379"):
        with pytest.raises(UserError, match="is not HOST:PORT, 'auto' or 'local'"):
            refuse_unless_answering(address)


def run_python(code: str, home: Path, **variables: str) -> subprocess.CompletedProcess:
    """A fresh Python that knows no Ray and has `home` for its home folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(home), **variables}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


JOIN = "from raysel.cluster import Cluster\nwith Cluster() as cluster: print(cluster.run_task(lambda x: -x, -3))"


def test_a_child_process_joins_through_the_environment(cluster: Cluster, tmp_path: Path) -> None:
    joined = run_python(JOIN, tmp_path, **{name: os.environ[name] for name in os.environ if name.startswith("RAY_")})
    assert joined.stdout == "3\n", joined.stderr


@pytest.mark.slow
def test_joining_without_the_clusters_token_says_what_to_set(cluster: Cluster, tmp_path: Path) -> None:
    refused = run_python(JOIN, tmp_path, RAY_ADDRESS=os.environ["RAY_ADDRESS"])
    assert refused.returncode == 1
    assert "wants a token, and this process has none or another: set RAY_AUTH_MODE=token" in refused.stderr


@pytest.mark.slow
def test_a_ray_of_our_own_leaves_no_token_in_the_home_folder(tmp_path: Path) -> None:
    """With one there, a later `ray start --head` demands it, while `ray job submit` does not send it."""
    code = (
        "import os; from raysel.cluster import Cluster\n"
        "for _ in range(2):\n"
        "    with Cluster(num_cpus=1) as cluster: print(cluster.run_task(lambda x: -x, -3), cluster.cpus())\n"
        "print(os.environ['RAY_AUTH_MODE'])"
    )
    done = run_python(code, tmp_path)
    assert done.stdout.splitlines() == ["3 1", "3 1", "token"], done.stderr
    assert list(tmp_path.iterdir()) == []


OF_LITTLE_MEMORY = """
import os, time
import psutil
from raysel.cluster import Cluster
from raysel.memory_errors import MemoryShortError

memory = psutil.virtual_memory()
line = (memory.total - memory.available) / memory.total / 2
os.environ.update(RAY_memory_usage_threshold=f"{line:.3f}", RAY_memory_monitor_refresh_ms="100")
os.environ["RAY_raylet_start_wait_time_s"] = "120"


def wait():
    time.sleep(60)


class Waits:
    def process(self, item):
        time.sleep(60)


with Cluster(num_cpus=2) as cluster:
    for what in ("task", "actor"):
        try:
            if what == "task":
                cluster.run_task(wait)
            else:
                list(cluster.map_actors(Waits, {}, [{}], workers=1, tries=2))
        except MemoryShortError as short:
            print(what, short.shortage.killed, short.shortage.workers, short)
"""


@pytest.mark.slow
def test_workers_that_rays_memory_monitor_kills_are_told_as_out_of_memory() -> None:
    """On a Ray of its own, which draws the line at half of what is in use already."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run([sys.executable, "-c", OF_LITTLE_MEMORY], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    told = [line for line in done.stdout.splitlines() if line.startswith(("task", "actor"))]
    assert [line.split(" out of memory")[0] for line in told] == ["task True None", "actor True 1"]
    assert all("was killed for its memory (" in line for line in told)
