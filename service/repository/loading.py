"""Bundles on disk to models that answer: loaded, checked, warmed up, measured, their workers started.

Owns the order of a start. Knows nothing of requests.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from service.engine import allocator
from service.engine.session import Engine, OrtEngine, open_engine
from service.engine.tokenizer import Tokenizer
from service.errors import BertieError, BundleError
from service.metrics import PHASES, Metrics
from service.predictor import Model, Predictor, make_task
from service.repository import bundle as bundles
from service.repository.bundle import Bundle, Graph, Provider
from service.scheduler import schedule as schedules
from service.scheduler.batcher import Batcher
from service.scheduler.schedule import Load, Schedule, Subject
from service.settings import Settings, cpu_quota
from service.tasks import ClassificationTask, ZeroShotTask
from service.tasks.spec import ServedTask


@dataclass(frozen=True, slots=True, eq=False)
class _Opened:
    """A bundle whose sessions are open."""

    bundle: Bundle
    tokenizer: Tokenizer
    task: ServedTask
    engine: OrtEngine
    graph: Graph
    lone: OrtEngine | None

    @property
    def subject(self) -> Subject:
        manifest, engine = self.bundle.manifest, self.engine
        kind = (manifest.architecture, engine.precision, engine.provider, "packed" if self.graph.packed else "padded")
        return Subject(engine, self.lone, manifest.max_length, kind, manifest.parameters)


def load(settings: Settings, metrics: Metrics) -> Predictor:
    """Loads, checks and warms up the bundles of the settings, and starts their workers. Call it on the event loop.

    Raises:
        BundleError, ConfigurationError: start-up must stop; the message says why.
    """
    allocator.share_arenas(cpu_quota())
    opened: list[_Opened] = []
    tokenizers: dict[str, Tokenizer] = {}  # bundles of one encoder have the same, of 10 MB each
    for folder in bundles.find(settings.models_dir, settings.models):
        bundle = bundles.load(folder)
        if any(bundle.name == other.bundle.name for other in opened):
            raise BundleError(f"bundle {folder.name!r} calls itself {bundle.name!r}, and so does another")
        opened.append(_open(bundle, settings, tokenizers))
    allocator.return_freed()
    allocator.keep_blocks()  # not before: sessions would open into blocks that no call can use, 15 MB a bundle
    schedule = schedules.measure([each.subject for each in opened], most_tokens=settings.max_batch_tokens)
    shared = Load()
    models = [
        serve(
            each.bundle,
            each.tokenizer,
            each.task,
            each.engine,
            each.engine.provider,
            each.engine.precision,
            cut,
            settings,
            metrics,
            shared,
        )
        for each, cut in zip(opened, schedule, strict=True)
    ]
    opened.clear()
    allocator.return_freed()  # the sessions, too, that nothing is gained by
    return Predictor(models, settings, metrics)


def _open(bundle: Bundle, settings: Settings, tokenizers: dict[str, Tokenizer]) -> _Opened:
    try:
        digest = bundle.manifest.files[bundles.TOKENIZER]
        if digest not in tokenizers:
            tokenizers[digest] = Tokenizer.from_file(bundle.folder / bundles.TOKENIZER)
        tokenizer = tokenizers[digest]
        task = make_task(bundle, tokenizer)
    except BertieError:
        raise
    except Exception as error:  # `tokenizers` raises bare Exceptions
        raise BundleError(f"bundle {bundle.name!r}: its tokenizer cannot be used: {error}") from error
    cores = cpu_quota()
    engine, graph = open_engine(
        bundle,
        device=settings.device,
        workers=settings.workers,
        intra_op_threads=settings.intra_op_threads,
        cores=cores,
    )
    engine.warm_up(bundle.manifest.max_length)
    lone = None
    chosen = settings.workers or settings.intra_op_threads
    if settings.lone_session and not chosen and cores > 1 and engine.provider == "cpu":
        lone = engine.reopened(workers=1, intra_op_threads=cores)
        lone.warm_up(bundle.manifest.max_length)
    return _Opened(bundle, tokenizer, task, engine, graph, lone)


def serve(
    bundle: Bundle,
    tokenizer: Tokenizer,
    task: ServedTask,
    engine: Engine,
    provider: Provider,
    precision: str,
    schedule: Schedule,
    settings: Settings,
    metrics: Metrics,
    shared: Load | None = None,
) -> Model:
    """Puts an engine behind a started batcher. Tests come in here with a fake engine.

    Args:
        shared: by the models of the process.
    """
    manifest = bundle.manifest
    batcher = Batcher(
        bundle.name,
        engine,
        pad_id=tokenizer.pad_id,
        max_length=manifest.max_length,
        schedule=schedule,
        max_queue_tokens=settings.max_queue_tokens,
        metrics=metrics,
        load=shared,
    )
    batcher.start()
    loaded = time.time()
    metrics.model_info.labels(
        bundle.name, manifest.task, manifest.architecture, precision, provider, bundle.version
    ).set(1)
    metrics.model_loaded.labels(bundle.name).set(loaded)
    zero_shot = None
    if isinstance(task, ClassificationTask) and ZeroShotTask.serves(task.labels):
        zero_shot = ZeroShotTask(task)
    phases = {phase: metrics.phase_duration.labels(phase, bundle.name) for phase in PHASES}
    return Model(bundle, provider, precision, task, zero_shot, schedule, batcher, phases, loaded)
