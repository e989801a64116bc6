"""`raysel inspect`: samples as the model sees them."""

from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.text import Text

from raysel.corpus.files import CorpusError, read_batches, split_into_parts
from raysel.corpus.rows import standardise
from raysel.corpus.stage import leaf_files
from raysel.experiment import Experiment
from raysel.models.loading import ModelError, find_model, load_tokenizer
from raysel.models.templates import sample_text
from raysel.pipeline import expand
from raysel.store import Store
from raysel.training.examples import IGNORED, instruction_example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PARTS_LOOKED_AT = 20


def print_samples(experiment: Experiment, count: int, console: Console) -> None:
    """Print `count` samples spread over the corpus's files: trained tokens in green, the embedded token reversed."""
    with TemporaryDirectory() as scratch:
        tokenizer = _tokenizer(experiment, Path(scratch))
    console.print("trained on: [green]green[/green]; whose hidden state is taken: [reverse]reversed[/reverse]")
    for row in islice(_rows(experiment), count):
        console.rule(f"{row['id']} ({row['lang']})", align="left")
        taken = sample_text(tokenizer, row["prompt"], row["response"])
        ids = tokenizer(taken, add_special_tokens=False)["input_ids"][: experiment.embedding.max_tokens]
        example = instruction_example(tokenizer, row["prompt"], row["response"], experiment.training.data.max_tokens)
        text = Text()
        styled = list(zip(example.input_ids.tolist(), _styles(example.labels, taken=len(ids) - 1), strict=True))
        for style, run in groupby(styled, key=itemgetter(1)):
            # A character may be several tokens: what shares a style is decoded together.
            text.append(tokenizer.decode([token for token, _ in run]), style=style)
        console.print(text)
        console.print(
            f"{len(example.input_ids)} tokens, {example.trained_tokens} trained on"
            f"{', cut at training.data.max_tokens' if example.truncated else ''}; "
            f"embedded: {len(ids)} tokens, the last is {tokenizer.decode([ids[-1]])!r}",
            style="dim",
            markup=False,
            highlight=False,
        )


def _styles(labels: np.ndarray, *, taken: int) -> list[str]:
    styles = ["green" if label != IGNORED else "dim" for label in labels]
    return [f"{style} reverse" if place == taken else style for place, style in enumerate(styles)]


def _tokenizer(experiment: Experiment, scratch: Path) -> "PreTrainedTokenizerBase":
    model = experiment.model
    if model.path is not None:
        folder = find_model(model.path, revision=model.revision)
    else:
        store = Store(experiment.storage)
        step = next(step for step in expand(experiment, store) if step.stage == "base_model")
        artifact = store.artifact(step.stage, step.fingerprint)
        if artifact is None:
            raise ModelError("the small base model is not made yet: raysel run EXPERIMENT --until base_model makes it")
        folder = artifact.local_folder("model", scratch)
    return load_tokenizer(folder, model.template, trust_remote_code=model.trust_remote_code)


def _rows(experiment: Experiment) -> Any:
    """Rows of the corpus, one from each of its files in turn."""
    parts = split_into_parts(leaf_files(experiment.corpus))[:PARTS_LOOKED_AT]
    readers = [_part_rows(experiment, part) for part in parts]
    while readers:
        for reader in list(readers):
            row = next(reader, None)
            if row is None:
                readers.remove(reader)
            else:
                yield row


def _part_rows(experiment: Experiment, part: Any) -> Any:
    for batch in read_batches(part, 64):
        table, problems, _ = standardise(
            batch.rows,
            batch.numbers,
            columns=experiment.corpus.columns,
            location=part.location,
            name=part.name,
            source=part.name,
            drop_empty=True,
        )
        for unreadable in batch.unreadable:
            problems.add("unreadable line", unreadable)
        if problems.counts:
            raise CorpusError("the corpus cannot be used as it is:\n  " + "\n  ".join(problems.lines()))
        yield from table.to_pylist()
