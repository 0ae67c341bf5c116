"""Scores and rankings in a process: a cross-encoder's calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from service.errors import InvalidInput
from service.inprocess.pipeline import Json, Pipeline, alone, may_cut, text
from service.tasks import RerankTask, ScoreTask
from service.tasks.spec import Activation


class Scoring(Pipeline):
    """What `pipeline("text-classification")` is for a model of one label, and sentence-transformers' `CrossEncoder`."""

    FUNCTIONS: ClassVar[Mapping[str, Activation]] = {"none": "identity", "sigmoid": "sigmoid"}

    def __call__(
        self,
        inputs: Any,
        *,
        top_k: int | Literal[""] | None = "",
        truncation: object = False,
        function_to_apply: str | None = None,
        padding: object = None,
        batch_size: int | None = None,
        num_workers: int | None = None,
    ) -> Any:
        """Score texts or pairs of texts.

        Args:
            inputs: a text, a dict of `text` and `text_pair`, or a list of such.
            top_k: with any, each input gets a list of its one score.
            truncation: whether a text that is too long may be cut; else it is refused.
            function_to_apply: `sigmoid`, or `none` for the number as it comes; the bundle's own by default.
            padding, batch_size, num_workers: have no effect.

        Returns:
            `{"label", "score"}` for each input, or a list of it with `top_k`; a single text's is in a list in any case.
            The label is the checkpoint's name for its one number.

        Raises:
            InvalidInput: says what is wrong, and with which input.
        """
        task = self._task
        if function_to_apply is not None:
            if function_to_apply not in self.FUNCTIONS:
                raise InvalidInput(
                    f"function_to_apply is sigmoid or none, not {function_to_apply!r}", field="function_to_apply"
                )
            task = task.with_activation(self.FUNCTIONS[function_to_apply])
        one = alone(inputs)
        cut = may_cut(truncation)
        found = self._predict([text(each) for each in ([inputs] if one else inputs)], truncation=cut, task=task)
        laid = [{"label": task.label, "score": each.score} for each in found]
        if not isinstance(top_k, int | None):
            return laid[0] if isinstance(inputs, Mapping) else laid
        return laid if one else [[each] for each in laid]

    def predict(self, pairs: Sequence[Any]) -> Any:
        """Score pairs of texts, as `CrossEncoder.predict`: what is too long is cut.

        Args:
            pairs: two texts, or a list of such pairs.

        Returns:
            The score of the pair, or a list of scores.

        Raises:
            InvalidInput: says what is wrong, and with which pair.
        """
        one = len(pairs) == 2 and isinstance(pairs[0], str)
        inputs = []
        for pair in [pairs] if one else pairs:
            if isinstance(pair, str) or len(pair) != 2:
                raise InvalidInput(f"a pair is two texts, not {pair!r:.50}", field="pairs")
            inputs.append({"text": pair[0], "text_pair": pair[1]})
        scores = [each.score for each in self._predict(inputs, task=self._task)]
        return scores[0] if one else scores

    def rank(
        self, query: str, documents: Sequence[str], *, top_k: int | None = None, return_documents: bool = False
    ) -> list[Json]:
        """Put documents in order by how well they fit a query, as `CrossEncoder.rank`: what is too long is cut.

        Args:
            top_k: how many to give, None for all.
            return_documents: whether to give their texts.

        Returns:
            `{"corpus_id", "score"}` for each, best first, with `text` where it is asked for.

        Raises:
            InvalidInput: says what is wrong.
        """
        if not documents:
            return []
        values = {"query": query, "texts": list(documents), "top_k": top_k}
        (found,) = self._predict([values], task=RerankTask(self._task))
        return [
            {"corpus_id": each.index, "score": each.score}
            | ({"text": documents[each.index]} if return_documents else {})
            for each in found.ranking
        ]

    @property
    def _task(self) -> ScoreTask:
        task = self.model.tasks[0]
        assert isinstance(task, ScoreTask)
        return task
