"""Stage `model`: supervised fine-tuning on the token rows, LoRA adapters or the whole model."""

from pathlib import Path

from raysel.stage import StageOutput, StageRun
from raysel.training.loop import Training
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
    )
    base = model.fingerprint if model else run.leaves["model"]
    return StageOutput(output.records, {**output.summary, "base": base})
