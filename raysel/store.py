"""Content-addressed artifacts on local disk or object storage.

An artifact lives at `<storage>/<stage>/<fingerprint>/`. Whoever computes it is an *attempt* and writes under
`<address>/<attempt>/`: each shard first, then the shard's marker (`<shard>.done`), which is what makes the shard
count. A later attempt carries on from every finished shard of the earlier ones. Last of all comes
`<address>/manifest.json`, which lists the files that make up the artifact; the first to be written stays. Readers open
what the manifest lists and nothing else, and a shard's name holds a hash of its content, so a race of two attempts or a
writer that outlived its death can do no harm.

What is measured on the spot (a token budget, a tile size) is the attempt's *plan*: chosen once, stored at
`<address>/plan.json`, and used by every later attempt, so that a resumed artifact has the bits of an undisturbed one.
Every marker names the plan it was made under, and a shard of another plan is not carried on from.
"""

import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from raysel import __version__, tables
from raysel.storage import Storage, open_filesystem

SCHEMA_VERSION = 2
MARKER = ".done"
REQUESTS_AT_ONCE = 16  # an object store answers one small read in 20 to 50 ms, however many are under way
SETTLED_NS = 2_000_000_000  # the coarsest clock of a common file system (FAT, some NFS servers) ticks every 2 s


def canonical_json(value: Any) -> bytes:
    """`value` as JSON bytes that are equal for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Any) -> str:
    """The first 24 hexadecimal digits of the SHA-256 of `value`'s canonical JSON."""
    return hashlib.sha256(canonical_json(value)).hexdigest()[:24]


@dataclass(frozen=True)
class ShardRecord:
    """One finished file of an attempt, as its marker and the manifest say it. `path` is relative to the address."""

    path: str
    table: str
    index: int
    rows: int
    bytes: int
    sha256: str
    plan: str
    summary: dict[str, Any] = field(default_factory=dict)


class Store(Storage):
    """A place for artifacts, and for the events of the executions that made them."""

    def artifact(self, stage: str, fingerprint: str) -> "Artifact | None":
        """The published artifact at this address, or None."""
        manifest = self.read_json(f"{stage}/{fingerprint}/manifest.json")
        return None if manifest is None else Artifact(self, stage, fingerprint, manifest)

    def attempt(self, stage: str, fingerprint: str) -> "Attempt":
        """A new attempt at an artifact."""
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
        return Attempt(self, stage, fingerprint, name)

    def write_event_log(self, name: str, events: Sequence[Mapping[str, Any]]) -> None:
        """(Re)write the JSON lines of one execution: `<storage>/events/<name>.jsonl`."""
        self.write_bytes(f"events/{name}.jsonl", b"".join(canonical_json(event) + b"\n" for event in events))

    def events(self) -> Iterator[dict[str, Any]]:
        """Every event of every execution, in the order of their files' names (which begin with the start time)."""
        for info in self.list_files("events"):
            if info.path.endswith(".jsonl"):
                for line in self.read_bytes(self.relative(info.path)).splitlines():
                    yield json.loads(line)


