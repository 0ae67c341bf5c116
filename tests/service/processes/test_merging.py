"""Counts of several processes made one."""

import math

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from service.drift import LEAST, Tally
from service.metrics import GAUGES, Metrics
from service.processes import merging
from service.processes.merging import Counts


def of(metrics: Metrics) -> Counts:
    """What another process reads of it."""
    return Counts.from_bytes(merging.take(metrics.registry).to_bytes())


def value(counts: Counts, name: str, **labels: str) -> float | None:
    """A sample in the text that is scraped."""
    for family in merging.collect(counts):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return None


class Collected:
    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def collect(self) -> list[Metric]:
        return list(merging.collect(self._counts))


def test_counters_add_up_and_those_of_the_dead_stay() -> None:
    processes = [Metrics() for _ in range(3)]
    for count, each in enumerate(processes, start=1):
        each.rejected.labels("queue_full").inc(count)
    processes[2].rejected.labels("deadline").inc(7)
    found = merging.merge([of(each) for each in processes[:2]], [of(processes[2]), Counts.from_bytes(b"")])
    assert value(found, "bertie_rejected_total", reason="queue_full") == 6
    assert value(found, "bertie_rejected_total", reason="deadline") == 7
    created = [value(of(each), "bertie_rejected_created", reason="queue_full") for each in processes]
    assert value(found, "bertie_rejected_created", reason="queue_full") == min(filter(None, created))


def test_histograms_add_up_bucket_by_bucket() -> None:
    one, other = Metrics(), Metrics()
    for seconds in (0.0001, 0.004, 20.0):
        one.request_duration.labels("/qa", "qa").observe(seconds)
    other.request_duration.labels("/qa", "qa").observe(0.004)
    other.request_duration.labels("/classify", "nli").observe(0.5)
    found = merging.merge([of(one)], [of(other)])
    name, labels = "bertie_request_duration_seconds", {"route": "/qa", "model": "qa"}
    assert value(found, f"{name}_bucket", le="0.001", **labels) == 1
    assert value(found, f"{name}_bucket", le="0.005", **labels) == 3
    assert value(found, f"{name}_bucket", le="+Inf", **labels) == value(found, f"{name}_count", **labels) == 4
    assert value(found, f"{name}_sum", **labels) == pytest.approx(20.0081)
    assert value(found, f"{name}_count", route="/classify", model="nli") == 1


def test_gauges_become_one_by_what_they_mean() -> None:
    one, other, dead = Metrics(), Metrics(), Metrics()
    for each, rows, wait, loaded in ((one, 2, 0.5, 100.0), (other, 3, 1.5, 200.0), (dead, 50, 9.0, 1.0)):
        each.queue_rows.labels("qa").set(rows)
        each.queue_wait.set(wait)
        each.ready.set(1)
        each.processes.set(1)
        each.model_loaded.labels("qa").set(loaded)
        each.model_info.labels("qa", "span", "bert", "int8", "cpu", "1").set(1)
    other.ready.set(0)
    found = merging.merge([of(one), of(other)], [of(dead)])
    assert value(found, "bertie_queue_rows", model="qa") == 5
    assert value(found, "bertie_queue_wait_seconds") == 1.5
    assert value(found, "bertie_processes") == 2
    assert value(found, "bertie_ready") == 0
    assert value(found, "bertie_model_loaded_timestamp_seconds", model="qa") == 100
    name = "bertie_model_info"
    assert (
        value(found, name, model="qa", task="span", architecture="bert", precision="int8", provider="cpu", version="1")
        == 1
    )


def test_nothing_to_tell_gives_way() -> None:
    one, other = Metrics(), Metrics()
    one.queue_wait.set(math.nan)
    other.queue_wait.set(0.25)
    for order in ([one, other], [other, one]):
        assert value(merging.merge([of(each) for each in order]), "bertie_queue_wait_seconds") == 0.25
    assert math.isnan(value(merging.merge([of(one)] * 2), "bertie_queue_wait_seconds") or 0)


def test_every_gauge_has_a_rule() -> None:
    """A new one wants a place in `GAUGES`: nobody else knows what it means over several processes."""
    found = {name for name, (_, kind, _) in merging.take(Metrics().registry).families.items() if kind == "gauge"}
    assert found == set(GAUGES)


def test_an_exemplar_stays_the_latest() -> None:
    registries = [CollectorRegistry(), CollectorRegistry()]
    for registry, trace in zip(registries, ("old", "new"), strict=True):
        Histogram("seconds", "", registry=registry, buckets=[1]).observe(0.5, {"trace_id": trace})
    counts = [Counts.from_bytes(merging.take(registry).to_bytes()) for registry in registries]
    for order in (counts, counts[::-1]):
        text = generate_openmetrics(Collected(merging.merge(order))).decode()  # type: ignore[arg-type, no-untyped-call]
        assert 'seconds_bucket{le="1.0"} 2.0 # {trace_id="new"} 0.5' in text


def test_one_process_is_told_as_a_registry_tells_it() -> None:
    registry = CollectorRegistry()
    Counter("some", "Some.", ["kind"], registry=registry).labels('a"b\\c\n').inc()
    Gauge("one", "One.", registry=registry).set(2)
    Histogram("many", "Many.", ["kind"], registry=registry).labels("x").observe(1)
    counts = Counts.from_bytes(merging.take(registry).to_bytes())
    assert generate_latest(Collected(counts)) == generate_latest(registry)  # type: ignore[arg-type]


def test_the_text_of_all_can_be_read() -> None:
    text = generate_latest(Collected(merging.merge([of(Metrics()), of(Metrics())]))).decode()  # type: ignore[arg-type]
    names = [family.name for family in text_string_to_metric_families(text)]
    assert len(names) == len(set(names))


def test_values_may_be_put_in_the_place_of_others() -> None:
    counts = merging.take(Metrics().registry, instead={"process_open_fds": 3.5})
    assert value(counts, "process_open_fds") == 3.5


class TestDrift:
    def tally(self, *found: int) -> Tally:
        bins = list(found)
        nothing: dict[str, list[int]] = {"score": [0, 0], "unknown": [0, 0]}
        return Tally(1000, {"label": [500, 500], "tokens": [1, 1]} | nothing, {"label": bins, "tokens": bins} | nothing)

    def metrics(self) -> Metrics:
        metrics = Metrics()
        metrics.drift.labels("nli", "label").set(math.nan)
        return metrics

    def merged(self, *tallies: tuple[str, Tally]) -> float:
        each = [merging.take(self.metrics().registry, {"nli": tally}) for tally in tallies]
        found = value(
            merging.merge([Counts.from_bytes(one.to_bytes()) for one in each]),
            "bertie_drift_psi",
            model="nli",
            feature="label",
        )
        assert found is not None
        return found

    def test_it_is_told_from_the_counts_of_all(self) -> None:
        """Each by itself has too little to tell, or another distance."""
        least = LEAST // 2
        assert math.isnan(self.merged(("1", self.tally(least, 0))))
        together = self.merged(("1", self.tally(least, 0)), ("1", self.tally(0, least)))
        assert together == pytest.approx(0.0, abs=1e-6)
        assert self.merged(("1", self.tally(LEAST, 0)), ("1", self.tally(LEAST, 0))) > 1

    def test_of_two_versions_the_one_that_is_asked_more(self) -> None:
        even, uneven = self.tally(LEAST, LEAST), self.tally(LEAST, 0)
        assert self.merged(("1", even), ("2", uneven)) == pytest.approx(0.0, abs=1e-6)
        assert self.merged(("1", even), ("2", uneven), ("2", uneven), ("2", uneven)) > 1
