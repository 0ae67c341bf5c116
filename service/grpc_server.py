"""The gRPC server, beside the main one on its event loop.

Turns a call into what the application's layers know, a request to an endpoint whose path is the method's, and the
answer into a message or a status: key, permit, deadline, limits, log and counts are those of HTTP. Knows nothing of
what messages hold (`service.protocols.oip_grpc`). Import it where gRPC is on alone: it takes the extra `grpc`.
"""

from __future__ import annotations

import asyncio
import http
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

import grpc
from fastapi import FastAPI
from grpc import StatusCode, aio
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from service.errors import ConfigurationError
from service.http.context import REFUSE, ContextMiddleware
from service.http.endpoints import Endpoint
from service.protocols.oip_grpc import ENDPOINTS
from service.settings import Settings

STATUSES = {
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    429: StatusCode.RESOURCE_EXHAUSTED,
    500: StatusCode.INTERNAL,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
}
"""By HTTP's; the others say that the request is wrong."""
_TOLD = frozenset(("x-request-id", "server-timing", "retry-after"))
"""Headers that a client gets, as trailing metadata."""


class GrpcServer:
    """Serves the endpoints of gRPC for an application. Made on the event loop that will serve.

    Attributes:
        address: where it listens.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        """
        Raises:
            ConfigurationError: the port is in use, or the host none of this machine's.
        """
        self._layers = ContextMiddleware(
            self._answer, app.state.recorder, settings.timeout_seconds, app.state.in_flight
        )
        self._routes = app.state.routes
        self._server = aio.server(
            options=[
                # Two services at one port would share its calls, as the processes of one are to.
                ("grpc.so_reuseport", int(settings.processes > 1)),
                ("grpc.max_receive_message_length", settings.max_body_bytes),
                ("grpc.max_metadata_size", settings.max_head_bytes),
                ("grpc.max_concurrent_streams", 2 * settings.max_requests),  # a connection's: probes too
                ("grpc.compression_enabled_algorithms_bitset", 1),  # a few compressed bytes could be any number
            ]
        )
        for endpoint in ENDPOINTS:
            _, service, method = endpoint.path.split("/")
            # As a stream of one message: so a call is admitted before its message is read.
            handler = grpc.stream_unary_rpc_method_handler(self._handler(endpoint))
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        try:
            port = self._server.add_insecure_port(f"{host}:{settings.grpc_port}")
        except RuntimeError as error:
            raise ConfigurationError(f"cannot listen on {settings.host} port {settings.grpc_port} for gRPC") from error
        self.address = f"{host}:{port}"

    async def start(self) -> None:
        """Answer calls from now on."""
        await self._server.start()

    async def stop(self, seconds: float) -> None:
        """Take no more calls, and wait for those that were taken; no longer than so many seconds."""
        await self._server.stop(seconds)

    def _handler(self, endpoint: Endpoint) -> Any:
        async def handle(messages: AsyncIterator[bytes], call: aio.ServicerContext) -> bytes:
            sent: list[Message] = []

            async def send(message: Message) -> None:
                sent.append(message)

            await self._layers(_scope(endpoint, call), _receiver(messages), send)
            start, body = sent
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]}
            told = tuple((name, value) for name, value in headers.items() if name in _TOLD)
            content: bytes = body["body"]
            if start["status"] != http.HTTPStatus.OK:
                await call.abort(
                    STATUSES.get(start["status"], StatusCode.INVALID_ARGUMENT), content.decode(), trailing_metadata=told
                )
            call.set_trailing_metadata(told)
            return content

        return handle

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a call, inside the layers."""
        endpoint, request = scope["route"], Request(scope, receive, send)
        if endpoint.method == "POST":
            response = await self._routes.answer(request, endpoint)
        else:
            response = self._routes.look_up(request, endpoint, (await receive())["body"])
        await response(scope, receive, send)


def _scope(endpoint: Endpoint, call: aio.ServicerContext) -> Scope:
    metadata: Any = call.invocation_metadata() or ()
    return {
        "type": "http",
        "method": "POST",
        "path": endpoint.path,
        "path_params": {},
        # Of a message gRPC itself says how long it is, and in what encoding.
        "headers": [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in metadata
            if isinstance(value, str) and not name.startswith("content-")
        ],
        "client": _client(call.peer()),
        "route": endpoint,
        REFUSE: endpoint.refuse,
    }


def _client(peer: str) -> tuple[str, int]:
    """Get the address and port of a peer, `ipv4:127.0.0.1:1234` or `ipv6:%5B::1%5D:1234`."""
    address, _, port = unquote(peer.partition(":")[2]).rpartition(":")
    return address.strip("[]"), int(port)


def _receiver(messages: AsyncIterator[bytes]) -> Receive:
    left = [messages]

    async def receive() -> Message:
        if not left:  # a client that leaves cancels the call
            await asyncio.Event().wait()
        return {"type": "http.request", "body": await anext(left.pop(), b"")}

    return receive
