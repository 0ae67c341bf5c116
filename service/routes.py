"""What each path answers.

Owns the choice of a model by a request's fields, the limits that settings give, and the metrics of answers. Knows
nothing of how a body becomes a request (`schemas`), how rows become answers (`predict`), or how errors are told
(`exchange`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response

from service import answers, caller, schemas
from service.answers import ClassifyResponse, ClassifyResponses, ClassifyResult, QaResponse, QaResponses, QaResult
from service.errors import InvalidInput, NotReady, TooLarge, UnknownModel
from service.exchange import CALLER_GONE, Exchange
from service.metrics import Metrics
from service.predict import Model, Predictions, Predictor, Timings
from service.schemas import QaManyRequest
from service.settings import Settings
from service.tasks import ClassificationTask, SpanPrediction, SpanTask, Task, ZeroShotExample
from service.tasks.zero_shot import CONTRADICTION, ENTAILMENT

P = TypeVar("P")

JSON = "application/json"
NLI = (ENTAILMENT, CONTRADICTION)


class Routes:
    """The handlers. Each takes Starlette's request and returns its response: validation and JSON are pydantic's, done
    once, straight from and to bytes.

    Attributes:
        predictor: set while the application runs.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.predictor: Predictor | None = None
        self._settings = settings
        self._metrics = metrics

    async def qa(self, request: Request) -> Response:
        """Answers a question from a text, or from several."""
        body = schemas.parse(schemas.QA_BODY, await caller.read_json(request, self._settings.max_body_bytes))
        many = isinstance(body, QaManyRequest)
        inputs = body.inputs if isinstance(body, QaManyRequest) else [body]
        self._limit(inputs, self._settings.max_inputs, "inputs", "inputs")
        examples = [item.example(body) for item in inputs]
        for i, example in enumerate(examples):
            field = f"inputs.{i}.context" if many else "context"
            self._limit(example.documents, self._settings.max_documents, "documents", field)
        model = self._serving().model(body.model, task=SpanTask)
        assert isinstance(model.task, SpanTask)
        predictions = await self._predict(request, model, model.task, examples, many)
        for prediction in predictions.answers:
            self._observe_span(model, prediction)
        answer = (
            QaResponses(model=model.name, results=[QaResult.of(p) for p in predictions.answers])
            if many
            else QaResponse.of(predictions.answers[0], model=model.name)
        )
        return _answer(answer, predictions.timings)

    async def classify(self, request: Request) -> Response:
        """Classifies a text, a pair of texts, or a text by labels of the caller's own."""
        body = schemas.parse(schemas.CLASSIFY_BODY, await caller.read_json(request, self._settings.max_body_bytes))
        inputs = getattr(body, "inputs", None)
        many = inputs is not None
        items: Sequence[Any] = inputs if inputs is not None else [body]
        self._limit(items, self._settings.max_inputs, "inputs", "inputs")
        examples = [item.example() for item in items]
        zero_shot = isinstance(examples[0], ZeroShotExample)
        for i, example in enumerate(examples if zero_shot else ()):
            field = f"inputs.{i}.candidate_labels" if many else "candidate_labels"
            self._limit(example.candidate_labels, self._settings.max_candidate_labels, "candidate labels", field)
        model, task = self._classifier(body.model, examples[0])
        predictions = await self._predict(request, model, task, examples, many)
        for prediction in predictions.answers:
            self._metrics.predictions.labels(model.name, "zero_shot" if zero_shot else prediction.label).inc()
            self._metrics.confidence.labels(model.name).observe(prediction.score)
        answer = (
            ClassifyResponses(model=model.name, results=[ClassifyResult.of(p) for p in predictions.answers])
            if many
            else ClassifyResponse.of(predictions.answers[0], model=model.name)
        )
        return _answer(answer, predictions.timings)

    async def models(self, request: Request) -> Response:
        """Lists the loaded models."""
        models = [_info(model) for model in self._serving().models.values()]
        return Response(answers.ModelList(models=models).model_dump_json(), media_type=JSON)

    async def one_model(self, request: Request) -> Response:
        """Tells of one model: its task, labels, precision, dev scores and hashes."""
        models = self._serving().models
        name = request.path_params["name"]
        if name not in models:
            raise UnknownModel(f"there is no model of this name; there are {', '.join(models)}", field="name")
        return Response(_info(models[name]).model_dump_json(), media_type=JSON)

    async def live(self, request: Request) -> Response:
        """Whether the process runs."""
        return Response(answers.Health(status="live").model_dump_json(), media_type=JSON)

    async def ready(self, request: Request) -> Response:
        """Whether requests are taken: all models loaded, all workers alive, not stopping."""
        if not self._serving().ready:
            raise NotReady("the service is stopping, or a model has lost a worker")
        return Response(answers.Health(status="ready").model_dump_json(), media_type=JSON)

    async def metrics(self, request: Request) -> Response:
        """The metrics, in the form that Prometheus asks for."""
        encoder, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encoder(self._metrics.registry), headers={"Content-Type": content_type})

    def _serving(self) -> Predictor:
        if self.predictor is None:
            raise NotReady("the service is starting")
        return self.predictor

    def _classifier(self, name: str | None, example: Any) -> tuple[Model, Task[Any, Any, Any]]:
        """The model for such an example, and the task that it does."""
        predictor = self._serving()
        if isinstance(example, ZeroShotExample):
            model = predictor.model(name, task=ClassificationTask, labels=NLI)
            assert model.zero_shot is not None
            return model, model.zero_shot
        if example.text_pair is None:
            model = predictor.model(name, task=ClassificationTask, without=NLI)
        else:  # a model that is asked for by its name may compare texts under labels of its own
            model = predictor.model(name, task=ClassificationTask, labels=NLI if name is None else ())
        return model, model.task

    async def _predict(
        self, request: Request, model: Model, task: Task[Any, Any, P], examples: Sequence[Any], many: bool
    ) -> Predictions[P]:
        exchange = Exchange.of(request.scope)
        exchange.model = model.name
        try:
            async with caller.watched(request.receive):
                predictions = await self._serving().predict(model, task, examples)
        except InvalidInput as error:
            if not many:
                raise
            raise await asyncio.to_thread(_locate, task, examples, error) from error
        exchange.rows = predictions.rows
        return predictions

    def _observe_span(self, model: Model, prediction: SpanPrediction) -> None:
        answer = prediction.answer
        self._metrics.predictions.labels(model.name, "answer" if answer else "no_answer").inc()
        self._metrics.confidence.labels(model.name).observe(answer.score if answer else prediction.no_answer_score)
        self._metrics.qa_windows.labels(model.name).observe(prediction.windows)
        if answer is None:
            self._metrics.no_answer.labels(model.name).inc()

    @staticmethod
    def _limit(values: Sequence[Any], most: int, noun: str, field: str) -> None:
        if len(values) > most:
            raise TooLarge(f"{len(values)} {noun}; the limit is {most}", field=field)


