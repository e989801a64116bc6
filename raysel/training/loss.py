"""The loss of a step: the mean over all the tokens it learns, wherever they were computed.

Logits exist only at the positions whose next token is learned, and for long rows or large vocabularies only a part of
them at a time; the head, with whatever a family does to its logits, is the model's own.

Shapes: B rows, T tokens in a row, K positions whose next token is learned, D hidden units, V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from raysel.training.examples import IGNORED

LOGITS_AT_ONCE = 1 << 26  # in float32 256 MiB, and as much again for their gradient


def logit_parts(tokens: int, vocabulary: int) -> int:
    """In how many parts the logits of a row of at most `tokens` are made: the same for every row and worker.

    Under ZeRO-3 the workers gather the head's weights together, once for each part.
    """
    return -(-tokens * vocabulary // LOGITS_AT_ONCE)


def learned_positions(labels_BT: torch.Tensor) -> torch.Tensor:
    """The (K,) positions of a row of labels whose next token is learned in some row; at least one position."""
    found = (labels_BT[:, 1:] != IGNORED).any(0).nonzero()[:, 0]
    return found if len(found) else torch.zeros(1, dtype=torch.long, device=labels_BT.device)


def token_losses(model: Any, batch: dict[str, torch.Tensor], *, parts: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy in nats, float32 (B, K), 0 where nothing is learned; and the (K,) positions of the learned tokens.

    model: a causal language model, with adapters or under DeepSpeed or without. `batch` holds input_ids, position_ids
    and labels (B, T). Of `parts` parts of the logits, all but the first are made again in the backward pass.
    """
    kept_K = learned_positions(batch["labels"])
    targets_BK = batch["labels"][:, kept_K + 1].long()
    module = getattr(model, "module", model)
    causal_lm = module.get_base_model() if hasattr(module, "get_base_model") else module
    with _losses_for_logits(causal_lm, kept_K, targets_BK, parts):
        losses_BK = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False)
    return losses_BK, kept_K + 1


@contextmanager
def _losses_for_logits(causal_lm: Any, kept_K: torch.Tensor, targets_BK: torch.Tensor, parts: int) -> Iterator[None]:
    """While open, the model's forward gives losses (B, K)."""
    body = causal_lm.get_decoder()
    original = causal_lm.forward

    def forward(*args: Any, **kwargs: Any) -> torch.Tensor:
        hidden: list[torch.Tensor] = []
        of_body: list[Any] = []
        targets = targets_BK.tensor_split(parts, dim=1)

        def keep(_module: Any, _args: Any, outputs: Any) -> Any:
            of_body.append(outputs)
            hidden.extend(outputs.last_hidden_state[:, kept_K].tensor_split(parts, dim=1))
            return _with_hidden(outputs, hidden[0])

        def losses_of(states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
            with _replaced(body, lambda *_, **__: _with_hidden(of_body[0], states)):
                return _cross_entropy(original(*args, **kwargs).logits, wanted)

        handle = body.register_forward_hook(keep)
        try:
            logits = original(*args, **kwargs).logits
        finally:
            handle.remove()
        if not hidden:  # a model from the user's own code, whose head does not follow its decoder
            return _cross_entropy(logits[:, kept_K], targets_BK)
        losses = [_cross_entropy(logits, targets[0])]
        for states, wanted in zip(hidden[1:], targets[1:], strict=True):
            losses.append(checkpoint(losses_of, states, wanted, use_reentrant=False))
        return torch.cat(losses, dim=1)

    with _replaced(causal_lm, forward):
        yield


def _with_hidden(outputs: Any, states: torch.Tensor) -> Any:
    return type(outputs)(**{**outputs, "last_hidden_state": states})


def _cross_entropy(logits_BKV: torch.Tensor, targets_BK: torch.Tensor) -> torch.Tensor:
    losses = functional.cross_entropy(
        logits_BKV.float().flatten(0, 1), targets_BK.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return losses.view_as(targets_BK)


@contextmanager
def _replaced(module: torch.nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
