"""Traces: the spans of requests and batches, whose trace they are in, where they go; off, they cost nothing."""

import asyncio
import contextlib
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from service import __version__
from service.app import create_app
from service.errors import ConfigurationError
from service.metrics import PHASES, Metrics
from service.settings import Settings
from service.traces import Traces
from tests.engines import FakeEngine, load_with, until
from tests.serving import running, serving

ROOT = Path(__file__).parents[2]
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TEXT = "a wonderful secret"
OPENMETRICS = {"accept": "application/openmetrics-text; version=1.0.0"}


def traceparent(flags: str) -> dict[str, str]:
    """The header of a client that records its trace (01) or does not (00)."""
    return {"traceparent": f"00-{TRACE}-{PARENT}-{flags}"}


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


def trace_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
async def client(settings: Settings, metrics: Metrics, spans: InMemorySpanExporter) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(settings, metrics=metrics, traces=Traces(spans)) as client:
        yield client


# ---- spans ----------------------------------------------------------------------------------------------------------


async def test_a_request_is_a_span_with_its_phases_and_a_link_to_its_batch(
    client: httpx.AsyncClient, spans: InMemorySpanExporter
) -> None:
    began = time.time_ns()
    answer = await client.post("/classify", json={"text": TEXT}, headers={"x-request-id": "mine"})
    ended = time.time_ns()
    assert answer.status_code == 200
    batch, *phases, request = spans.get_finished_spans()
    assert (request.name, request.kind, request.parent) == ("POST /classify", SpanKind.SERVER, None)
    assert dict(request.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/classify",
        "http.response.status_code": 200,
        "bertie.request_id": "mine",
        "bertie.model": "sentiment",
        "bertie.rows": 1,
    }
    assert request.status.status_code == StatusCode.UNSET
    assert request.resource.attributes["service.name"] == "bertie"
    assert request.resource.attributes["service.version"] == __version__

    assert tuple(phase.name for phase in phases) == PHASES
    times = [request.start_time, *(time for phase in phases for time in (phase.start_time, phase.end_time))]
    assert sorted(times) == times  # type: ignore[type-var]
    assert began <= (request.start_time or 0) + 1e6  # two clocks
    assert (phases[-1].end_time or 0) <= (request.end_time or 0) + 1e6 <= ended + 2e6
    for phase in phases:
        assert phase.parent == request.context
        took = ((phase.end_time or 0) - (phase.start_time or 0)) / 1e6
        told = answer.headers["server-timing"].split(f"{phase.name};dur=")[1].split(",")[0]
        assert took == pytest.approx(float(told), abs=0.01)

    assert batch.name == "batch"
    assert [link.context for link in request.links] == [batch.context]
    assert batch.parent is None
    assert trace_id(batch) != trace_id(request)
    assert dict(batch.attributes or {}) == {"bertie.model": "sentiment", "bertie.rows": 1, "bertie.tokens": 10}
    assert (batch.start_time, batch.end_time) == (phases[2].start_time, phases[2].end_time)


async def test_no_span_holds_a_text(client: httpx.AsyncClient, spans: InMemorySpanExporter) -> None:
    await client.post("/classify", json={"text": TEXT})
    await client.post("/classify", json={"text": TEXT, "candidate_labels": ["wonderful", "secret"]})
    await client.post("/qa", json={"question": TEXT, "context": TEXT})
    await client.post("/wonderful", json={TEXT: TEXT})
    assert len(spans.get_finished_spans()) == 6 + 7 + 6 + 1  # zero-shot: a row a label, one each batch
    told = " ".join(span.to_json() for span in spans.get_finished_spans())
    assert "wonderful" not in told
    assert "secret" not in told


async def test_requests_of_one_batch_link_to_one_span(
    settings: Settings, metrics: Metrics, spans: InMemorySpanExporter
) -> None:
    engine = FakeEngine()
    load = load_with(sentiment=engine)
    async with serving(settings, load=load, metrics=metrics, traces=Traces(spans)) as client:
        engine.gate.clear()
        tasks = [asyncio.create_task(client.post("/classify", json={"text": "fun"}))]
        await until(engine.entered.is_set)
        tasks += [asyncio.create_task(client.post("/classify", json={"text": "fun"})) for _ in range(3)]
        waiting = metrics.registry.get_sample_value
        await until(lambda: waiting("bertie_queue_rows", {"model": "sentiment"}) == 3)
        engine.gate.set()
        await asyncio.gather(*tasks)
    first, second = named(spans, "batch")
    assert [batch.attributes["bertie.rows"] for batch in (first, second)] == [1, 3]  # type: ignore[index]
    links = [[link.context for link in span.links] for span in named(spans, "POST /classify")]
    assert links == [[first.context], *[[second.context]] * 3]


