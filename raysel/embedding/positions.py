"""How many tokens a model has positions for, and where its rotary positions change with the longest text of a batch."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def position_limit(body: "PreTrainedModel") -> int | None:
    """The most tokens of a text whose hidden states are defined; None where positions (rotary, ALiBi) go on.

    Learned position vectors end. Rotary positions of type "dynamic" go on, but beyond the original length their
    frequencies depend on which texts came before.
    """
    positions = int(getattr(body.config.get_text_config(), "max_position_embeddings", 0) or 0)
    others = [m for m in body.modules() if isinstance(m, torch.nn.Embedding) and m is not body.get_input_embeddings()]
    # Some families (OPT) keep two more rows than positions.
    learned = any(0 <= table.num_embeddings - positions <= 2 for table in others)
    dynamic = any("dynamic" in rope.get("rope_type", "") for rope in _ropes(body))
    return positions if positions and (learned or dynamic) else None


def long_rope_from(body: "PreTrainedModel") -> int | None:
    """Rotary positions of type "longrope" have other frequencies for a batch with a text of more tokens than this."""
    lengths = [
        int(rope["original_max_position_embeddings"]) for rope in _ropes(body) if rope.get("rope_type") == "longrope"
    ]
    return min(lengths, default=None)


def _ropes(body: "PreTrainedModel") -> Iterator[dict[str, Any]]:
    """The settings of the model's rotary positions; some families have one for each type of layer."""
    rope = getattr(body.config.get_text_config(), "rope_parameters", None) or {}
    yield from (value for value in (rope, *rope.values()) if isinstance(value, dict))
