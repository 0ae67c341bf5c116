"""The Open Inference Protocol over gRPC, by gRPC's own channel. Triton's client is in `tests/clients`."""

import asyncio
import contextlib
import gzip
import os
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from fastapi import FastAPI
from grpc import StatusCode, aio
from hypothesis import HealthCheck, given
from hypothesis import settings as tries
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import SecretStr

from service import program
from service.app import create_app
from service.errors import ConfigurationError
from service.grpc_server import GrpcServer
from service.http import context
from service.keys import entries
from service.metrics import Metrics
from service.protocols.oip_grpc import MAX_FIELDS
from service.protocols.oip_messages import CLASSES, SERVICE
from service.server import STOP_SIGNALS, MainServer, bind
from service.settings import Settings
from service.traces import Traces
from tests.engines import FakeEngine, load_with, until
from tests.serving import running

ROOT = Path(__file__).parents[2]
Request = CLASSES["ModelInferRequest"]
INFER = "/inference.GRPCInferenceService/ModelInfer"


def packed(*texts: str) -> bytes:
    return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)


def column(name: str, *texts: str, shape: tuple[int, ...] | None = None, raw: bool = False) -> dict[str, Any]:
    tensor = {"name": name, "datatype": "BYTES", "shape": shape or (len(texts),)}
    return tensor if raw else tensor | {"contents": {"bytes_contents": [text.encode() for text in texts]}}


def texts(*found: str, **more: Any) -> dict[str, Any]:
    return {"model_name": "sentiment", "inputs": [column("text", *found)], **more}


class Client:
    """A channel to a service in this process.

    Attributes:
        trailing: metadata of the last answer.
    """

    def __init__(self, app: FastAPI, address: str, server: GrpcServer) -> None:
        self.app, self.address, self.server = app, address, server
        self.channel = aio.insecure_channel(address)
        self.trailing: dict[str, Any] = {}

    async def send(self, method: str, content: bytes, key: str = "", **more: Any) -> bytes:
        metadata = (*more.pop("metadata", ()), *([("authorization", f"Bearer {key}")] if key else []))
        call = self.channel.unary_unary(f"/{SERVICE}/{method}")(content, metadata=metadata, timeout=20, **more)
        try:
            answer: bytes = await call
        finally:
            self.trailing = dict(await call.trailing_metadata())
        return answer

    async def ask(self, method: str, key: str = "", **fields: Any) -> Any:
        content = await self.send(method, CLASSES[f"{method}Request"](**fields).SerializeToString(), key)
        return CLASSES[f"{method}Response"].FromString(content)

    async def infer(self, **fields: Any) -> dict[str, Any]:
        """What each output holds, where contents are typed."""
        answer = await self.ask("ModelInfer", **fields)
        assert not answer.raw_output_contents
        return {
            output.name: [each for _, contents in output.contents.ListFields() for each in contents]
            for output in answer.outputs
        }

    async def status(self, method: str, key: str = "", **fields: Any) -> tuple[StatusCode, str]:
        return await self.status_of(method, CLASSES[f"{method}Request"](**fields).SerializeToString(), key)

    async def status_of(self, method: str, content: bytes, key: str = "", **more: Any) -> tuple[StatusCode, str]:
        """The status of a call that fails."""
        with pytest.raises(aio.AioRpcError) as caught:
            await self.send(method, content, key, **more)
        return caught.value.code(), caught.value.details() or ""


@contextlib.asynccontextmanager
async def serving(settings: Settings, metrics: Metrics | None = None, **engines: Any) -> AsyncIterator[Client]:
    app = create_app(settings, load=load_with(**engines), metrics=metrics)
    server = GrpcServer(app, settings.model_copy(update={"grpc_port": 0}))
    async with app.router.lifespan_context(app):
        await server.start()
        client = Client(app, server.address, server)
        yield client
        for engine in engines.values():
            engine.gate.set()
        await client.channel.close()
        await server.stop(5.0)


@pytest.fixture
async def client(settings: Settings, metrics: Metrics) -> AsyncIterator[Client]:
    async with serving(settings, metrics) as client:
        yield client


