"""Scores equal those of the official scripts, to the last digit.

`official_1` and `official_2` are the definitions of the two SQuAD scripts restated as plainly as possible, over records
and a {id: text} mapping of predictions; the cases worked by hand hold them, too, to account.
"""

import re
import string
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.tasks import ClassificationExample, MultipleChoiceExample
from training.data import ChoiceQuestion, Question, ScoredText, TaggedText
from training.tasks import classification, multi_label, multiple_choice, score, span
from training.tasks.multi_label import TagOutcome
from training.tasks.multiple_choice import ChoiceOutcome
from training.tasks.score import ScoreOutcome
from training.tasks.span import SpanOutcome, best_threshold, exact_match, f1, normalize_answer

FOREVER = float("inf")


def outcome(
    text: str, *references: str, margin: float = 0.0, identifier: str = "q", version_2: bool = True
) -> SpanOutcome:
    question = Question(identifier, "?", "", tuple((r, 0) for r in references), not references)
    return SpanOutcome.of(question, text, margin, version_2=version_2)


# ---- the definitions, restated --------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    kept = ""
    for character in text.lower():
        if character not in string.punctuation:
            kept += character
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def overlap(prediction: list[str], reference: list[str]) -> float:
    left, same = list(reference), 0
    for word in prediction:
        if word in left:
            left.remove(word)
            same += 1
    if same == 0:
        return 0
    precision, recall = same / len(prediction), same / len(reference)
    return (2 * precision * recall) / (precision + recall)


def official_1(records: list[dict[str, Any]], predictions: dict[str, str]) -> dict[str, float]:
    exact = total_f1 = 0.0
    for record in records:
        guess = words(predictions[record["id"]])
        exact += max(guess == words(reference) for reference in record["answers"])
        total_f1 += max(overlap(guess, words(reference)) for reference in record["answers"])
    return {"exact": 100.0 * exact / len(records), "f1": 100.0 * total_f1 / len(records), "total": len(records)}


def official_2(records: list[dict[str, Any]], predictions: dict[str, str]) -> dict[str, float]:
    exact, f_scores = {}, {}
    for record in records:
        golds = [answer for answer in record["answers"] if words(answer)] or [""]
        guess = words(predictions[record["id"]])
        exact[record["id"]] = max(int(guess == words(gold)) for gold in golds)
        f_scores[record["id"]] = max(
            overlap(guess, words(gold)) if guess and words(gold) else int(guess == words(gold)) for gold in golds
        )
    result = {}
    answerable = [r["id"] for r in records if r["answers"]]
    blank = [r["id"] for r in records if not r["answers"]]
    for prefix, ids in (("", [r["id"] for r in records]), ("HasAns_", answerable), ("NoAns_", blank)):
        result[f"{prefix}exact"] = 100.0 * sum(exact[i] for i in ids) / len(ids)
        result[f"{prefix}f1"] = 100.0 * sum(f_scores[i] for i in ids) / len(ids)
        result[f"{prefix}total"] = len(ids)
    return result


# ---- by hand --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Eiffel Tower", "eiffel tower"),
        ("a  b\tthe\nc", "b c"),
        ("theatre and another", "theatre and another"),
        ("The-The", "thethe"),  # punctuation goes first, so the articles are no words of their own any more
        ("a.n", ""),
        ("U.S.", "us"),
        ("don't!", "dont"),
        ("“Paris” – €5", "“paris” – €5"),  # only ASCII punctuation goes; "–" stays a word
        ("l’an", "l’ ".strip()),  # the typographic apostrophe stays, and is a border for "an"
        ("the", ""),
        ("  ", ""),
        ("ÀN Ünïcode", "àn ünïcode"),
        ("１２ a", "１２"),
        ("a\u00a0an\u2003x", "x"),  # no-break and em spaces are white space
        ("İ", "i\u0307"),
        ("$1,000.50", "100050"),
    ],
)
def test_normalize_answer(text: str, expected: str) -> None:
    assert normalize_answer(text) == expected
    assert " ".join(words(text)) == expected


