"""What the runners ask of a task: its head, its data, its rows, its scores, its words on the card.

One file beside this one answers it for each task, and nothing else in training names a task. How text becomes rows and
logits become an answer is the service's task, which is called served here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

from service.engine.batch import Encoded
from service.errors import InvalidInput
from service.tasks import ClassificationExample
from service.tasks.spec import TaskSpec
from training.data import Report, Table

Served: TypeAlias = Any
"""A task of `service.tasks`, as `service.tasks.spec.build` makes it: it encodes and decodes."""
Row: TypeAlias = tuple[tuple[Encoded, ...], dict[str, Any]]
"""The model rows that share targets, one or those of a question's options; and the targets: ids, or arrays as long as
the row or as there are labels or options."""
Rows: TypeAlias = tuple[list[Row], dict[str, int]]
"""Training rows, and how many texts were cut to fit, by noun."""
Reader: TypeAlias = Callable[[str, Report, Sequence[str], Table], Iterator[Any]]
"""Reads a data file: (path, report of bad records, labels, columns of a table) -> labelled examples."""
Predictions: TypeAlias = dict[str, str] | list[str] | list[list[str]] | list[int] | list[float]


CHUNK = 1024
"""Examples tokenised in one call."""


class Labelled(Protocol):
    """A task's example, and what is right of it."""

    @property
    def example(self) -> Any:
        """The example, as the service's task encodes it."""


E = TypeVar("E", bound=Labelled)
Out = TypeVar("Out")


