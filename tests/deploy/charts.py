"""The Helm chart, rendered by Helm's own library."""

from __future__ import annotations

import functools
import importlib.util
import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.kubernetes import CHART

if importlib.util.find_spec("helm_python") is None:
    pytest.skip("Helm's library (helm-python-sdk) has no wheel for this machine", allow_module_level=True)

RELEASE, NAMESPACE = "test", "spaces"


class ChartError(Exception):
    """What Helm refuses, in its words."""


def rendered(values: dict[str, Any], release: str = RELEASE) -> list[dict[str, Any]]:
    """All manifests of a release with these values. Raises ChartError."""
    return list(_rendered(json.dumps(values), release))


@functools.cache
def _rendered(values: str, release: str) -> tuple[dict[str, Any], ...]:
    texts = _helm(_render, str(CHART), values, release)
    files = [text for name, text in texts.items() if name.endswith(".yaml")]
    return tuple(manifest for text in files for manifest in yaml.safe_load_all(text) if manifest)


def packaged(values: dict[str, Any], folder: Path) -> dict[str, str]:
    """What a package made into `folder` renders to, by template. Raises ChartError."""
    return _helm(_render, _helm(_package, str(folder)), json.dumps(values), RELEASE)


def lint(values: dict[str, Any]) -> dict[str, Any]:
    """What `helm lint --strict` says."""
    return _helm(_lint, json.dumps(values))


def _helm(function: Callable[..., tuple[Any, str]], *arguments: str) -> Any:
    found, error = _process().submit(function, *arguments).result(60)
    if error:
        raise ChartError(error)
    return found


@functools.cache
def _process() -> ProcessPoolExecutor:
    """The library is written in Go, whose runtime has threads and signal handlers of its own: not in the tests'."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def _render(chart: str, values: str, release: str) -> tuple[dict[str, str], str]:
    import helm_python as helm

    try:
        with helm.Chart.load(chart) as loaded:
            return loaded.render(json.loads(values), name=release, namespace=NAMESPACE), ""
    except helm.HelmError as error:
        return {}, f"{type(error).__name__}: {error}"


def _package(folder: str) -> tuple[str, str]:
    import helm_python as helm

    return helm.package(CHART, destination=folder), ""


def _lint(values: str) -> tuple[dict[str, Any], str]:
    import helm_python as helm

    return helm.lint(CHART, json.loads(values), strict=True), ""


def only(manifests: list[dict[str, Any]], kind: str, ending: str = "") -> dict[str, Any]:
    """The one manifest of a kind whose name ends so."""
    (found,) = [each for each in manifests if each["kind"] == kind and each["metadata"]["name"].endswith(ending)]
    return found
