"""What a run's artifacts cost to make, and how much of that was not spent again."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from raysel.report.provenance import Published

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class StepCost:
    """seconds: wall time of the attempt that published; devices: of the cluster, as (2, "GPU"), None where the manifest
    does not say. reused: whether the run found it in the store, None where that is not known. carried_on: the share
    of its bytes that earlier attempts, cut short, had written. same_as: the step that made this artifact too."""

    name: str
    seconds: float
    devices: tuple[int, str] | None
    reused: bool | None
    carried_on: float
    same_as: str | None = None

    @property
    def device_hours(self) -> float | None:
        """Wall time x the devices of the cluster, at work or not."""
        return None if self.devices is None else self.devices[0] * self.seconds / SECONDS_PER_HOUR


@dataclass(frozen=True)
class Cost:
    """Each artifact counts once, under the name of the first step that has it."""

    steps: list[StepCost]

    @property
    def made(self) -> list[StepCost]:
        return [step for step in self.steps if step.same_as is None]

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.made)

    @property
    def reused(self) -> list[StepCost] | None:
        """The artifacts that were in the store before; None where that is not known."""
        if any(step.reused is None for step in self.made):
            return None
        return [step for step in self.made if step.reused]

    @property
    def reused_seconds(self) -> float:
        return sum(step.seconds for step in self.reused or [])

    @property
    def device_hours(self) -> dict[str, float]:
        """By kind of device (`CPU`, `GPU`), of the steps whose devices are known."""
        hours: dict[str, float] = {}
        for step in self.made:
            if step.devices is not None and step.device_hours is not None:
                hours[step.devices[1]] = hours.get(step.devices[1], 0.0) + step.device_hours
        return hours

    @property
    def of_unknown_devices(self) -> list[StepCost]:
        return [step for step in self.made if step.devices is None]


def cost(published: Sequence[Published], reused: Collection[str] | None) -> Cost:
    """reused: the names of the steps whose artifacts were there before the run; None where nobody says."""
    first: dict[str, str] = {}
    steps = []
    for step in published:
        maker = first.setdefault(step.address, step.name)
        steps.append(
            StepCost(
                name=step.name,
                seconds=step.manifest["wall_seconds"],
                devices=_devices(step),
                reused=None if reused is None else step.name in reused,
                carried_on=_carried_on(step),
                same_as=None if maker == step.name else maker,
            )
        )
    return Cost(steps)


def _devices(step: Published) -> tuple[int, str] | None:
    """The GPUs of the cluster, or its CPUs where it has none."""
    devices = step.manifest.get("devices") or {}
    return next(((devices[kind], kind) for kind in ("GPU", "CPU") if devices.get(kind)), None)


def _carried_on(step: Published) -> float:
    total = sum(entry["bytes"] for entry in step.manifest["files"])
    earlier = sum(
        entry["bytes"]
        for entry in step.manifest["files"]
        if entry["path"].partition("/")[0] != step.manifest["attempt"]
    )
    return earlier / total if total else 0.0
