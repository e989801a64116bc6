"""Metrics of generated text that hold in every script, by the names that task files give them.

`rouge_l`, `qa_f1`, `qa_em`, `answered`: means over items, in [0, 1]. `chrf_pp`, `spbleu`: of a whole corpus, in
[0, 100]; an item's value is that of its sentence. Each takes what lm-eval hands over: one reference, one prediction.
"""

import importlib.util
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from raysel.corpus.plain_text import tokens_of
from raysel.errors import UserError

SPBLEU_TOKENIZER = "flores200"


class MetricError(UserError):
    """A metric that cannot be computed here."""


class CountedScore(float):
    """The score of a sentence, with the counts of n-grams from which that of a corpus is computed.

    Resampling adds up counts: with texts in their place, 300 resamples of 1,012 sentences take minutes.
    """

    counts: tuple[int, ...]

    def __new__(cls, value: float, counts: tuple[int, ...]) -> "CountedScore":
        score = super().__new__(cls, value)
        score.counts = counts
        return score

    def __getnewargs__(self) -> tuple[Any, ...]:
        return float(self), self.counts


def register_metrics() -> None:
    """Make the metrics known to lm-eval. Doing so again changes nothing."""
    import lm_eval.api.metrics  # noqa: F401 (registers the mean)
    from lm_eval.api.registry import register_aggregation, register_metric

    register_aggregation("chrf_pp")(chrf_pp_of_corpus)
    register_aggregation("spbleu")(spbleu_of_corpus)
    for metric, aggregation in (
        (rouge_l, "mean"),
        (qa_f1, "mean"),
        (qa_em, "mean"),
        (answered, "mean"),
        (chrf_pp, "chrf_pp"),
        (spbleu, "spbleu"),
    ):
        register_metric(
            metric=metric.__name__, higher_is_better=True, output_type="generate_until", aggregation=aggregation
        )(metric)


def rouge_l(references: Sequence[str], predictions: Sequence[str]) -> float:
    """F measure of the longest common subsequence (Lin 2004, section 3), by the package rouge-score.

    Tokens are words, single characters in scripts without spaces; case, width and punctuation do not count. In plain
    English these are rouge-score's own tokens, without stemming.
    """
    return float(_rouge().score(references[0], predictions[0])["rougeL"].fmeasure)


def qa_f1(references: Sequence[str], predictions: Sequence[str], articles: str = "") -> float:
    """Overlap of tokens as in SQuAD (Rajpurkar et al. 2016, section 6.1), the best over the right answers.

    The lines of a reference are the right answers. Tokens are those of `rouge_l`, less `articles` (separated by
    spaces). An answer without a token agrees only with another such.
    """
    said = _answer(predictions[0], articles)
    return max(_overlap(_answer(line, articles), said) for line in _right(references[0]))


def qa_em(references: Sequence[str], predictions: Sequence[str], articles: str = "") -> float:
    """1 where the tokens are those of one of the right answers, else 0. See `qa_f1`."""
    said = _answer(predictions[0], articles)
    return float(any(_answer(line, articles) == said for line in _right(references[0])))


def answered(references: Sequence[str], predictions: Sequence[str]) -> float:
    """1 where there is an answer at all: for tasks that a judge scores elsewhere."""
    return float(bool(predictions[0].strip()))


def chrf_pp(references: Sequence[str], predictions: Sequence[str]) -> CountedScore:
    """chrF++ (Popovic 2017): sacrebleu's chrF with word n-grams up to 2."""
    return _counted(_chrf(), _chrf(), references[0], predictions[0])


def chrf_pp_of_corpus(scores: Sequence[CountedScore]) -> float:
    return _of_corpus(_chrf(), scores)


def spbleu(references: Sequence[str], predictions: Sequence[str]) -> CountedScore:
    """spBLEU (Goyal et al. 2022, section 6): sacrebleu's BLEU over the SentencePiece tokens of FLORES-200.

    A sentence's own value counts only the orders that it has n-grams of (effective order).
    """
    return _counted(_bleu(False), _bleu(True), references[0], predictions[0])


def spbleu_of_corpus(scores: Sequence[CountedScore]) -> float:
    return _of_corpus(_bleu(False), scores)


def refuse_without_spbleu(task: str = "") -> None:
    """Raise `MetricError` where spBLEU's tokenizer is not there: sacrebleu would fetch it while items are scored."""
    from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
    from sacrebleu.utils import SACREBLEU_DIR

    url = SPM_MODELS[SPBLEU_TOKENIZER]["url"]
    file = Path(SACREBLEU_DIR) / "models" / Path(url).name
    lacking = [] if file.is_file() else [f"the file {file} (fetched from {url})"]
    if importlib.util.find_spec("sentencepiece") is None:
        lacking.append("the package sentencepiece")
    if lacking:
        where = f"task {task}: " if task else ""
        raise MetricError(
            f"{where}metric spbleu needs {' and '.join(lacking)}, on every node that evaluates; without it, set "
            "evaluation.exclude_metrics: [spbleu]"
        )


class _Tokens:
    """What rouge-score asks of a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return tokens_of(text)


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Tokens())


@cache
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF(word_order=2)


@cache
def _bleu(effective_order: bool) -> Any:
    from sacrebleu.metrics import BLEU

    refuse_without_spbleu()
    return BLEU(tokenize=SPBLEU_TOKENIZER, effective_order=effective_order)


# sacrebleu sums counts for its own significance tests; the names below are not public, and a test compares every
# result with sacrebleu's public ones.
def _counted(metric: Any, sentence: Any, reference: str, prediction: str) -> CountedScore:
    [counts] = metric._extract_corpus_statistics([prediction], [[reference]])
    return CountedScore(sentence.sentence_score(prediction, [reference]).score, tuple(counts))


def _of_corpus(metric: Any, scores: Sequence[CountedScore]) -> float:
    return float(metric._aggregate_and_compute([score.counts for score in scores]).score)


def _right(reference: str) -> list[str]:
    return reference.splitlines() or [""]


def _answer(text: str, articles: str) -> list[str]:
    left_out = set(tokens_of(articles))
    return [token for token in tokens_of(text) if token not in left_out]


def _overlap(right: list[str], said: list[str]) -> float:
    if not right or not said:
        return float(right == said)
    common = (Counter(right) & Counter(said)).total()
    return 2 * common / (len(right) + len(said))
