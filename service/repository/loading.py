"""Bundles on disk to models that answer: loaded, checked, warmed up, their workers started.

Owns the order of a start. Knows nothing of requests.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from service import tasks
from service.drift import FEATURES, Drift
from service.engine import allocator
from service.engine.processor import cpu_quota
from service.engine.session import Engine, OrtEngine, Outputs, Provider
from service.engine.tokenizer import Tokenizer
from service.errors import BundleError
from service.metrics import PHASES, Metrics
from service.predictor import Predictor
from service.repository import bundle as bundles
from service.repository import golden, plan, sources, versions
from service.repository.bundle import Bundle
from service.repository.manifest import TOKENIZER, Graph
from service.repository.opening import open_engine, open_low_latency
from service.repository.versions import StoredModel, Version
from service.scheduler.queue import Runner
from service.scheduler.workers import Scheduler
from service.serving import Model
from service.settings import Settings
from service.tasks import AnyTask

logger = logging.getLogger(__name__)

BATCH_TOKENS: Mapping[Provider, int] = {"cpu": 256, "cuda": 16384}
"""Tokens of a batch from which twice as many run no quicker a token, as measured (docs/lab.md)."""
TokenizerKey: TypeAlias = tuple[str, tuple[str, ...]]
"""A tokenizer's file by its sha256, and its markers."""

