"""A bundle's own examples, and how far its graphs answer alike on them: what is gated on where there are no dev data.

Owns the texts: plain English, and text in the pieces of the checkpoint's own vocabulary, whatever its language is. What
an example is made of, the task says. How far graphs may differ, `gate` says. Whether answers are right, nobody knows.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from transformers import PreTrainedModel

from service.engine.batch import Encoded
from service.engine.processor import cpu_quota
from service.engine.session import OrtEngine
from service.errors import BundleError, InvalidInput
from training import tasks
from training.evaluate.engine import TorchEngine, run_rows
from training.export import gate
from training.tasks import Served

logger = logging.getLogger(__name__)

TEXT = (
    "The new restaurant by the harbour was a pleasant surprise. We waited ten minutes for a table, and the soup was "
    "cold when it came, but the fish was the best that I have eaten in years. Nobody told us that they close on "
    "Monday. The Danube rises in the Black Forest and flows for 2,850 kilometres to the Black Sea, through ten "
    "countries and four capitals. In 1869 the Suez Canal was opened after ten years of work. Is the battery included, "
    "and how long does it last? I returned the headphones after a week: the sound is thin, the left side crackles, "
    "and the shop refused to refund me. A woman in a red coat is walking two dogs along the beach. Shares of the "
    "company fell by 12 % on Friday, after it had warned that profits would be lower than expected. Please send me "
    "the invoice again, I cannot open the file. It is a slow, tender and very funny film, and its last scene made me "
    "cry. Water boils at 100 degrees Celsius at sea level, and at about 90 on a mountain of three thousand metres. "
    "The committee has not decided yet whether the bridge will be repaired or replaced. What a waste of time and "
    "money! The patient was given 50 mg twice a day and recovered within a fortnight. Children under six travel free, "
    "and dogs need a ticket."
)
LENGTHS = (2, 5, 12, 30, 75, 300)
"""Words of a text; most texts are short, and the longest are cut or fill several windows."""
EACH = 5
"""Examples of each kind of text and each length."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far a graph answers as the fp32 graph does."""

    alike: float  # in percent, as the task says: the examples with the same answer, or the correlation of scores
    mean: float  # difference of the answers' scores, of 1
    largest: float


@dataclass(frozen=True, slots=True)
class Compared:
    """What came of it.

    Attributes:
        examples: how many there are.
        parity: largest difference of an fp32 logit from torch's.
        agreements: of each other precision; None where ONNX Runtime has no kernels on the CPU for its graph.
    """

    examples: int
    parity: float
    agreements: dict[str, Agreement | None]


def compare(task: Served, model: PreTrainedModel, files: Mapping[str, Path], pad_id: int, vocabulary: Path) -> Compared:
    """Run the graphs on the task's own examples and hold them to the checkpoint.

    Args:
        files: the graphs by precision, fp32 among them.
        vocabulary: the `tokenizer.json` whose pieces make texts.

    Raises:
        GateError: the fp32 graph's logits are not torch's, or another graph's answers are not the fp32 graph's.
    """
    encoded = list(_encoded(task, examples(task, tokenizers.Tokenizer.from_file(str(vocabulary)))))
    rows = [row for _, own in encoded for row in own]
    fp32 = run_rows(_open(files["fp32"], "fp32"), rows, pad_id)
    parity = gate.rows(rows, run_rows(TorchEngine(model), rows, pad_id), fp32)
    reference = _predictions(task, encoded, fp32)
    agreements: dict[str, Agreement | None] = {}
    for precision in (p for p in files if p != "fp32"):
        try:
            found = _predictions(task, encoded, run_rows(_open(files[precision], precision), rows, pad_id))
        except BundleError as error:
            if gate.NO_KERNEL not in str(error):
                raise
            logger.warning("the %s graph was not run on the bundle's own examples: %s", precision, error)
            agreements[precision] = None
            continue
        made = agreement(task, [example for example, _ in encoded], reference, found)
        gate.agreement(precision, made.alike, made.mean)
        agreements[precision] = made
    return Compared(len(encoded), parity, agreements)


def examples(task: Served, vocabulary: tokenizers.Tokenizer) -> list[Any]:
    """Return the task's examples, the same each time: in English and in the vocabulary's pieces, of several lengths."""
    kind = tasks.of(task)
    makers = (_english(), _in_pieces(vocabulary))
    return [kind.sample(task, text, words) for words in LENGTHS for text in makers for _ in range(EACH)]


def agreement(task: Served, asked: list[Any], reference: list[Any], found: list[Any]) -> Agreement:
    """Return how far the predictions `found` are those of `reference`."""
    alike, differences = tasks.of(task).agreement(task, asked, reference, found)
    return Agreement(alike, float(np.mean(differences)), float(np.max(differences)))


def _encoded(task: Served, made: list[Any]) -> Iterator[tuple[Any, list[Encoded]]]:
    """Each example with its rows, but for those that no row can hold: pieces may make a question of no word."""
    for example in made:
        try:
            yield example, *task.encode([example])
        except InvalidInput:
            continue


def _predictions(task: Served, encoded: list[Any], logits: list[Any]) -> list[Any]:
    of_row = iter(logits)
    return [task.decode(example, rows, [next(of_row) for _ in rows]) for example, rows in encoded]


def _english() -> Callable[[int], str]:
    """Text of so many words, each time from where the last one ended."""
    words = itertools.cycle(TEXT.split())
    return lambda count: " ".join(itertools.islice(words, count))


def _in_pieces(vocabulary: tokenizers.Tokenizer) -> Callable[[int], str]:
    """Text of so many pieces, drawn from all but the added ones."""
    generator = np.random.default_rng(0)
    added = vocabulary.get_added_tokens_decoder()
    ids = np.array(sorted(set(vocabulary.get_vocab().values()) - added.keys()))
    return lambda count: vocabulary.decode(generator.choice(ids, count).tolist())


def _open(path: Path, precision: str) -> OrtEngine:
    return OrtEngine(path, provider="cpu", precision=precision, workers=cpu_quota(), intra_op_threads=1)
