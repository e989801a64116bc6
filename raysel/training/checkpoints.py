"""Checkpoints by parameter name: weights, Adam moments and the log, whole or not there at all.

A checkpoint of step n is the folder `checkpoint-<n>` of an attempt. Each worker writes the state of its share of the
parameters, in float32 and under their names, so that a checkpoint fits any number of workers and any ZeRO stage. When
all have written theirs, the first worker writes `whole.json`, which names the parts: that is what makes it count.
There is no random state in it: every step seeds itself.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch
import torch.distributed
from safetensors.torch import load, save

from raysel.store import Attempt, ShardRecord
from raysel.training.engine import trained_parameters
from raysel.training.loss import token_losses

MOMENTS = ("exp_avg", "exp_avg_sq")
KEPT = 2


class CheckpointError(OSError):
    """A checkpoint that a worker could not write; every worker raises it."""


class Checkpoints:
    """The checkpoints of one artifact: written by this attempt, found wherever an attempt left them."""

    def __init__(self, attempt: Attempt, rank: int, world: int) -> None:
        self.attempt, self.rank, self.world = attempt, rank, world

    def newest(self) -> dict[str, Any] | None:
        """The newest whole checkpoint of any attempt, for every worker; `_complete` has what is in it."""
        found: list[Any] = [self._find() if self.rank == 0 else None]
        torch.distributed.broadcast_object_list(found, src=0)
        return found[0]

    def _find(self) -> dict[str, Any] | None:
        store, address = self.attempt.store, self.attempt.address
        finished = self.attempt.finished()
        for (table, _), record in sorted(finished.items(), reverse=True):
            if table.startswith("checkpoint-") and record.path.endswith("/whole.json"):
                whole = json.loads(self.attempt.read_bytes(record))
                parts = [ShardRecord(**part) for part in whole["parts"]]
                infos = store.filesystem.get_file_info([store.full(f"{address}/{part.path}") for part in parts])
                if all(info.size == part.bytes for info, part in zip(infos, parts, strict=True)):
                    return whole
        return None

    def write(self, engine: Any, steps: int, log: list[dict[str, Any]], heldout: list[dict[str, Any]]) -> None:
        """Write the state after `steps` steps, then forget this attempt's older checkpoints but one.

        `CheckpointError` on every worker where one of them cannot write.
        """
        table = f"checkpoint-{steps:08d}"
        part = save(self._own_state(engine))
        name = f"{self.rank:05d}-of-{self.world:05d}.safetensors"
        records = self._together(lambda: asdict(self.attempt.write_file(table, 1 + self.rank, name, part)))
        whole = {"steps": steps, "updates": len(log), "parts": records, "log": log, "heldout": heldout}
        self._together(lambda: self._complete(table, whole))

    def _complete(self, table: str, whole: dict[str, Any]) -> None:
        """`whole`: `steps` and `updates` done, `parts` (the workers' files), `log` and `heldout` (as in `Outcome`)."""
        if self.rank == 0:
            self.attempt.write_file(table, 0, "whole.json", json.dumps(whole).encode())
            self._forget_old()

    def _together(self, write: Callable[[], Any]) -> list[Any]:
        """What `write` gave on each worker. Where it fails on one of them (a full disk), `CheckpointError` on all.

        Alone, the others would wait for that one until the collective operation's time is over.
        """
        outcome: tuple[Any, OSError | None]
        try:
            outcome = write(), None
        except OSError as error:
            outcome = None, error
        outcomes: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(outcomes, outcome)
        failed = next((error for _, error in outcomes if error is not None), None)
        if failed is not None:
            raise CheckpointError(failed.errno, failed.strerror, failed.filename) from failed
        return [result for result, _ in outcomes]

    def _forget_old(self) -> None:
        store, folder = self.attempt.store, f"{self.attempt.address}/{self.attempt.name}"
        files = [store.relative(info.path).removeprefix(f"{folder}/") for info in store.list_files(folder)]
        tables = sorted({path.split("/")[0] for path in files if path.startswith("checkpoint-")})
        for table in tables[:-KEPT]:
            store.delete_folder(f"{folder}/{table}")

    def _own_state(self, engine: Any) -> dict[str, torch.Tensor]:
        _link_moments(engine)
        own = {}
        for number, (name, parameter) in enumerate(trained_parameters(engine.module).items()):
            for kind in ("weight", *MOMENTS):
                state = _full_state(engine, parameter, kind)
                if number % self.world == self.rank:
                    own[f"{kind}/{name}"] = state.detach().to("cpu", torch.float32, copy=True).contiguous()
        return own

    def restore_weights(self, model: Any, whole: dict[str, Any]) -> None:
        """Put the weights into `model`, before the engine is made from it."""
        import deepspeed

        parameters = trained_parameters(model)
        for state in self._parts(whole):
            for key, value in state.items():
                kind, _, name = key.partition("/")
                if kind == "weight":
                    parameter = parameters[name]
                    sharded = hasattr(parameter, "ds_id")
                    with (
                        deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=sharded),
                        torch.no_grad(),
                    ):
                        parameter.copy_(value)

    def restore_optimizer(self, engine: Any, whole: dict[str, Any], unlearned: dict[str, torch.Tensor]) -> None:
        """Put float32 weights, Adam moments and Adam's count of steps into the engine.

        Torch makes an optimizer's state at its first step, so one is taken with a learning rate of 0 on a row of which
        nothing is learned: that changes no weight. Then the state is written over.
        """
        for group in engine.optimizer.param_groups:
            group["lr"] = 0.0
        engine.set_gradient_accumulation_boundary(True)
        engine.backward(token_losses(engine, unlearned)[0].sum())
        engine.step()
        _link_moments(engine)
        parameters = trained_parameters(engine.module)
        for state in self._parts(whole):
            for key, value in state.items():
                kind, _, name = key.partition("/")
                _set_full_state(engine, parameters[name], kind, value.to(engine.device))
        for entry in engine.basic_optimizer.state.values():
            if "step" in entry:
                entry["step"].fill_(whole["updates"])

    def _parts(self, whole: dict[str, Any]) -> Iterator[dict[str, torch.Tensor]]:
        for part in whole["parts"]:
            # Sorted: setting a sharded weight is a collective operation, and the order of `load` is random.
            yield dict(sorted(load(self.attempt.read_bytes(ShardRecord(**part))).items()))


def _link_moments(engine: Any) -> None:
    """Link them anew: DeepSpeed 0.19 does so when the first parameter group has stepped, and only once."""
    if engine.zero_optimization_stage() in (1, 2):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def _full_state(engine: Any, parameter: torch.nn.Parameter, kind: str) -> torch.Tensor:
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if engine.zero_optimization_stage() == 0:
        return parameter if kind == "weight" else engine.optimizer.state[parameter][kind]
    if kind == "weight":
        return safe_get_full_fp32_param(parameter)
    return safe_get_full_optimizer_state(parameter, kind)


def _set_full_state(engine: Any, parameter: torch.nn.Parameter, kind: str, value: torch.Tensor) -> None:
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    if engine.zero_optimization_stage() == 0:
        target = parameter if kind == "weight" else engine.optimizer.state[parameter][kind]
        target.data.copy_(value)
    elif kind == "weight":
        safe_set_full_fp32_param(parameter, value)
    else:
        safe_set_full_optimizer_state(parameter, value, kind)
