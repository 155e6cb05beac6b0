"""A process of a run under torchrun, as `aminet train --config` is, that may kill itself on the way.

python worker.py CONFIG.yaml [RANK STEP]: at the first start, rank RANK kills itself after step STEP.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import yaml

from aminet_fast.data import DataConfig
from aminet_fast.training import TrainConfig, train


def main(file: str, victim: str = "", at: str = "0") -> int:
    values = yaml.safe_load(Path(file).read_text())
    config = TrainConfig(**{**values, "data": DataConfig(**values["data"])})

    def kill(step: int, loss: float) -> None:
        if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == victim and step == int(at):
            os.kill(os.getpid(), signal.SIGKILL)

    return train(config, callback=kill)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
