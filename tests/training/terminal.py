"""What the tests see of a command that trains: the steps on its terminal, its checkpoints, its workers."""

import contextlib
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import psutil


class Terminal:
    """`raysel train EXPERIMENT`, started; `output` is what it has shown so far."""

    def __init__(self, experiment: Path, *overrides: str, environment: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "raysel.cli", "train", str(experiment)]
        flags = [flag for override in overrides for flag in ("--set", override)]
        self.master, slave = pty.openpty()
        sized = {**environment, "TERM": "xterm", "COLUMNS": "200", "LINES": "50"}
        self.driver = subprocess.Popen([*command, *flags], env=sized, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        self.output = ""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # how the end of a terminal is told
            while part := os.read(self.master, 65536):
                self.output += part.decode(errors="replace")

    def steps(self) -> int:
        """How many steps it says were trained; the bar is drawn anew ten times a second."""
        shown = re.findall(r"([\d,]+)/[\d,]+ steps", self.output[-5000:])
        return int(shown[-1].replace(",", "")) if shown else 0

    def least_steps(self, since: int = 0, until: int | None = None) -> int:
        """The fewest steps, but none, that this part of the output (in characters) says were trained."""
        shown = re.findall(r"([\d,]+)/[\d,]+ steps", self.output[since:until])
        return min((steps for steps in (int(found.replace(",", "")) for found in shown) if steps), default=0)

    def wait(self) -> int:
        code = self.driver.wait()
        self.reader.join(5)
        os.close(self.master)
        return code


def whole_checkpoints(store: Path) -> list[int]:
    """Of the model that is being trained in `store`, after how many steps its whole checkpoints are, in order."""
    found = (store / "model").glob("*/*/checkpoint-*/whole.json.done")
    return sorted({int(path.parent.name.removeprefix("checkpoint-")) for path in found})


def training_workers(ancestor: int) -> list[psutil.Process]:
    """The processes below `ancestor` in which a training worker is at work."""
    found = []
    for process in psutil.Process(ancestor).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found
