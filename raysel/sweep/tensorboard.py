"""A sweep in TensorBoard: every trial a run, with its held-out loss and, in the tab HPARAMS, its parameters."""

import json
from pathlib import Path

from raysel.sweep.records import TrialRecord


def write_events(folder: Path, record: TrialRecord, labels: list[str]) -> None:
    """Event files of one trial that ended, below `folder`. labels: of the objectives."""
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(folder / f"trial-{record.number:04d}")) as writer:
        for percent, loss in record.curve:
            writer.add_scalar("heldout_loss", loss, percent)
        measured = {label: interval.value for label, interval in zip(labels, record.objectives, strict=False)}
        for label, value in measured.items():
            writer.add_scalar(label, value, 100)
        plain = {key: _plain(value) for key, value in {**record.parameters, "seed": record.seed}.items()}
        writer.add_hparams(plain, measured, name="parameters")


def _plain(value: object) -> bool | int | float | str:
    return value if isinstance(value, (bool, int, float, str)) else json.dumps(value, ensure_ascii=False)