async def test_a_request_of_several_batches_links_to_each(
    settings: Settings, metrics: Metrics, spans: InMemorySpanExporter
) -> None:
    small = settings.model_copy(update={"max_batch_tokens": 64})
    async with serving(small, metrics=metrics, traces=Traces(spans)) as client:
        answer = await client.post("/classify", json={"inputs": [{"text": "fun " * 40}] * 5})
    assert answer.status_code == 200
    (request,) = named(spans, "POST /classify")
    assert len({link.context.span_id for link in request.links}) == len(named(spans, "batch")) == 5
    assert request.attributes["bertie.rows"] == 5  # type: ignore[index]


# ---- whose trace ----------------------------------------------------------------------------------------------------


async def test_the_caller_says_in_which_trace(client: httpx.AsyncClient, spans: InMemorySpanExporter) -> None:
    await client.post("/classify", json={"text": TEXT}, headers=traceparent("01"))
    (request,) = named(spans, "POST /classify")
    assert trace_id(request) == TRACE
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == PARENT
    assert {trace_id(span) for phase in PHASES for span in named(spans, phase)} == {TRACE}


async def test_the_caller_says_whether_it_is_recorded(
    client: httpx.AsyncClient, spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    answer = await client.post("/classify", json={"text": TEXT}, headers=traceparent("00"))
    assert answer.status_code == 200
    assert not spans.get_finished_spans()
    assert [record.fields["trace_id"] for record in caplog.records if record.message == "request"] == [TRACE]  # type: ignore[attr-defined]
    assert "trace_id" not in (await client.get("/metrics", headers=OPENMETRICS)).text


@pytest.mark.parametrize("value", ["", "00", "00-" + "0" * 32 + f"-{PARENT}-01", f"00-{TRACE}-{PARENT}", "\xe9" * 55])
async def test_a_header_that_is_none_begins_a_trace(
    client: httpx.AsyncClient, spans: InMemorySpanExporter, value: str
) -> None:
    headers = {"traceparent": value.encode("latin-1")}
    answer = await client.post("/classify", json={"text": TEXT}, headers=headers)
    assert answer.status_code == 200
    (request,) = named(spans, "POST /classify")
    assert request.parent is None
    assert trace_id(request) not in (TRACE, "0" * 32)


async def test_what_a_caller_records_has_its_batch_recorded_whatever_the_sampler_says(
    settings: Settings, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    async with serving(settings, traces=Traces(spans)) as client:
        await client.post("/classify", json={"text": TEXT})
        assert not spans.get_finished_spans()
        await client.post("/classify", json={"text": TEXT}, headers=traceparent("01"))
    assert [span.name for span in spans.get_finished_spans()] == ["batch", *PHASES, "POST /classify"]


async def test_the_standard_variables_name_it_or_turn_it_off(
    settings: Settings, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "reviews")
    async with serving(settings, traces=Traces(spans)) as client:
        await client.post("/classify", json={"text": TEXT})
    assert {span.resource.attributes["service.name"] for span in spans.get_finished_spans()} == {"reviews"}
    spans.clear()
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    async with serving(settings, traces=Traces(spans)) as client:
        assert (await client.post("/classify", json={"text": TEXT})).status_code == 200
        assert "trace_id" not in (await client.get("/metrics", headers=OPENMETRICS)).text
    assert not spans.get_finished_spans()


# ---- errors and refusals --------------------------------------------------------------------------------------------


async def test_errors_end_their_spans(
    settings: Settings, metrics: Metrics, spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    engine = FakeEngine()
    engine.error = RuntimeError("broken")
    async with serving(settings, load=load_with(sentiment=engine), traces=Traces(spans)) as client:
        assert (await client.post("/classify", json={"text": "fun"})).status_code == 500
        assert (await client.post("/classify", json={"text": 5})).status_code == 422
        assert (await client.get("/nowhere")).status_code == 404
    failed, wrong, nowhere = spans.get_finished_spans()
    assert (failed.name, failed.status.status_code) == ("POST /classify", StatusCode.ERROR)
    assert failed.attributes["error.type"] == "500"  # type: ignore[index]
    assert (wrong.name, wrong.status.status_code) == ("POST /classify", StatusCode.UNSET)
    assert wrong.attributes["http.response.status_code"] == 422  # type: ignore[index]
    assert nowhere.name == "GET"


async def test_an_unexpected_error_is_logged_with_its_trace(
    client: httpx.AsyncClient, spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    predictor = client.app.state.gate.predictor  # type: ignore[attr-defined]
    predictor.predict = None
    assert (await client.post("/classify", json={"text": "fun"})).status_code == 500
    (record,) = [record for record in caplog.records if record.message == "unexpected error"]
    assert record.fields["trace_id"] == trace_id(spans.get_finished_spans()[0])  # type: ignore[attr-defined]


async def test_a_flood_of_refusals_is_no_flood_of_spans(
    settings: Settings, spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    app = create_app(settings)
    app.state.recorder.traces = Traces(spans)
    headers = [(b"content-type", b"application/json"), (b"traceparent", f"00-{TRACE}-{PARENT}-01".encode())]
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/classify", "headers": headers, "client": None}
    assert b" 503 " in (app.state.gate.refusal(dict(scope), True) or b"")  # it has not started
    (starting,) = spans.get_finished_spans()
    assert (starting.name, trace_id(starting)) == ("POST /classify", TRACE)
    spans.clear()
    app = create_app(settings.model_copy(update={"max_requests": 1}))
    app.state.recorder.traces = Traces(spans)
    async with app.router.lifespan_context(app):
        assert app.state.gate.refusal(dict(scope), True) is None  # which holds the only permit
        answers = [app.state.gate.refusal(dict(scope), True) for _ in range(50)]
    assert all(b" 429 " in (answer or b"") for answer in answers)
    logged = [record for record in caplog.records if record.message == "request"]
    assert len(spans.get_finished_spans()) == len(logged) - 1 < 10


async def test_what_machines_ask_for_is_no_trace(client: httpx.AsyncClient, spans: InMemorySpanExporter) -> None:
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert (await client.get(path, headers=traceparent("01"))).status_code == 200
    assert not spans.get_finished_spans()


# ---- logs and exemplars ---------------------------------------------------------------------------------------------


async def test_log_line_and_exemplar_lead_to_the_trace(
    client: httpx.AsyncClient, spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await client.post("/classify", json={"text": TEXT})
    (request,) = named(spans, "POST /classify")
    (record,) = [record for record in caplog.records if record.message == "request"]
    assert record.fields["trace_id"] == trace_id(request)  # type: ignore[attr-defined]
    families = text_string_to_metric_families((await client.get("/metrics", headers=OPENMETRICS)).text)
    samples = [sample for family in families for sample in family.samples if sample.exemplar]
    assert {sample.name for sample in samples} == {"bertie_request_duration_seconds_bucket"}
    assert [sample.exemplar.labels for sample in samples] == [{"trace_id": trace_id(request)}]
    assert "trace_id" not in (await client.get("/metrics")).text


async def test_what_is_not_logged_is_traced_all_the_same(
    client: httpx.AsyncClient, spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    await client.post("/classify", json={"text": TEXT})
    assert named(spans, "POST /classify")
    assert not [record for record in caplog.records if record.message == "request"]


# ---- over the wire --------------------------------------------------------------------------------------------------


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP. `got` has every request's spans by resource; `hangs` keeps it from answering."""

    daemon_threads = True

    def __init__(self) -> None:
        self.got: list[ExportTraceServiceRequest] = []
        self.hangs = threading.Event()
        self.asked = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        content = self.rfile.read(int(self.headers["content-length"]))
        self.server.asked.set()
        if self.server.hangs.is_set():
            time.sleep(60)
        self.server.got.append(ExportTraceServiceRequest.FromString(content))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def collector() -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def environment(server: Collector) -> dict[str, str]:
    return {"BERTIE_TRACES": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}


def test_a_collector_gets_all_spans_before_the_service_ends(models_dir: Path) -> None:
    with collector() as server:
        with running(models_dir, **environment(server)) as service:
            for _ in range(3):
                answer = httpx.post(f"{service.url}/classify", json={"text": TEXT}, headers=traceparent("01"))
                assert answer.status_code == 200
            service.process.terminate()
            assert service.process.wait(20) == 0
        scoped = [each for got in server.got for each in got.resource_spans]
    names = {
        attribute.value.string_value
        for each in scoped
        for attribute in each.resource.attributes
        if attribute.key == "service.name"
    }
    assert names == {"bertie"}
    found = [span for each in scoped for scope in each.scope_spans for span in scope.spans]
    requests = [span for span in found if span.name == "POST /classify"]
    assert [(span.trace_id.hex(), span.parent_span_id.hex()) for span in requests] == [(TRACE, PARENT)] * 3
    for request in requests:
        assert [span.name for span in found if span.parent_span_id == request.span_id] == list(PHASES)
        (link,) = request.links
        assert [span.name for span in found if span.span_id == link.span_id] == ["batch"]
    lines = [record for record in service.log if record["message"] == "request"]
    assert [line["trace_id"] for line in lines] == [TRACE] * 3


def test_a_collector_that_hangs_or_is_gone_keeps_nobody_waiting(models_dir: Path) -> None:
    with collector() as server:
        server.hangs.set()
        with running(models_dir, **environment(server), OTEL_BSP_SCHEDULE_DELAY="10") as service:
            for _ in range(2):
                began = time.perf_counter()
                assert httpx.post(f"{service.url}/classify", json={"text": TEXT}).status_code == 200
                assert time.perf_counter() - began < 8
                assert server.asked.wait(10)
            began = time.perf_counter()
            service.process.terminate()
            assert service.process.wait(20) == 0
            assert time.perf_counter() - began < 8
    gone = environment(server)
    with running(models_dir, **gone) as service:
        assert httpx.post(f"{service.url}/classify", json={"text": TEXT}).status_code == 200
        began = time.perf_counter()
        service.process.terminate()
        assert service.process.wait(20) == 0
        assert time.perf_counter() - began < 8
    assert TEXT not in json.dumps(service.log)


# ---- off ------------------------------------------------------------------------------------------------------------


def test_while_off_nothing_of_it_is_imported(models_dir: Path) -> None:
    """FastAPI imports OpenTelemetry's API by itself: that does nothing without the SDK."""
    program = """
import asyncio, sys
from service.app import create_app
from service.settings import Settings

async def main():
    app = create_app(Settings())
    async with app.router.lifespan_context(app):
        pass

asyncio.run(main())
for name in ("service.traces", "opentelemetry.sdk", "opentelemetry.exporter", "google.protobuf", "requests"):
    print(name, any(each.startswith(name) for each in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT, capture_output=True, text=True, timeout=60, env={"BERTIE_MODELS_DIR": str(models_dir)},
    )  # fmt: skip
    assert {line.split()[1] for line in done.stdout.splitlines()} == {"False"}, done.stderr


async def test_while_off_no_line_and_no_bucket_tells_of_a_trace(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(settings) as client:
        await client.post("/classify", json={"text": TEXT}, headers=traceparent("01"))
        assert "trace_id" not in (await client.get("/metrics", headers=OPENMETRICS)).text
    (record,) = [record for record in caplog.records if record.message == "request"]
    assert "trace_id" not in record.fields  # type: ignore[attr-defined]


async def test_without_the_extra_the_start_says_what_to_install(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "service.traces", None)
    with pytest.raises(ConfigurationError, match=r"'\.\[otel\]'"):
        async with serving(settings.model_copy(update={"traces": True})):
            pass


@pytest.mark.parametrize(
    ("variables", "refused"),
    [
        ({}, None),
        ({"": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc': traces are sent by http/protobuf, to port 4318"),
        ({"TRACES_": "http/json"}, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL is 'http/json'"),
        ({"": "grpc", "TRACES_": "http/protobuf"}, None),
        ({"": "", "TRACES_": ""}, None),
    ],
)
def test_another_protocol_is_refused(
    variables: dict[str, str], refused: str | None, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}PROTOCOL", value)
    with pytest.raises(ConfigurationError, match=refused) if refused else contextlib.nullcontext():
        Traces(spans)


def test_another_protocol_is_refused_at_the_start(models_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
        env={"BERTIE_MODELS_DIR": str(models_dir), "BERTIE_TRACES": "1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    (line,) = done.stderr.splitlines()
    assert "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc': traces are sent by http/protobuf" in line
