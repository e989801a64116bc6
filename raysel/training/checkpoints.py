"""Checkpoints by parameter name: weights, Adam moments and the log, whole or not there at all.

A checkpoint of step n is the folder `checkpoint-<n>` of an attempt. Each worker writes the state of its share of the
parameters, in float32 and under their names, so that a checkpoint fits any number of workers and any ZeRO stage. When
all have written theirs, the first worker writes `whole.json`, which names the parts: that is what makes it count.
There is no random state in it: every step seeds itself.

The log, which says of each step what it trained on, is written piece by piece, as table `trained`: with each checkpoint
the steps since the one before. `whole.json` names all pieces up to its step.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from io import BytesIO
from typing import Any

import torch
import torch.distributed
from safetensors.torch import save

from raysel.models.weights import ReadRange, SafetensorsFile
from raysel.store import Attempt, ShardRecord
from raysel.training.engine import trained_parameters
from raysel.training.loss import token_losses
from raysel.training.partitioned import own_range

MOMENTS = ("exp_avg", "exp_avg_sq")
# Bytes of a part up to which it is read at once: on a remote storage every read is a request.
READ_WHOLE = 1 << 28


class CheckpointError(OSError):
    """A checkpoint that a worker could not write; every worker raises it."""


class Checkpoints:
    """The checkpoints of one artifact: written by this attempt, found wherever an attempt left them.

    The last `kept` stay, and of those before them the one with the least loss on what is held out.
    """

    def __init__(self, attempt: Attempt, rank: int, world: int, *, kept: int) -> None:
        self.attempt, self.rank, self.world, self.kept = attempt, rank, world, kept
        self.log_pieces: list[dict[str, Any]] = []
        self.lines_logged = 0

    def newest(self) -> dict[str, Any] | None:
        """The newest whole checkpoint of any attempt, for every worker; what is in it says `_complete`.

        Its `log` is the log itself, and the next checkpoint goes on from it.
        """
        found: list[Any] = [self._find() if self.rank == 0 else None]
        torch.distributed.broadcast_object_list(found, src=0)
        [whole] = found
        if whole is not None:
            self.log_pieces = whole["log"]
            pieces = [self.attempt.read_bytes(ShardRecord(**piece)) for piece in whole["log"]]
            whole = whole | {"log": [json.loads(line) for piece in pieces for line in piece.splitlines()]}
            self.lines_logged = len(whole["log"])
        return whole

    def of_steps(self, steps: int) -> dict[str, Any]:
        """The whole checkpoint after so many steps, which must be there."""
        found: list[Any] = [self._find(steps) if self.rank == 0 else None]
        torch.distributed.broadcast_object_list(found, src=0)
        if found[0] is None:
            raise FileNotFoundError(f"{self.attempt.address}: the checkpoint after {steps} steps is gone")
        return found[0]

    def _find(self, steps: int | None = None) -> dict[str, Any] | None:
        store, address = self.attempt.store, self.attempt.address
        for (table, _), record in sorted(self.attempt.finished().items(), reverse=True):
            wanted = table.startswith("checkpoint-") if steps is None else table == _table(steps)
            if wanted and record.path.endswith("/whole.json"):
                whole = json.loads(self.attempt.read_bytes(record))
                files = [ShardRecord(**file) for file in [*whole["parts"], *whole["log"]]]
                infos = store.filesystem.get_file_info([store.full(f"{address}/{file.path}") for file in files])
                if all(info.size == file.bytes for info, file in zip(infos, files, strict=True)):
                    return whole
        return None

    def write(self, engine: Any, steps: int, log: list[dict[str, Any]], heldout: list[dict[str, Any]]) -> None:
        """Write the state after `steps` steps, then forget what of this attempt's older ones is not to be kept.

        `CheckpointError` on every worker where one of them cannot write.
        """
        updates = sum("skipped" not in line for line in log)
        # Before the first update there are no moments.
        part = save(self._own_state(engine, ("weight", *MOMENTS) if updates else ("weight",)))
        name = f"{self.rank:05d}-of-{self.world:05d}.safetensors"
        records = self._together(lambda: asdict(self.attempt.write_file(_table(steps), 1 + self.rank, name, part)))
        whole = {"steps": steps, "updates": updates, "parts": records, "heldout": heldout}
        self._together(lambda: self._complete(whole, log[self.lines_logged :]))

    def _complete(self, whole: dict[str, Any], since: list[dict[str, Any]]) -> None:
        """`whole`: `steps` and `updates` done, `parts` (the workers' files), `log` (its pieces) and `heldout` (as in
        `Outcome`). `since`: the log's lines since the last piece."""
        if self.rank == 0:
            lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in since)
            name = f"until-{whole['steps']:08d}.jsonl"
            piece = self.attempt.write_file("trained", whole["steps"], name, lines.encode())
            whole["log"] = [*self.log_pieces, asdict(piece)]
            self.attempt.write_file(_table(whole["steps"]), 0, "whole.json", json.dumps(whole).encode())
            self.log_pieces = whole["log"]
            self.lines_logged += len(since)
            self._forget_old(whole["steps"], best_steps(whole["heldout"]))

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

    def _forget_old(self, newest: int, best: int | None) -> None:
        store, folder = self.attempt.store, f"{self.attempt.address}/{self.attempt.name}"
        files = [store.relative(info.path).removeprefix(f"{folder}/") for info in store.list_files(folder)]
        tables = sorted({path.split("/")[0] for path in files if path.startswith("checkpoint-")})
        # What is numbered higher was begun and never ended, before a worker was lost.
        so_far = [table for table in tables if table <= _table(newest)]
        for table in so_far[: -self.kept]:
            if best is None or table != _table(best):
                store.delete_folder(f"{folder}/{table}")

    def _own_state(self, engine: Any, kinds: tuple[str, ...]) -> dict[str, torch.Tensor]:
        if len(kinds) > 1:
            _link_moments(engine)
        own = {}
        for number, (name, parameter) in enumerate(trained_parameters(engine.module).items()):
            for kind in kinds:
                state = _full_state(engine, parameter, kind)
                if number % self.world == self.rank:
                    own[f"{kind}/{name}"] = state.detach().to("cpu", torch.float32, copy=True).contiguous()
        return own

    def restore_weights(self, model: Any, whole: dict[str, Any]) -> None:
        """Put the weights into `model`, before the engine is made from it."""
        import deepspeed

        parameters = trained_parameters(model)
        for kind, name, read in self._saved(whole):
            if kind == "weight":
                parameter = parameters[name]
                sharded = hasattr(parameter, "ds_id")
                with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=sharded), torch.no_grad():
                    if self.rank == 0 or not sharded:
                        parameter.copy_(read().view_as(parameter))

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
        for kind, name, read in self._saved(whole):
            _set_full_state(engine, parameters[name], kind, read)
        for entry in engine.basic_optimizer.state.values():
            if "step" in entry:
                entry["step"].fill_(whole["updates"])

    def _saved(self, whole: dict[str, Any]) -> Iterator[tuple[str, str, ReadRange]]:
        """Of everything saved its kind, its parameter's name, and how to read it or a range of it."""
        for part in whole["parts"]:
            record = ShardRecord(**part)
            small = record.bytes <= READ_WHOLE
            with BytesIO(self.attempt.read_bytes(record)) if small else self.attempt.open_file(record) as stream:
                file = SafetensorsFile(stream)
                # In one order: setting a sharded weight is a collective operation.
                for key in sorted(file.header):
                    kind, _, name = key.partition("/")
                    yield kind, name, partial(file.read, key)


