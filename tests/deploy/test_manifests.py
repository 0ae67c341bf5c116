"""Manifests for KServe and KubeRay: their pods held to Kubernetes' schemas, the rest to what the service has.

Whole, against the operators' own CRDs, they were tried by hand; CRDs are not in this repository.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from service import __version__
from service.app import create_app
from service.settings import Settings
from tests.deploy import kubernetes
from tests.deploy.kubernetes import ROOT
from tests.test_deploy import series

DEPLOY = ROOT / "deploy"
RUNTIME = yaml.safe_load((DEPLOY / "kserve/cluster-serving-runtime.yaml").read_text())["spec"]
INFERENCE = yaml.safe_load((DEPLOY / "kserve/inference-service.yaml").read_text())["spec"]["predictor"]
RAY = yaml.safe_load((DEPLOY / "ray/rayservice.yaml").read_text())["spec"]
CLUSTER = RAY["rayClusterConfig"]
GROUPS = {group["groupName"]: group for group in CLUSTER["workerGroupSpecs"]}
PODS: dict[str, dict[str, Any]] = {
    "kserve": {"containers": RUNTIME["containers"], "volumes": RUNTIME["volumes"]},
    "ray head": CLUSTER["headGroupSpec"]["template"]["spec"],
    **{f"ray {name}": group["template"]["spec"] for name, group in GROUPS.items()},
}


@pytest.mark.parametrize("version", kubernetes.VERSIONS)
@pytest.mark.parametrize("spec", PODS.values(), ids=PODS.keys())
def test_pods_keep_to_kubernetes_schemas(spec: dict[str, Any], version: str) -> None:
    kubernetes.check(kubernetes.pod(spec), version)


@pytest.mark.parametrize("spec", PODS.values(), ids=PODS.keys())
def test_each_variable_is_a_setting(spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    known = {f"BERTIE_{name.upper()}" for name in Settings.model_fields} | {"TMPDIR"}
    for container in spec["containers"]:
        found = {each["name"]: each["value"] for each in container.get("env", [])}
        assert found.keys() <= known
        for name, value in found.items():
            monkeypatch.setenv(name, value)
    Settings()


@pytest.mark.parametrize("spec", PODS.values(), ids=PODS.keys())
def test_nothing_runs_as_root_or_may_become_it(spec: dict[str, Any]) -> None:
    for container in spec["containers"]:
        context = spec.get("securityContext", {}) | container["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys()


def test_kserve_probes_and_metrics_are_there() -> None:
    (container,) = RUNTIME["containers"]
    listens = {each["name"]: each["value"] for each in container["env"]}
    paths = create_app(Settings()).openapi()["paths"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert str(asked["port"]) in (listens["BERTIE_PORT"], listens["BERTIE_OPS_PORT"])
        assert asked["path"] in paths
    assert [str(port["containerPort"]) for port in container["ports"]] == [listens["BERTIE_PORT"]]
    scraped = RUNTIME["annotations"]
    assert scraped["prometheus.kserve.io/port"] == listens["BERTIE_OPS_PORT"]
    assert scraped["prometheus.kserve.io/path"] in paths


def test_the_inference_service_names_the_runtime_and_a_protocol_that_it_speaks() -> None:
    model = INFERENCE["model"]
    manifest = yaml.safe_load((DEPLOY / "kserve/cluster-serving-runtime.yaml").read_text())
    assert model["runtime"] == manifest["metadata"]["name"]
    assert model["modelFormat"]["name"] in [each["name"] for each in RUNTIME["supportedModelFormats"]]
    assert model["protocolVersion"] in RUNTIME["protocolVersions"]
    example = (DEPLOY / "kserve/inference-service.yaml").read_text()
    assert set(re.findall(r"bertie_\w+", example)) <= series().keys()


def test_kserves_grace_period_outlasts_pre_stop_and_drain() -> None:
    (drain,) = [each["value"] for each in RUNTIME["containers"][0]["env"] if each["name"] == "BERTIE_DRAIN_SECONDS"]
    waits = INFERENCE["model"]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert INFERENCE["terminationGracePeriodSeconds"] >= waits + float(drain) + 7
    assert float(drain) + 7 < 30  # Kubernetes' own, where an InferenceService says nothing


def test_ray_serves_the_application_that_there_is() -> None:
    (application,) = yaml.safe_load(RAY["serveConfigV2"])["applications"]
    module, _, name = application["import_path"].partition(":")
    assert (module, name) == ("service.on_ray", "app")
    file = ROOT / f"{module.replace('.', '/')}.py"
    if not file.exists():
        pytest.skip("service/on_ray.py is not merged yet")
    assert re.search(rf"^{name}\b.* = ", file.read_text(), re.MULTILINE)


def test_ray_serves_on_the_port_that_its_pods_show() -> None:
    ports = [port for spec in PODS.values() for container in spec["containers"] for port in container["ports"]]
    serve = {port["containerPort"] for port in ports if port["name"] == "serve"}
    assert serve == {yaml.safe_load(RAY["serveConfigV2"])["http_options"]["port"]}


def test_images_are_of_this_version_and_ray_is_the_clusters() -> None:
    images = {container["image"] for spec in PODS.values() for container in spec["containers"]}
    assert images == {f"bertie:{__version__}", f"bertie-ray:{__version__}"}
    dockerfile = (DEPLOY / "ray/Dockerfile").read_text()
    assert f"FROM rayproject/ray:{CLUSTER['rayVersion']}-py311" in dockerfile
    models = {each["value"] for each in GROUPS["cpu"]["template"]["spec"]["containers"][0]["env"]}
    (folder,) = re.findall(r"^WORKDIR (\S+)$", dockerfile, re.MULTILINE)
    assert f"{folder}/models" in models