@pytest.mark.parametrize(
    ("prediction", "reference", "exact", "score"),
    [
        ("The Eiffel Tower", "eiffel tower!", 1.0, 1.0),
        ("Eiffel Tower in Paris", "the Eiffel Tower", 0.0, 2 * 0.5 * 1.0 / 1.5),
        ("to be to be", "to be", 0.0, 2 * 0.5 * 1.0 / 1.5),  # words count as often as they stand
        ("be to", "to be", 0.0, 1.0),
        ("Paris.", "London", 0.0, 0.0),
        ("“Paris”", "Paris", 0.0, 0.0),  # unicode quotes are not taken off
        ("1 000", "1,000", 0.0, 0.0),
    ],
)
def test_exact_match_and_f1(prediction: str, reference: str, exact: float, score: float) -> None:
    assert exact_match(prediction, reference) == exact
    assert f1(prediction, reference, empty_matches=False) == score
    assert f1(prediction, reference, empty_matches=True) == score


def test_texts_without_words_differ_between_the_versions() -> None:
    assert exact_match("the", "") == 1.0
    for one, other in (("", ""), ("the", ""), ("the", "a!")):
        assert f1(one, other, empty_matches=False) == 0.0
        assert f1(one, other, empty_matches=True) == 1.0
    for one, other in (("", "paris"), ("paris", "the")):
        assert f1(one, other, empty_matches=False) == 0.0
        assert f1(one, other, empty_matches=True) == 0.0


def test_best_of_the_references() -> None:
    assert outcome("Tower", "the Eiffel Tower", "tower", "Paris").exact == 1.0
    found = outcome("in Paris France", "Paris", "Paris France", "nowhere")
    assert (found.exact, found.f1) == (0.0, 2 * (2 / 3) * 1.0 / (2 / 3 + 1.0))


def test_references_of_articles_alone() -> None:
    # SQuAD 2.0 leaves them out, and where none is left, saying nothing is right.
    assert outcome("x", "the", "x y").f1 == 2 * 1.0 * 0.5 / 1.5
    assert outcome("", "the").exact == 1.0
    assert outcome("the", "the").f1 == 1.0
    assert outcome("x", "the").exact == 0.0
    # SQuAD 1.1 keeps them: exact, with an F1 of nothing.
    assert outcome("a", "the", version_2=False).exact == 1.0
    assert outcome("a", "the", version_2=False).f1 == 0.0


def test_unanswerable_questions() -> None:
    outcomes = [outcome("Paris", margin=1.0), outcome("Rome", margin=-1.0), outcome("Rome", "Rome", margin=0.5)]
    assert span.squad(outcomes, 0.0) == {
        "exact": 100.0 / 3, "f1": 100.0 / 3, "total": 3,
        "HasAns_exact": 0.0, "HasAns_f1": 0.0, "HasAns_total": 1,
        "NoAns_exact": 50.0, "NoAns_f1": 50.0, "NoAns_total": 2,
    }  # fmt: skip
    assert span.squad(outcomes, 0.7)["exact"] == 200.0 / 3
    assert span.squad(outcomes, 1.0)["NoAns_exact"] == 0.0  # a margin at the threshold is not over it
    assert span.squad(outcomes, FOREVER)["exact"] == 100.0 / 3


# ---- against the definitions ----------------------------------------------------------------------------------------

PIECES = (
    "the",
    "a",
    "an",
    "Paris",
    "paris.",
    "–",
    "—",
    "U.S.",
    "don't",
    "2,000",
    "çà",
    "tower",
    "“x”",
    "!",
    "",
    "A-the",
)


def made_up(seed: int, *, version_2: bool) -> tuple[list[dict[str, Any]], dict[str, str], list[SpanOutcome]]:
    random = np.random.default_rng(seed)

    def text() -> str:
        return " ".join(random.choice(PIECES, random.integers(0, 5)))

    records, predictions, outcomes = [], {}, []
    for i in range(200):
        count = int(random.integers(0, 4)) if version_2 else int(random.integers(1, 4))
        references = [text() for _ in range(count)]
        if references and random.random() < 0.4:
            references[0] = "Paris tower " + references[0]
        guess = references[0] if references and random.random() < 0.3 else text()
        margin = float(random.normal())
        records.append({"id": str(i), "answers": references})
        outcomes.append(outcome(guess, *references, margin=margin, identifier=str(i), version_2=version_2))
        predictions[str(i)] = "" if version_2 and margin > 0.3 else guess
    return records, predictions, outcomes