class TestMetadata:
    async def test_of_the_server(self, client: Client) -> None:
        assert (await client.ask("ServerLive")).live
        assert (await client.ask("ServerReady")).ready
        assert (await client.ask("ServerMetadata")).name == "bertie"

    async def test_of_a_model_is_that_of_http(self, client: Client) -> None:
        found = await client.ask("ModelMetadata", name="nli")
        async with httpx.AsyncClient(transport=httpx.ASGITransport(client.app), base_url="http://bertie") as over_http:
            told = (await over_http.get("/v2/models/nli")).json()
        assert (found.name, list(found.versions), found.platform) == (told["name"], told["versions"], told["platform"])
        for mine, theirs in zip((*found.inputs, *found.outputs), told["inputs"] + told["outputs"], strict=True):
            assert {"name": mine.name, "datatype": mine.datatype, "shape": list(mine.shape)} == theirs
        assert (await client.ask("ModelReady", name="nli", version=found.versions[0])).ready

    @pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata"])
    @pytest.mark.parametrize("named", [{}, {"name": "nope"}, {"name": "nli", "version": "9"}])
    async def test_of_what_is_not_there(self, client: Client, method: str, named: dict[str, str]) -> None:
        status, details = await client.status(method, **named)
        assert status == StatusCode.NOT_FOUND
        assert details.startswith("there is no ")

    async def test_an_unknown_method(self, client: Client) -> None:
        assert (await client.status_of("ModelStreamInfer", b""))[0] == StatusCode.UNIMPLEMENTED


