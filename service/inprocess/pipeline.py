"""What the pipelines share: how inputs are checked and told apart."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from service.errors import InvalidInput
from service.inprocess.model import Model, named
from service.tasks import AnyTask, Classification
from service.tasks.inputs import Input

RECORD = frozenset(("id", "title", "answers", "is_impossible", "plausible_answers"))
"""Fields of a SQuAD record that a question is asked without."""

Json = dict[str, Any]


class Pipeline(ABC):
    """A bundle to call. Several threads may call it at once.

    Attributes:
        model: what it runs.
    """

    def __init__(self, model: Model) -> None:
        self.model = model

    @abstractmethod
    def __call__(self, *args: Any, **options: Any) -> Any:
        """Answer one input, or a list of them: a list in, a list out."""

    def _predict(
        self, inputs: Sequence[Json], *, truncation: bool = True, task: AnyTask | None = None, **options: Any
    ) -> list[Any]:
        """Check the inputs, make examples of them with `options` put into each, and predict."""
        examples = []
        for place, values in enumerate(inputs):
            try:
                example = self._example(values)
            except InvalidInput as error:
                raise named(error, place if len(inputs) > 1 else None) from None
            examples.append(replace(example, **options) if options else example)
        if not examples:
            return []
        task = task or next(each for each in self.model.tasks if each.suits(examples[0], named=True))
        return self.model.predict(task, examples, truncation=truncation)

    def _example(self, values: Json) -> Any:
        """Check an input by the shape that its fields are meant for."""
        does = self.model.tasks
        shapes = [shape for each in does for shape in each.inputs]
        marked = (shape for shape in shapes if not shape.marks.isdisjoint(values))
        shape = next(marked, None) or next((shape for shape in shapes if not shape.marks), shapes[-1])
        takes = f"model {self.model.bundle.name!r} takes {', or '.join(each.takes for each in does)}"
        example = example_of(shape, values, takes)
        if not any(each.suits(example, named=True) for each in does):
            raise InvalidInput(f"this is no input of it: {takes}", field=next(iter(values)))
        return example


def example_of(shape: type[Input], values: Json, takes: str) -> Any:
    """Make the example of an input, by its shape.

    Args:
        takes: what the model takes, for the message where a field is missing or unknown.

    Raises:
        InvalidInput: names the field and what is wrong with it.
    """
    try:
        return shape.model_validate(values).example(shape.shared())
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in fault["loc"] if not str(part).startswith("#"))
        known = {"missing": "is missing", "extra_forbidden": "is not known here"}.get(fault["type"])
        detail = f"{field!r} {known}: {takes}" if known else f"{field!r}: {fault['msg']}"
        raise InvalidInput(detail, field=field) from None


def alone(value: Any) -> bool:
    """Whether a value is one input, and no list of them."""
    return isinstance(value, str | Mapping) or not isinstance(value, Iterable)


def record(value: Any) -> Json:
    """Get a question's fields, of a SQuAD record too."""
    if isinstance(value, Mapping):
        return {name: each for name, each in value.items() if name not in RECORD}
    if hasattr(value, "question_text") and hasattr(value, "context_text"):  # transformers' SquadExample
        return {"question": value.question_text, "context": value.context_text}
    raise InvalidInput(f"an input is a dict, with a question and its context, not {value!r:.50}", field="question")


def text(value: Any) -> Json:
    """Get an input's fields: a text alone is a field too."""
    return dict(value) if isinstance(value, Mapping) else {"text": value}


def may_cut(truncation: object) -> bool:
    """Whether a text that is too long may be cut, as transformers' `truncation` says it."""
    return bool(truncation) and truncation != "do_not_truncate"


def by_score(prediction: Classification) -> dict[str, float]:
    """Get the scores by label, best first."""
    return dict(sorted(prediction.scores.items(), key=lambda item: -item[1]))
