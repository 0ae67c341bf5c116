"""An opened bundle: examples in, predictions out, in batches of like length on all cores.

Owns the threads that run them: there is no event loop and no scheduler.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

from service.engine.batch import PADDING, Encoded, RowLogits, pad, row_logits
from service.engine.session import Engine
from service.errors import BertieError, InferenceError, InvalidInput, TooLarge
from service.repository.bundle import Bundle
from service.repository.loading import LOW_LATENCY_TOKENS
from service.repository.manifest import Graph
from service.repository.opening import open_low_latency
from service.tasks import AnyTask

EXAMPLES = 1024
"""Examples that are encoded and run together: what bounds the memory of a call."""


@dataclass(frozen=True, eq=False)
class Model:
    """An opened bundle: examples in, predictions out.

    Attributes:
        tasks: what it does, its own task first.
        engine: runs several batches side by side.
        cores: that it may use.
    """

    bundle: Bundle
    graph: Graph
    tasks: tuple[AnyTask, ...]
    engine: Engine
    workers: int
    cores: int
    batch_tokens: int
    pad_id: int
    low_latency: bool

    def predict(self, task: AnyTask, examples: Sequence[Any], *, truncation: bool = True) -> list[Any]:
        """Predict each example, in order.

        Args:
            truncation: whether a text that is too long may be cut.

        Raises:
            InvalidInput: an example cannot be encoded, or would be cut; where there are several, it says which.
            InferenceError: the engine gave what is no number.
        """
        answers: list[Any] = []
        for begin in range(0, len(examples), EXAMPLES):
            some = examples[begin : begin + EXAMPLES]
            try:
                encoded = task.encode(some)
            except InvalidInput as error:
                place = begin + (error.index or 0)
                raise named(error, place if len(examples) > 1 else None) from None
            for place, rows in enumerate(encoded, begin):
                if not truncation and any(getattr(row, "truncated", False) for row in rows):
                    refused = InvalidInput(
                        f"the text is longer than the model's {task.max_length} tokens; "
                        "truncation=True reads its beginning alone",
                        field="truncation",
                    )
                    raise named(refused, place if len(examples) > 1 else None)
            for answer in self._decoded(task, some, encoded):
                if isinstance(answer, Exception):
                    raise answer
                answers.append(answer)
        return answers

    def predict_each(self, task: AnyTask, examples: Sequence[Any]) -> list[Any]:
        """Predict each example, in order; in the place of one that cannot be answered stands its `BertieError`. What is
        too long is cut.

        All are encoded and run together: it is the caller who bounds the memory of a call.

        Raises:
            Exception: the engine fails, whatever it is given.
        """
        try:
            encoded: list[Any] = list(task.encode(examples))
        except (InvalidInput, TooLarge):
            encoded = [_encoded(task, example) for example in examples]
        good = [place for place, rows in enumerate(encoded) if not isinstance(rows, BertieError)]
        found = self._decoded(task, [examples[place] for place in good], [encoded[place] for place in good])
        for place, answer in zip(good, found, strict=True):
            encoded[place] = answer
        return encoded

    def _decoded(self, task: AnyTask, examples: Sequence[Any], encoded: Sequence[Sequence[Encoded]]) -> list[Any]:
        """Run the rows, and decode each example when its last row has run, while others run. An error is the answer of
        an example that has no other."""
        owners = [place for place, rows in enumerate(encoded) for _ in rows]
        ends = list(accumulate(map(len, encoded)))
        missing = list(map(len, encoded))
        logits: dict[int, Any] = {}  # or the error that there are none
        answers: list[Any] = [None] * len(examples)
        for i, found in self._run(list(chain.from_iterable(encoded))):
            logits[i] = found
            place = owners[i]
            missing[place] -= 1
            if not missing[place]:
                own = [logits.pop(j) for j in range(ends[place] - len(encoded[place]), ends[place])]
                failed = [each for each in own if isinstance(each, InferenceError)]
                answers[place] = failed[0] if failed else task.decode(examples[place], encoded[place], own)
        return answers

    def _run(self, rows: Sequence[Encoded]) -> Iterator[tuple[int, RowLogits | InferenceError]]:
        """Run the rows, in any order. Yields their indices and logits, or what is wrong with those."""

        def run(chosen: Sequence[int], engine: Engine) -> list[tuple[int, RowLogits | InferenceError]]:
            batch = pad([rows[i] for i in chosen], self.pad_id)
            outputs = engine.run(batch)
            found: list[tuple[int, RowLogits | InferenceError]] = []
            for at, i in enumerate(chosen):
                try:
                    found.append((i, row_logits(outputs, batch, at)))
                except InferenceError as error:
                    found.append((i, error))
            return found

        batches = list(self._batches(rows))
        if len(batches) == 1:
            alone = self.low_latency and sum(map(len, rows)) >= LOW_LATENCY_TOKENS
            yield from run(batches[0], self._on_all_cores if alone else self.engine)
        else:
            yield from chain.from_iterable(self._threads.map(lambda chosen: run(chosen, self.engine), batches))

    def _batches(self, rows: Sequence[Encoded]) -> Iterator[list[int]]:
        """Put the rows into batches of like length, the longest first, so that no thread is left with a long one."""
        chosen: list[int] = []
        tokens = 0
        for i in sorted(range(len(rows)), key=lambda i: -len(rows[i])):
            padded = len(rows[chosen[0]]) * (len(chosen) + 1) if chosen else 0
            if padded > self.batch_tokens or tokens + len(rows[i]) < (1 - PADDING) * padded:
                yield chosen
                chosen, tokens = [], 0
            chosen.append(i)
            tokens += len(rows[i])
        if chosen:
            yield chosen

    @functools.cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.workers, thread_name_prefix="bertie")

    @functools.cached_property
    def _on_all_cores(self) -> Engine:
        return open_low_latency(self.bundle, self.graph, self.cores)


def _encoded(task: AnyTask, example: Any) -> Any:
    """Get an example's rows, or the error that it has none."""
    try:
        return task.encode([example])[0]
    except (InvalidInput, TooLarge) as error:
        return error


def named(error: InvalidInput, place: int | None) -> InvalidInput:
    """Get the error with the input's place put before its words, where there are several."""
    if place is None:
        return error
    return InvalidInput(f"inputs.{place}: {error.detail}", field=f"inputs.{place}.{error.field}")
