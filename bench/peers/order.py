"""What a peer gets when it is started: where to listen, what to serve, and how.

Travels in one environment variable, so that it reaches the processes that a peer starts in turn. Imports nothing heavy.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass

VARIABLE = "BENCH_ORDER"


@dataclass(frozen=True, slots=True)
class Configuration:
    """How a peer uses the machine.

    Attributes:
        workers: processes (of Bertie: threads) that run the model.
        threads: inside a call of the model.
        batch: most rows of a dynamic batch; 1 for none.
        wait_ms: how long a batch waits for more rows.
    """

    workers: int
    threads: int
    batch: int = 1
    wait_ms: float = 0.0

    def words(self) -> str:
        """Describe it for a table's notes."""
        batch = f"batches to {self.batch}, {self.wait_ms:g} ms" if self.batch > 1 else "no batches"
        return f"{self.workers} × {self.threads} threads, {batch}"


@dataclass(frozen=True, slots=True)
class Order:
    """What a peer is to do.

    Attributes:
        port: to listen on, at 127.0.0.1.
        bundle: folder of the bundle, for those that run its graph.
        checkpoint: folder of the checkpoint, for those that run torch.
        configuration: how.
    """

    port: int
    bundle: str
    checkpoint: str
    configuration: Configuration

    def environment(self) -> dict[str, str]:
        """Get the variables that carry it. As many OpenMP threads for all; nothing is downloaded or reported."""
        threads = str(self.configuration.threads)
        return {
            VARIABLE: json.dumps(asdict(self)),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "ORT_DISABLE_TELEMETRY": "1",
            "BENTOML_DO_NOT_TRACK": "True",
            "PYTHONUNBUFFERED": "1",
        }


def read() -> Order:
    """Read the order that this process was given."""
    values = json.loads(os.environ[VARIABLE])
    return Order(**values | {"configuration": Configuration(**values["configuration"])})
