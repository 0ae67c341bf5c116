"""SQuAD 1.1 and 2.0 in their official JSON (Rajpurkar et al. 2016, 2018), or as the hub's flat rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.records import HUB, Report, read_json, read_records
from training.errors import DataError


@dataclass(frozen=True, slots=True)
class Question:
    """A question over its paragraph.

    Attributes:
        id: the data set's id.
        question: the question.
        context: the paragraph.
        answers: (text, start) of each reference answer, start in code points; empty for an unanswerable question.
        is_impossible: whether the data set says that the context holds no answer.
    """

    id: str
    question: str
    context: str
    answers: tuple[tuple[str, int], ...]
    is_impossible: bool


def read_squad(path: str, report: Report) -> Iterator[Question]:
    """The questions of a file, in order. An answer must stand in its context at the place it names."""
    name = Path(path).name
    seen: set[str] = set()
    for context, record in _questions(path, name, report):
        identifier = record.get("id")
        where = f"{name}#{identifier}"
        question, answers = record.get("question"), record.get("answers", [])
        if isinstance(answers, Mapping):  # the hub's layout: a mapping of columns
            texts, starts = answers.get("text", []), answers.get("answer_start", [])
            answers = [{"text": t, "answer_start": s} for t, s in zip(texts, starts, strict=True)]
        if not isinstance(identifier, str):
            report.add(where, "no 'id'")
        elif identifier in seen:
            report.add(where, "the id stands twice")
        elif not isinstance(question, str) or not question.strip():
            report.add(where, "'question' is empty or not a string")
        elif not isinstance(answers, list) or not all(isinstance(answer, dict) for answer in answers):
            report.add(where, "'answers' is not a list of objects")
        else:
            seen.add(identifier)
            is_impossible = bool(record.get("is_impossible", not answers))
            if not answers and not is_impossible:
                report.add(where, "an answerable question without an answer")
                continue
            spans = [] if is_impossible else _spans(context, answers, where, report)
            if spans is not None:
                yield Question(identifier, question.strip(), context, tuple(spans), is_impossible)


def _questions(path: str, name: str, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    """(context, question record) of each question."""
    if path.startswith(HUB):
        for where, record in read_records(path, report):
            if isinstance(record.get("context"), str):
                yield record["context"], record
            else:
                report.add(where, "no 'context'")
        return
    content = read_json(path)
    articles = content.get("data") if isinstance(content, dict) else None
    if not isinstance(articles, list):
        raise DataError(f"{path}: no list 'data' at the top, so this is not the official SQuAD layout")
    for i, article in enumerate(articles):
        for j, paragraph in enumerate(article.get("paragraphs", ())):
            context, questions = paragraph.get("context"), paragraph.get("qas")
            if not isinstance(context, str) or not isinstance(questions, list):
                report.add(f"{name}#data[{i}].paragraphs[{j}]", "a paragraph without 'context' or 'qas'")
                continue
            for record in questions:
                yield context, record


def _spans(context: str, answers: list[dict[str, Any]], where: str, report: Report) -> list[tuple[str, int]] | None:
    spans = []
    for answer in answers:
        text, start = answer.get("text"), answer.get("answer_start")
        if not isinstance(text, str) or not isinstance(start, int):
            report.add(where, "an answer without 'text' or 'answer_start'")
            return None
        if context[start : start + len(text)] != text:
            found = context.find(text)
            place = f"it stands at {found}" if found >= 0 else "nor anywhere else in it"
            report.add(where, "an answer is not in its context at answer_start", f"{text!r} at {start}, {place}")
            return None
        spans.append((text, start))
    return spans