@dataclass(frozen=True)
class Artifact:
    """A published artifact: what its manifest lists."""

    store: Store
    stage: str
    fingerprint: str
    manifest: dict[str, Any]

    @property
    def address(self) -> str:
        return f"{self.stage}/{self.fingerprint}"

    @property
    def summary(self) -> dict[str, Any]:
        return self.manifest["summary"]

    def manifest_digest(self) -> str:
        """SHA-256 of `manifest.json` as it lies in the store; it lists the SHA-256 of every other file."""
        return hashlib.sha256(self.store.read_bytes(f"{self.address}/manifest.json")).hexdigest()

    def lineage(self) -> "list[Artifact]":
        """All the artifacts that this one descends from, each after its own inputs. `FileNotFoundError` if one is gone.

        An input that is an artifact is in the manifest as its address; a user's file or model is a hash of its content.
        """
        found: dict[str, Artifact] = {}

        def visit(artifact: Artifact) -> None:
            for address in artifact.manifest["inputs"].values():
                if "/" in address and address not in found:
                    before = self.store.artifact(*address.split("/"))
                    if before is None:
                        raise FileNotFoundError(
                            f"{self.store.shown(address)}, of which {artifact.address} is made, is gone"
                        )
                    visit(before)
                    found[address] = before

        visit(self)
        return list(found.values())

    def shards(self, table: str) -> list[ShardRecord]:
        """The files of `table`, in shard order."""
        records = [ShardRecord(**entry) for entry in self.manifest["files"] if entry["table"] == table]
        return sorted(records, key=lambda record: record.index)

    def rows(self, table: str) -> int:
        return sum(shard.rows for shard in self.shards(table))

    def read_shard(self, shard: ShardRecord, columns: Sequence[str] | None = None) -> pa.Table:
        path = self.store.full(f"{self.address}/{shard.path}")
        return pq.read_table(path, columns=columns, filesystem=self.store.filesystem, partitioning=None)

    def read(self, table: str, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:
        """The whole of `table`, or the given columns and the rows that pass `filters` (as `pq.read_table` takes)."""
        paths = [self.store.full(f"{self.address}/{shard.path}") for shard in self.shards(table)]
        parts = [
            pq.read_table(path, columns=columns, filters=filters, filesystem=self.store.filesystem, partitioning=None)
            for path in paths
        ]
        if not parts:
            raise FileNotFoundError(f"artifact {self.address} has no table {table!r}")
        return pa.concat_tables(parts)

    def read_array(self, shard: ShardRecord) -> np.ndarray:
        with self.store.filesystem.open_input_file(self.store.full(f"{self.address}/{shard.path}")) as stream:
            return np.load(stream, allow_pickle=False)

    def read_rows(self, table: str, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
        """The rows of `table` from `start` to before `stop`; only the files that hold them are read."""
        return pa.concat_tables(
            self.read_shard(shard, columns).slice(first, count)
            for shard, first, count in overlapping(self.shards(table), start, stop)
        )

    def local_folder(self, table: str, scratch: Path) -> Path:
        """A local folder with the files of `table` (a model, an adapter); remote ones come down below `scratch`."""
        shards = self.shards(table)
        if not shards:
            raise FileNotFoundError(f"artifact {self.address} has no table {table!r}")
        if self.store.is_local:
            return Path(self.store.full(f"{self.address}/{shards[0].path}")).parent
        folder = scratch / self.stage / self.fingerprint / table
        folder.mkdir(parents=True, exist_ok=True)
        for shard in shards:
            target = folder / PurePosixPath(shard.path).name
            if not target.exists() or target.stat().st_size != shard.bytes:
                temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.tmp")
                source = self.store.full(f"{self.address}/{shard.path}")
                fs.copy_files(source, str(temporary), self.store.filesystem, fs.LocalFileSystem())
                os.replace(temporary, target)
        return folder


def overlapping(shards: Sequence[ShardRecord], start: int, stop: int) -> Iterator[tuple[ShardRecord, int, int]]:
    """The shards that hold the table's rows from `start` to before `stop`, each with the first of them and how many."""
    before = 0
    for record in shards:
        first, last = max(start - before, 0), min(stop - before, record.rows)
        if first < last:
            yield record, first, last - first
        before += record.rows


@dataclass(frozen=True)
class Attempt:
    """One try at an artifact. Sent to workers, who write shards through it; the driver publishes."""

    store: Store
    stage: str
    fingerprint: str
    name: str
    started: float = field(default_factory=time.time)

    @property
    def address(self) -> str:
        return f"{self.stage}/{self.fingerprint}"

    def plan(
        self, choose: Callable[[], dict[str, Any]], given: Mapping[str, Any] | None = None, *, name: str = "plan"
    ) -> dict[str, Any]:
        """The stored plan of this artifact; where there is none yet, `choose()` makes it and it is stored.

        `given` is what the user asked for (None: left open). Another wish has a plan of its own, so that a token budget
        that was too large for the memory can be lowered. Attempts that choose at once all get the plan of the one that
        stored it first. `name`: of the file; what workers measure is a plan beside the driver's.
        """
        asked = {key: value for key, value in (given or {}).items() if value is not None}
        path = f"{self.address}/{name}{'-' + digest(asked)[:8] if asked else ''}.json"
        if (plan := self.store.read_json(path)) is not None:
            return plan
        self.store.write_json(path, choose(), once=True)
        stored: Any = self.store.read_json(path)
        return stored

    def finished(self, plan: Mapping[str, Any] | None = None) -> dict[tuple[str, int], ShardRecord]:
        """Shards of this plan that some attempt finished, by (table, index): marked, and the file's size is right."""
        wanted = digest(plan)
        prefix = self.store.full(self.address)
        sizes = {info.path.removeprefix(f"{prefix}/"): info.size for info in self.store.list_files(self.address)}
        marked = [path for path in sizes if path.endswith(MARKER) and path.removesuffix(MARKER) in sizes]
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            records = list(pool.map(self._read_marker, marked))
        found: dict[tuple[str, int], ShardRecord] = {}
        for record in records:
            if record is not None and record.plan == wanted and sizes.get(record.path) == record.bytes:
                found.setdefault((record.table, record.index), record)
        return found

    def _read_marker(self, path: str) -> ShardRecord | None:
        """What the marker says; None where it is gone since or unreadable: its shard is then made again."""
        try:
            return ShardRecord(**json.loads(self.store.read_bytes(f"{self.address}/{path}")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def unpublished(self, records: Iterable[ShardRecord], summary: Mapping[str, Any] | None = None) -> "Artifact":
        """What the stage has made so far, read as an artifact is."""
        files = [asdict(record) for record in records]
        return Artifact(self.store, self.stage, self.fingerprint, {"files": files, "summary": dict(summary or {})})

    def markers(self) -> list[str]:
        """Paths (relative to the address) of the shard markers that attempts at this artifact have left."""
        prefix = self.store.full(self.address)
        paths = [info.path.removeprefix(f"{prefix}/") for info in self.store.list_files(self.address)]
        return [path for path in paths if path.endswith(MARKER)]

    def discard_unlisted(self, artifact: "Artifact") -> None:
        """Remove what this attempt wrote on the way (partial sums, checkpoints) and the manifest does not list."""
        listed = {entry["path"] for entry in artifact.manifest["files"]}
        for info in self.store.list_files(f"{self.address}/{self.name}"):
            path = info.path.removeprefix(f"{self.store.full(self.address)}/")
            if path not in listed and path.removesuffix(MARKER) not in listed:
                self.store.filesystem.delete_file(info.path)

    def write_table(
        self,
        table: str,
        index: int,
        rows: pa.Table,
        *,
        plan: Mapping[str, Any] | None = None,
        summary: dict[str, Any] | None = None,
    ) -> ShardRecord:
        """Write one shard of a table that passes between stages, then its marker; `SchemaError` on wrong columns."""
        tables.check(table, rows.schema)
        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink, compression="zstd")
        return self._write(table, index, None, ".parquet", sink.getvalue(), rows.num_rows, plan, summary)

    def write_array(
        self,
        table: str,
        index: int,
        array: np.ndarray,
        *,
        rows: int = 0,
        plan: Mapping[str, Any] | None = None,
        summary: dict[str, Any] | None = None,
    ) -> ShardRecord:
        """Write one array that a later step of the same stage reads back with `read_array`, then its marker."""
        sink = pa.BufferOutputStream()
        np.save(sink, array, allow_pickle=False)
        return self._write(table, index, None, ".npy", sink.getvalue(), rows, plan, summary)

    def read_array(self, record: ShardRecord) -> np.ndarray:
        with self.open_file(record) as stream:
            return np.load(stream, allow_pickle=False)

    def read_table(self, record: ShardRecord, columns: Sequence[str] | None = None) -> pa.Table:
        path = self.store.full(f"{self.address}/{record.path}")
        return pq.read_table(path, columns=columns, filesystem=self.store.filesystem, partitioning=None)

    def open_file(self, record: ShardRecord) -> pa.NativeFile:
        """A finished file of this or an earlier attempt, to read any part of."""
        return self.store.filesystem.open_input_file(self.store.full(f"{self.address}/{record.path}"))

    def read_bytes(self, record: ShardRecord) -> bytes:
        """The content of a finished file of this or an earlier attempt."""
        return self.store.read_bytes(f"{self.address}/{record.path}")

    def write_file(
        self,
        table: str,
        index: int,
        name: str,
        data: bytes | pa.Buffer,
        *,
        plan: Mapping[str, Any] | None = None,
        summary: dict[str, Any] | None = None,
    ) -> ShardRecord:
        """Write any file below a folder named for `table`, then its marker."""
        return self._write(table, index, f"{table}/{name}", "", pa.py_buffer(data), 0, plan, summary)

    def write_folder(self, table: str, folder: Path) -> list[ShardRecord]:
        """Write every file directly in `folder` (a saved model), in order of name."""
        records = []
        for index, path in enumerate(sorted(path for path in folder.iterdir() if path.is_file())):
            with pa.memory_map(str(path)) as file:
                records.append(self.write_file(table, index, path.name, file.read_buffer()))
        return records

    def _write(
        self,
        table: str,
        index: int,
        name: str | None,
        suffix: str,
        data: pa.Buffer,
        rows: int,
        plan: Mapping[str, Any] | None,
        summary: dict[str, Any] | None,
    ) -> ShardRecord:
        content = hashlib.sha256(data).hexdigest()
        path = f"{self.name}/{name or f'{table}-{index:05d}-{content[:8]}{suffix}'}"
        record = ShardRecord(path, table, index, rows, data.size, content, digest(plan), summary or {})
        marker = canonical_json(asdict(record))
        self.store.write_bytes(f"{self.address}/{path}", data)
        self.store.write_bytes(f"{self.address}/{path}{MARKER}", marker)
        return record

    def publish(
        self,
        records: Iterable[ShardRecord],
        *,
        settings: Any,
        inputs: Mapping[str, str],
        version: int,
        summary: Mapping[str, Any],
        versions: Mapping[str, str] | None = None,
        devices: Mapping[str, int] | None = None,
    ) -> Artifact:
        """Write the manifest: from now on the artifact exists, and it is exactly `records`. devices: of the cluster
        that made it, by kind (`CPU`, `GPU`).

        Where another attempt published first, its artifact stays and is what comes back. `OSError` if a file is not
        there whole, `ValueError` if a shard is listed twice or the summary is not plain JSON.
        """
        listed = sorted(records, key=lambda record: (record.table, record.index))
        rows: dict[str, int] = {}
        infos = self.store.filesystem.get_file_info([self.store.full(f"{self.address}/{item.path}") for item in listed])
        for record, before, info in zip(listed, [None, *listed], infos, strict=False):
            if before and (before.table, before.index) == (record.table, record.index):
                raise ValueError(f"{self.address}: shard {record.index} of {record.table} is listed twice")
            if info.size != record.bytes:
                raise OSError(f"{self.store.shown(record.path)} has {info.size} bytes, not the {record.bytes} written")
            rows[record.table] = rows.get(record.table, 0) + record.rows
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "stage": self.stage,
            "fingerprint": self.fingerprint,
            "stage_version": version,
            "settings": settings,
            "inputs": dict(inputs),
            "files": [asdict(record) for record in listed],
            "rows": rows,
            "summary": dict(summary),
            "attempt": self.name,
            "wall_seconds": round(time.time() - self.started, 3),
            "published": datetime.now(UTC).isoformat(timespec="seconds"),
            "devices": dict(devices or {}),
            "versions": {"raysel": __version__, **(versions or {})},
        }
        path = f"{self.address}/manifest.json"
        self.store.write_json(path, manifest, once=True)
        published = self.store.artifact(self.stage, self.fingerprint)
        if published is None:
            raise FileNotFoundError(f"{self.store.shown(path)} is gone again")
        return published


def file_digest(store: Store, location: str) -> str:
    """SHA-256 of a user's file. A local file that has not changed since (size, times, inode) is not read again.

    What was written in the last two seconds is not remembered: a clock that ticks so rarely would not show the next
    change.
    """
    filesystem, path = open_filesystem(location)
    known_at = f"digests/{digest(path)}.json"
    identity: list[int] = []
    if isinstance(filesystem, fs.LocalFileSystem):
        identity = _identity(path)
        known = store.read_json(known_at)
        if known and known["identity"] == identity:
            return known["sha256"]
    content = hashlib.sha256()
    with filesystem.open_input_stream(path, compression=None) as stream:
        while block := stream.read(1 << 20):
            content.update(block)
    if identity and identity == _identity(path) and time.time_ns() - os.stat(path).st_mtime_ns > SETTLED_NS:
        store.write_json(known_at, {"path": path, "identity": identity, "sha256": content.hexdigest()})
    return content.hexdigest()


def _identity(path: str) -> list[int]:
    """Changes whenever the file's content does: the change time moves even where the modification time is put back."""
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
