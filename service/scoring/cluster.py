"""Parts scored on a Ray cluster: a task a part, on a pool of workers that each hold the model.

Ray Data hands out the parts, and hands one out again when its node dies; a part's files are the part's own and appear
whole, so one that runs twice leaves what one leaves that runs once. Texts go from storage to worker and from worker to
storage: none goes through Ray. Knows nothing of formats.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from service.errors import BertieError, ConfigurationError
from service.repository.bundle import Bundle
from service.repository.manifest import MANIFEST
from service.scoring.errors import ScoringError
from service.scoring.part import Done, OnBlock, Scorer
from service.scoring.plan import Part, Plan
from service.scoring.storage import Folder

SECONDS = 15.0
"""To reach a cluster. Ray itself tries for minutes, and then ends the process."""


class Worker:
    """A process of the cluster that scores parts, one after another."""

    def __init__(self, plan: bytes, files: Any, output: str, device: str, threads: int) -> None:
        """
        Args:
            plan: as JSON.
            files: a reference to the bundle's, by name: no node needs a folder of models.
        """
        import ray

        from service.inprocess import load

        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._plan = Plan.from_json(plan)
        with tempfile.TemporaryDirectory(prefix="bertie-score-") as parent:
            folder = Path(parent) / self._plan.settings.model
            folder.mkdir()
            for name, content in ray.get(files).items():
                (folder / name).write_bytes(content)
            model = load(folder, device=device, threads=threads).model
        self._scorer = Scorer(self._plan, model, Folder(output))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Score the one part of a batch, `number` [1]. Returns what became of it by column, `error` where it failed."""
        (number,) = batch["number"].tolist()
        done, error = Done(number, 0, 0), ""
        try:
            (done,) = self._scorer.score([self._plan.parts[number]])
        except BertieError as failed:
            error = failed.detail
        return {name: [value] for name, value in {**asdict(done), "error": error}.items()}


def connect(address: str) -> None:
    """Connect to a cluster: `HOST:PORT`, `auto` for the one of this machine, `local` for a new one.

    Raises:
        ConfigurationError: Ray is not installed.
        ScoringError: nobody answers there.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigurationError(f"--ray wants Ray: pip install 'bertie[ray]' ({error})") from error
    if address not in ("auto", "local"):
        _reach(address)
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ScoringError(f"no Ray cluster at {address}: {reason}") from error


def _reach(address: str) -> None:
    """Raise ScoringError where no cluster answers."""
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdigit()) or "://" in host:
        raise ScoringError(f"--ray is HOST:PORT, auto or local, not {address!r}")
    try:
        socket.create_connection((host, int(port)), SECONDS).close()
        status = [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", address]
        subprocess.run(status, timeout=SECONDS, check=True, capture_output=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise ScoringError(f"no Ray cluster answers at {address}: {error}") from error


def scoring(
    plan: Plan, bundle: Bundle, folder: Folder, *, device: str, workers: int | None
) -> Callable[[list[Part], OnBlock], Iterator[Done]]:
    """Get what scores parts on the cluster that this process is connected to.

    Args:
        workers: processes, of a core each (a GPU each on CUDA); None for as many as the cluster has.
    """

    def score(parts: list[Part], on_block: OnBlock) -> Iterator[Done]:
        """Score parts; Ray says in which order. Raises ScoringError where a worker does."""
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        context = DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # progress is told by `service.scoring.progress`
        gpus = 1 if device == "cuda" else 0
        most = workers or max(1, int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1)))
        files = {name: bundle.read(name) for name in bundle.manifest.files}
        files[MANIFEST] = (bundle.folder / MANIFEST).read_bytes()
        numbers = [{"number": part.number} for part in parts]
        done = ray.data.from_items(numbers, override_num_blocks=len(numbers)).map_batches(
            Worker,
            batch_size=1,
            zero_copy_batch=True,
            compute=ActorPoolStrategy(min_size=1, max_size=min(most, len(parts)), max_tasks_in_flight_per_actor=2),
            fn_constructor_args=(plan.to_json(), ray.put(files), folder.url, device, 1),
            num_cpus=1,
            num_gpus=gpus,
        )
        try:
            for row in done.iter_rows():
                if error := row.pop("error"):
                    raise ScoringError(error)
                found = Done(**row)
                on_block(found.rows, found.rejected)
                yield found
        except ray.exceptions.RayError as error:
            reason = str(getattr(error, "cause", None) or error).strip().partition("\n")[0]
            raise ScoringError(f"a worker failed: {reason}") from error

    return score
