"""What a parent opens, and what of it is used by whoever is forked when the plans have changed."""

from pathlib import Path

import pytest

from service.errors import BundleError
from service.metrics import Metrics
from service.predictor import Predictor
from service.processes.shared import Shared
from service.repository import loading
from service.settings import Settings
from tests.bundles import change_manifest, make_version


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Two versions of a model, of which the first serves, and another model."""
    make_version(tmp_path, "sentiment", "1")
    make_version(tmp_path, "sentiment", "2")
    make_version(tmp_path, "nli", "1")
    plan(tmp_path, '{"stable": "1"}')
    return Settings(models_dir=tmp_path, device="cpu", workers=1)


def plan(models_dir: Path, content: str) -> None:
    (models_dir / "sentiment" / "rollout.json").write_text(content)


async def served(shared: Shared, settings: Settings) -> dict[str, str]:
    """The versions that a process serves that is forked now."""
    predictor: Predictor = shared.load(settings, Metrics())
    await predictor.drain(0.0)
    return {name: model.version for name, model in predictor.models.items()}


async def test_what_is_stable_now_is_served(settings: Settings) -> None:
    shared = Shared(settings, Metrics())
    assert [opened.bundle.name for opened in shared.stable] == ["nli", "sentiment"]
    assert await served(shared, settings) == {"nli": "1", "sentiment": "1"}
    plan(settings.models_dir, '{"stable": "2", "previous": ["1"]}')
    assert await served(shared, settings) == {"nli": "1", "sentiment": "2"}
    make_version(settings.models_dir, "qa", "7")
    assert await served(shared, settings) == {"nli": "1", "sentiment": "2", "qa": "7"}


async def test_what_is_open_is_not_opened_again(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    plan(settings.models_dir, '{"stable": "1", "canary": {"version": "2", "percent": 5.0}}')
    shared = Shared(settings, Metrics())
    opened = []
    monkeypatch.setattr(loading, "open_bundle", lambda bundle, *_, **__: opened.append(bundle.label))
    assert await served(shared, settings) == {"nli": "1", "sentiment": "1"}
    second = loading.find(settings.models_dir, ("sentiment",))
    canary = loading.load_version(_version(settings, "2"))
    assert shared.open_bundle(canary, settings, Metrics(), {}).bundle.version == "2"
    assert shared.open_bundle(second[0], settings, Metrics(), {}).workers == 1
    assert opened == []
    change_manifest(settings.models_dir / "sentiment" / "2", licence="another")  # the same name, another content
    shared.open_bundle(loading.load_version(_version(settings, "2")), settings, Metrics(), {})
    assert opened == ["sentiment/2"]


def _version(settings: Settings, name: str) -> loading.Version:
    [stored] = loading.versions.find(settings.models_dir, ("sentiment",))
    return stored.version(name)


async def test_a_canary_that_is_broken_leaves_the_stable_version(settings: Settings) -> None:
    plan(settings.models_dir, '{"stable": "1", "canary": {"version": "2", "percent": 5.0}}')
    (settings.models_dir / "sentiment" / "2" / "tokenizer.json").write_text("{}")
    assert await served(Shared(settings, Metrics()), settings) == {"nli": "1", "sentiment": "1"}


async def test_what_is_broken_now_is_served_as_it_was(settings: Settings) -> None:
    shared = Shared(settings, Metrics())
    plan(settings.models_dir, "no plan")
    make_version(settings.models_dir, "qa", "1")
    (settings.models_dir / "qa" / "1" / "tokenizer.json").write_text("{}")
    assert await served(shared, settings) == {"nli": "1", "sentiment": "1"}
    settings.models_dir.rename(settings.models_dir.with_suffix(".away"))
    assert await served(shared, settings) == {"nli": "1", "sentiment": "1"}


def test_what_is_broken_at_the_start_stops_it(settings: Settings) -> None:
    (settings.models_dir / "nli" / "1" / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match="nli"):
        Shared(settings, Metrics())
