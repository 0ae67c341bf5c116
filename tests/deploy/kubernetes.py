"""What Kubernetes' own schemas say of a manifest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

kubernetes_validate = pytest.importorskip("kubernetes_validate")

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/bertie"
(OLDEST,) = re.findall(r"(\d+\.\d+)\.0-0", yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"])
"""The oldest Kubernetes that the chart says it needs."""
VERSIONS = (OLDEST, "1.37")


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
