"""What each protocol costs beside Bertie's own: the same text asked in turn over one connection, one request at a time.

    python -m bench.protocols               # the bundles in models/, 400 requests of each

`over` is the difference of the medians, `by turn` the median of the differences. What gRPC's own client takes in this
process is part of its time. Ends with one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grpc import aio

from bench import client, command, serving
from bench.errors import BenchError
from bench.load import percentile
from service.protocols.oip_messages import CLASSES, SERVICE

WANTED_MS = 0.2
"""At most, of p50 over that of Bertie's own route."""
TEXT = "The film was a wonderful surprise from its first scene to its last."
QUESTION = {"question": "Where does Ada live?", "context": "Ada lives in London. Ruth lives in Paris."}
OWN = {"text": ("/classify", {"text": TEXT}), "question": ("/qa", QUESTION)}
"""Bertie's own request of each kind: its path and its body."""


def bodies(sentiment: str, qa: str) -> dict[str, tuple[str, str, Any]]:
    """Get the kind, path and body of what each protocol is asked, by its name.

    Args:
        sentiment, qa: names of the models.
    """
    tensor = {"shape": [1], "datatype": "BYTES"}
    columns = [{"name": name, **tensor, "data": [text]} for name, text in QUESTION.items()]
    return {
        "huggingface text": ("text", "/", {"inputs": TEXT, "parameters": {}}),
        "huggingface question": ("question", "/", {"inputs": QUESTION, "parameters": {}}),
        "tei": ("text", "/predict", {"inputs": TEXT}),
        "vllm": ("text", "/classify", {"input": [TEXT]}),
        "oip text": ("text", f"/v2/models/{sentiment}/infer", {"inputs": [{"name": "text", **tensor, "data": [TEXT]}]}),
        "oip question": ("question", f"/v2/models/{qa}/infer", {"inputs": columns}),
        "kserve": ("text", f"/v1/models/{sentiment}:predict", {"instances": [TEXT]}),
        "sagemaker": ("text", "/invocations", {"inputs": TEXT}),
        "vertex": ("text", "/vertex", {"instances": [TEXT]}),
    }


def binary(url: str, sentiment: str) -> bytes:
    """Get the bytes of a request with a binary tensor, answered so too."""
    text = TEXT.encode()
    content = struct.pack("<I", len(text)) + text
    parameters = {"binary_data_size": len(content)}
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "parameters": parameters}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    request = client.request(f"{url}/v2/models/{sentiment}/infer", head + content)
    return request.replace(b"\r\n", b"\r\nInference-Header-Content-Length: %d\r\n" % len(head), 1)


def messages(sentiment: str) -> dict[str, bytes]:
    """Get the messages of gRPC, with a typed tensor and a raw one, by their names."""
    text = TEXT.encode()
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES"}
    typed = [tensor | {"contents": {"bytes_contents": [text]}}]
    request, raw = CLASSES["ModelInferRequest"], [struct.pack("<I", len(text)) + text]
    return {
        "oip grpc": request(model_name=sentiment, inputs=typed).SerializeToString(),
        "oip grpc raw": request(model_name=sentiment, inputs=[tensor], raw_input_contents=raw).SerializeToString(),
    }


async def alternate(
    url: str, requests: Mapping[str, bytes], count: int, grpc: str, calls: Mapping[str, bytes]
) -> dict[str, list[float]]:
    """Send every request and call in turn, so many times. Get the seconds of each.

    Args:
        grpc: address of the calls.

    Raises:
        BenchError: one was not answered with 200, or OK.
    """
    found: dict[str, list[float]] = {name: [] for name in (*requests, *calls)}
    async with aio.insecure_channel(grpc) as channel, contextlib.AsyncExitStack() as stack:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        connection = stack.enter_context(contextlib.closing(client.Connection(url)))
        for turn in range(count + count // 10):
            for name, content in calls.items():
                began = time.perf_counter()
                try:
                    await infer(content)
                except aio.AioRpcError as error:
                    raise BenchError(f"{name}: {error.code().name} {error.details()}") from None
                if turn >= count // 10:
                    found[name].append(time.perf_counter() - began)
            for name, data in requests.items():
                answer = await connection.send(data)
                if answer.status != 200:
                    raise BenchError(f"{name}: {answer.status} {answer.body[:200]!r}")
                if turn >= count // 10:  # the first are no measure
                    found[name].append(answer.seconds)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Return the exit status: 1 where a protocol does not answer."""
    parser = command.parser("bench.protocols", __doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of the bundles")
    parser.add_argument("--sentiment", default="sentiment", help="bundle that classifies (%(default)s)")
    parser.add_argument("--qa", default="qa", help="bundle that answers questions (%(default)s)")
    parser.add_argument("--requests", type=command.count, default=400, help="of each protocol (%(default)s)")
    return command.run(parser, program, arguments)


def program(options: argparse.Namespace) -> int:
    """Measure and print."""
    port = str(serving.free_port())
    with serving.bertie(options.models, (options.sentiment, options.qa), BERTIE_GRPC_PORT=port) as (_, url):
        asked = bodies(options.sentiment, options.qa)
        requests = {kind: client.request(url + path, json.dumps(body).encode()) for kind, (path, body) in OWN.items()}
        for name, (_, path, body) in asked.items():
            requests[name] = client.request(url + path, json.dumps(body).encode())
        requests["oip binary"] = binary(url, options.sentiment)
        calls = messages(options.sentiment)
        seconds = asyncio.run(alternate(url, requests, options.requests, f"127.0.0.1:{port}", calls))
    kinds = {name: kind for name, (kind, *_) in asked.items()} | dict.fromkeys(("oip binary", *calls), "text")
    p50 = {name: percentile(found, 50) * 1000 for name, found in seconds.items()}
    over = {
        name: percentile([mine - own for mine, own in zip(seconds[name], seconds[kind], strict=True)], 50) * 1000
        for name, kind in kinds.items()
    }
    print(f"{'protocol':24} {'p50 ms':>8} {'own ms':>8} {'over ms':>8} {'by turn':>8}  (wanted ≤ {WANTED_MS} ms)")
    for name, kind in kinds.items():
        print(f"{name:24} {p50[name]:8.3f} {p50[kind]:8.3f} {p50[name] - p50[kind]:+8.3f} {over[name]:+8.3f}")
    print(json.dumps({"p50_ms": p50, "over_by_turn_ms": over}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
