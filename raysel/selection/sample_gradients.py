"""The gradient of each sample's loss, for the LoRA matrices of a model, from one forward and backward of a batch.

A LoRA matrix is the weight of a linear module. The sample's gradient of it is the sum over its tokens of the outer
product of two vectors that the batch's own backward pass makes anyway: the gradient of the module's output and the
module's input. Samples are padded on the right, where no token before the padding sees it.

Shapes: N samples, B of them in a batch of T tokens each (of an encoder-decoder, T tokens of the prompt in some modules
and of the response in others), a matrix (out, in).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from peft.tuners.lora import LoraLayer

from raysel.embedding.batches import batches_under_budget
from raysel.embedding.positions import long_rope_from, position_limit
from raysel.models.loading import embedding_modules
from raysel.training.batches import fill_sources
from raysel.training.examples import IGNORED, Example
from raysel.training.logits import logit_parts
from raysel.training.loss import token_losses

PROBE_LENGTHS = (23, 11, 17)
PROBED_ROWS = 8
PROBED_STD = 0.02
# By bytes of the model's numbers: in a batch a sample's gradient differs by rounding, a wrong one by about its size.
TOLERANCE = {8: 1e-6, 4: 1e-3, 2: 0.3}

Consume = Callable[[str, torch.Tensor], None]


class MixedSamplesError(ValueError):
    """A module whose input does not say which sample its rows belong to."""


class SampleGradients:
    """Takes the gradients of single samples from a model with adapters (PEFT).

    The loss of a sample is the mean over its learned tokens. The model is put into evaluation mode, so that nothing is
    dropped out.

    matrices: what is differentiated, all that is trainable in `model`, by the parameter's name.
    batched: whether samples go through the model together. All its parameters are frozen then: what is differentiated
        is the input embeddings, and no gradient of a weight is ever summed over a batch. Otherwise samples go one at a
        time through plain autograd: where more is trained than the LoRA matrices of linear modules (experts that are
        one parameter, DoRA, whole modules), where a module is given the tokens of a batch in no order that tells the
        samples apart (the head), and where a batch gives other gradients than its samples alone. The last is tried on
        a few tokens.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        self.matrices = {name: own for name, own in model.named_parameters() if own.requires_grad}
        if not self.matrices:
            raise ValueError("nothing is trainable in this model: give it adapters")
        body = model.get_base_model()
        self.device = next(model.parameters()).device
        self.vocabulary = len(body.get_input_embeddings().weight)
        self.positions, self.long_rope_from = position_limit(body), long_rope_from(body)
        self.modules = lora_modules(model)
        self.batched = self.modules.keys() == self.matrices.keys() and self._batch_is_its_samples_alone()
        if self.batched:
            model.requires_grad_(False)

    def batches(self, examples: Sequence[Example], token_budget: int) -> Iterator[np.ndarray]:
        """Rows of `examples` that go through the model together, at most `token_budget` tokens with the padding.

        A sample of which nothing is learned is in none. ValueError for one longer than the model has positions.
        """
        lengths = np.array([example.tokens for example in examples], dtype=np.int64)
        if self.positions is not None and lengths.max(initial=0) > self.positions:
            raise ValueError(
                f"sample {int(lengths.argmax())} has {lengths.max():,} tokens, and the model has positions for "
                f"{self.positions:,}: max_tokens must be at most that"
            )
        learned = np.array([learned_tokens(example) > 0 for example in examples], dtype=bool)
        # Rotary positions that depend on the longest text of a batch: the short and the long ones apart.
        long = lengths > (self.long_rope_from or lengths.max(initial=0))
        for rows in (np.flatnonzero(learned & long), np.flatnonzero(learned & ~long)):
            for batch in batches_under_budget(lengths[rows], token_budget if self.batched else 1):
                yield rows[batch]

    def stream(self, batch: Sequence[Example], consume: Consume) -> None:
        """Call `consume(name, gradient)` once for every matrix, the gradient float32 (B, out, in) and the consumer's.

        It comes as soon as the backward pass has it and is kept nowhere: of all gradients one matrix's is in memory.
        Every sample must have a learned token; where the model is not `batched`, there must be one sample.
        """
        if self.batched:
            self._stream_together(batch, consume)
        else:
            (example,) = batch
            self._stream_alone(example, consume)

    def whole(self, examples: Sequence[Example], *, token_budget: int) -> dict[str, torch.Tensor]:
        """All gradients at once, float32 (N, out, in) by the matrix's name: for a few samples of a small model."""
        found = {
            name: torch.zeros((len(examples), *matrix.shape), device=self.device)
            for name, matrix in self.matrices.items()
        }
        for rows in self.batches(examples, token_budget):

            def store(name: str, gradient: torch.Tensor, rows: np.ndarray = rows) -> None:
                found[name][torch.from_numpy(rows).to(self.device)] = gradient

            self.stream([examples[row] for row in rows], store)
        return found

    def _losses(self, batch: Sequence[Example], given: dict[str, torch.Tensor]) -> torch.Tensor:
        """The sum over the samples of the mean loss of each. given: the batch, padded."""
        counts = torch.tensor([learned_tokens(example) for example in batch], device=self.device)
        parts = logit_parts(int(counts.sum()), self.vocabulary)
        losses, (rows, _) = token_losses(self.model, given, parts=parts)
        return (losses / counts[rows]).sum()

    def _stream_together(self, batch: Sequence[Example], consume: Consume) -> None:
        """MixedSamplesError where the samples cannot be told apart."""
        given = padded(batch, self.device)
        grids = [tuple(given[name].shape) for name in ("input_ids", "source_ids") if name in given]
        taking = _Taking(grids, consume)
        # What is added to the embeddings: it leaves them as they are and makes them part of what is differentiated.
        nothing = torch.zeros((), device=self.device, requires_grad=True)
        with ExitStack() as attached:
            for embeddings in embedding_modules(self.model):
                hook = embeddings.register_forward_hook(lambda _module, _args, out: out + nothing.to(out.dtype))
                attached.callback(hook.remove)
            for name, module in self.modules.items():
                attached.callback(module.register_forward_hook(partial(taking.begin, name)).remove)
            torch.autograd.grad(self._losses(batch, given), nothing)
        for name, matrix in self.matrices.items():
            taking.finish(name, matrix)

    def _stream_alone(self, example: Example, consume: Consume) -> None:
        given = set()

        def take(name: str, matrix: torch.nn.Parameter) -> None:
            assert matrix.grad is not None
            gradient, matrix.grad = matrix.grad.float()[None], None
            given.add(name)
            consume(name, gradient)

        with ExitStack() as attached:
            for name, matrix in self.matrices.items():
                attached.callback(matrix.register_post_accumulate_grad_hook(partial(take, name)).remove)
            self._losses([example], padded([example], self.device)).backward()
        for name, matrix in self.matrices.items():
            if name not in given:
                consume(name, torch.zeros((1, *matrix.shape), device=self.device))

    def _batch_is_its_samples_alone(self) -> bool:
        """Whether a batch gives the gradients that plain autograd does, tried on the first rows of every matrix."""
        generator = np.random.default_rng(0)
        longest = min(self.long_rope_from or max(PROBE_LENGTHS), self.positions or max(PROBE_LENGTHS))
        examples = []
        for length in PROBE_LENGTHS:
            ids = generator.integers(0, self.vocabulary, min(length, longest)).astype(np.int32)
            labels = ids.copy()
            labels[: len(ids) // 2] = IGNORED
            source = generator.permutation(ids)[length % 5 :] if self.model.config.is_encoder_decoder else None
            examples.append(Example(ids, labels, False, source))
        own = self._put_random_matrices()
        try:
            alone = torch.cat([self._first_rows(partial(self._stream_alone, example)) for example in examples])
            together = self._first_rows(partial(self._stream_together, examples))
        except MixedSamplesError:
            return False
        finally:
            self._put(own)
        tolerance = TOLERANCE[self.model.get_base_model().dtype.itemsize]
        return bool(((together - alone).norm(dim=1) <= tolerance * alone.norm(dim=1)).all())

    def _put_random_matrices(self) -> dict[str, torch.Tensor]:
        """Fill the matrices and give what they were: beside fresh ones of zeros all gradients of the others are 0."""
        own = {name: matrix.detach().clone() for name, matrix in self.matrices.items()}
        generator = torch.Generator().manual_seed(0)
        self._put({name: PROBED_STD * torch.randn(matrix.shape, generator=generator) for name, matrix in own.items()})
        return own

    @torch.no_grad()
    def _put(self, weights: Mapping[str, torch.Tensor]) -> None:
        for name, matrix in self.matrices.items():
            matrix.copy_(weights[name])

    def _first_rows(self, stream: Callable[[Consume], None]) -> torch.Tensor:
        """float32 (B, numbers)."""
        found: dict[str, torch.Tensor] = {}
        stream(lambda name, gradient: found.update({name: gradient[:, :PROBED_ROWS].flatten(1).clone()}))
        return torch.cat([found[name] for name in self.matrices], dim=1)


def lora_modules(model: Any) -> dict[str, torch.nn.Linear]:
    """The linear modules whose weights are LoRA matrices that are trained, by the name of the weight."""
    return {
        f"{name}.{kind}.{adapter}.weight": module
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
        for kind in ("lora_A", "lora_B")
        for adapter, module in getattr(layer, kind).items()
        if type(module) is torch.nn.Linear and module.weight.requires_grad
    }


def learned_tokens(example: Example) -> int:
    # The first token is learned from nothing, whatever its label.
    return int(np.count_nonzero(example.labels[1:] != IGNORED))


def padded(batch: Sequence[Example], device: torch.device) -> dict[str, torch.Tensor]:
    """input_ids, labels and position_ids, int64 (B, T), filled up on the right with what is not learned; for an
    encoder-decoder also source_ids and source_mask."""
    longest = max(len(example.input_ids) for example in batch)
    ids = np.zeros((len(batch), longest), dtype=np.int64)
    labels = np.full((len(batch), longest), IGNORED, dtype=np.int64)
    for row, example in enumerate(batch):
        ids[row, : len(example.input_ids)] = example.input_ids
        labels[row, : len(example.labels)] = example.labels
    # Positions that begin anew in the padding would be taken for several packed samples.
    positions = np.tile(np.arange(longest), (len(batch), 1))
    named = {"input_ids": ids, "labels": labels, "position_ids": positions}
    if batch[0].source_ids is not None:
        named |= fill_sources([example.source_ids for example in batch if example.source_ids is not None])
    return {name: torch.from_numpy(values).to(device) for name, values in named.items()}


class _Taking:
    """Makes a gradient of each matrix during one backward pass over (B, T) tokens, for each of the `grids` (B, T)."""

    def __init__(self, grids: Sequence[tuple[int, ...]], consume: Consume) -> None:
        self.grids, self.consume = grids, consume
        self.awaited: dict[str, int] = {}
        self.sums: dict[str, torch.Tensor] = {}
        self.given: set[str] = set()

    def begin(self, name: str, _module: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        """A forward hook: the module's weight is the matrix `name`."""
        held = [self._by_sample(name, args[0].detach())]
        self.awaited[name] = self.awaited.get(name, 0) + 1
        # The input is let go with the call: with frozen weights autograd itself has no need of it.
        output.register_hook(lambda gradient: self._add(name, gradient, held.pop()))

    def finish(self, name: str, matrix: torch.Tensor) -> None:
        """Hand over what the loss does not depend on, or only on some of the module's calls."""
        if name not in self.given:
            zero = torch.zeros((self.grids[0][0], *matrix.shape), device=matrix.device)
            self.consume(name, self.sums.pop(name, zero))

    def _add(self, name: str, gradient: torch.Tensor, given: torch.Tensor) -> None:
        product = _products(self._by_sample(name, gradient), given)
        if name in self.sums:
            product += self.sums.pop(name)
        self.awaited[name] -= 1
        if self.awaited[name]:
            self.sums[name] = product
        else:
            self.given.add(name)
            self.consume(name, product)

    def _by_sample(self, name: str, states: torch.Tensor) -> torch.Tensor:
        """(B, T, width): `states` of a module, which may have the tokens of all samples in one dimension."""
        for samples, tokens in self.grids:
            if states.shape[:-1] in ((samples, tokens), (samples * tokens,)):
                return states.reshape(samples, tokens, states.shape[-1])
        raise MixedSamplesError(f"{name}: its input {tuple(states.shape)} is not samples of tokens {self.grids}")


def _products(outer_BTo: torch.Tensor, inner_BTi: torch.Tensor) -> torch.Tensor:
    """float32 (B, o, i): sums over T of outer products."""
    left, right = outer_BTo.transpose(1, 2), inner_BTi
    if left.is_cuda and left.dtype == right.dtype and left.dtype.itemsize == 2:
        # The tensor cores multiply 16-bit numbers exactly and add in float32.
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())