LOW_LATENCY_TOKENS = 8
"""From so many tokens on, all cores run a batch on the CPU sooner than one, by a fifth and more (docs/lab.md)."""


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A bundle whose engines are open."""

    bundle: Bundle
    graph: Graph
    provider: Provider
    tokenizer: Tokenizer
    task: AnyTask
    runner: Runner
    workers: int


def load(settings: Settings, metrics: Metrics) -> Predictor:
    """Load, check and warm up the bundles of the settings, and start their workers. Call it on the event loop.

    Raises:
        BundleError, ConfigurationError: start-up must stop; the message says why.
    """
    return serve(open_bundles(stable_bundles(settings), settings, metrics), settings, metrics)


def open_bundles(found: Iterable[Bundle], settings: Settings, metrics: Metrics) -> list[Opened]:
    """Open and warm up the first bundles of a process.

    Raises:
        BundleError, ConfigurationError: start-up must stop; the message says why.
    """
    allocator.share_arenas(cpu_quota())
    tokenizers: dict[TokenizerKey, Tokenizer] = {}  # bundles of one encoder have the same, of 10 MB each
    opened = [open_bundle(bundle, settings, metrics, tokenizers) for bundle in found]
    allocator.return_freed()
    allocator.keep_blocks()  # not before: sessions would open into blocks that no call can use, 15 MB a bundle
    return opened


def stable_bundles(settings: Settings) -> list[Bundle]:
    """Read and check the bundles that the settings name: those of the folder, and those from elsewhere.

    Raises:
        BundleError: one is not to be had, or is broken; or there is none.
    """
    found = _stable(stored_models(settings))
    return found + [bundles.load(folder) for _, folder in sources.resolve(settings)]


def stored_models(settings: Settings) -> list[StoredModel]:
    """Find the models of the folder that the settings ask for; none where all are from elsewhere.

    Raises:
        BundleError: the folder holds none, or not one that is asked for.
    """
    names, references = sources.split(settings.models)
    return versions.find(settings.models_dir, names) if names or not references else []


def find(models_dir: Path, names: Sequence[str] = ()) -> list[Bundle]:
    """Read and check the stable version of each model called `names`, or of all in `models_dir`.

    Raises:
        BundleError: there is none, one is broken, or two have one name.
    """
    return _stable(versions.find(models_dir, names))


def _stable(models: Iterable[StoredModel]) -> list[Bundle]:
    found: dict[str, Bundle] = {}
    for stored in models:
        bundle = load_version(stored.version(plan.read(stored.folder).stable or ""))
        if bundle.name in found:
            raise BundleError(f"bundle {stored.name!r} calls itself {bundle.name!r}, and so does another")
        found[bundle.name] = bundle
    return list(found.values())


def load_version(version: Version) -> Bundle:
    """Read and check the bundle of a version. Raises BundleError."""
    return bundles.load(version.folder, None if version.root else version.name)


def serve(opened: list[Opened], settings: Settings, metrics: Metrics) -> Predictor:
    """Put opened bundles behind workers, shared by all models of a device. Tests come in here with fake engines."""
    schedulers: dict[Provider, Scheduler] = {}
    for each in opened:
        if each.provider not in schedulers:
            workers = max(other.workers for other in opened if other.provider == each.provider)
            schedulers[each.provider] = Scheduler(workers, metrics, hang_seconds=settings.timeout_seconds)
    predictor = Predictor([model(each, schedulers, metrics) for each in opened], schedulers, settings, metrics)
    for stable in predictor.models.values():
        announce(stable, metrics)
    return predictor


def model(opened: Opened, schedulers: Mapping[Provider, Scheduler], metrics: Metrics) -> Model:
    """Put an opened bundle behind its device's workers.

    Raises:
        BundleError: no model ran on this device at the start, so it has no workers.
    """
    bundle, provider = opened.bundle, opened.provider
    if provider not in schedulers:
        raise BundleError(f"bundle {bundle.label!r} runs on {provider}, where nothing runs: restart the service")
    manifest, names = bundle.manifest, (bundle.name, bundle.version)
    return Model(
        bundle=bundle,
        graph=opened.graph,
        provider=provider,
        tokenizer=opened.tokenizer,
        tasks=(opened.task, *tasks.derived(opened.task)),
        runner=opened.runner,
        scheduler=schedulers[provider],
        phases={phase: metrics.phase_duration.labels(phase, bundle.name) for phase in PHASES},
        outcomes={each: metrics.version_answers.labels(*names, each) for each in ("answered", "failed")},
        duration=metrics.version_duration.labels(*names),
        drift=None if manifest.profile is None else Drift(manifest.profile, opened.tokenizer.unknown_id),
        loaded=time.time(),
    )


def announce(stable: Model, metrics: Metrics) -> None:
    """Show in the metrics that a version is the one that answers: what it is, what waits for it, its drift."""
    bundle, manifest = stable.bundle, stable.bundle.manifest
    metrics.model_info.remove_by_labels({"model": stable.name})
    metrics.model_info.labels(
        stable.name, manifest.task, manifest.architecture, stable.graph.precision, stable.provider, bundle.version
    ).set(1)
    metrics.model_loaded.labels(stable.name).set(stable.loaded)
    stable.scheduler.watch(stable.name)
    metrics.drift.remove_by_labels({"model": stable.name})
    if stable.drift is not None:
        for feature in FEATURES:
            metrics.drift.labels(stable.name, feature).set_function(partial(stable.drift.distance, feature))


def runner(
    bundle: Bundle, tokenizer: Tokenizer, engine: Engine, batch_tokens: int, low_latency: Engine | None = None
) -> Runner:
    """Describe how a bundle's batches run.

    Args:
        batch_tokens: most tokens of a batch; the longest row is one in any case.
    """
    most = max(batch_tokens, bundle.manifest.max_length)
    return Runner(bundle.name, engine, tokenizer.pad_id, most, low_latency, LOW_LATENCY_TOKENS)


def open_task(bundle: Bundle, tokenizers: dict[TokenizerKey, Tokenizer] | None = None) -> tuple[Tokenizer, AnyTask]:
    """Open a bundle's tokenizer and build its task.

    Args:
        tokenizers: those that are open, by their files' sha256 and their markers; the bundle's is added.

    Raises:
        BundleError: they cannot be used.
    """
    tokenizers = {} if tokenizers is None else tokenizers
    key = tokenizer_key(bundle)
    try:
        if key not in tokenizers:
            tokenizers[key] = Tokenizer.from_bytes(bundle.read(TOKENIZER), bundle.manifest.markers)
        return tokenizers[key], tasks.build(bundle.manifest, tokenizers[key])
    except BundleError:
        raise
    except Exception as error:  # `tokenizers` raises bare Exceptions
        raise BundleError(f"bundle {bundle.label!r}: its tokenizer or task cannot be used: {error}") from error


def open_tried(
    bundle: Bundle, settings: Settings, metrics: Metrics, tokenizers: dict[TokenizerKey, Tokenizer]
) -> Opened:
    """Open a bundle as `open_bundle` does, and run its golden rows: it must answer here as it did at the export.

    Raises:
        BundleError, ConfigurationError: it cannot be served.
    """
    return open_bundle(bundle, settings, metrics, tokenizers, try_golden=True)


def open_bundle(
    bundle: Bundle,
    settings: Settings,
    metrics: Metrics,
    tokenizers: dict[TokenizerKey, Tokenizer],
    *,
    try_golden: bool = False,
) -> Opened:
    """Open a bundle's tokenizer and engines, and warm them up. Any thread may call it.

    Args:
        tokenizers: those that are open; the bundle's is added.

    Raises:
        BundleError, ConfigurationError: it cannot be served.
    """
    tokenizer, task = open_task(bundle, tokenizers)
    cores = cpu_quota()
    engine, graph = open_engine(
        bundle,
        device=settings.device,
        workers=settings.workers,
        intra_op_threads=settings.intra_op_threads,
        cores=cores,
        on_fallback=metrics.provider_fallback.inc,
    )
    warm_up(bundle, task, tokenizer, engine)
    if try_golden and not golden.check(bundle, tokenizer, task, engine):
        logger.warning(
            "bundle %r has no golden rows for %s: its answers are not checked", bundle.label, engine.arithmetic
        )
    low_latency = None
    chosen = settings.workers or settings.intra_op_threads
    if settings.low_latency and not chosen and cores > 1 and engine.provider == "cpu":
        low_latency = open_low_latency(bundle, graph, cores)
        low_latency.warm_up(bundle.manifest.max_length)
    batch_tokens = settings.max_batch_tokens or BATCH_TOKENS[engine.provider]
    run = runner(bundle, tokenizer, engine, batch_tokens, low_latency)
    return Opened(bundle, graph, engine.provider, tokenizer, task, run, engine.workers)


def tokenizer_key(bundle: Bundle) -> TokenizerKey:
    """Get what names a bundle's tokenizer: bundles that share it share one."""
    return bundle.manifest.files[TOKENIZER], bundle.manifest.markers


def warm_up(bundle: Bundle, task: AnyTask, tokenizer: Tokenizer, engine: OrtEngine) -> None:
    """Run a graph for the first time: on the longest row, and on the last piece of the tokenizer's vocabulary.

    Raises:
        BundleError: it fails, or does not give what the task wants.
    """
    try:
        outputs = engine.warm_up(bundle.manifest.max_length, tokenizer.vocabulary_size - 1)
    except Exception as error:
        message = str(error).replace("\n", " ")[:300]
        raise BundleError(
            f"bundle {bundle.label!r}: its graph fails on a row of {bundle.manifest.max_length} tokens, the last of "
            f"the tokenizer's {tokenizer.vocabulary_size} pieces among them: {message}"
        ) from error
    _check(bundle, task, outputs)


def _check(bundle: Bundle, task: AnyTask, outputs: Outputs) -> None:
    found = tuple(output.shape[1] if output.ndim == 2 else 0 for output in outputs)
    wanted = task.widths(bundle.manifest.max_length)
    if found != wanted:
        raise BundleError(
            f"bundle {bundle.label!r}: its graph gives {found} numbers a row where its task and labels want {wanted}"
        )
