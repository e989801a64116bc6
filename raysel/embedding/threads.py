"""Several batches through a model at the same time on CPUs, one thread for each."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Batch = TypeVar("Batch")
Lane = TypeVar("Lane")


def one_thread_each(lanes: Sequence[Lane], batches: Iterable[Batch], work: Callable[[Lane, Batch], None]) -> None:
    """`work(lane, batch)` once for every batch, in turn by whichever lane is free; what one raises ends them all.

    A lane is what a thread needs for itself. In it torch computes with one thread: its own threads divide the sums of a
    batch, so that the bits would depend on how many they are.
    """
    waiting = deque(batches)

    def go_on(lane: Lane) -> None:
        torch.set_num_threads(1)
        try:
            while True:
                try:
                    batch = waiting.popleft()
                except IndexError:
                    return
                work(lane, batch)
        except BaseException:
            waiting.clear()
            raise

    threads = torch.get_num_threads()
    with ThreadPoolExecutor(len(lanes)) as pool:
        running = [pool.submit(go_on, lane) for lane in lanes]
        try:
            for one in running:
                one.result()
        finally:
            waiting.clear()
            torch.set_num_threads(threads)  # what threads begun later would otherwise inherit from ours
