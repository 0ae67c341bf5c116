import io
import json
import logging
import sys
from collections.abc import Iterator

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
def log(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What is logged at the lowest level, in each format."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.configure(request.param, "debug")
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


async def test_no_callers_text_is_logged_or_counted(
    log: io.StringIO, settings: Settings, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
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
    assert log.getvalue().count("request") >= 15
    assert "ValueError" in log.getvalue()
    assert "KeyError" in log.getvalue()
    assert "test_logs.py" in log.getvalue()
    assert CANARY not in log.getvalue()
    assert CANARY not in scraped


async def test_a_request_is_one_record(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="service.http.context"):
        await client.post("/classify", json={"inputs": [{"text": "good"}] * 3}, headers={"x-request-id": "mine"})
        await client.get("/health/ready")
        await client.get("/metrics")
        await client.get("/models/qa")
    first, second = [record.__dict__["fields"] for record in caplog.records]
    duration = first.pop("duration_ms")
    assert first == {
        "request_id": "mine", "method": "POST", "route": "/classify", "status": 200, "model": "sentiment", "rows": 3,
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
