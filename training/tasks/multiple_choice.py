"""One option of several, for a question about a passage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from service.tasks import MultipleChoiceExample, MultipleChoiceTask
from service.tasks.spec import TaskSpec
from training.data import ChoiceQuestion, Report, read_race
from training.tasks import chance
from training.tasks.task import Predictions, Reader, Row, Rows, Served, Task, tower


@dataclass(frozen=True, slots=True)
class ChoiceOutcome:
    """A question with the index of the option that was chosen, and whether its passage was cut to fit."""

    reference: ChoiceQuestion
    option: int
    truncated: bool


class MultipleChoice(Task[ChoiceQuestion, ChoiceOutcome]):
    """A row an option, a softmax over a question's options."""

    name = "multiple_choice"
    served = MultipleChoiceTask
    head = "ForMultipleChoice"
    outputs = 1
    layouts: ClassVar[Mapping[str, Reader]] = {"race": lambda path, report, labels, table: read_race(path, report)}
    right = "the right option"
    options = True

    def rows(self, served: Served, examples: Sequence[ChoiceQuestion], report: Report, **options: Any) -> Rows:
        """Return the rows of each question's options as one item, with the target `labels`, index of the right one.

        A question that the task refuses is reported, and so is one with fewer or more options than the first: the
        questions of a batch are one array.
        """
        rows: list[Row] = []
        cut: list[str] = []
        for question, encoded in self.encoded(served, examples, report):
            if rows and len(encoded) != len(rows[0][0]):
                where = self.place(question)
                report.add(where, "not as many options as the first question", f"{len(encoded)}, not {len(rows[0][0])}")
                continue
            rows.append((tuple(encoded), {"labels": question.answer}))
            if any(row.truncated for row in encoded):
                cut.append(question.passage)
        return rows, {"questions": len(cut), "passages": len(set(cut))}

    def place(self, example: ChoiceQuestion) -> str:
        return f"{example.passage}: {example.example.question[:40]!r}"

    def outcome(self, reference: ChoiceQuestion, prediction: Any) -> ChoiceOutcome:
        return ChoiceOutcome(reference, prediction.answer.option, prediction.truncated)

    def scores(self, served: Served, outcomes: Sequence[ChoiceOutcome]) -> dict[str, float]:
        return accuracy(outcomes)

    def misfit(self, served: Served, outcomes: Sequence[ChoiceOutcome]) -> str:
        right = sum(outcome.option == outcome.reference.answer for outcome in outcomes)
        share = sum(1.0 / len(outcome.reference.example.options) for outcome in outcomes) / len(outcomes)
        if not chance.below(right, len(outcomes), share):
            return ""
        return f"accuracy is {100.0 * right / len(outcomes):.2f}, and chance is {100.0 * share:.2f}"

    def predictions(self, served: Served, outcomes: Sequence[ChoiceOutcome]) -> Predictions:
        return [outcome.option for outcome in outcomes]

    def sample(self, served: Served, text: Callable[[int], str], words: int) -> MultipleChoiceExample:
        short = min(words, 8)
        return MultipleChoiceExample(text(short), text(words), tuple(text(short) for _ in range(4)))

    def taken(self, example: MultipleChoiceExample, prediction: Any) -> ChoiceQuestion:
        return ChoiceQuestion(example, prediction.answer.option, "", "")

    def answers(self, reference: ChoiceQuestion, prediction: Any) -> list[tuple[float, bool, float]]:
        scores = {answer.option: answer.score for answer in prediction.answers}
        best = prediction.answer
        return [(best.score, best.option == reference.answer, scores[reference.answer])]

    def body(self, example: MultipleChoiceExample) -> dict[str, Any]:
        return {"question": example.question, "context": example.context, "options": list(example.options)}

    def purpose(self, spec: TaskSpec) -> str:
        return "multiple-choice questions about a text"

    def request(self, spec: TaskSpec, name: str, layout: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
        return "/qa", {**tower(), "options": ["Berlin", "Paris", "Rome"]}


def accuracy(outcomes: Sequence[ChoiceOutcome]) -> dict[str, float]:
    """{"accuracy" in percent, apart for each level that is known, "questions", and how many were read in part}."""
    levels = sorted({outcome.reference.level for outcome in outcomes} - {""})
    cut = [outcome.reference.passage for outcome in outcomes if outcome.truncated]
    kinds = {"accuracy": outcomes} | {f"accuracy_{x}": [o for o in outcomes if o.reference.level == x] for x in levels}
    scores = {
        name: 100.0 * sum(o.option == o.reference.answer for o in some) / len(some) for name, some in kinds.items()
    }
    return {**scores, "questions": len(outcomes), "cut_questions": len(cut), "cut_passages": len(set(cut))}
