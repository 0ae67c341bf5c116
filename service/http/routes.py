"""What each path answers.

Owns a request's way through HTTP: key, permit, body, parse, and what `service.predictor` makes of it. Knows nothing of
how errors are told (`context`).
"""

from __future__ import annotations

from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response

from service.errors import InvalidInput, NotReady, UnknownModel
from service.http import answers, body, requests
from service.http.context import Context
from service.http.gate import Gate
from service.metrics import PHASES, Metrics
from service.settings import Settings

JSON = "application/json"


class Routes:
    """The handlers.

    Attributes:
        gate: admits requests; it holds the predictor while the application runs.
    """

    def __init__(self, settings: Settings, metrics: Metrics, gate: Gate) -> None:
        self.gate = gate
        self._settings = settings
        self._registry = metrics.registry
        metrics.ready.set_function(lambda: gate.predictor is not None and gate.predictor.ready)

    async def qa(self, request: Request) -> Response:
        """Answer a question from a text or several, or by one of the options given with it."""
        return await self._answer(request, "/qa")

    async def classify(self, request: Request) -> Response:
        """Classify a text, a pair of texts, or a text by labels of your own."""
        return await self._answer(request, "/classify")

    async def _answer(self, request: Request, path: str) -> Response:
        """Take a request its way. The server held its head to limits and asked the gate for a permit already; `context`
        sets the deadline, tells errors, and gives the permit back."""
        context, permit, predictor = Context.of(request.scope), self.gate.admit(request.scope), self.gate.serving()
        content = await body.read(request, self._settings.max_body_bytes, permit)
        async with body.Connected(request.receive):
            call = await requests.parse(path, content, self._settings)
            model, task = predictor.choose(call.model, call.examples[0])
            context.model = model.name
            try:
                predictions = await predictor.predict(model, task, call.examples, permit)
            except InvalidInput as error:
                raise (error.in_input() if call.many else error) from error
        context.predictions.append(predictions)
        timing = ", ".join(f"{phase};dur={predictions.seconds[phase] * 1000:.3f}" for phase in PHASES)
        written = answers.write(model.name, predictions.answers, many=call.many)
        return Response(written, headers={"Server-Timing": timing}, media_type=JSON)

    async def models(self, request: Request) -> Response:
        """List the loaded models."""
        self.gate.keys.check(request.headers)
        models = [answers.ModelInfo.of(model) for model in self.gate.serving().models.values()]
        return Response(answers.ModelList(models=models).model_dump_json(), media_type=JSON)

    async def one_model(self, request: Request) -> Response:
        """Get a model's task, labels, precision, dev scores and hashes."""
        self.gate.keys.check(request.headers)
        models = self.gate.serving().models
        name = request.path_params["name"]
        if name not in models:
            raise UnknownModel(f"there is no model of this name; there are {', '.join(models)}", field="name")
        return Response(answers.ModelInfo.of(models[name]).model_dump_json(), media_type=JSON)

    async def live(self, request: Request) -> Response:
        """Tell whether the process runs; where it does not, restart it."""
        if self.gate.predictor is not None and not self.gate.predictor.alive:
            raise NotReady("the engine's workers were lost again and again: restart the service")
        return Response(answers.Health(status="live").model_dump_json(), media_type=JSON)

    async def ready(self, request: Request) -> Response:
        """Tell whether requests are answered: all models loaded, the engines working, not stopping."""
        if not self.gate.serving().ready:
            raise NotReady("the service is stopping, or its engine fails")
        return Response(answers.Health(status="ready").model_dump_json(), media_type=JSON)

    async def metrics(self, request: Request) -> Response:
        """Get the metrics, in the form that Prometheus asks for."""
        encoder, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encoder(self._registry), headers={"Content-Type": content_type})

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
