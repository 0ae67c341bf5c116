"""A service whose sentiment model has an engine that fails as it is told: `python -m bench.chaos.engine`.

Owns the one seam with the inside, `create_app(settings, load=...)`: whatever changes there is mended here, and
nowhere else in `bench/chaos` or `tests/chaos`. The rest is the normal program.

What the engine does is steered while it runs, by a file that `Steer` writes: `ok`, `throw` (each call raises), `hang`
(each call blocks until the word changes), `die` (each call ends its thread), `hang-once` and `die-once` (the first call
does, and hangs for ever), `guilty` (a batch that holds the token of `GUILTY` raises), `nan` (the rows that hold it have
logits that are no numbers).
"""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from bench.chaos.target import Service
from bench.errors import ServerError

FAULTY = ("-m", "bench.chaos.engine")
SERVES = "an engine that fails as it is told"
"""Logged when it is loaded: a service without that line runs another engine, and the attack would prove nothing."""
MODEL = "sentiment"
GUILTY = "terrible"
"""A word that is one token of every vocabulary here."""
FILE, SECONDS = "CHAOS_STEER", "CHAOS_SECONDS"


class Steer:
    """The file that says what the engine does. Use it as a context manager around the service.

    Attributes:
        environment: what the service's process is to be given.
    """

    def __init__(self, word: str = "ok", *, seconds: float = 0.0) -> None:
        """
        Args:
            seconds: that each good call takes.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="chaos-")
        self._file = Path(self._folder.name) / "word"
        self.environment = {FILE: str(self._file), SECONDS: str(seconds)}
        self.to(word)

    def __enter__(self) -> Steer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._folder.cleanup()

    def to(self, word: str) -> None:
        """From now on the engine does this."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(word)
        fresh.rename(self._file)


def faulty(models: Path, steer: Steer, **settings: str) -> Service:
    """Starts a service with that engine.

    Raises:
        ServerError: it runs another engine: the seam has changed.
    """
    service = Service(models, MODEL, program=FAULTY, environment=steer.environment, log_level="info", **settings)  # type: ignore[arg-type]
    if SERVES not in service.messages():
        service.stop()
        raise ServerError("the seam for the faulty engine (bench/chaos/engine.py) no longer fits the service")
    return service


class Death(BaseException):
    """What no `except Exception` catches."""


class FaultyEngine:
    """An engine that does what the steering file says."""

    def __init__(self, guilty: int) -> None:
        """
        Args:
            guilty: the id of the guilty token.
        """
        self._guilty = guilty
        self._file = Path(os.environ[FILE])
        self._seconds = float(os.environ.get(SECONDS, "0"))
        self._once = False
        self._lock = threading.Lock()

    def run(self, batch: Any) -> tuple[np.ndarray[Any, np.dtype[np.float32]], ...]:
        """The logits of a batch's rows, or trouble."""
        word = self._word()
        if word == "throw":
            raise RuntimeError("told to throw")
        if word.endswith("-once"):
            with self._lock:
                word, self._once = ("ok" if self._once else word), True
        if word in ("die", "die-once"):
            raise Death
        if word == "hang-once":
            threading.Event().wait()
        while word == "hang":
            time.sleep(0.02)
            word = self._word()
        time.sleep(self._seconds)
        ids = np.asarray(batch.input_ids)
        guilty = (ids == self._guilty).any(axis=1)
        if word == "guilty" and guilty.any():
            raise RuntimeError("told to throw for a guilty row")
        logits = np.tile(np.array([0.0, 1.0], dtype=np.float32), (len(ids), 1))
        if word == "nan":
            logits[guilty] = np.nan
        return (logits,)

    def _word(self) -> str:
        try:
            return self._file.read_text()
        except OSError:  # the attack is over
            return "ok"


def main() -> int:
    """Serves with that engine behind the model `sentiment`. Returns the exit status."""
    from service import program
    from service.app import create_app

    program.create_app = functools.partial(create_app, load=load)  # type: ignore[attr-defined]
    return program.main([])


def load(settings: Any, metrics: Any) -> Any:
    """The models as `service.repository.loading.load` makes them: one, `sentiment`, with the faulty engine."""
    from service.repository import bundle as bundles
    from service.repository import loading

    logging.getLogger(__name__).info(SERVES)
    bundle = bundles.load(settings.models_dir / MODEL)
    tokenizer, task = loading.open_task(bundle)
    vocabulary = json.loads((bundle.folder / "tokenizer.json").read_text())["model"]["vocab"]
    engine = FaultyEngine(vocabulary[GUILTY])
    runner = loading.runner(bundle, tokenizer, engine, 1024)
    opened = loading.Opened(bundle, bundle.graph_for("cpu"), "cpu", tokenizer, task, runner, workers=1)
    return loading.serve([opened], settings, metrics)


if __name__ == "__main__":
    sys.exit(main())
