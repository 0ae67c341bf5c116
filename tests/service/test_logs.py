"""What may be logged, in which form; and that a log which nobody reads stops nothing."""

import contextlib
import io
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from service import logs
from service.metrics import Metrics
from service.predictor import Predictor
from service.settings import Settings
from tests.serving import serving

CANARY = "xanary7319"


@pytest.fixture(params=["console", "json"])
def log(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """Gets what was logged so far at the lowest level, in each format."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    for name in ("logThreads", "logProcesses", "logMultiprocessing", "_srcfile"):
        monkeypatch.setattr(logging, name, getattr(logging, name))  # put back afterwards
    writer = logs.configure(request.param, "debug", Metrics().log_dropped)

    def written() -> str:
        assert writer.close_within(10)
        return stream.getvalue()

    yield written
    root.handlers[:] = handlers
    root.setLevel(level)


async def test_no_clients_text_is_logged_or_counted(
    log: Callable[[], str], settings: Settings, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("httpx"), "disabled", True)  # the client's, that lives in this process too
    async with serving(settings, metrics=metrics) as client:
        for path, body in (
            ("/classify", {"text": CANARY}),
            ("/classify", {"premise": CANARY, "hypothesis": CANARY}),
            ("/classify", {"text": CANARY, "candidate_labels": [CANARY, "b"]}),
            ("/classify", {"text": "a", "model": CANARY}),
            ("/classify", {"text": [CANARY]}),
            ("/classify", {CANARY: CANARY}),
            ("/classify", {"inputs": [{"text": CANARY, CANARY: 1}]}),
            ("/qa", {"question": CANARY, "context": CANARY}),
            ("/qa", {"question": CANARY * 100, "context": CANARY}),
            ("/qa", {"question": CANARY, "context": CANARY, "top_k": CANARY}),
            (f"/{CANARY}", {}),
        ):
            await client.post(path, json=body, headers={"authorization": CANARY, "x-request-id": f"{CANARY} !"})
        await client.post("/classify", content=f'{{"text": "{CANARY}', headers={"content-type": "application/json"})
        await client.post("/classify", content=CANARY, headers={"content-type": CANARY})
        await client.get(f"/models/{CANARY}", params={CANARY: CANARY})

        async def broken(self: Predictor, *_: object, **__: object) -> None:
            try:
                raise KeyError(CANARY)
            except KeyError as error:
                raise ValueError(f"could not encode {CANARY!r}") from error

        monkeypatch.setattr(Predictor, "predict", broken)
        assert (await client.post("/classify", json={"text": CANARY})).status_code == 500
        scraped = (await client.get("/metrics")).text
    text = log()
    assert text.count("request") >= 15
    assert "ValueError" in text
    assert "KeyError" in text
    assert "test_logs.py" in text
    assert CANARY not in text
    assert CANARY not in scraped


async def test_a_request_is_one_record(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="service.http.context"):
        body = {"inputs": [{"text": "good"}] * 3}
        answer = await client.post("/classify", json=body, headers={"x-request-id": "mine"})
        await client.get("/health/ready")
        await client.get("/metrics")
        await client.get("/models/qa")
    first, second = [record.__dict__["fields"] for record in caplog.records]
    duration = first.pop("duration_ms")
    assert first == {
        "request_id": "mine", "method": "POST", "route": "/classify", "status": 200, "model": "sentiment",
        "version": answer.headers["x-model-version"], "rows": 3,
    }  # fmt: skip
    assert 0 < duration < 10_000
    assert second["route"] == "/models/{name}"


def record(message: str, **more: object) -> logging.LogRecord:
    made = logging.LogRecord("service.x", logging.WARNING, __file__, 1, message, (), None)
    made.__dict__.update(more)
    return made


def test_json_is_one_object_a_line() -> None:
    line = logs.JsonFormatter().format(record("two\nlines", fields={"rows": 3, "path": None}))
    assert "\n" not in line
    values = json.loads(line)
    assert values.pop("time").endswith("Z")
    assert values == {"level": "warning", "logger": "service.x", "message": "two\nlines", "rows": 3, "path": None}


def test_console_shows_the_fields() -> None:
    assert logs.ConsoleFormatter().format(record("hello", fields={"rows": 3})).endswith("service.x  hello  rows=3")


def test_what_has_seen_no_text_may_speak() -> None:
    for error, shown in (
        (OSError(28, "No space left on device"), True),
        (ort_errors.Fail("node 7 failed"), True),
        (ValueError("node 7 failed No space left"), False),
    ):
        text = logs.describe((type(error), error, None))
        assert type(error).__name__ in text
        assert (("node 7 failed" in text) or ("No space left" in text)) == shown


def test_exceptions_that_cause_one_another_in_a_circle_end() -> None:
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert logs.describe((ValueError, first, None)).count("Error") == 2


class Hung(io.StringIO):
    """A stream that nobody reads until `read` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.read_on = threading.Event()
        self.entered = threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        self.read_on.wait(20)
        return super().write(text)


class TestWriter:
    @pytest.fixture
    def hung(self) -> Iterator[Hung]:
        hung = Hung()
        yield hung
        hung.read_on.set()

    def dropped(self, metrics: Metrics) -> float | None:
        return metrics.registry.get_sample_value("bertie_log_dropped_total")

    def test_a_log_that_nobody_reads_drops_and_counts_and_never_blocks(self, hung: Hung, metrics: Metrics) -> None:
        writer = logs.Writer(hung, metrics.log_dropped)
        writer.handle(record("first"))
        assert hung.entered.wait(10)
        began = time.perf_counter()
        for i in range(logs.MOST_WAITING + 100):
            writer.handle(record(f"{i}"))
        assert time.perf_counter() - began < 5
        assert self.dropped(metrics) == 100
        began = time.perf_counter()
        assert not writer.close_within(0.1)
        assert time.perf_counter() - began < 2
        hung.read_on.set()
        assert writer.close_within(10)
        assert hung.getvalue().split() == [
            "first",
            *(f"{i}" for i in range(logs.MOST_WAITING)),
        ]  # the last were dropped

    def test_one_record_that_hangs_is_no_reason_to_wait(self, hung: Hung, metrics: Metrics) -> None:
        """Nothing waits behind it, and yet the thread that writes it cannot be stopped."""
        writer = logs.Writer(hung, metrics.log_dropped)
        writer.handle(record("first"))
        assert hung.entered.wait(10)
        began = time.perf_counter()
        assert not writer.close_within(0.1)
        assert time.perf_counter() - began < 2

    def test_all_that_waits_is_written_before_the_end(self, metrics: Metrics) -> None:
        stream = io.StringIO()
        writer = logs.Writer(stream, metrics.log_dropped)
        for i in range(1000):
            writer.handle(record(f"{i}"))
        assert writer.close_within(10)
        assert stream.getvalue().split() == [str(i) for i in range(1000)]
        assert self.dropped(metrics) == 0

    def test_a_record_comes_out_by_itself(self, hung: Hung, metrics: Metrics) -> None:
        hung.read_on.set()
        writer = logs.Writer(hung, metrics.log_dropped)
        writer.handle(record("here"))
        assert hung.entered.wait(10)
        assert writer.close_within(10)
        assert hung.getvalue() == "here\n"

    def test_one_that_cannot_be_written_costs_no_other(self, metrics: Metrics) -> None:
        stream = io.StringIO()
        writer = logs.Writer(stream, metrics.log_dropped)
        writer.handle(logging.LogRecord("x", logging.INFO, __file__, 1, "%d %d", ("one",), None))
        writer.handle(record("another"))
        assert writer.close_within(10)
        assert stream.getvalue() == "another\n"
        assert self.dropped(metrics) == 1

    def test_a_stream_that_breaks_is_no_error(self, metrics: Metrics) -> None:
        stream = io.StringIO()
        stream.close()
        writer = logs.Writer(stream, metrics.log_dropped)
        writer.handle(record("lost"))
        assert writer.close_within(10)

    def test_an_exception_is_told_by_the_thread_that_writes(self, metrics: Metrics) -> None:
        stream = io.StringIO()
        writer = logs.Writer(stream, metrics.log_dropped)
        writer.setFormatter(logs.JsonFormatter())
        try:
            raise ValueError(CANARY)
        except ValueError:
            writer.handle(record("trouble", exc_info=sys.exc_info()))
        assert writer.close_within(10)
        assert json.loads(stream.getvalue())["traceback"].endswith("ValueError")
        assert CANARY not in stream.getvalue()

    def test_a_lock_is_held_while_lines_are_written(self, metrics: Metrics) -> None:
        """Other processes write to the same pipe."""
        order: list[str] = []

        @contextlib.contextmanager
        def lock() -> Iterator[None]:
            order.append("locked")
            yield
            order.append("unlocked")

        class Stream(io.StringIO):
            def write(self, text: str) -> int:
                order.append(text)
                return len(text)

        writer = logs.Writer(Stream(), metrics.log_dropped, lock)
        writer.handle(record("one"))
        assert writer.close_within(10)
        assert order == ["locked", "one\n", "unlocked"]

    def test_each_record_may_have_fields(self, monkeypatch: pytest.MonkeyPatch, metrics: Metrics) -> None:
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
        writer = logs.configure("json", "info", metrics.log_dropped, fields={"process": "3"})
        writer.handle(record("bare"))
        one = record("with more")
        one.fields = {"rows": 2}
        writer.handle(one)
        assert writer.close_within(10)
        bare, more = map(json.loads, stream.getvalue().splitlines())
        assert bare["process"] == "3"
        assert (more["process"], more["rows"]) == ("3", 2)


class TestUnthreaded:
    """The log of a process that is to be forked."""

    @pytest.fixture
    def pipe(self) -> Iterator[tuple[int, int]]:
        end, begin = os.pipe()
        yield end, begin
        os.close(begin)
        os.close(end)

    def logger(self, pipe: tuple[int, int], *mine: bool) -> logging.Handler:
        """A handler that writes to a pipe, and has the lock each time or as often as is said."""
        left = list(mine)
        handler = logs._Direct(pipe[1], lambda: contextlib.nullcontext(left.pop(0) if left else True))
        handler.setFormatter(logs.ConsoleFormatter())
        return handler

    def test_a_record_is_written_at_once(self, pipe: tuple[int, int]) -> None:
        threads = threading.active_count()
        self.logger(pipe).handle(record("here"))
        assert os.read(pipe[0], 1000).endswith(b"  here\n")
        assert threading.active_count() == threads

    def test_who_has_no_lock_drops_it(self, pipe: tuple[int, int]) -> None:
        logger = self.logger(pipe, False, True)
        logger.handle(record("dropped"))
        logger.handle(record("here"))
        assert b"dropped" not in os.read(pipe[0], 1000)

    def test_a_log_that_nobody_reads_stops_nothing(self, pipe: tuple[int, int]) -> None:
        logger = self.logger(pipe)
        for _ in range(2000):
            logger.handle(record("x" * 200))
        logger.handle(record("y" * 100_000))

    def test_it_takes_the_place_of_what_was_configured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        given: dict[str, Any] = {}
        monkeypatch.setattr(logging, "basicConfig", lambda **options: given.update(options))
        for name in ("logThreads", "logProcesses", "logMultiprocessing", "_srcfile"):
            monkeypatch.setattr(logging, name, getattr(logging, name))
        monkeypatch.setattr(sys, "stderr", SimpleNamespace(fileno=lambda: 2))
        logs.configure_unthreaded("json", "info", lambda: contextlib.nullcontext(False))
        assert (given["level"], given["force"]) == ("INFO", True)
        [handler] = given["handlers"]
        assert isinstance(handler.formatter, logs.JsonFormatter)
