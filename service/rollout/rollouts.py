"""What is served, brought to what the plans say: a version is loaded beside the one that answers, checked, switched to,
and the old one freed when its last request is over.

Owns the order of a swap, and the states of versions. Knows nothing of HTTP, nor of how answers are compared.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from service.engine import allocator
from service.engine.tokenizer import Tokenizer
from service.errors import BertieError, BundleError, RolloutError, UnknownModel
from service.metrics import Metrics
from service.predictor import Predictor
from service.repository import installing, loading, plan, sources, versions
from service.repository.bundle import Bundle
from service.repository.loading import Opened, TokenizerKey
from service.repository.plan import Plan
from service.repository.versions import Version
from service.rollout import aside, canary, fitness
from service.rollout.observer import Observer
from service.serving import Model, Serving
from service.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

State = Literal["available", "loading", "ready", "draining", "failed"]
"""`available`: on disk and not loaded."""
Open: TypeAlias = Callable[[Bundle, Settings, Metrics, dict[TokenizerKey, Tokenizer]], Opened]
Step: TypeAlias = Callable[[Plan], Plan]

LOOK_SECONDS = 0.05
"""How often a version that drains is looked at."""


@dataclass(frozen=True, slots=True)
class VersionState:
    """A version and what becomes of it.

    Attributes:
        roles: `stable`, `canary`, `shadow`, `previous`, by the plan on disk.
        since: when it came to be so, Unix time; None for one that was never touched.
        reason: why it failed.
    """

    version: str
    roles: tuple[str, ...]
    state: State
    since: float | None = None
    reason: str = ""


@dataclass(slots=True)
class _Known:
    """What is known of a version since the start."""

    state: State
    since: float = field(default_factory=time.time)
    reason: str = ""


class Rollouts:
    """The changes of what a process serves. Made and used on the event loop that serves.

    Attributes:
        observer: compares the answers of versions.
    """

    def __init__(
        self, predictor: Predictor, settings: Settings, metrics: Metrics, open_bundle: Open = loading.open_tried
    ) -> None:
        self._predictor = predictor
        self._settings = settings
        self._metrics = metrics
        self._open_bundle = open_bundle
        self._names, references = sources.split(settings.models)
        self._has_folder = bool(self._names) or not references
        self._lock = asyncio.Lock()
        self._known: dict[str, dict[str, _Known]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.observer = Observer(predictor, self.change, settings, metrics)
        self._seen: dict[str, object] = {}
        self._busy = 0  # threads that load
        for model in predictor.models.values():
            self._note(model.name, model.version, "ready")

    async def start(self) -> None:
        """Load what the plans name beside the stable versions, and begin to watch the folder, where that is wanted. A
        version that cannot be loaded leaves the stable one serving alone."""
        self._seen = await aside.run(self._look)
        for name in self._seen.keys() & self._predictor.serving.keys():
            with contextlib.suppress(BertieError):  # logged
                await self.apply(name)
        if self._settings.watch_seconds:
            self._spawn(self._watch())

    def close(self) -> bool:
        """Stop all changes and all shadows. Returns whether no thread is left loading."""
        self.observer.close()
        for task in self._tasks:
            task.cancel()
        return not self._busy

    async def apply(self, name: str) -> None:
        """Bring a model to what its plan on disk says.

        Raises:
            BertieError: it cannot be; what served before goes on.
        """
        async with self._lock:
            with self._told(name):
                wanted = await aside.run(lambda: plan.read(self._folder(name)))
                self._switch(name, wanted, await self._load(name, wanted))

    async def change(self, name: str, step: Step) -> Plan:
        """Take a step from a model's plan to the next: load what that wants, write it down, switch.

        Goes on when who asked for it is gone.

        Raises:
            UnknownModel: there is no such model.
            RolloutError: the step makes no sense.
            BertieError: a version cannot be served; what served before goes on, and the plan is what it was.
        """
        return await asyncio.shield(self._spawn(self._change(name, step)))

    async def add(self, name: str, source: str, version: str | None = None) -> str:
        """Put a bundle into the folder as a version of a model; what serves stays. Returns the version's name.

        Args:
            source: a folder on this machine, or a reference as `service.repository.sources` takes it.

        Raises:
            BundleError: it is not to be had, or cannot be put there.
        """
        settings = self._settings

        def work() -> Version:
            return installing.install(sources.locate(source, settings), settings.models_dir, name, version)

        return (await self._spawn(aside.run(work))).name

    async def remove(self, name: str, version: str) -> None:
        """Remove a version from the folder.

        Raises:
            RolloutError: it has a role.
            BertieError: it is not there, or cannot be removed.
        """
        stored = self._stored(name)
        async with self._lock:
            await aside.run(lambda: installing.remove(stored, version))
            self._known.get(name, {}).pop(version, None)

    async def verify(self, name: str, version: str) -> None:
        """Load a version as a swap would, and drop it.

        Raises:
            BertieError: it cannot be served; the message says why.
        """
        async with self._lock:
            await self._open(self._stored(name).version(version))

    def describe(self, name: str) -> list[VersionState]:
        """Get the versions of a model, on disk or loaded, in order. Reads the disk."""
        known = self._known.get(name, {})
        wanted, names = Plan(), list(known)
        with contextlib.suppress(BertieError):  # the folder may be gone: what is loaded serves
            names = [version.name for version in versions.list_versions(self._settings.models_dir / name)]
            wanted = plan.read(self._settings.models_dir / name)
        found = []
        for version in dict.fromkeys([*names, *known]):
            now = known.get(version, _Known("available", 0.0))
            found.append(VersionState(version, wanted.roles(version), now.state, now.since or None, now.reason))
        return found

    # ---- a swap -----------------------------------------------------------------------------------------------------

    async def _change(self, name: str, step: Step) -> Plan:
        async with self._lock:
            with self._told(name):
                folder = self._folder(name)
                before = await aside.run(lambda: plan.read(folder))
                after = step(before)
                loaded = await self._load(name, after)

                def write() -> None:
                    with plan.edit(folder) as edit:
                        if edit.plan != before:
                            raise RolloutError(f"the plan of model {name!r} was changed meanwhile: look at it again")
                        edit.plan = after

                await aside.run(write)
                self._switch(name, after, loaded)
                self._seen = await aside.run(self._look)
                return after

    async def _load(self, name: str, wanted: Plan) -> dict[str, Model]:
        """Get the versions that a plan wants loaded, by name: those that are, and the others now."""
        stored = self._stored(name)
        serving = self._predictor.serving.get(name)
        loaded = {model.version: model for model in (serving.loaded if serving else ())}
        found: dict[str, Model] = {}
        for version in wanted.loaded:
            if (model := loaded.get(version)) is None:
                opened = await self._open(stored.version(version), serving.stable if serving else None)
                model = loading.model(opened, self._predictor.schedulers, self._metrics)
            found[version] = model
        return found

    async def _open(self, version: Version, stable: Model | None = None) -> Opened:
        """Open a version and try it. It must be of the kind of `stable`."""
        name, before = version.model, self._known.get(version.model, {}).get(version.name)
        self._note(name, version.name, "loading")
        tokenizers = {
            loading.tokenizer_key(model.bundle): model.tokenizer
            for serving in self._predictor.serving.values()
            for model in serving.loaded
        }

        def work() -> Opened:
            bundle = loading.load_version(version)
            if stable is not None:
                fitness.check_kind(bundle, stable.bundle)
            fitness.check_memory(bundle, max(1, self._settings.processes))
            try:
                return self._open_bundle(bundle, self._settings, self._metrics, tokenizers)
            except (MemoryError, OSError) as error:
                raise BundleError(f"bundle {bundle.label!r} cannot be loaded: {str(error) or 'no memory'}") from error

        self._busy += 1
        try:
            opened = await aside.run(work)
        except BaseException as error:
            self._note(name, version.name, "failed", getattr(error, "detail", type(error).__name__))
            raise
        finally:
            self._busy -= 1
        if before is None:
            self._known[name].pop(version.name)
        else:
            self._known[name][version.name] = before
        return opened

    def _switch(self, name: str, wanted: Plan, loaded: Mapping[str, Model]) -> None:
        """Let these versions answer from now on: one assignment, so no request sees half of it."""
        predictor, metrics = self._predictor, self._metrics
        old = predictor.serving.get(name)
        assert wanted.stable is not None
        tried = wanted.canary
        serving = Serving(
            stable=loaded[wanted.stable],
            canary=loaded[tried.version] if tried else None,
            takes=partial(canary.takes, tried) if tried else lambda sender: False,
            others={
                version: model
                for version, model in loaded.items()
                if version not in (wanted.stable, tried.version if tried else None)
            },
        )
        serving = replace(serving, observe=self.observer.watch(name, wanted, serving))
        predictor.serving = {**predictor.serving, name: serving}
        if old is None or old.stable is not serving.stable:
            loading.announce(serving.stable, metrics)
        metrics.version_info.remove_by_labels({"model": name})
        for model in serving.loaded:
            for role in wanted.roles(model.version):
                metrics.version_info.labels(name, model.version, "warm" if role == "previous" else role).set(1)
            if old is None or model not in old.loaded:
                self._note(name, model.version, "ready")
        for model in old.loaded if old else ():
            if model not in serving.loaded:
                self._note(name, model.version, "draining")
                model.scheduler.forget(model.runner)
                self._spawn(self._free(name, model.version, weakref.ref(model)))

    async def _free(self, name: str, version: str, model: weakref.ref[Model]) -> None:
        """Wait for the last request that a version answers, and forget it."""
        while model() is not None:
            await asyncio.sleep(LOOK_SECONDS)
        await aside.run(allocator.return_freed)
        known = self._known.get(name, {})
        if known.get(version) is not None and known[version].state == "draining":
            del known[version]
            for metric in (self._metrics.version_answers, self._metrics.version_duration):
                metric.remove_by_labels({"model": name, "version": version})

    # ---- the folder -------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Apply what changes on disk. What is refused is tried again when it changes again."""
        while True:
            await asyncio.sleep(self._settings.watch_seconds)
            seen = await aside.run(self._look)
            for name in [name for name, found in seen.items() if found != self._seen.get(name)]:
                self._seen[name] = seen[name]
                try:
                    await self.apply(name)
                except BertieError:
                    pass  # logged
                except Exception:
                    logger.exception("model %r goes on as it was", name)

    def _look(self) -> dict[str, object]:
        """Get what of each model's folder decides what it serves: its versions, and its plan."""
        try:
            stored = loading.stored_models(self._settings)
        except BertieError:  # the disk is away for a moment, or for good: what is loaded serves
            return {}
        return {model.name: ([version.name for version in model.versions], _stamp(model.folder)) for model in stored}

    def _folder(self, name: str) -> Path:
        self._stored(name)
        return self._settings.models_dir / name

    def _stored(self, name: str) -> versions.StoredModel:
        if self._has_folder and versions.is_model_name(name) and (not self._names or name in self._names):
            with contextlib.suppress(BundleError):
                return versions.find(self._settings.models_dir, (name,))[0]
        raise UnknownModel(f"there is no model {name!r:.200} in the folder of models", field="name")

    # ---- what is known ----------------------------------------------------------------------------------------------

    def _note(self, name: str, version: str, state: State, reason: str = "") -> None:
        self._known.setdefault(name, {})[version] = _Known(state, reason=reason)

    @contextlib.contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """Log and count a change and how it ended."""
        before = self._shown(name)
        try:
            yield
        except BertieError as error:
            self._metrics.swaps.labels(name if name in self._predictor.serving else "", "refused").inc()
            logger.error("model %r goes on as it was: %s", name, error.detail)
            raise
        if (after := self._shown(name)) != before:
            self._metrics.swaps.labels(name, "done").inc()
            logger.info("model %r: %s", name, after)

    def _shown(self, name: str) -> str:
        serving = self._predictor.serving.get(name)
        if serving is None:
            return "nothing"
        canary_version = serving.canary.version if serving.canary else "none"
        others = ",".join(serving.others) or "none"
        return f"stable {serving.stable.version}, canary {canary_version}, beside {others}"

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _stamp(folder: Path) -> object:
    """Get what changes when a plan is written, or a bundle that lies in the model's folder itself."""
    with contextlib.suppress(OSError):
        status = (folder / plan.PLAN).stat()
        return status.st_ino, status.st_mtime_ns
    return None
