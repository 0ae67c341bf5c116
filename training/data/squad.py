"""SQuAD 1.1 and 2.0 in their official JSON (Rajpurkar et al. 2016, 2018), or as the hub's flat rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.tasks import SpanExample
from training.data.records import HUB, Report, is_text, read_json, read_records
from training.errors import DataError


@dataclass(frozen=True, slots=True)
class Question:
    """A question over its paragraph."""

    id: str  # the data set's id, or the question's place in the file, where it has none
    question: str
    context: str  # the paragraph
    # (text, start) of each reference answer, start in code points; empty for an unanswerable question
    answers: tuple[tuple[str, int], ...]
    is_impossible: bool  # whether the data set says that the context holds no answer

    @property
    def example(self) -> SpanExample:
        """Without the choice of "no answer": thresholds are applied, and fitted, on the margins afterwards."""
        return SpanExample(self.question, (self.context,), no_answer=False)


def read_squad(path: str, report: Report) -> Iterator[Question]:
    """The questions of a file, in order. An answer must stand in its context at the place it names.

    An id may be a whole number, or be missing: the question is then called by its place. One rule holds for every form
    of the data: without `is_impossible`, a question whose answers are an empty list has none.
    """
    name = Path(path).name
    seen: set[str] = set()
    for place, context, record in _questions(path, name, report):
        identifier = _identifier(record.get("id"), place)
        where = f"{name}#{identifier}"
        question, answers = record.get("question"), record.get("answers")
        if isinstance(answers, Mapping):  # the hub's layout: a mapping of columns
            answers = _from_columns(answers)
        is_impossible = record.get("is_impossible")
        if is_impossible is None:
            is_impossible = answers == []
        if identifier is None:
            report.add(place, "'id' is not a text or a whole number")
        elif identifier in seen:
            report.add(where, "the id stands twice")
        elif not is_text(question):
            report.add(where, "'question' is empty or not a text")
        elif not isinstance(is_impossible, bool):
            report.add(where, "'is_impossible' is not true or false")
        elif is_impossible and answers:
            report.add(where, "an unanswerable question with answers")
        elif is_impossible:
            seen.add(identifier)
            yield Question(identifier, question.strip(), context, (), True)
        elif not isinstance(answers, list) or not all(isinstance(answer, dict) for answer in answers):
            report.add(where, "'answers' is not a list of objects")
        elif not answers:
            report.add(where, "an answerable question without an answer")
        else:
            seen.add(identifier)
            spans = _spans(context, answers, where, report)
            if spans is not None:
                yield Question(identifier, question.strip(), context, tuple(spans), False)


def _questions(path: str, name: str, report: Report) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(place in the file, context, question record) of each question."""
    if path.startswith(HUB):
        for where, record in read_records(path, report):
            if is_text(context := record.get("context")):
                yield where, context, record
            else:
                report.add(where, "no 'context'")
        return
    content = read_json(path)
    articles = content.get("data") if isinstance(content, dict) else None
    if not isinstance(articles, list):
        raise DataError(f"{path}: no list 'data' at the top, so this is not the official SQuAD layout")
    for i, article in enumerate(articles):
        place = f"{name}#data[{i}]"
        paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
        if not isinstance(paragraphs, list):
            report.add(place, "an article without 'paragraphs'")
            continue
        for j, paragraph in enumerate(paragraphs):
            place = f"{name}#data[{i}].paragraphs[{j}]"
            fields = paragraph if isinstance(paragraph, dict) else {}
            context, questions = fields.get("context"), fields.get("qas")
            if not is_text(context) or not isinstance(questions, list):
                report.add(place, "a paragraph without 'context' or 'qas'")
                continue
            for k, record in enumerate(questions):
                if isinstance(record, dict):
                    yield f"{place}.qas[{k}]", context, record
                else:
                    report.add(f"{place}.qas[{k}]", "a question that is no object")


def _identifier(value: Any, place: str) -> str | None:
    """A question's id as a text; its place, after the file's name, where it has none; None for what is no id."""
    if value is None or value == "":
        return place.partition("#")[2] or place
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value)


def _from_columns(answers: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """A mapping of columns as a list of answers; None where the columns are missing or of unlike length."""
    texts, starts = answers.get("text"), answers.get("answer_start")
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        return None
    return [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]


def _spans(context: str, answers: list[dict[str, Any]], where: str, report: Report) -> list[tuple[str, int]] | None:
    spans = []
    for answer in answers:
        text, start = answer.get("text"), answer.get("answer_start")
        if not is_text(text) or not isinstance(start, int):
            report.add(where, "an answer without 'text' or 'answer_start'")
            return None
        if start < 0 or context[start : start + len(text)] != text:
            found = context.find(text)
            place = f"it stands at {found}" if found >= 0 else "nor anywhere else in it"
            report.add(where, "an answer is not in its context at answer_start", f"{text!r} at {start}, {place}")
            return None
        spans.append((text, start))
    return spans
