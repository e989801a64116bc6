"""Where every number came from: the steps with their fingerprints and settings, the tables as they lie in the store."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml

from raysel.report.formats import without_secrets
from raysel.settings import flat

MADE_OF_ROWS = ".parquet"


@dataclass(frozen=True)
class Published:
    """A published artifact under the name of its step. shown turns a path in the store into one a person can open;
    digest: SHA-256 of its manifest as it lies there, which lists the SHA-256 of every file."""

    name: str
    manifest: dict[str, Any]
    shown: Callable[[str], str]
    digest: str

    @property
    def address(self) -> str:
        return f"{self.manifest['stage']}/{self.manifest['fingerprint']}"

    @property
    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = self.manifest["summary"]
        return summary


@dataclass(frozen=True)
class StoredTable:
    """A table of a step: the folders and names of its files, as a person can open them."""

    name: str
    rows: int
    files: int
    bytes: int
    paths: list[str]


@dataclass(frozen=True)
class Step:
    """A published artifact of the run; settings flattened to dotted keys."""

    name: str
    stage: str
    version: int
    fingerprint: str
    published: str
    digest: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    tables: list[StoredTable]
    address: str


@dataclass(frozen=True)
class Warning:
    step: str
    text: str


def steps(published: Sequence[Published]) -> list[Step]:
    return [_step(step) for step in published]


def warnings(published: Sequence[Published]) -> list[Warning]:
    """What the stages warned of, in the order of the steps, each sentence once."""
    found: dict[str, Warning] = {}
    for step in published:
        for text in step.summary.get("warnings", []):
            found.setdefault(str(text), Warning(step.name, str(text)))
    return list(found.values())


def software(published: Iterable[Published]) -> dict[str, list[str]]:
    """Every version of every package that some step ran with."""
    versions: dict[str, set[str]] = {}
    for step in published:
        for package, version in step.manifest["versions"].items():
            versions.setdefault(package, set()).add(str(version))
    return {package: sorted(found) for package, found in sorted(versions.items())}


def experiment_file(experiment: dict[str, Any]) -> str:
    """The resolved experiment as a YAML file that `raysel run` takes, without what gives access to storage."""
    return yaml.safe_dump(without_secrets(experiment), sort_keys=False, allow_unicode=True, width=100)


def _step(published: Published) -> Step:
    manifest = published.manifest
    return Step(
        name=published.name,
        stage=manifest["stage"],
        version=manifest["stage_version"],
        fingerprint=manifest["fingerprint"],
        published=manifest["published"],
        digest=published.digest,
        settings=flat(without_secrets(manifest["settings"])),
        inputs=manifest["inputs"],
        tables=[_table(published, table) for table in manifest["rows"]],
        address=published.shown(published.address),
    )


def _table(published: Published, name: str) -> StoredTable:
    files = [entry for entry in published.manifest["files"] if entry["table"] == name]
    places: dict[str, None] = {}
    for entry in files:
        path = PurePosixPath(published.address) / entry["path"]
        if len(files) > 1 and path.suffix == MADE_OF_ROWS:
            path = path.parent / f"{name}-*{MADE_OF_ROWS}"
        places[published.shown(str(path))] = None
    size = sum(entry["bytes"] for entry in files)
    return StoredTable(name, published.manifest["rows"][name], len(files), size, list(places))