def best_steps(heldout: list[dict[str, Any]]) -> int | None:
    """After how many steps of training the loss on what is held out was least; None where it was never measured."""
    measured = [entry for entry in heldout if entry["steps"] and entry["loss"] is not None]
    return min(measured, key=lambda entry: entry["loss"])["steps"] if measured else None


def _table(steps: int) -> str:
    return f"checkpoint-{steps:08d}"


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


def _set_full_state(engine: Any, parameter: Any, kind: str, read: ReadRange) -> None:
    from deepspeed.utils import (
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    if engine.zero_optimization_stage() == 3:
        # Given whole, DeepSpeed 0.19 fails on the last worker where the weights cannot be divided evenly.
        start, stop, length = own_range(parameter.ds_numel)
        own = torch.zeros(length, device=engine.device)
        own[: stop - start] = read(start, stop)
        if kind == "weight":
            safe_set_local_fp32_param(parameter, own)
        else:
            safe_set_local_optimizer_state(parameter, own, kind)
        return
    value = read().view_as(parameter).to(engine.device)
    if engine.zero_optimization_stage() == 0:
        target = parameter if kind == "weight" else engine.optimizer.state[parameter][kind]
        target.data.copy_(value)
    elif kind == "weight":
        safe_set_full_fp32_param(parameter, value)
    else:
        safe_set_full_optimizer_state(parameter, value, kind)
