"""The loss of a step: the mean over all the tokens it learns, wherever they were computed.

Logits exist only at the positions whose next token is learned, and for long rows or large vocabularies only a part of
them at a time; the head, with whatever a family does to its logits, is the model's own.

Shapes: B rows, T tokens in a row, N learned tokens in all rows, V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from raysel.training.examples import IGNORED


def learned_places(labels_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns, (N,) each, of the tokens that are learned; of one that is not, where none is."""
    rows, columns = (labels_BT[:, 1:] != IGNORED).nonzero(as_tuple=True)
    if not len(rows):
        rows = columns = torch.zeros(1, dtype=torch.long, device=labels_BT.device)
    return rows, columns + 1


def token_losses(
    model: Any, batch: dict[str, torch.Tensor], *, parts: int = 1
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Cross-entropy in nats of each learned token, float32 (N,), and its place (rows and columns, (N,) each).

    model: a language model, with adapters or under DeepSpeed or without. `batch` holds input_ids, position_ids and
    labels (B, T); those of an encoder-decoder are its decoder's, and source_ids and source_mask (B, S) are there
    besides. Of `parts` parts of the logits, all but the first are made again in the backward pass. Where nothing is
    learned, there is one loss, of 0.
    """
    places = learned_places(batch["labels"])
    module = getattr(model, "module", model)
    causal_lm = module.get_base_model() if hasattr(module, "get_base_model") else module
    with _losses_for_logits(causal_lm, places, batch["labels"][places].long(), parts):
        losses_N = model(**model_inputs(batch), use_cache=False)
    return losses_N, places


def model_inputs(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A collated batch by the names of the model's arguments."""
    if "source_ids" not in batch:
        return {name: batch[name] for name in ("input_ids", "position_ids")}
    source = {"input_ids": batch["source_ids"], "attention_mask": batch["source_mask"]}
    return source | {"decoder_input_ids": batch["input_ids"]}


@contextmanager
def _losses_for_logits(
    causal_lm: Any, places: tuple[torch.Tensor, torch.Tensor], targets_N: torch.Tensor, parts: int
) -> Iterator[None]:
    """While open, the model's forward gives losses (N,)."""
    rows, columns = places
    body = _body(causal_lm)
    original = causal_lm.forward

    def forward(*args: Any, **kwargs: Any) -> torch.Tensor:
        hidden: list[torch.Tensor] = []
        of_body: list[Any] = []
        targets = targets_N.tensor_split(parts)

        def keep(_module: Any, _args: Any, outputs: Any) -> Any:
            of_body.append(outputs)
            hidden.extend(outputs.last_hidden_state[rows, columns - 1].tensor_split(parts))
            return _with_hidden(outputs, hidden[0][None])

        def losses_of(states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
            # An encoder does not run again: nobody looks at what is given in place of its states.
            encoded = {"encoder_outputs": (states[None],)} if causal_lm.config.is_encoder_decoder else {}
            with _replaced(body, lambda *_, **__: _with_hidden(of_body[0], states[None])):
                return _cross_entropy(original(*args, **kwargs | encoded).logits[0], wanted)

        handle = body.register_forward_hook(keep)
        try:
            logits = original(*args, **kwargs).logits
        finally:
            handle.remove()
        if not hidden:  # a model from the user's own code, whose head does not follow its decoder
            return _cross_entropy(logits[rows, columns - 1], targets_N)
        losses = [_cross_entropy(logits[0], targets[0])]
        for states, wanted in zip(hidden[1:], targets[1:], strict=True):
            losses.append(checkpoint(losses_of, states, wanted, use_reentrant=False))
        return torch.cat(losses)

    with _replaced(causal_lm, forward):
        yield


def _body(causal_lm: Any) -> Any:
    """What makes the hidden states that the head is given; a few families name it otherwise than the rest."""
    named = (causal_lm.get_decoder(), getattr(causal_lm, "model", None), causal_lm.base_model)
    return next(part for part in named if isinstance(part, PreTrainedModel) and part is not causal_lm)


def _with_hidden(outputs: Any, states: torch.Tensor) -> Any:
    return type(outputs)(**{**outputs, "last_hidden_state": states})


def _cross_entropy(logits_NV: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits_NV.float(), targets_N, ignore_index=IGNORED, reduction="none")


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
