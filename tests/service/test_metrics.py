"""The metrics' names are a contract, and their buckets fine enough."""

import re
from itertools import pairwise
from pathlib import Path

from prometheus_client import generate_latest

from service.metrics import PHASES, SECONDS, Metrics

README = Path(__file__).parents[2] / "README.md"
LABELS = {
    "bertie_requests": {"route", "model", "status"},
    "bertie_request_duration_seconds": {"route", "model"},
    "bertie_phase_duration_seconds": {"phase", "model"},
    "bertie_batch_rows": {"model"},
    "bertie_batch_tokens": {"model"},
    "bertie_padding_ratio": {"model"},
    "bertie_queue_rows": {"model"},
    "bertie_queue_tokens": {"model"},
    "bertie_queue_wait_seconds": set(),
    "bertie_rejected": {"reason"},
    "bertie_key_requests": {"key", "status"},
    "bertie_key_tokens": {"key"},
    "bertie_key_rejected": {"key", "reason"},
    "bertie_predictions": {"model", "label"},
    "bertie_confidence": {"model"},
    "bertie_qa_windows": {"model"},
    "bertie_no_answer": {"model"},
    "bertie_cache_hits": {"model"},
    "bertie_cache_misses": {"model"},
    "bertie_cache_bytes": set(),
    "bertie_drift_psi": {"model", "feature"},
    "bertie_model_info": {"model", "task", "architecture", "precision", "provider", "version"},
    "bertie_model_loaded_timestamp_seconds": {"model"},
    "bertie_version_answers": {"model", "version", "outcome"},
    "bertie_version_duration_seconds": {"model", "version"},
    "bertie_version_info": {"model", "version", "role"},
    "bertie_swaps": {"model", "outcome"},
    "bertie_shadow_requests": {"model", "version", "outcome"},
    "bertie_shadow_agreement_ratio": {"model", "version"},
    "bertie_shadow_flips": {"model", "from", "to"},
    "bertie_shadow_score_distance": {"model"},
    "bertie_shadow_overlap": {"model"},
    "bertie_shadow_p95_ratio": {"model", "version"},
    "bertie_feedback": {"model", "version", "outcome"},
    "bertie_ready": set(),
    "bertie_processes": set(),
    "bertie_processes_lost": set(),
    "bertie_workers_lost": set(),
    "bertie_provider_fallback": set(),
    "bertie_log_dropped": set(),
}


def test_names_and_labels_are_the_contracts() -> None:
    metrics = Metrics()
    ours = [value for value in vars(metrics).values() if hasattr(value, "_labelnames")]
    assert {metric._name: set(metric._labelnames) for metric in ours} == LABELS


def test_the_readme_has_each_with_its_labels() -> None:
    rows = re.findall(r"^\| `(bertie_\w+)` \| (.*?) ?\| ", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name.removesuffix("_total"): set(filter(None, labels.split(", "))) for name, labels in rows} == LABELS


def test_every_metric_is_scraped() -> None:
    metrics = Metrics()
    for metric in (value for value in vars(metrics).values() if hasattr(value, "_labelnames")):
        if metric._labelnames:
            metric.labels(*metric._labelnames)  # such a metric shows once it has a child
    text = generate_latest(metrics.registry).decode()
    for name in LABELS:
        assert f"# HELP {name}" in text
    assert "bertie_requests_total{" in text
    assert "process_resident_memory_bytes" in text
    assert "python_info" in text


def test_registries_are_apart() -> None:
    one, other = Metrics(), Metrics()
    one.no_answer.labels("qa").inc()
    assert one.registry.get_sample_value("bertie_no_answer_total", {"model": "qa"}) == 1
    assert other.registry.get_sample_value("bertie_no_answer_total", {"model": "qa"}) is None


def test_durations_are_told_apart_from_1_ms_to_10_s() -> None:
    assert SECONDS[0] <= 0.001
    assert SECONDS[-1] >= 10
    assert all(low < high <= 2 * low for low, high in pairwise(SECONDS))
    assert PHASES == ("tokenize", "queue", "inference", "decode")
