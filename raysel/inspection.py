"""`raysel inspect`: samples as the model sees them."""

from collections import Counter
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.text import Text

from raysel.corpus.files import CorpusError, read_batches, split_into_parts
from raysel.corpus.presets import Layout
from raysel.corpus.rows import standardise
from raysel.corpus.stage import find_layout, leaf_files
from raysel.experiment import Experiment
from raysel.models.loading import ModelError, decoder_start, find_model, load_tokenizer
from raysel.models.settings import ModelSettings
from raysel.models.templates import end_of_turn, sample_text, template_source
from raysel.pipeline import expand
from raysel.store import Store
from raysel.training.examples import IGNORED
from raysel.training.token_shards import make_example
from raysel.training.tokenizer_source import read_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PARTS_LOOKED_AT = 20
ROWS_COUNTED = 2000


def print_samples(experiment: Experiment, count: int, console: Console) -> None:
    """Print `count` samples spread over the corpus's files: trained tokens in green, the embedded token reversed.

    Where another model (`embedding.model`) gives the vectors, what it is fed is printed under each sample. Last comes
    how many samples are cut, by language.
    """
    with TemporaryDirectory() as scratch:
        folder, embedded = _folder(experiment, experiment.model, Path(scratch)), experiment.embedding.model
        tokenizer, start = _tokenizer(experiment.model, folder), decoder_start(read_config(str(folder)))
        feeder = _tokenizer(embedded, _folder(experiment, embedded, Path(scratch))) if embedded else tokenizer
    fed, data = _Fed(experiment, feeder), experiment.training.data
    taken = "reversed" if embedded is None else "reversed, in what embedding.model is fed"
    console.print(f"trained on: [green]green[/green]; whose hidden state is taken: [reverse]{taken}[/reverse]")
    for row in islice(_rows(experiment), count):
        console.rule(f"{row['id']} ({row['lang']})", align="left")
        ids = fed.ids(row)[: experiment.embedding.max_tokens]
        example = make_example(tokenizer, row, data, decoder_start=start)
        text = Text()
        if example.source_ids is not None:
            text.append(tokenizer.decode(example.source_ids.tolist()) + "\n", style="dim")
        # The taken token is one of those trained on, where both see the same tokens up to it.
        same = embedded is None and example.input_ids.tolist()[: len(ids)] == ids
        place = len(ids) - 1 if same else None
        styled = list(zip(example.input_ids.tolist(), _styles(example.labels, taken=place), strict=True))
        for style, run in groupby(styled, key=itemgetter(1)):
            # A character may be several tokens: what shares a style is decoded together.
            text.append(tokenizer.decode([token for token, _ in run]), style=style)
        console.print(text)
        if not same:
            whole = Text(feeder.decode(ids[:-1]), style="dim")
            console.print(whole.append(feeder.decode(ids[-1:]), style="dim reverse"))
        at = f", cut at training.data.max_tokens {data.max_tokens}"
        if example.source_ids is not None and data.max_source_tokens is not None:
            at += f", or at max_source_tokens {data.max_source_tokens}"
        console.print(
            f"{example.tokens} tokens, {example.trained_tokens} trained on"
            f"{at if example.truncated else ''}; "
            f"embedded: {len(ids)} tokens, the last is {feeder.decode([ids[-1]])!r}",
            style="dim",
            markup=False,
            highlight=False,
        )
    console.print(_truncation(experiment, fed), markup=False, highlight=False)


class _Fed:
    """What the embedding model is fed of a row."""

    def __init__(self, experiment: Experiment, tokenizer: "PreTrainedTokenizerBase") -> None:
        settings = experiment.embedding
        self.tokenizer = tokenizer
        self.add_special_tokens = (settings.model or experiment.model).template.legacy_bos
        self.closing = end_of_turn(tokenizer) if settings.token == "end_of_turn" else ""

    def ids(self, row: dict[str, Any]) -> list[int]:
        text = sample_text(self.tokenizer, row["prompt"], row["response"], row["history"]) + self.closing
        ids: list[int] = self.tokenizer(text, add_special_tokens=self.add_special_tokens, verbose=False)["input_ids"]
        return ids


def _truncation(experiment: Experiment, fed: _Fed) -> str:
    """How many samples are cut, by language: of all where the vectors exist, else of the first rows of each file."""
    limit = experiment.embedding.max_tokens
    store = Store(experiment.storage)
    step = next(step for step in expand(experiment, store) if step.stage == "vectors")
    vectors = store.artifact(step.stage, step.fingerprint)
    if vectors is not None:
        rows, cut, of = Counter(vectors.summary["languages"]), Counter(vectors.summary["truncated"]), "all samples"
    else:
        rows, cut = Counter(), Counter()
        for row in islice(_rows(experiment), ROWS_COUNTED):
            rows[row["lang"]] += 1
            cut[row["lang"]] += len(fed.ids(row)) > limit
        of = f"{rows.total():,} samples looked at"
    if not cut.total():
        return f"embedded: none of {of} is cut at {limit:,} tokens (embedding.max_tokens)"
    most = sorted(((lang, count) for lang, count in cut.items() if count), key=lambda item: -item[1] / rows[item[0]])
    shares = ", ".join(f"{lang} {count:,} of {rows[lang]:,}" for lang, count in most)
    return f"embedded: of {of}, {cut.total():,} are cut at {limit:,} tokens (embedding.max_tokens): {shares}"


def _styles(labels: np.ndarray, *, taken: int | None) -> list[str]:
    styles = ["green" if label != IGNORED else "dim" for label in labels]
    return [f"{style} reverse" if place == taken else style for place, style in enumerate(styles)]


def _folder(experiment: Experiment, model: ModelSettings, scratch: Path) -> Path:
    if model.path is not None:
        return find_model(model.path, revision=model.revision, trust_remote_code=model.trust_remote_code)
    store = Store(experiment.storage)
    step = next(step for step in expand(experiment, store) if step.stage == "base_model")
    artifact = store.artifact(step.stage, step.fingerprint)
    if artifact is None:
        raise ModelError("the small base model is not made yet: raysel run EXPERIMENT --until base_model makes it")
    return artifact.local_folder("model", scratch)


def _tokenizer(model: ModelSettings, folder: Path) -> "PreTrainedTokenizerBase":
    return load_tokenizer(folder, template_source(model.template.name), trust_remote_code=model.trust_remote_code)


def _rows(experiment: Experiment) -> Any:
    """Rows of the corpus, one from each of its files in turn."""
    files = leaf_files(experiment.corpus)
    layout = find_layout(experiment.corpus, files)
    readers = [_part_rows(layout, part) for part in split_into_parts(files)[:PARTS_LOOKED_AT]]
    while readers:
        for reader in list(readers):
            row = next(reader, None)
            if row is None:
                readers.remove(reader)
            else:
                yield row


def _part_rows(layout: Layout, part: Any) -> Any:
    for batch in read_batches(part, 64):
        table, problems, _ = standardise(
            batch.rows,
            batch.numbers,
            layout=layout,
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
