"""What comes out of scoring a task, whoever scored it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MetricScore:
    """A metric over the items of a task. metric is lm-eval's name, with `,<filter>` unless the filter is `none`."""

    metric: str
    value: float
    ci_low: float
    ci_high: float
    n: int


@dataclass(frozen=True)
class ItemScore:
    """One metric of one item. value is NaN where the metric has none for a single item (F1, BLEU, perplexity).

    prompt is what stood before the answer; answer is the model's: the likeliest choice, the generated text after
    the filter, or the log-likelihood of a text that was only scored. target is the right answer. group names the item
    in all languages; None where the items are not parallel. generated is the text before the filter, where one was
    generated; judgement is what the judge wrote, where there is one.
    """

    item: int
    group: str | None
    metric: str
    value: float
    prompt: str
    answer: str
    target: str
    generated: str | None = None
    judgement: str | None = None
