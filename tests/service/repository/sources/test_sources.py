"""The references of the settings: fetched at the start, and served by their names."""

from pathlib import Path

import pytest

from service.errors import BundleError
from service.repository import bundle as bundles
from service.repository.sources import resolve, split
from service.settings import Settings
from tests.bundles import make_bundle
from tests.remote import Registry, Web, files_of

HEX = "ab" * 32


def test_names_and_references_are_told_apart() -> None:
    models = ("qa", f"nli=https://host/a?b=c&d=e#sha256={HEX}", "a=b", "x=oci://registry/x@sha256:" + HEX)
    names, references = split(models)
    assert names == ("qa", "a=b")
    assert references == {
        "nli": f"https://host/a?b=c&d=e#sha256={HEX}",
        "x": f"oci://registry/x@sha256:{HEX}",
    }


@pytest.mark.parametrize("models", [("qa", "qa=file:///a"), ("qa=file:///a", "qa=file:///b")])
def test_a_name_is_of_one_bundle(models: tuple[str, ...]) -> None:
    with pytest.raises(BundleError, match="BERTIE_MODELS names two bundles 'qa'"):
        split(models)


def test_the_settings_are_resolved(
    web: Web, registry: Registry, elsewhere: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nli = make_bundle(tmp_path / "other", "nli")
    digest = registry.artifact(files_of(nli))
    monkeypatch.setenv("BERTIE_MODELS", f"qa, nli={registry.name}@{digest}, sentiment={web.put('/a', elsewhere)}")
    monkeypatch.setenv("BERTIE_CACHE_DIR", str(cache))
    resolved = resolve(Settings())
    assert [name for name, _ in resolved] == ["nli", "sentiment"]
    assert [files_of(folder) for _, folder in resolved] == [files_of(nli), files_of(elsewhere)]
    assert [bundles.load(folder).name for _, folder in resolved] == ["nli", "sentiment"]


def test_a_bundle_goes_by_its_own_name(web: Web, elsewhere: Path, cache: Path) -> None:
    settings = Settings(models=(f"mood={web.put('/a', elsewhere)}",), cache_dir=cache)
    with pytest.raises(BundleError, match="BERTIE_MODELS calls a bundle 'mood' that calls itself 'sentiment'"):
        resolve(settings)


def test_the_settings_bound_it(web: Web, elsewhere: Path, cache: Path) -> None:
    settings = Settings(models=(f"sentiment={web.put('/a', elsewhere)}",), cache_dir=cache, max_bundle_bytes=5000)
    with pytest.raises(BundleError, match=r"is too large: .* of 5000"):
        resolve(settings)


def test_nothing_is_fetched_without_a_reference(cache: Path) -> None:
    assert resolve(Settings(models=("qa",), cache_dir=cache)) == []
    assert not cache.exists()
