"""The JSON of answers: a request's predictions, and what is said of models and health.

Tasks own the shape of a prediction (`service.tasks`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, TypeAdapter
from pydantic_core import to_json
from starlette.responses import Response

from service.repository.manifest import Calibration
from service.rollout.rollouts import State, VersionState
from service.serving import Model
from service.tasks import PATHS, RerankTask, ZeroShotTask
from service.tasks.spec import Activation

JSON = "application/json"
ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {
    task.prediction: TypeAdapter(task.prediction) for tasks in PATHS.values() for task in tasks
}
"""What writes each kind of prediction as JSON."""


def write(model: str, predictions: Sequence[Any], *, many: bool) -> bytes:
    """Write the body of an answer: the results of many inputs, or the fields of the one result itself.

    Args:
        predictions: one or more, all of a kind.
    """
    kind = ADAPTERS[type(predictions[0])]
    results = [kind.dump_python(prediction) for prediction in predictions]
    return to_json({"model": model, "results": results} if many else {"model": model, **results[0]})


def dump(prediction: Any) -> dict[str, Any]:
    """Get a prediction's JSON as plain values."""
    found: dict[str, Any] = ADAPTERS[type(prediction)].dump_python(prediction)
    return found


def response(value: Any, headers: Mapping[str, str] | None = None, status: int = 200) -> Response:
    """Make an answer of a value's JSON."""
    return Response(to_json(value), status, headers, JSON)


class VersionInfo(BaseModel):
    """A version of a model."""

    version: str
    roles: tuple[str, ...] = Field(description="`stable`, `canary`, `shadow`, `previous`.")
    state: State = Field(description="`available` is on disk and not loaded.")
    since: float | None = Field(description="When it came to be so, Unix time; null: before the start.")
    reason: str = Field(description="Why it failed.")


class ModelInfo(BaseModel):
    """A loaded model."""

    name: str
    task: str
    labels: tuple[str, ...]
    multi_label: bool = Field(description="Whether several labels may hold at once.")
    label_threshold: float = Field(description="Probability over which a label of such a model holds.")
    activation: Activation = Field(description="What the number of a model that scores goes through to be its score.")
    zero_shot: bool = Field(description="Whether it takes `candidate_labels`.")
    rerank: bool = Field(description="Whether it takes `query` and `texts`.")
    architecture: str
    parameters: int
    precision: str
    packed: bool = Field(description="Whether the graph does no work on padding (GPUs).")
    provider: str
    max_length: int = Field(description="Longest row, in tokens.")
    batch_tokens: int = Field(description="Most tokens of a batch, padding included.")
    low_latency_tokens: int | None = Field(
        description="From how many tokens on a request that has the process to itself runs on all cores; null: none."
    )
    doc_stride: int = Field(description="Tokens that neighbouring windows of a document share.")
    no_answer: bool = Field(description="Whether there may be no answer when a request does not say.")
    no_answer_threshold: float
    temperature: float = Field(description="What logits are divided by in scores.")
    calibration: Calibration | None = Field(description="Of the scores; null where there was no dev file.")
    scores: dict[str, dict[str, float]] = Field(description="Of the served file on the dev sets.")
    markers: tuple[str, ...] = Field(description="Special tokens that are no plain text where they stand in a text.")
    checkpoint: str = Field(description="The hub's repository that was exported, NAME@COMMIT; empty for a folder.")
    base_model: str
    licence: str
    version: str = Field(description="Names the bundle's content.")
    files: dict[str, str] = Field(description="sha256 of each file.")
    created: str
    loaded: float = Field(description="When it was loaded, Unix time.")
    versions: list[VersionInfo] = Field(description="All versions, in order; this is of the stable one.")

    @classmethod
    def of(cls, model: Model, versions: Sequence[VersionState]) -> Self:
        """Describe a model."""
        manifest, graph, runner = model.bundle.manifest, model.graph, model.runner
        said = {name: getattr(manifest, name) for name in cls.model_fields if hasattr(manifest, name)}
        said["versions"] = [VersionInfo.model_validate(each, from_attributes=True) for each in versions]
        return cls(
            **said,
            zero_shot=any(isinstance(task, ZeroShotTask) for task in model.tasks),
            rerank=any(isinstance(task, RerankTask) for task in model.tasks),
            precision=graph.precision,
            packed=graph.packed,
            provider=model.provider,
            batch_tokens=runner.batch_tokens,
            low_latency_tokens=runner.low_latency_tokens if runner.low_latency else None,
            scores=graph.scores,
            version=model.version,
            loaded=model.loaded,
        )


class ModelList(BaseModel):
    """All loaded models."""

    models: list[ModelInfo]


class Health(BaseModel):
    """The state of the service."""

    status: Literal["live", "ready"]