async def gone(request: Request, error: Exception) -> Response:
    """The answer that nobody reads."""
    return Response(status_code=CALLER_GONE)


def _locate(task: Task[Any, Any, Any], examples: Sequence[Any], error: InvalidInput) -> InvalidInput:
    """The same error with the number of the input that it is about: a task is given many and names none."""
    for i, example in enumerate(examples):
        try:
            task.encode([example])
        except InvalidInput as found:
            return InvalidInput(found.detail, field=f"inputs.{i}.{found.field}")
    return error


def _answer(answer: QaResponse | QaResponses | ClassifyResponse | ClassifyResponses, t: Timings) -> Response:
    timing = (
        f"tokenize;dur={t.tokenize * 1000:.3f}, queue;dur={t.queue * 1000:.3f}, "
        f"inference;dur={t.inference * 1000:.3f}, decode;dur={t.decode * 1000:.3f}"
    )
    return Response(answer.model_dump_json(), headers={"Server-Timing": timing}, media_type=JSON)


def _info(model: Model) -> answers.ModelInfo:
    manifest = model.bundle.manifest
    graph = next(graph for graph in manifest.graphs if graph.precision == model.precision)
    return answers.ModelInfo(
        name=manifest.name,
        task=manifest.task,  # type: ignore[arg-type]  # the bundle was checked when it was loaded
        labels=list(manifest.labels),
        zero_shot=model.zero_shot is not None,
        architecture=manifest.architecture,
        parameters=manifest.parameters,
        precision=model.precision,
        provider=model.provider,
        max_length=manifest.max_length,
        doc_stride=manifest.doc_stride,
        no_answer=manifest.no_answer,
        no_answer_threshold=manifest.no_answer_threshold,
        scores={name: dict(scores) for name, scores in graph.scores.items()},
        base_model=manifest.base_model,
        licence=manifest.licence,
        version=model.bundle.version,
        files=dict(manifest.files),
        created=manifest.created,
        loaded=model.loaded,
    )
