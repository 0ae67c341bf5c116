"""What each path answers.

Owns a request's way through HTTP: key, permit, body, read, and what `service.predictor` makes of it. Knows nothing of
what bodies and answers look like (`endpoints`), nor of how errors are told (`context`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response

from service.errors import InvalidInput, NotReady, UnknownModel
from service.http import answers, body, requests
from service.http.answers import JSON
from service.http.context import REFUSE, Context
from service.http.endpoints import Ask, Done, Endpoint, Work
from service.http.gate import Gate, Whole
from service.metrics import PHASES, Metrics
from service.predictor import Predictor
from service.scheduler.permits import Permit
from service.serving import Answered, Model, Models, Predictions, Sender
from service.settings import Settings
from service.tasks import AnyTask


class _Alone:
    """A process that is the whole service."""

    def __init__(self, gate: Gate, registry: CollectorRegistry) -> None:
        self._gate, self._registry = gate, registry

    @property
    def ready(self) -> bool:
        return self._gate.predictor is not None and self._gate.predictor.ready

    @property
    def alive(self) -> bool:
        return self._gate.predictor is None or self._gate.predictor.alive

    async def exposition(self, encode: Callable[[CollectorRegistry], bytes]) -> bytes:
        return encode(self._registry)


class Routes:
    """The handlers.

    Attributes:
        gate: admits requests; it holds the predictor while the application runs.
    """

    def __init__(self, settings: Settings, metrics: Metrics, gate: Gate, whole: Whole | None = None) -> None:
        """
        Args:
            whole: of which this process is a part; None where it is all.
        """
        self.gate = gate
        self._settings = settings
        self._whole = whole = whole or _Alone(gate, metrics.registry)
        metrics.ready.set_function(lambda: whole.ready)

    async def answer(self, request: Request, endpoint: Endpoint) -> Response:
        """Take a request its way. The server held its head to limits and asked the gate for a permit already; `context`
        sets the deadline, tells errors, and gives the permit back."""
        scope = request.scope
        scope[REFUSE] = endpoint.refuse
        if endpoint.method != "POST":
            return self.look_up(request, endpoint)
        context, permit, predictor = Context.of(scope), self.gate.admit(scope, endpoint), self.gate.serving()
        content = await body.read(request, self._settings.max_body_bytes, permit)
        refuse = partial(scope.__setitem__, REFUSE)
        ask = Ask(
            content, request.headers, request.path_params, self.gate.models(scope), predictor, self._settings, refuse
        )
        async with body.Connected(request.receive):
            work = await requests.off_loop(len(content), lambda: endpoint.read(ask))
            if isinstance(work, Response):
                return work
            sender = Sender(request.headers, random.random())
            done = await self._predict(work, ask.models, predictor, permit, context, sender)
        response = work.write(done)
        timing = ", ".join(f"{phase};dur={done.seconds[phase] * 1000:.3f}" for phase in PHASES)
        response.raw_headers.append((b"server-timing", timing.encode()))
        return response

    async def _predict(
        self, work: Work, allowed: Models, predictor: Predictor, permit: Permit, context: Context, sender: Sender
    ) -> Done:
        """Have the examples answered by the model that they are for, or each by its own, one model after the other."""
        examples = work.examples
        if not work.mixed:
            model, task = allowed.choose(work.model, examples[0], sender, work.version)
            found = await self._by_one(work, predictor, model, task, range(len(examples)), permit, context)
            return Done([model] * len(examples), found.answers, found.seconds, found.tokens)
        places: dict[tuple[Model, AnyTask], list[int]] = {}
        for place, example in enumerate(examples):
            places.setdefault(allowed.choose(work.model, example, sender, work.version), []).append(place)
        models: list[Any] = [None] * len(examples)
        predictions, seconds, tokens = models.copy(), dict.fromkeys(PHASES, 0.0), 0
        for (model, task), own in places.items():
            found = await self._by_one(work, predictor, model, task, own, permit, context)
            for place, prediction in zip(own, found.answers, strict=True):
                models[place], predictions[place] = model, prediction
            seconds = {phase: seconds[phase] + found.seconds[phase] for phase in PHASES}
            tokens += found.tokens
        return Done(models, predictions, seconds, tokens)

    @staticmethod
    async def _by_one(
        work: Work, predictor: Predictor, model: Model, task: AnyTask, places: Sequence[int], permit: Permit,
        context: Context,
    ) -> Predictions:  # fmt: skip
        """Have the examples at these places answered by a model."""
        context.chose(model)
        fitted, examples = work.fit(task) if work.fit else task, [work.examples[place] for place in places]
        try:
            found = await predictor.predict(model, fitted, examples, permit)
        except InvalidInput as error:
            raise (error.in_input(places, work.noun) if work.noun else error) from error
        context.predictions.append(found)
        if (observe := predictor.serving[model.name].observe) is not None:
            observe(Answered(context.request_id, model, task, work.fit, examples, places, found))
        return found

    def look_up(self, request: Request, endpoint: Endpoint, content: bytes = b"") -> Response:
        """Answer what wants no model to run, and so no permit.

        Args:
            content: what a protocol sends that has no paths to ask by.
        """
        if not endpoint.open:
            self.gate.identify(request.scope)
        models, predictor = self.gate.models(request.scope), self.gate.serving()
        ask = Ask(content, request.headers, request.path_params, models, predictor, self._settings)
        found = endpoint.read(ask)
        assert isinstance(found, Response)
        return found

    async def models(self, request: Request) -> Response:
        """List the loaded models."""
        self.gate.identify(request.scope)
        models = await self._described(self.gate.models(request.scope).stable)
        return Response(answers.ModelList(models=models).model_dump_json(), media_type=JSON)

    async def one_model(self, request: Request) -> Response:
        """Get a model's task, labels, precision, dev scores and hashes."""
        self.gate.identify(request.scope)
        model = self.gate.models(request.scope).named(request.path_params["name"], "name").stable
        [described] = await self._described([model])
        return Response(described.model_dump_json(), media_type=JSON)

    async def _described(self, models: Sequence[Model]) -> list[answers.ModelInfo]:
        rollouts = self.gate.rollouts
        if rollouts is None:
            return [answers.ModelInfo.of(model, []) for model in models]
        # Which versions there are is read from the disk.
        versions = await asyncio.to_thread(lambda: [rollouts.describe(model.name) for model in models])
        return [answers.ModelInfo.of(*each) for each in zip(models, versions, strict=True)]

    async def live(self, request: Request) -> Response:
        """Tell whether the process runs; where it does not, restart it."""
        if not self._whole.alive:
            raise NotReady("the engine's workers were lost again and again: restart the service")
        return Response(answers.Health(status="live").model_dump_json(), media_type=JSON)

    async def ready(self, request: Request) -> Response:
        """Tell whether requests are answered: all models loaded, the engines working, not stopping."""
        if not self._whole.ready:
            raise NotReady("the service is starting or stopping, or its engine fails")
        return Response(answers.Health(status="ready").model_dump_json(), media_type=JSON)

    async def metrics(self, request: Request) -> Response:
        """Get the metrics, in the form that Prometheus asks for."""
        encoder, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(await self._whole.exposition(encoder), headers={"Content-Type": content_type})

    def can_answer(self, path: str, example: object) -> bool:
        """Whether a loaded model takes such a body; true of every body before any is loaded."""
        if self.gate.predictor is None:
            return True
        call = requests.parse_value(path, example, self._settings)
        try:
            self.gate.predictor.choose(call.model, call.examples[0])
        except UnknownModel:
            return False
        return True
