"""Texts and pairs of texts in a process: transformers' text and zero-shot classification pipelines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from service.errors import InvalidInput
from service.inprocess.pipeline import Json, Pipeline, alone, by_score, may_cut, text

PIPELINE_TEMPLATE = "This example is {}."


class TextClassification(Pipeline):
    """What `pipeline("text-classification")` is, and `pipeline("zero-shot-classification")` where the model can."""

    def __call__(
        self,
        inputs: Any,
        candidate_labels: str | Sequence[str] | None = None,
        *,
        hypothesis_template: str | None = None,
        multi_label: bool | None = None,
        top_k: int | Literal[""] | None = "",
        truncation: object = False,
        function_to_apply: str | None = None,
        padding: object = None,
        batch_size: int | None = None,
        num_workers: int | None = None,
    ) -> Any:
        """Classify texts or pairs of texts; with `candidate_labels`, texts under those labels.

        Args:
            inputs: a text, a dict of `text` and `text_pair` (or of `premise` and `hypothesis`), or a list of such.
            candidate_labels: the labels to choose from, in a list or with commas between them.
            hypothesis_template: `{}` in it is where a label goes.
            multi_label: whether to score each label alone, so that several may be right.
            top_k: how many labels to give, None for all. Without it, each input gets its best label, in no list.
            truncation: whether a text that is too long may be cut; else it is refused.
            function_to_apply: refused: scores are those that the bundle was calibrated for.
            padding, batch_size, num_workers: have no effect.

        Returns:
            `{"label", "score"}` for each input, or a list of such with `top_k`; a single text's is in a list in any
            case. With `candidate_labels`, `{"sequence", "labels", "scores"}`, best first.

        Raises:
            InvalidInput: says what is wrong, and with which input.
        """
        if function_to_apply is not None:
            raise InvalidInput(
                "function_to_apply: scores are the calibrated probabilities of the bundle's own task",
                field="function_to_apply",
            )
        one = alone(inputs)
        values = [text(each) for each in ([inputs] if one else inputs)]
        cut = may_cut(truncation)
        if candidate_labels is not None:
            if top_k != "":
                raise InvalidInput("top_k: all candidate_labels are given, best first", field="top_k")
            zero = _zero_shot(candidate_labels, hypothesis_template, multi_label)
            found = self._predict([each | zero for each in values], truncation=cut)
            laid: list[Any] = [
                {"sequence": each["text"], "labels": [*by_label], "scores": [*by_label.values()]}
                for each, by_label in zip(values, map(by_score, found), strict=True)
            ]
            return laid[0] if one else laid
        for name, value in (("hypothesis_template", hypothesis_template), ("multi_label", multi_label)):
            if value is not None:
                raise InvalidInput(f"{name} goes with candidate_labels", field=name)
        if not (top_k in ("", None) or (isinstance(top_k, int) and top_k >= 1)):
            raise InvalidInput(f"top_k must be 1 or more, or None for all, not {top_k!r}", field="top_k")
        predictions = self._predict(values, truncation=cut)
        if not isinstance(top_k, int | None):
            best = [{"label": each.label, "score": each.score} for each in predictions]
            return best[0] if isinstance(inputs, Mapping) else best
        lists = [
            [{"label": label, "score": score} for label, score in by_score(each).items()][:top_k]
            for each in predictions
        ]
        return lists[0] if one else lists


def _zero_shot(candidate_labels: str | Sequence[str], template: str | None, multi_label: bool | None) -> Json:
    if isinstance(candidate_labels, str):
        candidate_labels = [label.strip() for label in candidate_labels.split(",") if label.strip()]
    return {
        "candidate_labels": list(candidate_labels),
        "hypothesis_template": PIPELINE_TEMPLATE if template is None else template,
        "multi_label": bool(multi_label),
    }