@pytest.mark.parametrize("seed", range(5))
def test_squad_1_to_the_last_digit(seed: int) -> None:
    records, predictions, outcomes = made_up(seed, version_2=False)
    expected = official_1(records, predictions)
    assert span.squad(outcomes, FOREVER) == expected
    assert 0 < expected["exact"] < 100
    assert 0 < expected["f1"] < 100


@pytest.mark.parametrize("seed", range(5))
def test_squad_2_to_the_last_digit(seed: int) -> None:
    records, predictions, outcomes = made_up(seed, version_2=True)
    expected = official_2(records, predictions)
    assert span.squad(outcomes, 0.3) == expected
    assert 0 < expected["HasAns_exact"] < 100
    assert 0 < expected["NoAns_exact"] < 100


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("ties", [False, True])
def test_threshold_is_the_best_of_all(seed: int, ties: bool) -> None:
    random = np.random.default_rng(seed)
    outcomes = []
    for _ in range(30):
        margin = float(random.integers(-3, 4)) if ties else float(random.normal())
        text = str(random.choice(["paris", "paris rome", "x"]))
        references = ("paris",) if random.random() < 0.6 else ()
        outcomes.append(outcome(text, *references, margin=margin))
    margins = [o.margin for o in outcomes]
    thresholds = [m + step for m in margins for step in (-1e-9, 0.0, 1e-9)]
    best = max(span.squad(outcomes, threshold)["f1"] for threshold in thresholds)
    threshold = best_threshold(outcomes)
    assert span.squad(outcomes, threshold)["f1"] == pytest.approx(best, abs=1e-9)
    assert threshold not in margins
    assert np.isfinite(threshold)


def test_threshold_lies_halfway() -> None:
    outcomes = [outcome("paris", "paris", margin=-1.0), outcome("x", margin=0.5)]
    assert best_threshold(outcomes) == -0.25
    assert best_threshold([outcome("x", margin=3.0)]) < 3.0
    assert best_threshold([outcome("x", "x", margin=3.0)]) > 3.0


def test_threshold_is_finite_where_a_question_has_no_span() -> None:
    assert best_threshold([outcome("x", "x", margin=1.0), outcome("", margin=FOREVER)]) == 2.0


def test_accuracy() -> None:
    assert classification.accuracy(["a", "b", "a", "c"], ["a", "b", "b", "b"]) == {
        "accuracy": 50.0, "rows": 4, "recall_a": 100.0, "recall_b": 100.0 / 3,
    }  # fmt: skip
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        classification.accuracy(["a", "b"], ["a"])


# ---- several labels, and options ------------------------------------------------------------------------------------


def tagged(holding: str, **scores: float) -> TagOutcome:
    return TagOutcome.of(TaggedText(ClassificationExample("x"), frozenset(holding)), scores)


def test_several_labels_by_hand() -> None:
    outcomes = [
        tagged("a", a=0.9, b=0.2, c=0.1),  # right
        tagged("ab", a=0.8, b=0.4, c=0.1),  # one of two
        tagged("", a=0.1, b=0.7, c=0.1),  # one too many
        tagged("", a=0.1, b=0.5, c=0.1),  # right: at the threshold is not over it
    ]
    # a: 2 of 2 found, none wrong; b: 0 of 1 found, 1 wrong; c: never there, so it says nothing.
    assert multi_label.f1(outcomes, 0.5) == {
        "f1": pytest.approx(100 * 2 * 2 / (3 + 3)), "f1_macro": 50.0, "exact": 50.0, "rows": 4,
    }  # fmt: skip
    assert multi_label.f1(outcomes[3:], 0.5) == {"f1": 100.0, "f1_macro": 100.0, "exact": 100.0, "rows": 1}


@pytest.mark.parametrize("seed", range(10))
def test_label_threshold_is_the_best_of_all(seed: int) -> None:
    random = np.random.default_rng(seed)
    outcomes = []
    for _ in range(20):
        scores = {label: float(random.integers(1, 10)) / 10 for label in "abc"}
        outcomes.append(tagged("".join(x for x in "abc" if random.random() < scores[x]), **scores))
    best = max(multi_label.f1(outcomes, i / 20)["f1"] for i in range(20))
    threshold = multi_label.best_threshold(outcomes)
    assert multi_label.f1(outcomes, threshold)["f1"] == pytest.approx(best)
    assert all(threshold != score for outcome in outcomes for score in outcome.scores)


