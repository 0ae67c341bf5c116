"""Traces: each request a span with its phases, each batch a span of its own; sent by OTLP over HTTP.

Owns the spans, their names and attributes; none holds a client's text. Where they are sent, how many are and as whose,
OpenTelemetry's own variables say (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME`, ...).
Import it where traces are on alone: it takes the extra `otel` and a quarter of a second.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from weakref import WeakKeyDictionary

from opentelemetry import propagate
from opentelemetry.context import Context as Parent
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    Tracer,
    format_trace_id,
    set_span_in_context,
)

from service import __version__
from service.errors import ConfigurationError
from service.scheduler.queue import BatchRun
from service.serving import Predictions

PROTOCOL = "http/protobuf"
CLOSE_SECONDS = 2.0
"""Time for the last spans to be sent: a collector that hangs must not hold up the end of the service."""


class Trace:
    """The span of a request on its way.

    Attributes:
        id: of the trace, 32 hexadecimal digits; empty where OpenTelemetry is turned off.
        sampled: whether it is recorded.
    """

    def __init__(self, traces: Traces, span: Span, clock: int) -> None:
        """
        Args:
            clock: Unix time in nanoseconds where `time.perf_counter` reads 0.
        """
        self._traces, self._span, self._clock = traces, span, clock
        context = span.get_span_context()
        self.id = format_trace_id(context.trace_id) if context.is_valid else ""
        self.sampled = span.is_recording()

    def end(self, fields: Mapping[str, str | int | float], predictions: Sequence[Predictions]) -> None:
        """End it, with what was predicted for the request.

        Args:
            fields: what the log says of the request.
        """
        if not self.sampled:
            return
        inside = set_span_in_context(self._span)
        for each in predictions:
            for run in each.batches:
                self._span.add_link(self._traces.batch(run, self._clock))
            for phase, (began, ended) in each.times.items():
                child = self._traces.tracer.start_span(phase, inside, start_time=self._clock + _ns(began))
                child.end(self._clock + _ns(ended))
        status = fields["status"]
        self._span.update_name(f"{fields['method']} {fields['route']}".rstrip())
        self._span.set_attributes(
            {
                "http.request.method": fields["method"],
                "http.route": fields["route"],
                "http.response.status_code": status,
                **{f"bertie.{name}": fields[name] for name in ("request_id", "model", "rows")},
            }
        )
        if int(status) >= 500:
            self._span.set_attribute("error.type", str(status))
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class Traces:
    """Makes the spans of a process and sends them.

    Attributes:
        tracer: makes those of requests.
    """

    def __init__(self, exporter: SpanExporter | None = None) -> None:
        """
        Args:
            exporter: gets each span as it ends; by default they are sent in batches.

        Raises:
            ConfigurationError: another protocol is asked for.
        """
        chosen = filter(os.environ.get, ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"))
        if (name := next(chosen, None)) and os.environ[name] != PROTOCOL:
            raise ConfigurationError(f"{name} is {os.environ[name]!r}: traces are sent by {PROTOCOL}, to port 4318")
        resource = Resource.create({SERVICE_VERSION: __version__})
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):  # no variable names it
            resource = resource.merge(Resource({SERVICE_NAME: "bertie"}))
        self._processor = SimpleSpanProcessor(exporter) if exporter else BatchSpanProcessor(OTLPSpanExporter())
        self.tracer = self._tracer(TracerProvider(resource=resource, shutdown_on_exit=False))
        # A batch is recorded for a request that is, whatever the sampler would say of it by itself.
        self._batch_tracer = self._tracer(TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False))
        self._known: WeakKeyDictionary[BatchRun, SpanContext] = WeakKeyDictionary()

    def begin(self, headers: Iterable[tuple[bytes, bytes]], began: float) -> Trace:
        """Begin a request's span, in the trace that its `traceparent` names, recorded if that says so.

        Args:
            began: when its first byte came (`time.perf_counter`).
        """
        parent = propagate.extract({name.decode("latin-1"): value.decode("latin-1") for name, value in headers})
        clock = time.time_ns() - time.perf_counter_ns()
        span = self.tracer.start_span("request", parent, SpanKind.SERVER, start_time=clock + _ns(began))
        return Trace(self, span, clock)

    def batch(self, run: BatchRun, clock: int) -> SpanContext:
        """Get the span of a batch: a trace by itself, made when the first of its requests ends."""
        if run not in self._known:
            span = self._batch_tracer.start_span("batch", Parent(), start_time=clock + _ns(run.began))
            span.set_attributes({"bertie.model": run.model, "bertie.rows": run.rows, "bertie.tokens": run.tokens})
            span.end(clock + _ns(run.ended))
            self._known[run] = span.get_span_context()
        return self._known[run]

    def close(self) -> None:
        """Send what is left, for no longer than `CLOSE_SECONDS`."""
        thread = threading.Thread(target=self._processor.shutdown, name="traces", daemon=True)
        thread.start()
        thread.join(CLOSE_SECONDS)

    def _tracer(self, provider: TracerProvider) -> Tracer:
        provider.add_span_processor(self._processor)
        return provider.get_tracer("bertie", __version__)


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
