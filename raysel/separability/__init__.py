"""Language separability: silhouette scores, and the pool taken by them."""

from typing import TYPE_CHECKING, Any

from raysel.separability.preselect import preselect

if TYPE_CHECKING:
    from raysel.separability.silhouette import silhouette_samples

__all__ = ["preselect", "silhouette_samples"]


def __getattr__(name: str) -> Any:
    """Import torch only when scores are computed."""
    if name == "silhouette_samples":
        from raysel.separability.silhouette import silhouette_samples

        return silhouette_samples
    raise AttributeError(name)
