"""The Helm chart, rendered by Helm's own library, and what Kubernetes' schemas say of a manifest."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

helm = pytest.importorskip("helm_python", reason="Helm's library (helm-python-sdk) has no wheel for this machine")
kubernetes_validate = pytest.importorskip("kubernetes_validate")

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/bertie"
RELEASE, NAMESPACE = "test", "spaces"
(OLDEST,) = re.findall(r"(\d+\.\d+)\.0-0", yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"])
"""The oldest Kubernetes that the chart says it needs."""
VERSIONS = (OLDEST, "1.37")


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    """All manifests of a release with these values. Raises Helm's errors."""
    return list(_rendered(json.dumps(values)))


@functools.cache
def _rendered(values: str) -> tuple[dict[str, Any], ...]:
    with helm.Chart.load(CHART) as chart:
        texts = chart.render(json.loads(values), name=RELEASE, namespace=NAMESPACE)
    files = [text for name, text in texts.items() if name.endswith(".yaml")]
    return tuple(manifest for text in files for manifest in yaml.safe_load_all(text) if manifest)


def only(manifests: list[dict[str, Any]], kind: str, ending: str = "") -> dict[str, Any]:
    """The one manifest of a kind whose name ends so."""
    (found,) = [each for each in manifests if each["kind"] == kind and each["metadata"]["name"].endswith(ending)]
    return found


def of_kubernetes(manifest: dict[str, Any]) -> bool:
    """Whether it is of Kubernetes itself, not of an operator's CRD."""
    group = manifest["apiVersion"].rpartition("/")[0]
    return "." not in group or group.endswith(".k8s.io")


def check(manifest: dict[str, Any], version: str) -> None:
    """Raises where Kubernetes' schema of that version refuses it; unknown fields are refused too."""
    kubernetes_validate.validate(manifest, version, strict=True)


def pod(spec: dict[str, Any]) -> dict[str, Any]:
    """A pod of a spec that stands inside an operator's manifest."""
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": spec}
