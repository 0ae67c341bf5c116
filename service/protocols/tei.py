"""text-embeddings-inference 1.9: `/predict` and `/tokenize`, its errors and headers.

Its `/rerank` is `rerank`'s, its `/info` and `/health` are `info`'s. It serves one model, which has no name: here a path
may begin with `/models/NAME`, else a model is chosen by the inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema
from starlette.responses import Response

from service.errors import InvalidInput
from service.http import answers, requests
from service.http.endpoints import Ask, Document, Done, Endpoint, Work
from service.protocols import info, own, scores
from service.protocols.info import Empty
from service.tasks.inputs import Shape

TEXT = own.TEXT
_ONE_OR_PAIR = {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 2}
_PREDICT_INPUTS = {"anyOf": [TEXT, _ONE_OR_PAIR, {"type": "array", "items": _ONE_OR_PAIR, "minItems": 1}]}


_ANY = {"type": "string"}
_TOKENIZE_INPUTS = {"anyOf": [_ANY | {"minLength": 1}, {"type": "array", "items": _ANY, "minItems": 1}]}


class Truncation(Shape):
    """What may become of a text that is too long."""

    truncate: bool | None = Field(None, description="Whether it is cut, which it is when not given, or refused.")
    truncation_direction: Literal["right", "left", "Right", "Left"] = Field(
        "right", description="Where it is cut. `left` is refused for a text that must be cut."
    )
    raw_scores: bool = Field(False, description="Whether scores are the model's numbers as they come.")

    def check(self, done: Done) -> None:
        """Raise InvalidInput where a text was cut and may not be, or not there."""
        left = self.truncation_direction.lower() == "left"
        if self.truncate is False or left:
            reason = "only its end can be cut" if left else "with `truncate` its beginning alone is read"
            for prediction in done.predictions:
                scores.check_whole(prediction, "inputs", reason)


class PredictBody(Truncation):
    """A text; two, which are a pair; or a list of lists of one text or two."""

    inputs: Annotated[Any, WithJsonSchema(_PREDICT_INPUTS)]


class TokenizeBody(Shape):
    """A text, or several."""

    inputs: Annotated[Any, WithJsonSchema(_TOKENIZE_INPUTS)]
    add_special_tokens: bool = True
    prompt_name: None = Field(None, description="There are no prompts.")


def predict(ask: Ask) -> Work:
    """Classify or score a text, a pair of texts, or a batch of both."""
    body = requests.check(PredictBody, ask.json())
    if body.inputs in ("", [], [[]]):
        raise Empty("`inputs` cannot be empty", field="inputs")
    many = isinstance(body.inputs, list) and isinstance(body.inputs[0], list)
    rows = body.inputs if many else [body.inputs]
    values = [_value(row, f"inputs.{place}" if many else "inputs") for place, row in enumerate(rows)]
    calls = (
        own.calls(values, ask.settings, noun="inputs")
        if many
        else [requests.parse_value("/classify", values[0], ask.settings)]
    )
    examples = [call.examples[0] for call in calls]

    def write(done: Done) -> Response:
        body.check(done)
        pairs = zip(done.predictions, done.models, strict=True)
        found = [scores.elements(prediction, model) for prediction, model in pairs]
        return answers.response(found if many else found[0], headers(done, examples))

    fit = scores.by("identity" if body.raw_scores else None, one="sigmoid")
    return Work(examples, write, ask.name, noun="inputs" if many else "", mixed=many, fit=fit)


def tokenize(ask: Ask) -> Response:
    """Get the tokens of a text or several, with their places in it, in code points."""
    body = requests.check(TokenizeBody, ask.json())
    if body.inputs in ("", []):
        raise Empty("`inputs` cannot be empty", field="inputs")
    texts = body.inputs if isinstance(body.inputs, list) else [body.inputs]
    requests.limit("inputs", len(texts), ask.settings.max_inputs, "inputs")
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidInput(f"inputs.{place} should be a text", field=f"inputs.{place}")
    tokenizer = info.model(ask).tokenizer
    before, after = tokenizer.single.parts

    def special(ids: Sequence[int]) -> list[dict[str, Any]]:
        if not body.add_special_tokens:
            return []
        placed = {"special": True, "start": None, "stop": None}
        return [{"id": each, "text": tokenizer.token(each)} | placed for each in ids]

    found = []
    for text, tokens in zip(texts, tokenizer(texts), strict=True):
        plain = [
            {"id": i, "text": text[start:stop], "special": False, "start": start, "stop": stop}
            for i, (start, stop) in zip(tokens.ids.tolist(), tokens.offsets.tolist(), strict=True)
        ]
        found.append([*special(before.tolist()), *plain, *special(after.tolist())])
    return answers.response(found)


def _value(row: Any, place: str) -> dict[str, Any]:
    if isinstance(row, str):
        return {"text": row}
    if not isinstance(row, list) or not 1 <= len(row) <= 2:
        raise InvalidInput(f"{place} should be a text, a pair of texts, or a list of lists of them", field=place)
    return {"text": row[0]} if len(row) == 1 else {"text": row[0], "text_pair": row[1]}


def headers(done: Done, examples: Sequence[Any]) -> dict[str, str]:
    """Tell what it took: milliseconds, characters and tokens."""
    milliseconds = {phase: str(round(seconds * 1000)) for phase, seconds in done.seconds.items()}
    total = str(round(sum(done.seconds.values()) * 1000))
    return {
        "x-compute-type": "cpu" if done.models[0].provider == "cpu" else "gpu",
        "x-compute-time": total,
        "x-compute-characters": str(sum(example.characters for example in examples)),
        "x-compute-tokens": str(done.tokens),
        "x-total-time": total,
        "x-tokenization-time": milliseconds["tokenize"],
        "x-queue-time": milliseconds["queue"],
        "x-inference-time": milliseconds["inference"],
    }


_PREDICTED = {"anyOf": [scores.SCHEMA, {"type": "array", "items": scores.SCHEMA}]}
_TOKEN = {"type": "object", "required": ["id", "text", "special"]}
_TOKENS = {"type": "array", "items": {"type": "array", "items": _TOKEN}}
_PREDICT = Document("tei", _PREDICTED, (PredictBody,), {"inputs": "What a wonderful film!"}, info.EndpointError)
_TOKENIZE = Document("tei", _TOKENS, (TokenizeBody,), {"inputs": "A film."}, info.EndpointError, predicts=False)
ENDPOINTS = (
    *(
        endpoint
        for base in ("", "/models/{name}")
        for endpoint in (
            Endpoint(f"{base}/predict", predict, _PREDICT, refuse=info.refuse),
            Endpoint(f"{base}/tokenize", tokenize, _TOKENIZE, refuse=info.refuse),
        )
    ),
    *info.ENDPOINTS,
)
