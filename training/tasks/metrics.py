"""Scores as their official scripts compute them: accuracy, SQuAD's exact match and F1, F1 over many labels.

Written from the definitions of the SQuAD evaluation (Rajpurkar et al. 2016, section 6.1; 2018): answers are compared
without case, punctuation, articles and extra white space.
"""

from __future__ import annotations

import functools
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from training.data import ChoiceQuestion, Question, TaggedText

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
    """What was answered to a question, scored.

    Attributes:
        question: the question.
        text: the best span's text, whether or not "no answer" beats it.
        margin: logit of "no answer" minus the best span's.
        exact: the text's exact match, 0 or 1, best over the references.
        f1: likewise its F1.
        blank: what "no answer" would score, 0 or 1. Not the same as `question.is_impossible`: the official script also
            credits it where every reference is but an article or punctuation.
    """

    question: Question
    text: str
    margin: float
    exact: float
    f1: float
    blank: float

    @classmethod
    def of(cls, question: Question, text: str, margin: float, *, version_2: bool) -> SpanOutcome:
        """Scores `text` against the references; in SQuAD 2.0 an unanswerable question's reference is ""."""
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


@dataclass(frozen=True, slots=True)
class TagOutcome:
    """A text with the labels that hold, and the probability that was given to each label there is."""

    reference: TaggedText
    scores: Mapping[str, float]


def multi_label(outcomes: Sequence[TagOutcome], threshold: float) -> dict[str, float]:
    """{"f1" (micro: over all decisions), "f1_macro" (mean over labels), "exact" (all labels right)} in percent, "rows".

    Args:
        threshold: a label is predicted where its probability is above it.
    """
    hits, predicted, holding = Counter[str](), Counter[str](), Counter[str]()
    exact = 0
    for outcome in outcomes:
        chosen = {label for label, score in outcome.scores.items() if score > threshold}
        hits.update(chosen & outcome.reference.labels)
        predicted.update(chosen)
        holding.update(outcome.reference.labels)
        exact += chosen == outcome.reference.labels
    labels = [label for label in outcomes[0].scores if predicted[label] or holding[label]]
    each = [2 * hits[label] / (predicted[label] + holding[label]) for label in labels]
    decisions = predicted.total() + holding.total()
    return {
        "f1": 100.0 * 2 * hits.total() / decisions if decisions else 100.0,
        "f1_macro": 100.0 * sum(each) / len(each) if each else 100.0,
        "exact": 100.0 * exact / len(outcomes),
        "rows": len(outcomes),
    }


def best_label_threshold(outcomes: Sequence[TagOutcome]) -> float:
    """The probability over which labels are best taken, by micro F1: halfway between two that were given."""
    ordered = sorted(
        ((score, label in outcome.reference.labels) for outcome in outcomes for label, score in outcome.scores.items()),
        reverse=True,
    )
    holding = sum(holds for _, holds in ordered)
    hits, best, threshold = 0, 0.0, 0.5
    for taken, (score, holds) in enumerate(ordered, start=1):
        hits += holds
        following = ordered[taken][0] if taken < len(ordered) else 0.0
        reached = 2 * hits / (taken + holding)
        if reached > best and following < score:  # equal probabilities fall on the same side
            best, threshold = reached, (score + following) / 2
    return threshold


@dataclass(frozen=True, slots=True)
class ChoiceOutcome:
    """A question with the index of the option that was chosen, and whether its passage was cut to fit."""

    reference: ChoiceQuestion
    option: int
    truncated: bool


def multiple_choice(outcomes: Sequence[ChoiceOutcome]) -> dict[str, float]:
    """{"accuracy" in percent, apart for each level that is known, "questions", and how many were read in part}."""
    levels = sorted({outcome.reference.level for outcome in outcomes} - {""})
    cut = [outcome.reference.passage for outcome in outcomes if outcome.truncated]
    scores = {"accuracy": _share_right(outcomes)}
    for level in levels:
        scores[f"accuracy_{level}"] = _share_right([o for o in outcomes if o.reference.level == level])
    return {**scores, "questions": len(outcomes), "cut_questions": len(cut), "cut_passages": len(set(cut))}


def _share_right(outcomes: Sequence[ChoiceOutcome]) -> float:
    return 100.0 * sum(o.option == o.reference.answer for o in outcomes) / len(outcomes)


def accuracy(predictions: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """{"accuracy" in percent, "rows", and the recall of each label, in percent}."""
    hits: Counter[str] = Counter()
    for prediction, label in zip(predictions, labels, strict=True):
        hits[label] += prediction == label
    totals = Counter(labels)
    recall = {f"recall_{label}": 100.0 * hits[label] / totals[label] for label in sorted(totals)}
    return {"accuracy": 100.0 * hits.total() / len(labels), "rows": len(labels), **recall}


def _mean_scores(prefix: str, exact: Sequence[float], f_scores: Sequence[float]) -> dict[str, float]:
    total = len(exact)
    return {
        f"{prefix}exact": 100.0 * sum(exact) / total,
        f"{prefix}f1": 100.0 * sum(f_scores) / total,
        f"{prefix}total": total,
    }
