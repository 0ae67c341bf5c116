"""The metrics that Prometheus scrapes: their names, labels and buckets, and nothing that sets them.

No label takes a client's text. Names are a contract: dashboards and alert rules under `deploy/` use them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

SECONDS = (
    0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075,
    0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0,
)  # fmt: skip
PHASES = ("tokenize", "queue", "inference", "decode")
DRIFT = "bertie_drift_psi"
GAUGES: Mapping[str, Literal["sum", "max", "min"]] = {
    "bertie_queue_rows": "sum",
    "bertie_queue_tokens": "sum",
    "bertie_queue_wait_seconds": "max",
    DRIFT: "max",  # where it is not told from the counts of all
    "bertie_model_info": "max",
    "bertie_version_info": "max",
    "bertie_model_loaded_timestamp_seconds": "min",  # since then all have it
    "bertie_cache_bytes": "sum",
    "bertie_shadow_agreement_ratio": "min",  # each process compares for itself: the worst of them
    "bertie_shadow_p95_ratio": "max",
    "bertie_ready": "min",
    "bertie_processes": "sum",
    "process_virtual_memory_bytes": "sum",
    "process_resident_memory_bytes": "sum",
    "process_open_fds": "sum",
    "process_max_fds": "min",
    "process_start_time_seconds": "min",
    "python_info": "max",
}
"""How the gauges of several processes become one."""


class Metrics:
    """One process's metrics in a registry of their own, so that tests never share counts."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self.requests = Counter(
            "bertie_requests", "Requests answered.", ["route", "model", "status"], registry=registry
        )
        self.request_duration = Histogram(
            "bertie_request_duration_seconds",
            "From a request's first byte to its answer.",
            ["route", "model"],
            buckets=SECONDS,
            registry=registry,
        )
        self.phase_duration = Histogram(
            "bertie_phase_duration_seconds",
            "Time of a request in each phase: tokenize, queue, inference, decode.",
            ["phase", "model"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_rows = Histogram(
            "bertie_batch_rows", "Rows of a batch.", ["model"], buckets=[2**i for i in range(9)], registry=registry
        )
        self.batch_tokens = Histogram(
            "bertie_batch_tokens",
            "Tokens of a batch, padding included.",
            ["model"],
            buckets=[2**i for i in range(3, 16)],
            registry=registry,
        )
        self.padding_ratio = Histogram(
            "bertie_padding_ratio",
            "Share of a batch's tokens that is padding.",
            ["model"],
            buckets=(0.0, 0.01, 0.02, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75),
            registry=registry,
        )
        self._of_batches = functools.cache(
            lambda model: [each.labels(model) for each in (self.batch_rows, self.batch_tokens, self.padding_ratio)]
        )
        self.queue_rows = Gauge("bertie_queue_rows", "Rows waiting.", ["model"], registry=registry)
        self.queue_tokens = Gauge("bertie_queue_tokens", "Tokens waiting.", ["model"], registry=registry)
        self.queue_wait = Gauge(
            "bertie_queue_wait_seconds",
            "Time to run what waits, estimated: its tokens over the measured tokens a second; NaN before any were.",
            registry=registry,
        )
        self.rejected = Counter(
            "bertie_rejected",
            "Requests refused or given up, by reason: queue_full, deadline, cancelled, unauthorized, ...",
            ["reason"],
            registry=registry,
        )
        self.key_requests = Counter(
            "bertie_key_requests", "Requests answered, by the API key's name.", ["key", "status"], registry=registry
        )
        self.key_tokens = Counter("bertie_key_tokens", "Tokens run, by the API key's name.", ["key"], registry=registry)
        self.key_rejected = Counter(
            "bertie_key_rejected",
            "Requests refused or given up, by the API key's name: rate_limit, queue_full, forbidden, ...",
            ["key", "reason"],
            registry=registry,
        )
        self.predictions = Counter(
            "bertie_predictions",
            "Answers by predicted label: for a question `answer`, `no_answer` or `option`; also `zero_shot`, `score`, "
            "`rerank`, and `other` for all labels of a model with more than 100.",
            ["model", "label"],
            registry=registry,
        )
        self.prediction = functools.cache(self.predictions.labels)
        self.confidence = Histogram(
            "bertie_confidence",
            "Score of the answers given.",
            ["model"],
            buckets=[i / 20 for i in range(1, 21)],
            registry=registry,
        )
        self.qa_windows = Histogram(
            "bertie_qa_windows", "Windows of a question.", ["model"], buckets=[2**i for i in range(11)],
            registry=registry,
        )  # fmt: skip
        self.no_answer = Counter("bertie_no_answer", "Questions answered with no answer.", ["model"], registry=registry)
        self.cache_hits = Counter(
            "bertie_cache_hits", "Rows whose logits were kept (BERTIE_CACHE_MB).", ["model"], registry=registry
        )
        self.cache_misses = Counter(
            "bertie_cache_misses", "Rows that were run, where logits are kept.", ["model"], registry=registry
        )
        self.cache_bytes = Gauge("bertie_cache_bytes", "Memory of the logits that are kept.", registry=registry)
        self.drift = Gauge(
            DRIFT,
            "Population stability index of the last hours against the dev set, by feature: label, score, tokens, "
            "unknown. NaN where there was too little to tell.",
            ["model", "feature"],
            registry=registry,
        )
        self.model_info = Gauge(
            "bertie_model_info",
            "1 for each loaded model.",
            ["model", "task", "architecture", "precision", "provider", "version"],
            registry=registry,
        )
        self.version_answers = Counter(
            "bertie_version_answers",
            "Requests that a version of a model took, by outcome: answered, failed.",
            ["model", "version", "outcome"],
            registry=registry,
        )
        self.version_duration = Histogram(
            "bertie_version_duration_seconds",
            "From a request's texts to its predictions, by version.",
            ["model", "version"],
            buckets=SECONDS,
            registry=registry,
        )
        self.version_info = Gauge(
            "bertie_version_info",
            "1 for each loaded version, with what it is: stable, canary, shadow, warm.",
            ["model", "version", "role"],
            registry=registry,
        )
        self.swaps = Counter(
            "bertie_swaps",
            "Changes of what a model serves, by outcome: done, refused.",
            ["model", "outcome"],
            registry=registry,
        )
        self.shadow_requests = Counter(
            "bertie_shadow_requests",
            "Requests that a shadow was to run too, by outcome: compared, dropped, failed.",
            ["model", "version", "outcome"],
            registry=registry,
        )
        self.shadow_agreement = Gauge(
            "bertie_shadow_agreement_ratio",
            "Share of the compared answers on which the shadow agrees with the stable version.",
            ["model", "version"],
            registry=registry,
        )
        self.shadow_flips = Counter(
            "bertie_shadow_flips",
            "Labels of the stable version that are others of the shadow's; `other` for all pairs beyond 100.",
            ["model", "from", "to"],
            registry=registry,
        )
        self.shadow_distance = Histogram(
            "bertie_shadow_score_distance",
            "Distance of the scores of stable version and shadow, by the measure of the model's task.",
            ["model"],
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0),
            registry=registry,
        )
        self.shadow_overlap = Histogram(
            "bertie_shadow_overlap",
            "Share of two answers that is in both: characters of spans, labels of sets.",
            ["model"],
            buckets=(0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.999, 1.0),
            registry=registry,
        )
        self.shadow_p95_ratio = Gauge(
            "bertie_shadow_p95_ratio",
            "95th percentile of the shadow's seconds over the stable version's, both run in the background; NaN before "
            "there is one.",
            ["model", "version"],
            registry=registry,
        )
        self.feedback = Counter(
            "bertie_feedback",
            "Answers that clients sent the right answer to, by outcome: right, wrong.",
            ["model", "version", "outcome"],
            registry=registry,
        )
        self.ready = Gauge("bertie_ready", "1 while /health/ready answers 200, else 0.", registry=registry)
        self.processes = Gauge("bertie_processes", "Processes that serve.", registry=registry)
        self.processes_lost = Counter(
            "bertie_processes_lost", "Processes that ended or hung, and were replaced.", registry=registry
        )
        self.workers_lost = Counter(
            "bertie_workers_lost", "Engine threads that died or hung, and were replaced.", registry=registry
        )
        self.provider_fallback = Counter(
            "bertie_provider_fallback", "Models that run on the CPU because CUDA does not work.", registry=registry
        )
        self.log_dropped = Counter(
            "bertie_log_dropped", "Log records dropped because nobody read the log.", registry=registry
        )
        self.model_loaded = Gauge(
            "bertie_model_loaded_timestamp_seconds", "When a model was loaded, Unix time.", ["model"], registry=registry
        )

    def observe_batch(self, model: str, rows: int, tokens: int, padding: float) -> None:
        """Observe a batch: its rows, its tokens with padding, and the share that is padding."""
        for metric, value in zip(self._of_batches(model), (rows, tokens, padding), strict=True):
            metric.observe(value)

    def end_shadow(self, model: str) -> None:
        """Drop what is told of a model's shadow."""
        for metric in (
            self.shadow_requests, self.shadow_agreement, self.shadow_flips, self.shadow_distance, self.shadow_overlap,
            self.shadow_p95_ratio,
        ):  # fmt: skip
            metric.remove_by_labels({"model": model})
