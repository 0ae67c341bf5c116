"""The Helm chart: rendered with many values, held to Kubernetes' schemas and to what the service really has."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service import __version__
from service.app import create_app, create_ops_app
from service.repository import loading
from service.settings import Settings
from tests.deploy import charts, kubernetes
from tests.deploy.charts import NAMESPACE, RELEASE, only, rendered
from tests.deploy.kubernetes import CHART, ROOT
from tests.test_deploy import series

FULL: dict[str, Any] = {
    "monitoring": {name: {"enabled": True} for name in ("serviceMonitor", "rules", "dashboard")},
    "autoscaling": {"enabled": True},
    "grpc": {"enabled": True},
    "service": {"type": "LoadBalancer", "annotations": {"a/b": "c"}},
    "settings": {"max_queue_tokens": 2_000_000, "timeout_seconds": 1.5, "low_latency": False, "models": "qa,nli"},
    "extraEnv": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"}],
    "keys": {"list": {"secret": "keys"}},
    "networkPolicy": {
        "from": [{"kubernetes.io/metadata.name": "ingress-nginx"}],
        "extraEgress": [{"to": [{"podSelector": {}}], "ports": [{"port": 4318, "protocol": "TCP"}]}],
    },
    "podAnnotations": {"a": "b"},
    "podLabels": {"team": "search"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "x", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
    "serviceAccountName": "reader",
    "imagePullSecrets": [{"name": "registry"}],
    "tmp": {"medium": "Memory"},
    "rollingUpdate": {"maxSurge": "25%"},
}
KEYS = {"keys": {"file": {"secret": "keys"}, "admin": {"secret": "admin"}}}
CASES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "full": FULL,
    "keda": {"autoscaling": {"enabled": True, "kind": "keda"}},
    "gpu": {"gpu": {"enabled": True, "runtimeClassName": "nvidia", "count": 2}, "autoscaling": {"cpuPercent": 0}},
    "claim": {"models": {"source": "claim", "claim": {"name": "bundles", "subPath": "v1"}}},
    "image volume": {"models": {"source": "ociImage", "ociImage": {"reference": "registry/bundles:1"}}},
    "references": {"models": {"source": "references", "references": ["qa=oci://registry/qa:1", "nli"]}},
    "keys": KEYS,
}
every_case = pytest.mark.parametrize("values", CASES.values(), ids=CASES.keys())
CHARTS_OWN = {
    "host", "port", "ops_port", "grpc_port", "drain_seconds", "models_dir", "cache_dir", "keys_file", "keys",
    "api_keys", "admin_key",
}  # fmt: skip
"""Settings that other values, or the image, set."""
ALLOWED_VARIABLES = re.compile(r"OTEL_\w+|TMPDIR")


def container(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = only(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    return found


def variables(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container(manifests)["env"]}


# ---- Helm and Kubernetes take it -------------------------------------------------------------------------------------


@every_case
def test_helm_lint(values: dict[str, Any]) -> None:
    report = charts.lint(values)
    assert report["errors"] == []
    assert [each["error"] for each in report["messages"] if each["severity"] > 1] == []


@every_case
@pytest.mark.parametrize("version", kubernetes.VERSIONS)
def test_kubernetes_schemas(values: dict[str, Any], version: str) -> None:
    manifests = rendered(values)
    assert {"Deployment", "Service", "NetworkPolicy", "PodDisruptionBudget"} <= {each["kind"] for each in manifests}
    needs_newer = values.get("models", {}).get("source") == "ociImage" and version == kubernetes.OLDEST
    for manifest in manifests:
        if kubernetes.of_kubernetes(manifest) and not (needs_newer and manifest["kind"] == "Deployment"):
            kubernetes.check(manifest, version)


@pytest.mark.parametrize(
    "values",
    [
        {"replica": 3},
        {"replicas": 0},
        {"settings": {"max_request": 5}},  # one letter short
        {"settings": {"port": 80}},  # the chart's own
        {"image": {"tags": "x"}},
        {"models": {"source": "s3"}},
        {"models": {"source": "references"}},
        {"service": {"port": 80}},  # nobody but root may
        {"resources": {"limits": {"memory": "1 GB"}}},
        {"autoscaling": {"kind": "vpa"}},
        {"autoscaling": {"behavior": {"scaleUp": {"policies": []}}}},
        {"extraEnv": [{"key": "A"}]},
    ],
)
def test_a_wrong_value_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(charts.ChartError, match="HelmValuesError"):
        rendered(values)


@pytest.mark.parametrize("source", ["claim", "ociImage"])
def test_a_volume_without_a_name_is_refused(source: str) -> None:
    with pytest.raises(charts.ChartError, match=rf"models\.{source}\."):
        rendered({"models": {"source": source}})


def test_the_schema_knows_the_settings_and_the_values() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    allowed = set(schema["properties"]["settings"]["propertyNames"]["enum"])
    assert allowed | CHARTS_OWN >= Settings.model_fields.keys(), (
        "a new setting: list it in deploy/helm/bertie/values.schema.json, at settings.propertyNames"
    )
    assert allowed <= Settings.model_fields.keys() - CHARTS_OWN
    assert schema["properties"].keys() == yaml.safe_load((CHART / "values.yaml").read_text()).keys()


# ---- what it says is true of the service -----------------------------------------------------------------------------


@every_case
def test_each_variable_is_a_setting(values: dict[str, Any]) -> None:
    found = variables(rendered(values))
    known = {f"BERTIE_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in found if not ALLOWED_VARIABLES.fullmatch(name)} <= known


@every_case
def test_the_service_takes_the_variables(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables(rendered(values)).items():
        if isinstance(value, str):
            monkeypatch.setenv(name, value)
    settings = Settings()
    assert (settings.port, settings.ops_port, settings.drain_seconds) == (8000, 8081, 20.0)
    for name, value in values.get("settings", {}).items():
        assert getattr(settings, name) == (tuple(value.split(",")) if name == "models" else value)


@every_case
def test_probes_ask_for_paths_that_the_operations_port_has(values: dict[str, Any]) -> None:
    each = container(rendered(values))
    app = create_ops_app(create_app(Settings()), Settings())
    paths = {route.path for route in app.routes}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert each[probe]["httpGet"]["port"] == "ops"
        assert each[probe]["httpGet"]["path"] in paths
    assert each["readinessProbe"]["httpGet"]["path"].endswith("ready")
    assert each["livenessProbe"]["httpGet"]["path"].endswith("live")


@every_case
def test_every_port_is_one_that_the_service_listens_on(values: dict[str, Any]) -> None:
    manifests = rendered(values)
    ports = {port["name"]: str(port["containerPort"]) for port in container(manifests)["ports"]}
    listens = variables(manifests)
    names = {"http": "BERTIE_PORT", "ops": "BERTIE_OPS_PORT", "grpc": "BERTIE_GRPC_PORT"}
    assert {names[name]: port for name, port in ports.items()} == {
        name: value for name, value in listens.items() if name in names.values()
    }
    for manifest in manifests:
        if manifest["kind"] == "Service":
            assert {port["targetPort"] for port in manifest["spec"]["ports"]} <= ports.keys()
        if manifest["kind"] == "NetworkPolicy":
            opened = {port["port"] for rule in manifest["spec"]["ingress"] for port in rule["ports"]}
            assert opened == ports.keys()
        if manifest["kind"] == "ServiceMonitor":
            assert [each["port"] for each in manifest["spec"]["endpoints"]] == ["ops"]


def test_the_service_itself_opens_no_operations_port() -> None:
    manifests = rendered(FULL)
    assert {port["name"] for port in only(manifests, "Service", "bertie")["spec"]["ports"]} == {"http", "grpc"}
    ops = only(manifests, "Service", "-ops")["spec"]
    assert (ops["type"], [port["name"] for port in ops["ports"]]) == ("ClusterIP", ["ops"])


@every_case
def test_all_select_the_deployments_pods(values: dict[str, Any]) -> None:
    manifests = rendered(values)
    deployment = only(manifests, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels
    for manifest in manifests:
        spec = manifest.get("spec", {})
        match manifest["kind"]:
            case "Service":
                assert spec["selector"].items() <= labels
            case "PodDisruptionBudget":
                assert spec["selector"]["matchLabels"].items() <= labels
            case "NetworkPolicy":
                assert spec["podSelector"]["matchLabels"].items() <= labels
            case "HorizontalPodAutoscaler" | "ScaledObject":
                assert spec["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
                assert "replicas" not in deployment["spec"]  # or each upgrade would undo what it scaled
            case "ServiceMonitor":
                chosen = [
                    each["metadata"]["name"]
                    for each in manifests
                    if each["kind"] == "Service"
                    and spec["selector"]["matchLabels"].items() <= each["metadata"]["labels"].items()
                ]
                assert chosen == [f"{RELEASE}-bertie-ops"]
                assert only(manifests, "Service", "-ops")["metadata"]["labels"][spec["jobLabel"]] == "bertie"


# ---- the end of a pod, and its bounds --------------------------------------------------------------------------------


@pytest.mark.parametrize(("drain", "pre_stop"), [(20, 5), (0, 1), (0.5, 1), (300, 60)])
def test_the_grace_period_outlasts_pre_stop_and_drain(drain: float, pre_stop: int) -> None:
    manifests = rendered({"drainSeconds": drain, "preStopSeconds": pre_stop})
    spec = only(manifests, "Deployment")["spec"]["template"]["spec"]
    waits = container(manifests)["lifecycle"]["preStop"]["sleep"]["seconds"]
    drains = float(variables(manifests)["BERTIE_DRAIN_SECONDS"])
    assert (waits, drains) == (pre_stop, drain)
    # uvicorn has 2 s more, the operations' thread 2 s, traces 2 s and the log 1 s.
    assert spec["terminationGracePeriodSeconds"] >= waits + math.ceil(drains) + 7


def test_an_update_never_has_fewer_pods_than_wanted() -> None:
    strategy = only(rendered(FULL), "Deployment")["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "25%"}}


@every_case
def test_it_has_no_rights_that_it_does_not_need(values: dict[str, Any]) -> None:
    manifests = rendered(values)
    spec, each = only(manifests, "Deployment")["spec"]["template"]["spec"], container(manifests)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    user = f"{spec['securityContext']['runAsUser']}:{spec['securityContext']['runAsGroup']}"
    assert f"\nUSER {user}\n" in (ROOT / "Dockerfile").read_text()
    assert each["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= each["resources"]["limits"].keys()


def test_a_service_called_bertie_sets_no_variable_of_the_service() -> None:
    assert only(rendered({}), "Deployment")["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_the_copies_of_all_bundles_fit_into_tmp() -> None:
    """Two sessions of each, and once more all of them for versions that are loaded beside."""
    spec = only(rendered({}), "Deployment")["spec"]["template"]["spec"]
    (tmp,) = [volume for volume in spec["volumes"] if volume["name"] == "tmp"]
    room = int(tmp["emptyDir"]["sizeLimit"].removesuffix("Gi")) * 2**30
    folders = [bundle.folder for bundle in loading.find(ROOT / "models")]
    assert 3 * sum(path.stat().st_size for folder in folders for path in folder.iterdir()) < room


@pytest.mark.parametrize(
    ("name", "variable", "volume", "read_only"),
    [
        ("claim", "BERTIE_MODELS_DIR", "models", True),
        ("image volume", "BERTIE_MODELS_DIR", "models", True),
        ("references", "BERTIE_CACHE_DIR", "cache", False),
    ],
)
def test_models_lie_where_the_service_looks(name: str, variable: str, volume: str, read_only: bool) -> None:
    manifests = rendered(CASES[name])
    (mount,) = [each for each in container(manifests)["volumeMounts"] if each["name"] == volume]
    assert variables(manifests)[variable] == mount["mountPath"]
    assert mount.get("readOnly", False) == read_only
    volumes = only(manifests, "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert {each["name"] for each in container(manifests)["volumeMounts"]} == {each["name"] for each in volumes}


def test_references_are_the_models() -> None:
    assert variables(rendered(CASES["references"]))["BERTIE_MODELS"] == "qa=oci://registry/qa:1,nli"


def test_keys_come_from_secrets_and_arrive_without_a_restart() -> None:
    manifests = rendered(KEYS)
    found = variables(manifests)
    (mount,) = [each for each in container(manifests)["volumeMounts"] if each["name"] == "keys"]
    assert found["BERTIE_KEYS_FILE"] == f"{mount['mountPath']}/keys.toml"
    assert "subPath" not in mount  # a file that is mounted alone is never updated
    assert found["BERTIE_ADMIN_KEY"] == {"secretKeyRef": {"name": "admin", "key": "admin-key"}}
    assert "BERTIE_API_KEYS" not in found
    assert "Secret" not in {each["kind"] for each in manifests}


def test_gpus() -> None:
    manifests = rendered(CASES["gpu"])
    assert container(manifests)["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert only(manifests, "Deployment")["spec"]["template"]["spec"]["runtimeClassName"] == "nvidia"
    assert container(manifests)["image"] == f"bertie:{__version__}-gpu"
    assert "nvidia.com/gpu" not in str(rendered({}))


def test_only_references_open_the_way_out() -> None:
    def ports(name: str) -> set[int]:
        egress = only(rendered(CASES[name]), "NetworkPolicy")["spec"]["egress"]
        return {port["port"] for rule in egress for port in rule["ports"]}

    assert ports("as it is") == {53}
    assert ports("references") == {53, 443}
    assert ports("full") == {53, 4318}


# ---- what is watched, and what it scales by --------------------------------------------------------------------------


def test_the_rules_and_the_dashboard_are_those_of_deploy() -> None:
    manifests = rendered(FULL)
    assert only(manifests, "PrometheusRule")["spec"] == yaml.safe_load((ROOT / "deploy/alerts.yml").read_text())
    (text,) = only(manifests, "ConfigMap")["data"].values()
    assert json.loads(text) == json.loads((ROOT / "deploy/grafana/dashboards/bertie.json").read_text())


def test_it_scales_by_a_metric_that_exists() -> None:
    hpa = only(rendered(FULL), "HorizontalPodAutoscaler")["spec"]
    (pods,) = [metric["pods"] for metric in hpa["metrics"] if metric["type"] == "Pods"]
    assert pods["metric"]["name"] in series()
    assert pods["target"] == {"type": "AverageValue", "averageValue": "500m"}
    (rule,) = [block for block in (CHART / "README.md").read_text().split("```yaml\n") if "seriesQuery" in block]
    (adapted,) = yaml.safe_load(rule.split("```")[0])["rules"]
    assert adapted["seriesQuery"].partition("{")[0] == pods["metric"]["name"]

    keda = only(rendered(CASES["keda"]), "ScaledObject")["spec"]
    (trigger,) = [each for each in keda["triggers"] if each["type"] == "prometheus"]
    asked = trigger["metadata"]["query"]
    assert set(re.findall(r"\bbertie_\w+", asked)) <= series().keys()
    assert f'service="{only(rendered({}), "Service", "-ops")["metadata"]["name"]}"' in asked
    assert f'namespace="{NAMESPACE}"' in asked
    assert hpa["behavior"] == keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_kedas_query_is_promql(tmp_path: Path) -> None:
    keda = only(rendered(CASES["keda"]), "ScaledObject")["spec"]
    rule = {"record": "asked", "expr": keda["triggers"][0]["metadata"]["query"]}
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "keda", "rules": [rule]}]}))
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- the package -----------------------------------------------------------------------------------------------------


def test_versions_agree() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__
    assert container(rendered({}))["image"] == f"bertie:{__version__}"
    assert container(rendered({"image": {"tag": "x"}, "gpu": {"enabled": True}}))["image"] == "bertie:x"


def test_a_package_is_whole_without_the_repository(tmp_path: Path) -> None:
    texts = charts.packaged(FULL, tmp_path)
    rules = [text for name, text in texts.items() if name.endswith("monitoring.yaml")]
    assert "BertieDown" in rules[0]


def test_the_readme_tells_of_each_value() -> None:
    readme = (CHART / "README.md").read_text()
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert {name for name in values if not re.search(rf"[`{{\s]{name}[`.:]", readme)} == set()


@pytest.mark.parametrize("release", ["bertie", "my-bertie", "x" * 53])
def test_names_fit(release: str) -> None:
    names = [manifest["metadata"]["name"] for manifest in rendered(FULL, release)]
    assert all(re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) and len(name) <= 63 for name in names), names
    assert release in ("x" * 53, *names)
