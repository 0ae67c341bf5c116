"""Multiple choice in a process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.errors import InvalidInput
from service.inprocess.pipeline import Pipeline, alone, record
from service.tasks import MultipleChoicePrediction


class MultipleChoice(Pipeline):
    """A question about a text, and options to answer it with. transformers has no pipeline for it."""

    def __call__(
        self,
        question: Any = None,
        context: str | Sequence[str] | None = None,
        options: Sequence[str] | None = None,
        *,
        top_k: int = 1,
        truncation: object = False,
    ) -> Any:
        """Choose the option that answers a question.

        Args:
            question: a question; or, alone, inputs: a dict of `question`, `context` and `options`, or a list of such.
            top_k: how many options to give: with 1 a dict for each input, else a list of dicts.
            truncation: whether a context that is too long may be cut; else it is refused.

        Returns:
            `{"score", "option", "answer"}`: the option's probability, its index and its text.

        Raises:
            InvalidInput: says what is wrong, and with which input.
        """
        if not isinstance(top_k, int) or top_k < 1:
            raise InvalidInput(f"top_k must be 1 or more, not {top_k!r}", field="top_k")
        if isinstance(question, str):
            question = {"question": question, "context": context, "options": options}
        one = alone(question)
        inputs = [record(each) for each in ([question] if one else question)]
        for each in inputs:
            if isinstance(each.get("options"), tuple):
                each["options"] = list(each["options"])
        predictions: list[MultipleChoicePrediction] = self._predict(inputs, truncation=bool(truncation))
        answers = [
            [{"score": each.score, "option": each.option, "answer": each.text} for each in prediction.answers[:top_k]]
            for prediction in predictions
        ]
        results = [found[0] for found in answers] if top_k == 1 else answers
        return results[0] if one else results
