"""Stage `model`: supervised fine-tuning on the token rows, LoRA adapters or the whole model."""

from pathlib import Path

from raysel.models.settings import ModelSettings
from raysel.settings import counted
from raysel.stage import StageOutput, StageRun
from raysel.training.loop import Training
from raysel.training.model_card import Ancestor, ModelCard
from raysel.training.settings import TrainingSettings
from raysel.training.worker_group_stage import TrainingError, train


def run(run: StageRun) -> StageOutput:
    """Write table `adapter` (a PEFT folder; method lora) or `model` (a Hugging Face folder; method full, or adapters
    merged), and `log`."""
    settings: TrainingSettings = run.settings["training"]
    tokens, model = run.inputs["tokens"], run.inputs.get("model")
    if settings.export == "best" and not tokens.shards("heldout_tokens"):
        raise TrainingError("training.export best needs a loss to go by: nothing is held out (corpus.heldout)")
    training = Training(run.attempt, tokens, settings, run.settings["seed"], run.settings["trust_remote_code"])
    output = train(
        run,
        training,
        model or str(Path(run.leaves["model"]).absolute()),
        model_table="model",
        template=tokens.summary["template"],
        table="adapter" if settings.method == "lora" and not settings.lora.merge else "model",
        card=describe(run),
    )
    base = model.fingerprint if model else run.leaves["model"]
    return StageOutput(output.records, {**output.summary, "base": base})


def describe(run: StageRun) -> ModelCard:
    """What the model card says beside how the training went."""
    model: ModelSettings = run.settings["model"]
    if "model" in run.inputs:
        base = run.inputs["model"].address
    else:
        # The folder's place on this machine is nobody else's business.
        path = Path(model.path or run.leaves["model"]).expanduser()
        base = path.name if path.is_absolute() else str(path)
    before = {item.address: item for given in run.inputs.values() for item in (*given.lineage(), given)}
    return ModelCard(
        fingerprint=run.attempt.fingerprint,
        base=base,
        revision=model.revision,
        settings=counted({key: run.settings[key] for key in ("training", "seed", "trust_remote_code")}),
        tokens=run.inputs["tokens"].summary,
        lineage=[
            Ancestor(
                stage=item.stage,
                fingerprint=item.fingerprint,
                manifest_sha256=item.manifest_digest(),
                published=item.manifest["published"],
                settings=item.manifest["settings"],
                inputs=item.manifest["inputs"],
            )
            for item in before.values()
        ],
    )