class Task(ABC, Generic[E, Out]):
    """A task with labelled examples E, each of which comes to an outcome: what was answered, beside what is right."""

    name: ClassVar[str]  # in recipes and manifests
    served: ClassVar[type]  # the service's class
    head: ClassVar[str]  # the end of the names of transformers' classes, `AutoModel` before it
    outputs: ClassVar[int] = 0  # size of the head, where it is not the number of labels
    layouts: ClassVar[Mapping[str, Reader]]  # of the data that it is learned from and scored on; the first is usual
    main: ClassVar[str] = "accuracy"  # the score that counts
    right: ClassVar[str]  # what makes an answer right, on the card
    labelled: ClassVar[bool] = False  # whether it has labels, of which a recipe or its data say the names
    multi_label: ClassVar[bool] = False  # whether those do not exclude one another
    problem_type: ClassVar[str | None] = None  # what transformers calls its kind of classification
    windows: ClassVar[bool] = False  # whether rows are windows over a text, which overlap by a `doc_stride`
    options: ClassVar[bool] = False  # whether an item's rows are options, collated to [items, options, tokens]
    smoothing: ClassVar[bool] = True  # whether its loss knows label smoothing
    alike: ClassVar[str] = "of the answers are fp32's"  # what a percent of `agreement` is, on the card
    threshold: ClassVar[str] = ""  # the key of `TaskSpec` that is fitted on dev data

    # The model

    @property
    def auto(self) -> Any:
        """The class of transformers that loads its models."""
        import transformers  # not before it is needed: it takes a second

        return getattr(transformers, f"AutoModel{self.head}")

    def fits(self, config: Any) -> bool:
        """Whether a checkpoint with this config has this task's head."""
        return any(self.head in each for each in config.architectures or ())

    def set_head(self, config: Any, spec: TaskSpec) -> None:
        """Give a config this task's head, whatever it had before."""
        config.problem_type = self.problem_type
        if self.labelled:
            config.id2label = dict(enumerate(spec.labels))
            config.label2id = {label: i for i, label in enumerate(spec.labels)}
        else:
            config.num_labels = self.outputs

    def refusal(self, config: Any) -> str:
        """Return why a checkpoint with this config cannot be served; empty where it can."""
        return ""

    def labels(self, config: Any, given: Sequence[str] = (), recorded: Sequence[str] = ()) -> tuple[str, ...]:
        """Return a checkpoint's labels, or those that are given instead. Raises `CheckpointError` for bad ones.

        Args:
            recorded: what its own run says that they are.
        """
        return ()

    def settings(self, config: Any, folder: Path) -> dict[str, Any]:
        """Return what else the service must know of a checkpoint, as keys of a `TaskSpec`. Raises `CheckpointError`."""
        return {}

    def doubts(self, config: Any, folder: Path) -> list[str]:
        """Return what a checkpoint leaves open, a line each: what is taken, and how to say otherwise."""
        return []

    # The data

    def layout(self, labels: Sequence[str]) -> str:
        """Return the layout of data with these labels, where none is named."""
        return next(iter(self.layouts))

    @abstractmethod
    def rows(self, served: Served, examples: Sequence[E], report: Report, **options: Any) -> Rows:
        """Return training rows with their targets, and how many texts were cut to fit, by noun.

        Examples that the task refuses are reported.

        Args:
            options: `empty_windows`, the share kept of the windows that do not hold the answer to a question that has
                one, and `seed` of the choice of those.
        """

    def encoded(
        self, served: Served, examples: Sequence[E], report: Report, file: str = ""
    ) -> Iterator[tuple[E, list[Any]]]:
        """Yield each example with its rows, and report those that no row can hold."""
        for begin in range(0, len(examples), CHUNK):
            chunk = examples[begin : begin + CHUNK]
            try:
                found = list(zip(chunk, served.encode([example.example for example in chunk]), strict=True))
            except InvalidInput:  # it does not say of which
                found = []
                for example in chunk:
                    try:
                        found += [(example, *served.encode([example.example]))]
                    except InvalidInput as error:
                        report.add(f"{file}{self.place(example)}", "a question that no row can hold", str(error))
            yield from found

    def place(self, example: E) -> str:
        """Return which example it is, for a report."""
        return ""

    # The scores

    def judge(self, examples: Sequence[E]) -> Callable[[E, Any], Out]:
        """Return what makes an outcome of an example and its prediction, in a data set of such examples."""
        return self.outcome

    def outcome(self, reference: E, prediction: Any) -> Out:
        """Return what was answered beside what is right."""
        raise NotImplementedError

    @abstractmethod
    def scores(self, served: Served, outcomes: Sequence[Out]) -> dict[str, float]:
        """Return scores in percent and counts, under the threshold of the served task."""

    @abstractmethod
    def predictions(self, served: Served, outcomes: Sequence[Out]) -> Predictions:
        """Return the answers in the order of the examples, or by their ids."""

    def misfit(self, served: Served, outcomes: Sequence[Out]) -> str:
        """Return why the answers are worse than guesses or the labels in another order; empty where neither is so."""
        return ""

    def fit(self, served: Served, outcomes: Sequence[Sequence[Out]]) -> Served:
        """Return the served task with the threshold that is best on the outcomes of some data sets."""
        return served

    def fitted(self, served: Served) -> dict[str, Any]:
        """Return what was fitted, as keys of a `TaskSpec`; empty where nothing was."""
        return {}

    def with_answer(self, examples: Sequence[E]) -> Sequence[E]:
        """Return the examples that a temperature can be fitted on."""
        return examples

    def asked(self, reference: E) -> Any:
        """Return the example as a client asks it who sets no option."""
        return reference.example

    @abstractmethod
    def answers(self, reference: E, prediction: Any) -> list[tuple[float, bool, float]]:
        """Return (score, whether it is right, likelihood of what is right) of each answer in a prediction."""

    # Its own examples, where there are no data

    @abstractmethod
    def sample(self, served: Served, text: Callable[[int], str], words: int) -> Any:
        """Return an example for the service's task whose longest text is of so many words.

        Args:
            text: makes a text of so many words.
        """

    def taken(self, example: Any, prediction: Any) -> E:
        """Return an example with its prediction taken as right."""
        raise NotImplementedError

    def agreement(
        self, served: Served, asked: Sequence[Any], reference: Sequence[Any], found: Sequence[Any]
    ) -> tuple[float, list[float]]:
        """Return how far the predictions `found` of examples are those of `reference`: the percent that is `alike`, and
        the difference of each score, of 1."""
        alike, differences = 0, []
        for example, one, other in zip(asked, reference, found, strict=True):
            right = self.taken(example, one)
            alike += right == self.taken(example, other)
            scores = (self.answers(right, each) for each in (one, other))
            differences += [abs(a[0] - b[0]) for a, b in zip(*scores, strict=True)]
        return 100.0 * alike / len(asked), differences

    # Requests

    @abstractmethod
    def body(self, example: Any) -> dict[str, Any]:
        """Return an example as the JSON that a client posts, without options."""

    # The card

    @abstractmethod
    def purpose(self, spec: TaskSpec) -> str:
        """Return what a model is for."""

    @abstractmethod
    def request(self, spec: TaskSpec, name: str, layout: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
        """Return the route and the body of a request to the model of that name, trained on data of that layout."""

    def facts(self, spec: TaskSpec) -> list[str]:
        """Return what else the card says of the task."""
        return []


def tower() -> dict[str, Any]:
    """Return the fields of a question about a text."""
    return {
        "question": "Where is the Eiffel Tower?", "context": "The Eiffel Tower is a lattice tower in Paris.",
    }  # fmt: skip


def texts(example: ClassificationExample) -> dict[str, Any]:
    """Return a text or a pair of texts as the JSON that a client posts."""
    return {"text": example.text} | ({} if example.text_pair is None else {"text_pair": example.text_pair})