def test_a_label_threshold_without_any_label_is_the_usual_one() -> None:
    assert multi_label.best_threshold([tagged("", a=0.9, b=0.2)]) == 0.5


# ---- scores ---------------------------------------------------------------------------------------------------------


def scored(given: float, right: float, query: str = "q") -> ScoreOutcome:
    return ScoreOutcome(ScoredText(ClassificationExample(query, "t"), right), given)


def test_correlations_by_hand() -> None:
    outcomes = [scored(given, right) for given, right in ((0.1, 1.0), (0.2, 2.0), (0.9, 3.0), (0.3, 4.0))]
    # Ranks 0 1 3 2 and 0 1 2 3: 1 - 6 * (1 + 1) / (4 * 15). Covariance and variances, times 4: 1.3, 0.3875 and 5.
    assert score.correlations(outcomes) == {
        "spearman": pytest.approx(80.0), "pearson": pytest.approx(100 * 0.65 / (0.3875 * 5) ** 0.5), "rows": 4,
    }  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=2, max_size=30))
def test_rank_correlations_are_those_of_numpy_over_counted_ranks(pairs: list[tuple[int, int]]) -> None:
    def places(values: list[int]) -> list[float]:
        return [sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2 for x in values]

    one, other = (places(list(values)) for values in zip(*pairs, strict=True))
    varied = len(set(one)) > 1 and len(set(other)) > 1
    expected = 100 * float(np.corrcoef(one, other)[0, 1]) if varied else 0.0
    assert score.correlations([scored(*pair) for pair in pairs])["spearman"] == pytest.approx(expected, abs=1e-9)


def test_relevance_by_hand() -> None:
    outcomes = [
        scored(0.9, 1.0, "a"), scored(0.8, 0.0, "a"),  # right
        scored(0.3, 1.0, "b"), scored(0.7, 0.0, "b"), scored(0.3, 0.0, "b"),  # third: what ties goes before it
        scored(0.1, 1.0, "all right"), scored(0.2, 0.0, "all wrong"),  # one text alone has no order
    ]  # fmt: skip
    found = score.correlations(outcomes)
    assert found["mrr"] == pytest.approx(100 * (1 + 1 / 3) / 2)
    assert found["average_precision"] == pytest.approx(100 * (1 / 1 + 2 / 5 + 3 / 7) / 3)
    assert "mrr" not in score.correlations([scored(0.9, 1.0, "a"), scored(0.1, 0.0, "b")])


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        ([(i, -i) for i in range(8)], "the rank correlation is -100.00, below the 0 of guesses"),
        ([(i, i) for i in range(8)], ""),
        ([(0, 1), (1, 0)], ""),  # too few to tell
        ([(0, 1), (1, 2), (2, 0), (3, 1)], ""),
        ([(i, 1) for i in range(8)], ""),  # one number alone
    ],
)
def test_scores_the_other_way_up_are_told(pairs: list[tuple[float, float]], told: str) -> None:
    assert score.Score().misfit(None, [scored(*pair) for pair in pairs]).startswith(told or "")
    assert bool(score.Score().misfit(None, [scored(*pair) for pair in pairs])) == bool(told)


def chosen(option: int, answer: int, passage: str, level: str, truncated: bool = False) -> ChoiceOutcome:
    example = MultipleChoiceExample("q", "c", ("a", "b"))
    return ChoiceOutcome(ChoiceQuestion(example, answer, passage, level), option, truncated)


def test_options_by_level_and_what_was_cut() -> None:
    outcomes = [
        chosen(0, 0, "m1", "middle"),
        chosen(1, 0, "m1", "middle"),
        chosen(1, 1, "h1", "high", truncated=True),
        chosen(0, 0, "h1", "high", truncated=True),
        chosen(0, 1, "h2", "high", truncated=True),
    ]
    assert multiple_choice.accuracy(outcomes) == {
        "accuracy": 60.0, "accuracy_high": pytest.approx(200 / 3), "accuracy_middle": 50.0, "questions": 5,
        "cut_questions": 3, "cut_passages": 2,
    }  # fmt: skip
    assert multiple_choice.accuracy([chosen(0, 0, "x", "")]) == {
        "accuracy": 100.0, "questions": 1, "cut_questions": 0, "cut_passages": 0,
    }  # fmt: skip