class TestInfer:
    async def test_typed(self, client: Client) -> None:
        found = await client.infer(**texts("a wonderful film", "a boring film", id="7"))
        assert found["label"] == [b"positive", b"negative"]
        assert found["scores"] == pytest.approx([0.018, 0.982, 0.982, 0.018], abs=1e-3)
        assert {"x-request-id", "server-timing"} <= client.trailing.keys()

    async def test_raw(self, client: Client) -> None:
        inputs = [column("text", "good", "bad é", raw=True)]
        raw = packed("good", "bad é")
        answer = await client.ask("ModelInfer", model_name="sentiment", inputs=inputs, raw_input_contents=[raw], id="7")
        assert [output.name for output in answer.outputs] == ["label", "score", "scores"]
        assert [list(output.shape) for output in answer.outputs] == [[2], [2], [2, 2]]
        assert answer.raw_output_contents[0] == packed("positive", "negative")
        scores = struct.unpack("<4f", answer.raw_output_contents[2])
        assert scores[1] > 0.5 > scores[0]
        assert (answer.model_name, answer.id) == ("sentiment", "7")

    async def test_questions_with_parameters(self, client: Client) -> None:
        context = "Ruth lives in Paris."
        inputs = [column("question", "Where does Ruth live?", "Who?"), column("context", context, "Nobody knows it.")]
        parameters = {"no_answer": {"bool_param": True}, "max_answer_tokens": {"int64_param": 1}, "other": {}}
        found = await client.infer(model_name="qa", inputs=inputs, parameters=parameters)
        assert context[found["start"][0] : found["end"][0]].encode() == found["answer"][0] != b""
        assert (found["answer"][1], found["start"][1]) == (b"", 0)

    async def test_lists_have_a_second_dimension(self, client: Client) -> None:
        labels = column("candidate_labels", "sports", "game", shape=(1, 2))
        found = await client.infer(model_name="nli", inputs=[column("text", "The team won the game"), labels])
        assert found["label"] == [b"game"]

    async def test_the_outputs_that_are_asked_for(self, client: Client) -> None:
        assert (await client.infer(**texts("good", outputs=[{"name": "score"}]))).keys() == {"score"}
        status, details = await client.status("ModelInfer", **texts("good", outputs=[{"name": "nope"}]))
        assert status == StatusCode.INVALID_ARGUMENT
        assert details == "outputs: there is no output 'nope'; there are label, score, scores"

    async def test_versions(self, client: Client) -> None:
        [version] = (await client.ask("ModelMetadata", name="sentiment")).versions
        assert await client.infer(**texts("good", model_version=version))
        assert (await client.status("ModelInfer", **texts("good", model_version="9")))[0] == StatusCode.NOT_FOUND

    @pytest.mark.parametrize(
        "fields",
        [
            {}, texts(), texts(""), texts("a") | {"inputs": [column("text", "a", shape=(2,))]},
            texts("a") | {"inputs": [column("text", "a", shape=(1, 1, 1))]},
            texts("a") | {"inputs": [column("text", "a", raw=True)]},
            texts("a") | {"inputs": [column("text", "a") | {"datatype": "FP32"}]},
            texts("a") | {"inputs": [column("nope", "a")]}, texts("a") | {"inputs": [column("text", "a")] * 2},
            texts("a") | {"raw_input_contents": [packed("a")]}, texts("a") | {"raw_input_contents": [b""] * 2},
            {"model_name": "sentiment", "inputs": [column("text", raw=True, shape=(1,))], "raw_input_contents": [b"a"]},
            {"model_name": "sentiment", "inputs": [column("text") | {"contents": {"bytes_contents": [b"\xff"]}}]},
            texts("a") | {"inputs": [column("text", "a") for _ in range(200)]}, texts(*"a" * 129),
            texts("a") | {"inputs": [column("text", *"a" * 70_000, shape=(1, 1))]},
        ],
    )  # fmt: skip
    async def test_what_is_wrong_is_an_invalid_argument(self, client: Client, fields: dict[str, Any]) -> None:
        fields = {"model_name": "sentiment"} | fields
        status, details = await client.status("ModelInfer", **fields)
        assert status == StatusCode.INVALID_ARGUMENT
        assert details

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            (b"\x2a", "breaks off"), (b"\xff" * 11, "breaks off"), (b"\x2a\x05a", "is no ModelInferRequest"),
            (b"\x0a\x01\xff", "is no ModelInferRequest"), (b"\x0b", "none of proto3's"),
            (b"\x2a\x00" * (MAX_FIELDS + 1), "257 fields; the limit is 256"),
        ],
    )  # fmt: skip
    async def test_a_message_that_is_none(self, client: Client, content: bytes, told: str) -> None:
        status, details = await client.status_of("ModelInfer", content)
        assert status == StatusCode.INVALID_ARGUMENT
        assert told in details

    async def test_fields_of_later_versions_are_skipped(self, client: Client) -> None:
        later = b"\xa0\x06\x01" + b"\xa1\x06" + b"a" * 8 + b"\xa5\x06" + b"a" * 4 + b"\xa2\x06\x01a"
        content = Request(**texts("good")).SerializeToString()
        assert await client.send("ModelInfer", content + later)


