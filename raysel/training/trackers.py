"""Experiment trackers: where the metrics of training can be followed besides the run's own log.

A tracker is made by `(folder) -> ExperimentTracker` and found by its name among the installed packages' entry points of
group `raysel.trackers`; a package of the user's own can add one for any service.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from operator import methodcaller
from pathlib import Path
from typing import Any, Protocol

GROUP = "raysel.trackers"


class ExperimentTracker(Protocol):
    """Gets every metric as it comes, in the process of the command that the user started."""

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """`scalars` by name, e.g. `loss` or `loss_by_lang/fr`. After a worker's death, steps come a second time."""

    def close(self) -> None:
        """Nothing more comes."""


class TensorBoard:
    """Event files in `folder`, for `tensorboard --logdir`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: Any = None
        self.latest = -1
        self.files = 0

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        from tensorboardX import SummaryWriter

        if self.writer is None or step < self.latest:
            # What was written of these steps before the run carried on from a checkpoint is shown no more.
            self.close()
            self.files += 1
            # A file's name has the second; within it, the number keeps them apart and in order.
            self.writer = SummaryWriter(
                logdir=str(self.folder), purge_step=max(step, 0), filename_suffix=f".{self.files:03d}"
            )
        self.latest = step
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, max(step, 0))

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def refuse_unknown_trackers(names: Sequence[str]) -> None:
    known = {point.name for point in entry_points(group=GROUP)} if names else set()
    for name in names:
        if name not in known:
            raise ValueError(
                f"there is no tracker {name!r} here; there are {', '.join(sorted(known))}, and any that an installed "
                f"package offers as an entry point of group {GROUP}"
            )


class Trackers:
    """Several trackers. One that fails (a full disk, a service out of reach) is left out from then on, with a note."""

    def __init__(self, opened: Mapping[str, ExperimentTracker], note: Callable[[str], None]) -> None:
        self.opened, self.note = dict(opened), note

    def log(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Lines of the log, in the order in which they came."""
        for line in lines:
            self._each(methodcaller("log", line["step"], scalars_of(line)))

    def close(self) -> None:
        self._each(methodcaller("close"))

    def _each(self, what: Callable[[ExperimentTracker], None]) -> None:
        for name, tracker in list(self.opened.items()):
            try:
                what(tracker)
            except OSError as error:
                del self.opened[name]
                self.note(f"tracker {name} is left out from here on: {error}")


@contextmanager
def open_trackers(names: Sequence[str], folder: Path, note: Callable[[str], None]) -> Iterator[Trackers]:
    """The trackers of these names, each with the folder `folder`/<name>; closed when the block ends."""
    points = {name: entry_points(group=GROUP, name=name) for name in names}
    trackers = Trackers({name: point.load()(folder / name) for name, [point] in points.items()}, note)
    try:
        yield trackers
    finally:
        trackers.close()


def scalars_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers in a line of the log by name; those of a group as `<metric>/<group>`."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{group}": number for group, number in value.items() if number is not None}
        elif isinstance(value, int | float) and name != "step":
            found[name] = value
    return found
