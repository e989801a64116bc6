"""Last-token hidden states of a model."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raysel.embedding.encoder import LastTokenEncoder

__all__ = ["LastTokenEncoder"]


def __getattr__(name: str) -> Any:
    """Import torch only when the encoder is asked for."""
    if name == "LastTokenEncoder":
        from raysel.embedding.encoder import LastTokenEncoder

        return LastTokenEncoder
    raise AttributeError(name)
