"""What an experiment asked for, in words."""

from collections.abc import Mapping
from typing import Any

from raysel.report.formats import counted, integer, percent
from raysel.report.overlap import selector_name

QUOTAS = {
    "proportional": "each language in proportion",
    "even": "as many of each language",
    "temperature": "shared out by temperature",
}


def at(data: Mapping[str, Any], *keys: str) -> Any:
    """What nested sections have for a key; None where there is nothing."""
    found: Any = data
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def model_name(experiment: Mapping[str, Any]) -> str | None:
    """The model as the experiment names it, without the folders it lies in."""
    path = at(experiment, "model", "path")
    if path:
        return str(path).rstrip("/").rsplit("/", 1)[-1] if str(path).startswith("/") else str(path)
    base = at(experiment, "model", "base")
    if not base:
        return None
    return f"a small Llama made from the corpus ({base.get('layers')} layers, width {base.get('width')})"


def pool_words(experiment: Mapping[str, Any]) -> str:
    """How the pool was taken, as the object of a sentence."""
    if at(experiment, "selection", "candidates") == "corpus":
        return "the whole corpus"
    preselect = experiment.get("preselect") or {}
    share = f"{percent(preselect['rho'], 0)} of each language" if preselect.get("rho") else "rows"
    shared_out = "" if preselect.get("rho") else f" ({preselect.get('size', 0):,}, shared out over the languages)"
    words = {
        "high": f"the {share} with the highest separability",
        "low": f"the {share} with the lowest separability",
        "middle": f"the middle {share} by separability",
        "random": f"{share} drawn at random",
        "permuted": f"the {share} that come first after the scores were shuffled, a control",
        "length_matched": f"{share} drawn at random, as long as the most separable ones, a control",
        "lid_clean": f"the {share} that language identification is surest of, a control",
    }
    return words.get(preselect.get("band", ""), f"{share} of the corpus") + shared_out


def selector_words(experiment: Mapping[str, Any]) -> str:
    """Who chose from the pool: `by KMC`; empty where the experiment does not say."""
    method = at(experiment, "selection", "method")
    return f"by {selector_name(str(method), 'corpus')}" if method else ""


def budget_words(experiment: Mapping[str, Any]) -> str:
    """How much was to be chosen; empty where the experiment does not say."""
    tokens = at(experiment, "selection", "tokens")
    if tokens:
        return f"{integer(tokens)} tokens"
    mixture = experiment.get("mixture") or {}
    total = mixture.get("total")
    match mixture.get("quota"):
        case "everything":
            return "everything in the pool"
        case "counts":
            return f"the counts given for {counted(len(mixture.get('counts') or {}), 'language')}"
        case "pivot":
            rows, each = mixture.get("pivot_rows"), mixture.get("rows_per_language")
            return f"{integer(rows)} rows of {mixture.get('pivot')} and {integer(each)} of each other language"
        case str() as kind if kind in QUOTAS:
            rows_asked = percent(total) + " of the rows" if isinstance(total, float) else integer(total) + " rows"
            return f"{rows_asked}, {QUOTAS[kind]}"
    return ""


def training_words(experiment: Mapping[str, Any]) -> str:
    """How the model was to be trained; empty where the experiment does not say."""
    training = experiment.get("training") or {}
    method = {"full": "all weights", "lora": "LoRA"}.get(str(training.get("method")), "")
    epochs = at(training, "data", "epochs")
    return ", ".join(part for part in (method, counted(epochs, "epoch") if epochs else "") if part)
