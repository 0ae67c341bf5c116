"""The versions that a parent opens before it forks, and what of them a process still uses.

A session's weights are then in memory once for all. A process that is forked after a swap serves what the plans say by
then: what its parent has not opened it loads itself.
"""

from __future__ import annotations

import dataclasses
import logging

from service.engine.processor import cpu_quota
from service.engine.tokenizer import Tokenizer
from service.errors import BertieError
from service.metrics import Metrics
from service.predictor import Predictor
from service.repository import loading, plan, sources
from service.repository.bundle import Bundle
from service.repository.loading import Opened, TokenizerKey
from service.repository.versions import StoredModel
from service.settings import Settings

logger = logging.getLogger(__name__)


class Shared:
    """Opened versions, by model and name. Made in the parent, used in the processes that it forks."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Open the versions that the plans want loaded.

        Raises:
            BundleError, ConfigurationError: start-up must stop; the message says why.
        """
        stable = loading.stable_bundles(settings)
        others = []
        for stored in loading.stored_models(settings):
            for name in plan.read(stored.folder).loaded:
                if name not in (bundle.version for bundle in stable if bundle.name == stored.name):
                    try:
                        others.append(loading.load_version(stored.version(name)))
                    except BertieError as error:  # the stable version serves alone
                        logger.error("model %r goes on without version %r: %s", stored.name, name, error.detail)
        opened = loading.open_bundles([*stable, *others], settings, metrics)
        self.stable = opened[: len(stable)]
        self._opened = {(each.bundle.name, each.bundle.version): each for each in opened}

    def load(self, settings: Settings, metrics: Metrics) -> Predictor:
        """Load in a process what `service.repository.loading.load` would, as far as possible from what is open. What
        cannot be loaded any more is served as it was at the start."""
        tokenizers: dict[TokenizerKey, Tokenizer] = {}
        first = {each.bundle.name: each for each in self.stable}
        found = {name: first[name] for name in sources.split(settings.models)[1]}  # no other will come for them
        try:
            there = loading.stored_models(settings)
        except BertieError as error:
            logger.error("the models are served as they were at the start: %s", error.detail)
            there, found = [], dict(first)
        for stored in there:
            try:
                found[stored.name] = self._of(stored, settings, metrics, tokenizers)
            except BertieError as error:
                logger.error("model %r is served as it was at the start, if it was: %s", stored.name, error.detail)
                if stored.name in first:
                    found[stored.name] = first[stored.name]
        return loading.serve([_resized(each, settings) for each in found.values()], settings, metrics)

    def open_bundle(
        self, bundle: Bundle, settings: Settings, metrics: Metrics, tokenizers: dict[TokenizerKey, Tokenizer]
    ) -> Opened:
        """Open a bundle as `service.repository.loading.open_tried` does, if it is not open."""
        known = self._opened.get((bundle.name, bundle.version))
        if known is not None and known.bundle.digest == bundle.digest:
            return _resized(known, settings)
        return loading.open_tried(bundle, settings, metrics, tokenizers)

    def _of(
        self, stored: StoredModel, settings: Settings, metrics: Metrics, tokenizers: dict[TokenizerKey, Tokenizer]
    ) -> Opened:
        version = stored.version(plan.read(stored.folder).stable or "")
        known = self._opened.get((stored.name, version.name))
        return known or loading.open_bundle(loading.load_version(version), settings, metrics, tokenizers)


def names(settings: Settings) -> list[str]:
    """Get the names of the models that the settings ask for. Raises BundleError."""
    return [stored.name for stored in loading.stored_models(settings)] + list(sources.split(settings.models)[1])


def _resized(opened: Opened, settings: Settings) -> Opened:
    """Give it as many workers as this process has cores."""
    return dataclasses.replace(opened, workers=settings.workers or cpu_quota())