class TestTheSameWay:
    """As over HTTP: key, permit, deadline, limits, log and counts."""

    async def test_keys(self, settings: Settings) -> None:
        async with serving(settings.model_copy(update={"api_keys": (SecretStr("key"),)})) as client:
            for method, fields in (
                ("ServerMetadata", {}), ("ModelMetadata", {"name": "nli"}), ("ModelInfer", texts("good")),
            ):  # fmt: skip
                assert (await client.status(method, **fields))[0] == StatusCode.UNAUTHENTICATED
                assert (await client.status(method, "other", **fields))[0] == StatusCode.UNAUTHENTICATED
                assert await client.ask(method, "key", **fields)
            for method, fields in (("ServerLive", {}), ("ServerReady", {}), ("ModelReady", {"name": "nli"})):
                assert await client.ask(method, **fields)

    async def test_a_keys_models_and_rates(self, settings: Settings, metrics: Metrics) -> None:
        keys = "".join(
            f'[[key]]\nname = "{name}"\nhashes = ["{entries.written(name)}"]\n{more}\n'
            for name, more in (("reader", 'models = ["qa"]'), ("slow", "requests_per_second = 0.01"))
        )
        async with serving(settings.model_copy(update={"keys": keys}), metrics) as client:
            for method, fields in (("ModelMetadata", {"name": "sentiment"}), ("ModelInfer", texts("good"))):
                found = await client.status(method, "reader", **fields)
                assert found == (StatusCode.PERMISSION_DENIED, "this API key may not use model 'sentiment'")
            assert (await client.ask("ModelMetadata", "reader", name="qa")).name == "qa"
            assert await client.ask("ModelInfer", "slow", **texts("good"))
            code, details = await client.status("ModelInfer", "slow", **texts("good"))
            assert (code, float(client.trailing["retry-after"]) > 90) == (StatusCode.RESOURCE_EXHAUSTED, True)
            assert "slow may send 0.01 requests a second" in details
            assert client.app.state.gate.predictor.permits.requests.held == 0
        value = metrics.registry.get_sample_value
        assert value("bertie_key_requests_total", {"key": "slow", "status": "200"}) == 1
        assert value("bertie_key_rejected_total", {"key": "slow", "reason": "rate_limit"}) == 1
        assert value("bertie_key_rejected_total", {"key": "reader", "reason": "forbidden"}) == 2

    async def test_permits(self, settings: Settings, metrics: Metrics) -> None:
        engine = FakeEngine()
        engine.gate.clear()
        async with serving(settings.model_copy(update={"max_requests": 1}), metrics, sentiment=engine) as client:
            first = asyncio.create_task(client.infer(**texts("good")))
            await until(engine.entered.is_set)
            assert (await client.ask("ServerReady")).ready  # a probe wants no permit
            other = aio.insecure_channel(client.address, options=[("grpc.use_local_subchannel_pool", 1)])
            with pytest.raises(aio.AioRpcError) as caught:
                await other.unary_unary(INFER)(Request(**texts("good")).SerializeToString())
            assert caught.value.code() == StatusCode.RESOURCE_EXHAUSTED
            assert float(dict(caught.value.trailing_metadata())["retry-after"]) >= 1
            await other.close()
            engine.gate.set()
            assert (await first)["label"]
            permits = client.app.state.gate.predictor.permits
            assert permits.requests.held == permits.short.held == 0
        assert metrics.registry.get_sample_value("bertie_rejected_total", {"reason": "queue_full"}) == 1

    async def test_a_client_is_its_address(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        engine = FakeEngine()
        engine.gate.clear()
        async with serving(settings, sentiment=engine) as client:
            call = asyncio.create_task(client.infer(**texts("good")))
            await until(engine.entered.is_set)
            assert list(client.app.state.gate.predictor.permits.requests.held_by) == ["127.0.0.1"]
            engine.gate.set()
            await call

    async def test_our_deadline(self, settings: Settings) -> None:
        engine = FakeEngine()
        engine.gate.clear()
        async with serving(settings.model_copy(update={"timeout_seconds": 0.2}), sentiment=engine) as client:
            status, details = await client.status("ModelInfer", **texts("good"))
            assert status == StatusCode.DEADLINE_EXCEEDED
            assert "0.2 seconds" in details

    async def test_a_message_that_does_not_come_has_a_deadline(self, settings: Settings) -> None:
        async with serving(settings.model_copy(update={"timeout_seconds": 0.2})) as client:
            for method in ("ModelInfer", "ModelReady"):
                call = client.channel.stream_unary(f"/{SERVICE}/{method}")()
                assert await asyncio.wait_for(call.code(), 5) == StatusCode.DEADLINE_EXCEEDED

    @pytest.mark.parametrize("how", ["deadline", "cancel"])
    async def test_a_client_that_leaves_costs_no_inference(
        self, settings: Settings, metrics: Metrics, how: str
    ) -> None:
        engine = FakeEngine()
        engine.gate.clear()
        async with serving(settings, metrics, sentiment=engine) as client:
            first = asyncio.create_task(client.infer(**texts("good")))
            await until(engine.entered.is_set)
            send = client.channel.unary_unary(INFER)
            content = Request(**texts("bad", "worse")).SerializeToString()
            call = send(content, timeout=0.3 if how == "deadline" else None)
            permits = client.app.state.gate.predictor.permits
            await until(lambda: permits.requests.held == 2)
            if how == "cancel":
                call.cancel()
            code = await call.code()
            assert code == (StatusCode.DEADLINE_EXCEEDED if how == "deadline" else StatusCode.CANCELLED)
            await until(lambda: permits.requests.held == 1)
            engine.gate.set()
            assert await first
            assert engine.rows == 1
            labels = {"route": INFER, "model": "sentiment", "status": "499"}
            assert metrics.registry.get_sample_value("bertie_requests_total", labels) == 1
            cancelled = metrics.registry.get_sample_value("bertie_rejected_total", {"reason": "cancelled"})
            assert cancelled == 1

    async def test_too_long_a_message(self, settings: Settings) -> None:
        async with serving(settings.model_copy(update={"max_body_bytes": 2000})) as client:
            status, _ = await client.status("ModelInfer", **texts("a" * 3000))
            assert status == StatusCode.RESOURCE_EXHAUSTED
            assert await client.infer(**texts("a" * 1500))

    async def test_compressed_messages_are_not_taken(self, client: Client) -> None:
        """Two megabytes of them could be two gigabytes."""
        content = Request(**texts("good")).SerializeToString()
        assert len(gzip.compress(content * 50)) < 200
        status, _ = await client.status_of("ModelInfer", content * 50, compression=grpc.Compression.Gzip)
        assert status == StatusCode.UNIMPLEMENTED

    async def test_an_engine_that_fails(self, settings: Settings) -> None:
        engine = FakeEngine()
        engine.error = ValueError("a secret")
        async with serving(settings, sentiment=engine) as client:
            status, details = await client.status("ModelInfer", **texts("good"))
            assert status == StatusCode.INTERNAL
            assert "secret" not in details

    async def test_log_and_counts(self, client: Client, metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO", context.logger.name)
        metadata = (("x-request-id", "mine"), ("content-length", "9000000"), ("some-bin", b"\xff"))
        await client.send("ModelInfer", Request(**texts("good")).SerializeToString(), metadata=metadata)
        assert client.trailing["x-request-id"] == "mine"
        await client.ask("ServerReady")
        [record] = caplog.records
        fields = record.fields  # type: ignore[attr-defined]
        assert (fields["request_id"], fields["route"], fields["status"]) == ("mine", INFER, 200)
        assert (fields["model"], fields["rows"]) == ("sentiment", 1)
        labels = {"route": INFER, "model": "sentiment", "status": "200"}
        assert metrics.registry.get_sample_value("bertie_requests_total", labels) == 1

    async def test_a_call_is_a_span_in_its_clients_trace(self, client: Client) -> None:
        spans = InMemorySpanExporter()
        client.app.state.recorder.traces = Traces(spans)
        metadata = (("traceparent", f"00-{'ab' * 16}-{'cd' * 8}-01"),)
        await client.send("ModelInfer", Request(**texts("good")).SerializeToString(), metadata=metadata)
        await until(lambda: any(span.name == f"POST {INFER}" for span in spans.get_finished_spans()))
        [span] = [span for span in spans.get_finished_spans() if span.name == f"POST {INFER}"]
        assert span.context is not None
        assert f"{span.context.trace_id:032x}" == "ab" * 16

    async def test_no_path_of_http(self, client: Client) -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(client.app), base_url="http://bertie") as over_http:
            assert (await over_http.post(INFER, content=b"")).status_code == 404


class TestStop:
    async def test_what_was_admitted_is_answered(self, settings: Settings) -> None:
        engine = FakeEngine()
        engine.gate.clear()
        async with serving(settings, sentiment=engine) as client:
            call = asyncio.create_task(client.infer(**texts("good")))
            await until(engine.entered.is_set)
            client.app.state.gate.predictor.stop()
            assert not (await client.ask("ServerReady")).ready
            assert not (await client.ask("ModelReady", name="nli")).ready
            assert (await client.status("ModelInfer", **texts("good")))[0] == StatusCode.UNAVAILABLE
            stopping = asyncio.create_task(client.server.stop(5.0))
            await asyncio.sleep(0.1)
            assert not stopping.done()
            engine.gate.set()
            assert (await call)["label"]
            await stopping

    async def test_what_is_not_answered_in_time_is_told(self, settings: Settings) -> None:
        engine = FakeEngine()
        engine.gate.clear()
        settings = settings.model_copy(update={"drain_seconds": 1.0})
        before = {each: signal.getsignal(each) for each in STOP_SIGNALS}
        async with serving(settings, sentiment=engine) as client:
            main = MainServer(client.app, settings, client.app.state.gate.predictor)
            main.on_stop = client.server.stop
            done = asyncio.create_task(main.serve([bind("127.0.0.1", 0)]))
            call = asyncio.create_task(client.status("ModelInfer", **texts("good")))
            await until(lambda: main.started and engine.entered.is_set())
            main.handle_exit(signal.SIGTERM, None)
            status, details = await asyncio.wait_for(call, 5)
            assert (status, "stopped before" in details) == (StatusCode.UNAVAILABLE, True)
            await asyncio.wait_for(done, 5)
        for each, handler in before.items():
            signal.signal(each, handler)

    def test_a_process(self, models_dir: Path) -> None:
        with running(models_dir, BERTIE_GRPC_PORT="0") as service:
            [address] = [record["grpc_address"] for record in service.log if record["message"] == "serving"]
            with grpc.insecure_channel(address) as channel:
                assert channel.unary_unary(INFER)(Request(**texts("good")).SerializeToString(), timeout=20)
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(10) == 0
        assert [record for record in service.log if record["level"] in ("warning", "error")] == []

    async def test_a_port_in_use_is_told(self, settings: Settings, client: Client) -> None:
        port = int(client.address.rpartition(":")[2])
        with pytest.raises(ConfigurationError, match=f"cannot listen on 127.0.0.1 port {port} for gRPC"):
            GrpcServer(client.app, settings.model_copy(update={"grpc_port": port}))


async def test_the_next_version_of_ip(settings: Settings) -> None:
    async with serving(settings.model_copy(update={"host": "::1"})) as client:
        assert client.address.startswith("[::1]:")
        assert await client.infer(**texts("good"))


async def test_without_the_extra_it_says_what_to_install(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "service.grpc_server", None)
    with pytest.raises(ConfigurationError, match=r"'\.\[grpc\]'"):
        program._grpc_server(create_app(settings), settings)


def test_while_it_is_off_nothing_of_it_is_imported() -> None:
    code = "import sys, service.program; print({'grpc', 'google.protobuf'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


sizes = st.one_of(st.integers(0, 40), st.sampled_from([2**31, 2**32 - 1]))
pieces = st.one_of(
    st.binary(max_size=12), st.builds(packed, st.text(max_size=8)), sizes.map(lambda n: struct.pack("<I", n))
)
tensor = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["text", "text_pair", "nope", ""]),
        "datatype": st.sampled_from(["BYTES", "BYTES", "FP32", ""]),
        "shape": st.lists(st.one_of(st.integers(-1, 5), st.sampled_from([2**62, -(2**62)])), max_size=3),
        "contents": st.one_of(st.none(), st.fixed_dictionaries({"bytes_contents": st.lists(pieces, max_size=3)})),
    }
)


@given(
    inputs=st.lists(tensor, max_size=3),
    raw=st.lists(st.lists(pieces, max_size=4).map(b"".join), max_size=3),
    cut=st.one_of(st.none(), st.integers(0, 60)),
)
@tries(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
async def test_truncated_and_lying_contents(
    client: Client, inputs: list[dict[str, Any]], raw: list[bytes], cut: int | None
) -> None:
    """Whatever the lengths say, the answer is right or an invalid argument; the next is answered."""
    content = Request(model_name="sentiment", inputs=inputs, raw_input_contents=raw).SerializeToString()[:cut]
    call = client.channel.unary_unary(INFER)(content)
    allowed = {StatusCode.OK, StatusCode.INVALID_ARGUMENT} | ({StatusCode.NOT_FOUND} if cut is not None else set())
    assert await call.code() in allowed, await call.details()
    assert (await client.infer(**texts("good")))["label"] == [b"positive"]
