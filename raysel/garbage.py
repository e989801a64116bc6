"""`raysel gc`: removes what no run names."""

from dataclasses import dataclass

from raysel.errors import UserError
from raysel.steps import STAGES
from raysel.store import MARKER, Store


@dataclass(frozen=True)
class Garbage:
    """Files that no run needs: whole artifacts, and leftovers of attempts beside a published manifest."""

    artifacts: list[str]
    files: list[str]
    bytes: int


def find_garbage(store: Store) -> Garbage:
    """What is below the stages' folders and neither named by a run's record nor listed in a named manifest.

    An address that a run names and that is not published yet is left alone: an attempt may be at work there.
    Raises `UserError` where the storage holds no run at all: it may be the wrong folder.
    """
    records = [info for info in store.list_files("runs") if info.path.endswith("/run.json")]
    if not records:
        raise UserError(f"storage {store.shown('')} holds no run (runs/*/run.json): nothing is removed there")
    named: set[str] = set()
    for info in records:
        record = store.read_json(store.relative(info.path))
        named |= {f"{step['stage']}/{step['fingerprint']}" for step in record["steps"].values()} if record else set()
    named |= (cells := _cells(store, named)) or set()
    artifacts: dict[str, int] = {}
    files: list[str] = []
    size = 0
    is_leftover = _Leftovers(store)
    for stage in (*STAGES, *(("cells",) if cells is not None else ())):
        for info in store.list_files(stage):
            path = store.relative(info.path)
            address = "/".join(path.split("/")[:2])
            if address not in named:
                artifacts[address] = artifacts.get(address, 0) + info.size
            elif is_leftover(address, path):
                files.append(path)
                size += info.size
    return Garbage(sorted(artifacts), files, size + sum(artifacts.values()))


def _cells(store: Store, named: set[str]) -> set[str] | None:
    """The evaluated cells that the named results were gathered from; None while results are named and not published:
    their cells may be finished already."""
    results = [store.artifact(*address.split("/")) for address in named if address.startswith("results/")]
    if None in results:
        return None
    return {f"cells/{cell}" for artifact in results if artifact for cell in artifact.summary.get("cells", [])}


class _Leftovers:
    """Knows what each artifact's manifest lists, reading it once."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.listed: dict[str, set[str] | None] = {}

    def __call__(self, address: str, path: str) -> bool:
        """Whether `path` is neither the manifest, a plan, nor a file (or its marker) of a published artifact."""
        if address not in self.listed:
            artifact = self.store.artifact(*address.split("/"))
            self.listed[address] = {entry["path"] for entry in artifact.manifest["files"]} if artifact else None
        listed = self.listed[address]
        inside = path.removeprefix(f"{address}/")
        if listed is None or ("/" not in inside and inside.endswith(".json")):
            return False
        return inside not in listed and inside.removesuffix(MARKER) not in listed


def collect(store: Store, garbage: Garbage) -> None:
    """Remove what `find_garbage` found: of an artifact its manifest first, so that nothing half-removed ever counts."""
    for address in garbage.artifacts:
        manifest = f"{address}/manifest.json"
        if store.read_json(manifest) is not None:
            store.filesystem.delete_file(store.full(manifest))
        store.delete_folder(address)
    for path in garbage.files:
        store.filesystem.delete_file(store.full(path))
