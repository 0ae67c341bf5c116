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

from service.errors import InvalidInput, NotReady, TooLarge, UnknownModel
from service.http import answers, schemas
from service.http import body as caller
from service.http.answers import Prediction
from service.http.context import Exchange
from service.http.schemas import ManyRequest
from service.metrics import PHASES, Metrics
from service.predictor import Model, Predictions, Predictor
from service.scheduler.queue import Priority
from service.settings import Settings
from service.tasks import (
    Answer,
    Classification,
    ClassificationExample,
    ClassificationTask,
    MultipleChoiceExample,
    MultipleChoicePrediction,
    MultipleChoiceTask,
    SpanExample,
    SpanPrediction,
    SpanTask,
    Task,
    ZeroShotExample,
)
from service.tasks.zero_shot import CONTRADICTION, ENTAILMENT

P = TypeVar("P")

JSON = "application/json"
NLI = (ENTAILMENT, CONTRADICTION)
SENTIMENT = ("positive", "negative")


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
        metrics.ready.set_function(lambda: self.predictor is not None and self.predictor.ready)

    async def qa(self, request: Request) -> Response:
        """Answers a question from a text, or from several, or by one of the options given with it."""
        return await self._answer(request, schemas.QA_BODY)

    async def classify(self, request: Request) -> Response:
        """Classifies a text, a pair of texts, or a text by labels of the caller's own."""
        return await self._answer(request, schemas.CLASSIFY_BODY)

    async def _answer(self, request: Request, shapes: schemas.Shapes) -> Response:
        body = schemas.parse(shapes, await caller.read_json(request, self._settings.max_body_bytes))
        if many := isinstance(body, ManyRequest):
            _limit(body.inputs, self._settings.max_inputs, "inputs", "inputs")
        examples = schemas.examples(body)
        for i, example in enumerate(examples):
            self._limit_lists(example, f"inputs.{i}." if many else "")
        model, task = self._model(body.model, examples[0])
        predictions = await self._predict(request, model, task, examples, body.priority, many)
        for prediction in predictions.answers:
            self._observe(model, task, prediction)
        answer = answers.of(model.name, predictions.answers, many=many)
        timing = ", ".join(f"{phase};dur={getattr(predictions.timings, phase) * 1000:.3f}" for phase in PHASES)
        return Response(answer.model_dump_json(), headers={"Server-Timing": timing}, media_type=JSON)

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

    def check_qa(self) -> None:
        """Raises QueueFull while no question would be taken."""
        if self.predictor is not None:
            self.predictor.check_open(SpanTask, MultipleChoiceTask)

    def check_classify(self) -> None:
        """Raises QueueFull while no text would be taken."""
        if self.predictor is not None:
            self.predictor.check_open(ClassificationTask)

    def can_answer(self, shapes: schemas.Shapes, body: Any) -> bool:
        """Whether a loaded model takes such a body; true of every body before any is loaded."""
        if self.predictor is None:
            return True
        request = shapes.validate_python(body)
        try:
            self._model(request.model, schemas.examples(request)[0])
        except UnknownModel:
            return False
        return True

    def _serving(self) -> Predictor:
        if self.predictor is None:
            raise NotReady("the service is starting")
        return self.predictor

    def _model(self, name: str | None, example: Any) -> tuple[Model, Task[Any, Any, Any]]:
        """The model called `name`, or one for such an example, and the task that it does."""
        predictor = self._serving()
        match example:
            case SpanExample():
                model = predictor.model(name, task=SpanTask)
            case MultipleChoiceExample():
                model = predictor.model(name, task=MultipleChoiceTask)
            case ZeroShotExample():
                model = predictor.model(name, task=ClassificationTask, labels=NLI)
                assert model.zero_shot is not None
                return model, model.zero_shot
            case ClassificationExample(text_pair=None):
                model = predictor.model(name, task=ClassificationTask, without=NLI, preferred=SENTIMENT)
            case _:  # two texts: a model that is asked for by its name may compare them under labels of its own
                model = predictor.model(name, task=ClassificationTask, labels=NLI if name is None else ())
        return model, model.task

    async def _predict(
        self,
        request: Request,
        model: Model,
        task: Task[Any, Any, P],
        examples: Sequence[Any],
        priority: Priority,
        many: bool,
    ) -> Predictions[P]:
        exchange = Exchange.of(request.scope)
        exchange.model = model.name
        model.batcher.check_open()  # before the watch: what a refusal costs, a flood takes from those who are admitted
        try:
            async with caller.watched(request.receive):
                predictions = await self._serving().predict(
                    model, task, examples, began=exchange.began, priority=priority
                )
        except InvalidInput as error:
            if not many:
                raise
            raise await asyncio.to_thread(_locate, task, examples, error) from error
        exchange.rows = predictions.rows
        return predictions

    def _observe(self, model: Model, task: Task[Any, Any, Any], prediction: Prediction) -> None:
        labels: tuple[str, ...]
        match prediction:
            case SpanPrediction(answer=None):
                labels, score = ("no_answer",), prediction.no_answer_score
                self._metrics.no_answer.labels(model.name).inc()
            case SpanPrediction(answer=Answer() as answer):
                labels, score = ("answer",), answer.score
            case MultipleChoicePrediction(answer=answer):
                labels, score = ("option",), answer.score
            case Classification(label=label, labels=several, score=score):
                labels = ("zero_shot",) if task is model.zero_shot else (label,) if several is None else several
        if isinstance(prediction, SpanPrediction):
            self._metrics.qa_windows.labels(model.name).observe(prediction.windows)
        for label in labels:
            self._metrics.predictions.labels(model.name, label).inc()
        self._metrics.confidence.labels(model.name).observe(score)

    def _limit_lists(self, example: Any, place: str) -> None:
        """Raises TooLarge for an example whose lists are over their limits; `place` is what its fields' names begin
        with."""
        match example:
            case SpanExample(documents=documents):
                _limit(documents, self._settings.max_documents, "documents", f"{place}context")
            case MultipleChoiceExample(options=options):
                _limit(options, self._settings.max_options, "options", f"{place}options")
            case ZeroShotExample(candidate_labels=labels):
                _limit(labels, self._settings.max_candidate_labels, "candidate labels", f"{place}candidate_labels")


