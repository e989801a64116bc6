"""What a stage is given and what it gives back. Knows no Ray: the cluster is handed in."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from raysel.store import Artifact, Attempt, ShardRecord

if TYPE_CHECKING:
    from raysel.cluster import Cluster
    from raysel.progress import Progress


@dataclass(frozen=True)
class StageRun:
    """One execution of a stage.

    settings: the sections and scalars this stage reads, by name, typed (`settings["embedding"]` is an
        `EmbeddingSettings`);
    inputs: published artifacts by name; leaves: where the user's own files are, by name;
    attempt: where to write; cluster: where to compute; progress: where to say how far it is.
    """

    settings: Mapping[str, Any]
    inputs: Mapping[str, Artifact]
    leaves: Mapping[str, str]
    attempt: Attempt
    cluster: "Cluster"
    progress: "Progress"


@dataclass(frozen=True)
class StageOutput:
    """What makes up the artifact, and the facts about it (counts, sizes, warnings) that others read without its rows.

    `warnings` in the summary (a list of sentences) are shown to the user.
    """

    records: Iterable[ShardRecord]
    summary: dict[str, Any] = field(default_factory=dict)
