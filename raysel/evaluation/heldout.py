"""What the corpus holds out as evaluation tasks: one of each language, whose items are always development items."""

from raysel.evaluation.tasks import EvalTask

METRIC = "bits_per_byte"
PREFIX = "heldout_"


def heldout_task(lang: str, corpus: str, samples: int) -> EvalTask:
    """The task of one language. corpus: the fingerprint of the corpus; samples: at most so many are scored."""
    name = f"{PREFIX}{lang}"
    config = {"task": name, "metadata": {"lang": lang, "version": 1.0, "corpus": corpus, "samples": samples}}
    return EvalTask(name, lang, config, (), split="dev", is_heldout=True)


def is_asked_by(glob: str) -> bool:
    """Whether a task of some language may be meant; which languages there are only the corpus knows."""
    fixed = glob[: min((glob.index(mark) for mark in "*?[" if mark in glob), default=len(glob))]
    return fixed.startswith(PREFIX) or (fixed != glob and PREFIX.startswith(fixed))
