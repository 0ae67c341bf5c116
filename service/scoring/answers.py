"""A prediction as columns of a table: their names, their types and their values.

Owns what a table of answers looks like. What is a list or a mapping is JSON: text in Parquet and CSV.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from service.tasks import (
    AnyTask,
    Classification,
    MultiLabelTask,
    MultipleChoicePrediction,
    Ranking,
    Score,
    SpanPrediction,
)

Type = Literal["string", "double", "int64", "bool", "json"]
Values = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a task's answers.

    Attributes:
        columns: their types by name.
        values: gets a prediction's values, in the order of the columns.
    """

    columns: dict[str, Type]
    values: Callable[[Any], Values]


def layout(task: AnyTask, *, several: bool) -> Layout:
    """Get the layout of a task's answers.

    Args:
        several: whether more than one answer is asked for (`top_k`), where that makes another column.
    """
    found = LAYOUTS[task.prediction]
    if isinstance(task, MultiLabelTask):
        return Layout({**found.columns, "labels": "json"}, lambda each: (*found.values(each), each.labels))
    if several and task.prediction is SpanPrediction:
        return Layout({**found.columns, "answers": "json"}, lambda each: (*found.values(each), _spans(each)))
    return found


def _classification(each: Classification) -> Values:
    return each.label, each.score, each.scores, each.truncated


def _score(each: Score) -> Values:
    return each.score, each.truncated


def _span(each: SpanPrediction) -> Values:
    if each.answer is None:
        return None, None, None, None, None, True, each.no_answer_score
    best = each.answer
    return best.text, best.score, best.start, best.end, best.document, False, each.no_answer_score


def _spans(each: SpanPrediction) -> list[dict[str, Any]]:
    return [
        {"answer": one.text, "score": one.score, "start": one.start, "end": one.end, "document": one.document}
        for one in each.answers
    ]


def _choice(each: MultipleChoicePrediction) -> Values:
    scores = [one.score for one in sorted(each.answers, key=lambda one: one.option)]
    return each.answer.option, each.answer.text, each.answer.score, scores, each.truncated


def _ranking(each: Ranking) -> Values:
    return [{"index": one.index, "score": one.score} for one in each.ranking], each.truncated


LAYOUTS: Mapping[type[Any], Layout] = {
    Classification: Layout(
        {"label": "string", "score": "double", "scores": "json", "truncated": "bool"}, _classification
    ),
    MultipleChoicePrediction: Layout(
        {"option": "int64", "answer": "string", "score": "double", "scores": "json", "truncated": "bool"}, _choice
    ),
    Ranking: Layout({"ranking": "json", "truncated": "bool"}, _ranking),
    Score: Layout({"score": "double", "truncated": "bool"}, _score),
    SpanPrediction: Layout(
        {
            "answer": "string",
            "score": "double",
            "start": "int64",
            "end": "int64",
            "document": "int64",
            "no_answer": "bool",
            "no_answer_score": "double",
        },
        _span,
    ),
}
"""By what a task predicts."""
