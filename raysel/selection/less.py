"""LESS: what training on a sample would do to the loss of the target samples (Xia et al. 2024, arXiv 2402.04333).

The influence of a sample on a target is the inner product of the direction in which Adam would go for the one and of
the gradient of the other, both of length 1, added up over the checkpoints of a short training, each by its learning
rate. Gradients are those of LoRA matrices, projected at random to D numbers.

Shapes: n samples, m target samples in S subtasks, K checkpoints, D width of the projection, B samples in a batch.
"""

import copy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raysel.embedding.threads import one_thread_each
from raysel.memory_errors import is_out_of_memory
from raysel.selection.projection import WIDTH, BlockSketch
from raysel.selection.sample_gradients import SampleGradients
from raysel.training.examples import Example


def adam_direction(
    gradient: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> torch.Tensor:
    """Adam's next step for `gradient` (..., out, in) after its moments (out, in), without bias correction.

    m' / sqrt(v' + eps) with m' = beta1 m + (1 - beta1) g and v' = beta2 v + (1 - beta2) g^2.
    """
    root = torch.addcmul(exp_avg_sq * beta2 + eps, gradient, gradient, value=1 - beta2).rsqrt_()
    return torch.add(exp_avg * beta1, gradient, alpha=1 - beta1).mul_(root)


def normalise(rows: torch.Tensor) -> torch.Tensor:
    """`rows` (B, D) at length 1; a row of zeros stays one."""
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(lengths > 0, lengths, 1.0)


@dataclass(frozen=True)
class SubtaskMeans:
    """The mean gradient of each subtask. subtasks: S names, sorted; means: float64 (K, S, D)."""

    subtasks: list[str]
    means: NDArray[np.float64]


def subtask_means(target: Iterable[tuple[Sequence[NDArray[np.floating]], Sequence[str]]]) -> SubtaskMeans:
    """target: parts of the target, of each for every checkpoint its rows (m, D), and the subtask of each row.

    A mean of inner products is the inner product with the mean: this is all of the target that a score needs.
    ValueError without a checkpoint or a target sample, or where the shapes disagree.
    """
    sums: dict[str, NDArray[np.float64]] = {}
    counts: Counter[str] = Counter()
    for checkpoints, subtasks in target:
        if not len(checkpoints):
            raise ValueError("no checkpoint: influence is summed over at least one")
        shapes = {rows.shape for rows in checkpoints}
        if len(shapes) > 1 or next(iter(shapes))[0] != len(subtasks):
            raise ValueError(
                f"{len(subtasks)} subtask labels for target rows of shape "
                f"{', '.join(str(rows.shape) for rows in checkpoints)}: "
                "all checkpoints must have one row for each label"
            )
        names, members = np.unique(np.asarray(subtasks, dtype=str), return_inverse=True)
        for number, name in enumerate(names.tolist()):
            chosen = members == number
            own = np.stack([rows[chosen].sum(axis=0, dtype=np.float64) for rows in checkpoints])
            sums[name] = sums[name] + own if name in sums else own
            counts[name] += int(chosen.sum())
    if not sums:
        raise ValueError("no target sample: influence is on at least one")
    subtasks = sorted(sums)
    return SubtaskMeans(subtasks, np.stack([sums[name] / counts[name] for name in subtasks], axis=1))


def influence(
    gradients: Sequence[NDArray[np.floating]], target: SubtaskMeans, learning_rates: Sequence[float]
) -> tuple[NDArray[np.float64], list[str]]:
    """The score of each sample, (n,), and the subtask it helps most, whose mean influence the score is.

    gradients: for each checkpoint the rows (n, D) of the samples; learning_rates: of each checkpoint, counted by its
    share of their sum. Of equal subtasks the first counts. ValueError where the shapes disagree.
    """
    checkpoints, _, width = target.means.shape
    if not len(gradients) == len(learning_rates) == checkpoints:
        raise ValueError(
            f"{len(gradients)} checkpoints of gradients and {len(learning_rates)} learning rates "
            f"for {checkpoints} checkpoints of target gradients"
        )
    rates = np.asarray(learning_rates, dtype=np.float64)
    if not (rates >= 0).all() or not rates.sum() > 0:
        raise ValueError(f"learning rates {list(learning_rates)}: none may be negative, and one must be above 0")
    shapes = {rows.shape for rows in gradients}
    if len(shapes) > 1 or next(iter(shapes))[1] != width:
        raise ValueError(
            f"gradients of shape {', '.join(str(rows.shape) for rows in gradients)} for target gradients "
            f"of width {width}: all checkpoints must have the same rows, of that width"
        )
    scores = np.zeros((len(gradients[0]), len(target.subtasks)))
    for share, rows, means in zip(rates / rates.sum(), gradients, target.means, strict=True):
        scores += share * (rows.astype(np.float64) @ means.T)
    best = scores.argmax(axis=1)
    return scores.max(axis=1), [target.subtasks[s] for s in best]


@dataclass(frozen=True)
class _Lane:
    """What a thread of its own needs: a model, and the sums of the batch that is in it."""

    gradients: SampleGradients
    sketch: BlockSketch


class GradientProjector:
    """Projected gradients of samples under one checkpoint after another of the same LoRA matrices.

    model: a causal language model with LoRA adapters (PEFT), used for nothing else from then on. token_budget: tokens
    in one batch, with the padding. Samples and targets must be projected with the same seed and width.
    threads: how many batches go through the model at the same time, each computed by one thread; they share the frozen
    weights. torch's own threads divide the sums of a batch, and so its bits depend on how many they are.
    """

    def __init__(self, model: Any, *, seed: int, token_budget: int, width: int = WIDTH, threads: int = 1) -> None:
        models = [model, *(_copy_for_thread(model) for _ in range(threads - 1))]
        self.lanes = [_Lane(SampleGradients(one), BlockSketch(width, seed=seed)) for one in models]
        for lane in self.lanes[1:]:
            lane.sketch.drawn = self.lanes[0].sketch.drawn
        self.gradients, self.width = self.lanes[0].gradients, width
        self.token_budget = token_budget
        self.moments: dict[str, tuple[torch.Tensor, torch.Tensor]] | None = None

    @torch.no_grad()
    def load(
        self,
        weights: Mapping[str, torch.Tensor],
        moments: Mapping[str, tuple[torch.Tensor, torch.Tensor]] | None,
    ) -> None:
        """Take the LoRA matrices of a checkpoint and what AdamW knew of each, exp_avg and exp_avg_sq, by its name.

        Without moments the rows are of plain gradients, as those of target samples are. ValueError where the names or
        shapes are not those of the model's LoRA matrices.
        """
        matrices = self.gradients.matrices
        for what, given in (("weights", weights), ("moments", moments)):
            if given is not None and (wrong := sorted(given.keys() ^ matrices.keys())):
                raise ValueError(
                    f"the {what} of the checkpoint are not of the model's adapters: {', '.join(wrong[:4])}"
                )
        for name, matrix in matrices.items():
            if weights[name].shape != matrix.shape:
                raise ValueError(
                    f"{name} is {tuple(weights[name].shape)} in the checkpoint and {tuple(matrix.shape)} in the model"
                )
            for lane in self.lanes:
                lane.gradients.matrices[name].copy_(weights[name])
        device = self.gradients.device
        self.moments = None
        if moments is not None:
            self.moments = {
                name: (exp_avg.to(device, torch.float32), exp_avg_sq.to(device, torch.float32))
                for name, (exp_avg, exp_avg_sq) in moments.items()
            }

    def rows(self, examples: Sequence[Example]) -> NDArray[np.float16]:
        """float16 (N, D): of each sample the projected gradient, or Adam's direction, at length 1.

        A sample of which nothing is learned has a row of zeros: training on it would change nothing. A batch that does
        not fit in memory goes in halves; MemoryError for a sample that does not fit alone.
        """
        found = np.zeros((len(examples), self.width), dtype=np.float16)
        batches = self.gradients.batches(examples, self.token_budget)
        one_thread_each(self.lanes, batches, lambda lane, batch: self._project(lane, examples, batch, found))
        return found

    def _project(
        self, lane: _Lane, examples: Sequence[Example], batch: NDArray[np.int64], found: NDArray[np.float16]
    ) -> None:
        lane.sketch.begin()  # after a batch that failed halfway
        try:
            lane.gradients.stream([examples[row] for row in batch], lambda *given: self._add(lane, *given))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                tokens, device = examples[batch[0]].tokens, self.gradients.device
                raise MemoryError(f"a sample of {tokens:,} tokens does not fit in the memory of {device}") from error
        else:
            found[batch] = normalise(lane.sketch.result()).half().cpu().numpy()
            return
        if self.gradients.device.type == "cuda":
            torch.cuda.empty_cache()
        for half in np.array_split(batch, 2):
            self._project(lane, examples, half, found)

    def _add(self, lane: _Lane, name: str, gradient: torch.Tensor) -> None:
        if self.moments is not None:
            gradient = adam_direction(gradient, *self.moments[name])
        lane.sketch.add(name, gradient.flatten(1))


def _copy_for_thread(model: Any) -> Any:
    """A copy with adapters of its own and the same frozen weights in memory."""
    frozen = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
    return copy.deepcopy(model, frozen)