def _limit(values: Sequence[Any], most: int, noun: str, field: str) -> None:
    if len(values) > most:
        raise TooLarge(f"{len(values)} {noun}; the limit is {most}", field=field)


def _locate(task: Task[Any, Any, Any], examples: Sequence[Any], error: InvalidInput) -> InvalidInput:
    """The same error with the number of the input that it is about: a task is given many and names none."""
    for i, example in enumerate(examples):
        try:
            task.encode([example])
        except InvalidInput as found:
            return InvalidInput(found.detail, field=f"inputs.{i}.{found.field}")
    return error


def _info(model: Model) -> answers.ModelInfo:
    manifest = model.bundle.manifest
    graph = model.bundle.graph_for(model.provider)
    return answers.ModelInfo(
        name=manifest.name,
        task=manifest.task,  # type: ignore[arg-type]  # the bundle was checked when it was loaded
        labels=list(manifest.labels),
        multi_label=manifest.multi_label,
        label_threshold=manifest.label_threshold,
        zero_shot=model.zero_shot is not None,
        architecture=manifest.architecture,
        parameters=manifest.parameters,
        precision=model.precision,
        packed=graph.packed,
        provider=model.provider,
        max_length=manifest.max_length,
        batch_tokens=model.schedule.batch_tokens,
        lone_tokens=model.schedule.lone_tokens if model.schedule.lone else None,
        doc_stride=manifest.doc_stride,
        no_answer=manifest.no_answer,
        no_answer_threshold=manifest.no_answer_threshold,
        temperature=manifest.temperature,
        calibration=answers.CalibrationInfo.of(manifest.calibration),
        scores={name: dict(scores) for name, scores in graph.scores.items()},
        base_model=manifest.base_model,
        licence=manifest.licence,
        version=model.bundle.version,
        files=dict(manifest.files),
        created=manifest.created,
        loaded=model.loaded,
    )
