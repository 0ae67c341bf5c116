"""The span of a text that answers a question, or "no answer"; with SQuAD's scores.

Exact match and F1 are written from the definitions of the SQuAD evaluation (Rajpurkar et al. 2016, section 6.1; 2018):
answers are compared without case, punctuation, articles and extra white space.
"""

from __future__ import annotations

import functools
import math
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from service.tasks import SpanExample, SpanTask, Window
from service.tasks.spec import TaskSpec
from training.data import Question, Report, read_squad
from training.tasks.task import Predictions, Reader, Row, Rows, Served, Task, tower

_PUNCTUATION = frozenset(string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)


@functools.lru_cache(1 << 16)  # the same answers are matched at every temperature that a fit tries
def normalize_answer(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces."""
    text = "".join(character for character in text.lower() if character not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(prediction: str, reference: str) -> float:
    """1.0 where the two are the same once normalised, else 0.0."""
    return float(normalize_answer(prediction) == normalize_answer(reference))


def f1(prediction: str, reference: str, *, empty_matches: bool) -> float:
    """Harmonic mean of precision and recall over the normalised words.

    Args:
        empty_matches: whether two texts without words score 1.0 (as in SQuAD 2.0) or 0.0 (as in 1.1).
    """
    predicted, referred = normalize_answer(prediction).split(), normalize_answer(reference).split()
    if empty_matches and not (predicted and referred):
        return float(predicted == referred)
    common = (Counter(predicted) & Counter(referred)).total()
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted), common / len(referred)
    return 2 * precision * recall / (precision + recall)


@dataclass(frozen=True, slots=True)
class SpanOutcome:
    """What was answered to a question, scored."""

    question: Question  # the question
    text: str  # the best span's text, whether or not "no answer" beats it
    margin: float  # logit of "no answer" minus the best span's
    exact: float  # the text's exact match, 0 or 1, best over the references
    f1: float  # likewise its F1
    # what "no answer" would score, 0 or 1. Not the same as `question.is_impossible`: the official script also credits
    # it where every reference is but an article or punctuation
    blank: float

    @classmethod
    def of(cls, question: Question, text: str, margin: float, *, version_2: bool) -> SpanOutcome:
        """Score `text` against the references; in SQuAD 2.0 an unanswerable question's reference is ""."""
        references = [reference for reference, _ in question.answers]
        if version_2:
            references = [reference for reference in references if normalize_answer(reference)] or [""]
        return cls(
            question,
            text,
            margin,
            max((exact_match(text, reference) for reference in references), default=0.0),
            max((f1(text, reference, empty_matches=version_2) for reference in references), default=0.0),
            max((exact_match("", reference) for reference in references), default=0.0),
        )


class Span(Task[Question, SpanOutcome]):
    """Start and end of the answer in windows over documents."""

    name = "span"
    served = SpanTask
    head = "ForQuestionAnswering"
    outputs = 2
    layouts: ClassVar[Mapping[str, Reader]] = {"squad": lambda path, report, labels, table: read_squad(path, report)}
    main = "f1"
    right = "an exact match"
    windows = True
    smoothing = False
    threshold = "no_answer_threshold"

    def rows(self, served: Served, examples: Sequence[Question], report: Report, **options: Any) -> Rows:
        """Return the windows of each question; targets `start_positions` and `end_positions`, tokens of the row.

        A window that does not hold the whole answer points at [CLS], position 0 (BERT paper, section 4.3); of those of
        answerable questions a share of `empty_windows` is kept. A question that the task refuses is reported.
        """
        rows: list[Row] = []
        generator, share = np.random.default_rng(options.get("seed", 0)), options.get("empty_windows", 1.0)
        for question, windows in self.encoded(served, examples, report):
            for window in windows:
                begin, last = (0, 0) if question.is_impossible else _positions(window, *question.answers[0])
                if last or question.is_impossible or generator.random() < share:
                    rows.append(((window,), {"start_positions": begin, "end_positions": last}))
        return rows, {}

    def place(self, example: Question) -> str:
        return f"#{example.id}"

    def judge(self, examples: Sequence[Question]) -> Callable[[Question, Any], SpanOutcome]:
        """Return what scores an answer as SQuAD 2.0 does, where some questions have none, or as 1.1."""
        version_2 = any(question.is_impossible for question in examples)

        def outcome(reference: Question, prediction: Any) -> SpanOutcome:
            text = prediction.answers[0].text if prediction.answers else ""
            return SpanOutcome.of(reference, text, prediction.no_answer_margin, version_2=version_2)

        return outcome

    def scores(self, served: Served, outcomes: Sequence[SpanOutcome]) -> dict[str, float]:
        return squad(outcomes, _threshold(served, outcomes))

    def predictions(self, served: Served, outcomes: Sequence[SpanOutcome]) -> Predictions:
        threshold = _threshold(served, outcomes)
        return {o.question.id: "" if o.margin > threshold else o.text for o in outcomes}

    def fit(self, served: Served, outcomes: Sequence[Sequence[SpanOutcome]]) -> Served:
        open_ended = [o for each in outcomes if any(o.question.is_impossible for o in each) for o in each]
        return served.with_no_answer(best_threshold(open_ended)) if open_ended else served

    def fitted(self, served: Served) -> dict[str, Any]:
        return {"no_answer": True, self.threshold: served.no_answer_threshold} if served.no_answer else {}

    def with_answer(self, examples: Sequence[Question]) -> Sequence[Question]:
        return [question for question in examples if not question.is_impossible]

    def sample(self, served: Served, text: Callable[[int], str], words: int) -> SpanExample:
        return SpanExample(text(min(words, 8)), (text(words),), no_answer=False)

    def taken(self, example: SpanExample, prediction: Any) -> Question:
        answers = tuple((answer.text, answer.start) for answer in prediction.answers)
        return Question("", example.question, example.documents[0], answers, is_impossible=False)

    def asked(self, reference: Question) -> SpanExample:
        return replace(reference.example, no_answer=None)

    def answers(self, reference: Question, prediction: Any) -> list[tuple[float, bool, float]]:
        best = prediction.answers[0] if prediction.answers else None
        right = best is not None and any(exact_match(best.text, text) for text, _ in reference.answers)
        score = best.score if best else 0.0
        return [(score, right, score if right else 1.0 - score)]

    def body(self, example: SpanExample) -> dict[str, Any]:
        documents = list(example.documents)
        return {"question": example.question, "context": documents[0] if len(documents) == 1 else documents}

    def purpose(self, spec: TaskSpec) -> str:
        return "extractive question answering"

    def request(self, spec: TaskSpec, name: str, layout: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
        return "/qa", tower()

    def facts(self, spec: TaskSpec) -> list[str]:
        over = (
            '"no answer" wins where its logit beats the best span\'s by more than '
            f"{spec.no_answer_threshold:.4f}, the best F1 on the dev set"
        )
        return [f"windows share {spec.doc_stride} tokens", *([over] if spec.no_answer else [])]


def squad(outcomes: Sequence[SpanOutcome], threshold: float) -> dict[str, float]:
    """{"exact", "f1", "total", ...} in percent, as the official scripts print them.

    Args:
        threshold: "no answer" is taken where the margin is above it; infinity never takes it (SQuAD 1.1).
    """
    exact, f_scores = [], []
    for outcome in outcomes:
        if outcome.margin > threshold:
            exact.append(outcome.blank)
            f_scores.append(outcome.blank)
        else:
            exact.append(outcome.exact)
            f_scores.append(outcome.f1)
    scores = _mean_scores("", exact, f_scores)
    for prefix, impossible in (("HasAns_", False), ("NoAns_", True)):
        chosen = [i for i, outcome in enumerate(outcomes) if outcome.question.is_impossible == impossible]
        if chosen and len(chosen) < len(outcomes):
            scores |= _mean_scores(prefix, [exact[i] for i in chosen], [f_scores[i] for i in chosen])
    return scores


def best_threshold(outcomes: Sequence[SpanOutcome]) -> float:
    """The threshold with the best F1: halfway between two neighbouring margins (at most 1 over the lower one), so that
    no outcome sits on it."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.margin)
    score = best = sum(outcome.blank for outcome in ordered)  # all are "no answer"
    threshold = ordered[0].margin - 1.0
    for i, outcome in enumerate(ordered):
        score += outcome.f1 - outcome.blank  # this one, too, is now answered
        following = ordered[i + 1].margin if i + 1 < len(ordered) else outcome.margin + 2.0
        if score > best and following > outcome.margin:  # equal margins fall on the same side
            best = score
            threshold = (outcome.margin + min(following, outcome.margin + 2.0)) / 2
    return threshold


def _positions(window: Window, text: str, start: int) -> tuple[int, int]:
    """First and last token of the answer in the row; (0, 0) where the window does not hold all of it."""
    end = start + len(text)
    starts, ends = window.offsets[:, 0], window.offsets[:, 1]
    covered = np.flatnonzero((ends > start) & (starts < end) & (ends > starts))
    if len(covered) == 0 or starts[0] > start or ends[-1] < end:
        return 0, 0
    return window.first + int(covered[0]), window.first + int(covered[-1])


def _threshold(served: Served, outcomes: Sequence[SpanOutcome]) -> float:
    """The margin over which "no answer" is taken; never, where every question has an answer (SQuAD 1.1)."""
    threshold: float = served.no_answer_threshold
    return threshold if any(o.question.is_impossible for o in outcomes) else math.inf


def _mean_scores(prefix: str, exact: Sequence[float], f_scores: Sequence[float]) -> dict[str, float]:
    total = len(exact)
    return {
        f"{prefix}exact": 100.0 * sum(exact) / total,
        f"{prefix}f1": 100.0 * sum(f_scores) / total,
        f"{prefix}total": total,
    }
