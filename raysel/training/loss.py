"""The loss of a step: the mean over all the tokens it learns, wherever they were computed.

Shapes: B rows, T tokens in a row, K positions whose next token is learned, V vocabulary.
"""

from typing import Any

import torch
from torch.nn import functional

from raysel.training.examples import IGNORED


def learned_positions(labels_BT: torch.Tensor) -> torch.Tensor:
    """The (K,) positions of a row of labels whose next token is learned in some row; at least one position."""
    found = (labels_BT[:, 1:] != IGNORED).any(0).nonzero()[:, 0]
    return found if len(found) else torch.zeros(1, dtype=torch.long, device=labels_BT.device)


def token_losses(
    model: Any, batch: dict[str, torch.Tensor], *, only_learned: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy in nats, float32 (B, K), 0 where nothing is learned; and the (K,) positions of the learned tokens.

    `batch` holds input_ids, position_ids and labels (B, T). With `only_learned` the model makes logits at the K
    positions alone (`logits_to_keep`), which saves the largest tensor of the step.
    """
    kept_K = learned_positions(batch["labels"])
    extra = {"logits_to_keep": kept_K} if only_learned else {}
    logits = model(
        input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False, **extra
    ).logits.float()
    logits_BKV = logits if only_learned else logits[:, kept_K]
    targets_BK = batch["labels"][:, kept_K + 1].long()
    losses = functional.cross_entropy(
        logits_BKV.flatten(0, 1), targets_BK.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return losses.view_as(targets_BK), kept_K + 1
