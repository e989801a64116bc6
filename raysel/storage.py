"""A folder on local disk or object storage: files written whole or not at all, JSON, listings."""

import contextlib
import errno
import json
import os
import time
import uuid
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from pyarrow import fs

from raysel.errors import UserError

REREAD_SECONDS = (0.05, 0.2, 1.0)
NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}


def open_filesystem(location: str) -> tuple[fs.FileSystem, str]:
    """The filesystem and the path in it of a local path or a URI such as `s3://bucket/prefix?endpoint_override=...`."""
    if "://" not in location:
        return fs.LocalFileSystem(), str(Path(location).expanduser().resolve())
    try:
        filesystem, path = fs.FileSystem.from_uri(location)
    except (pa.ArrowInvalid, ValueError) as error:
        raise UserError(f"{location!r} is not a place that can be read or written: {error}") from error
    if not path:
        raise UserError(f"{location!r} names no bucket; write {location.split('://')[0]}://BUCKET/PREFIX")
    return filesystem, path


@dataclass(frozen=True)
class Storage:
    """A folder on local disk or at any `pyarrow.fs` URI.

    Cheap to send to workers: only the URI travels, and each process opens it with the credentials of its own
    environment. A relative folder is made absolute at once, because a worker has another working directory.
    """

    uri: str

    def __post_init__(self) -> None:
        if "://" not in self.uri:
            object.__setattr__(self, "uri", open_filesystem(self.uri)[1])

    @cached_property
    def _place(self) -> tuple[fs.FileSystem, str]:
        filesystem, root = open_filesystem(self.uri)
        return filesystem, root.rstrip("/")

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @property
    def filesystem(self) -> fs.FileSystem:
        return self._place[0]

    @property
    def root(self) -> str:
        return self._place[1]

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def full(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    def shown(self, path: str) -> str:
        """`path` as a person can open it: absolute on local disk, with the scheme elsewhere; never with credentials."""
        return self.full(path) if self.is_local else f"{self.uri.split('://')[0]}://{self.full(path)}"

    def read_bytes(self, path: str) -> bytes:
        with self.filesystem.open_input_file(self.full(path)) as stream:
            return stream.read()

    def read_json(self, path: str) -> Any | None:
        """The JSON at `path`, or None where there is none."""
        for seconds in (*REREAD_SECONDS, None):
            try:
                return json.loads(self.read_bytes(path))
            except FileNotFoundError:
                return None
            except ValueError:
                # Object storage is asked for the size, then for the bytes: of a file that is written again in between
                # come the new bytes up to the old size.
                if self.is_local or seconds is None:
                    raise
                time.sleep(seconds)
        raise AssertionError

    def write_bytes(self, path: str, data: bytes | memoryview | pa.Buffer, *, once: bool = False) -> None:
        """Write a file whole or not at all: a reader sees the old content or the new, never a part.

        With `once`, a file that is there already stays. On a local disk exactly one of several writers then wins;
        object storage and disks without hard links can only look and then write: of writers within one moment the
        last wins.
        """
        if self.is_local:
            self._write_local(self.full(path), data, once)
        elif not (once and self.filesystem.get_file_info(self.full(path)).type == fs.FileType.File):
            try:
                with self.filesystem.open_output_stream(self.full(path)) as stream:
                    stream.write(data)
            except OSError as error:
                if "NO_SUCH_BUCKET" in str(error) or "ACCESS_DENIED" in str(error):
                    raise UserError(f"{self.shown(path)} cannot be written (the setting `storage`): {error}") from error
                raise

    def refuse_unwritable(self) -> None:
        """`UserError` where a local folder is a file, or this user may not write there."""
        if not self.is_local:
            return
        folder = Path(self.root)
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            reason = "no folder" if not folder.is_dir() else "not writable"
            raise UserError(f"storage {self.root}: {folder} is {reason}; set storage elsewhere")

    @staticmethod
    def _write_local(target: str, data: bytes | memoryview | pa.Buffer, once: bool) -> None:
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)
        except (PermissionError, NotADirectoryError, FileExistsError, FileNotFoundError) as error:
            raise UserError(f"{target} cannot be written (the setting `storage`): {error.strerror}") from error
        temporary = f"{target}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if not once:
                os.replace(temporary, target)
                return
            try:
                os.link(temporary, target)
            except FileExistsError:
                pass
            except OSError as error:
                if error.errno not in NO_HARD_LINKS:
                    raise
                if not os.path.exists(target):
                    os.replace(temporary, target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)

    def write_json(self, path: str, value: Any, *, once: bool = False) -> None:
        text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        self.write_bytes(path, text.encode(), once=once)

    def list_files(self, path: str, *, recursive: bool = True) -> list[fs.FileInfo]:
        """Files below `path`, sorted by path; none where the folder does not exist."""
        selector = fs.FileSelector(self.full(path), recursive=recursive, allow_not_found=True)
        found = [info for info in self.filesystem.get_file_info(selector) if info.type == fs.FileType.File]
        return sorted(found, key=lambda info: info.path)

    def relative(self, full_path: str) -> str:
        return str(PurePosixPath(full_path).relative_to(self.root))

    def delete_folder(self, path: str) -> None:
        self.filesystem.delete_dir(self.full(path))

    def free_bytes(self) -> int | None:
        """Bytes left on the local disk that holds the store; None for object storage."""
        if not self.is_local:
            return None
        folder = Path(self.root)
        while not folder.exists():
            folder = folder.parent
        room = os.statvfs(folder)
        return room.f_bavail * room.f_frsize
