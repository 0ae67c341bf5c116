"""The gate: an exported graph must answer as its checkpoint does, or it is not written.

Owns the checks and their limits. Knows nothing of manifests or of where bundles lie.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from transformers import PreTrainedModel

from service.engine.batch import Batch, Encoded
from service.engine.session import Engine, OrtEngine, Outputs
from service.errors import BundleError
from service.tasks import RowLogits
from training.checkpoints import families
from training.errors import GateError
from training.evaluate.engine import TorchEngine
from training.export import graph

logger = logging.getLogger(__name__)

FP32_TOLERANCE = 1e-4
"""Largest difference of an fp32 logit from torch's."""
HALF_TOLERANCE = 0.05
"""Largest difference of a logit that was computed in fp16 from the same in fp32, of 1 or of the largest logit there is.
A true graph of 12 layers comes to a tenth of it; a weight beyond fp16's range, or a wrong one, far over it."""
SCORE_TOLERANCE = 0.5
"""Points of a dev score that a quantised graph may lose against fp32."""
ALIKE = 80.0
"""Percent of a bundle's own examples on which a graph must answer as the fp32 graph does. The bundled models in int8
come to 91 (spans, of which texts without sense have many of like score) and 99 to 100 (labels)."""
DISTANCE = 0.03
"""Mean difference of those answers' scores, of 1. int8 comes to 0.009 to 0.012; with weights of 5 bits it were 0.031 to
0.044."""
NO_KERNEL = "NOT_IMPLEMENTED"
"""In ONNX Runtime's message where it has no kernel for an operator."""
SHAPES = ((1, 8), (4, 33), (3, 128), (2, 384))


def attention(model: PreTrainedModel, proto: onnx.ModelProto) -> int:
    """The number of fused attentions. Raises `GateError` unless each attention is one."""
    wanted, fused = families.of(model.config).attentions(model.config), graph.fused_attention_count(proto)
    if fused != wanted:
        raise GateError(f"{fused} of {wanted} attentions are fused")
    return fused


def parity(model: PreTrainedModel, path: Path, max_length: int, name: str = "fp32") -> float:
    """Largest |difference| between the logits of torch and of the fp32 graph at `path`, over several padded shapes.

    Args:
        name: what to call the graph.

    Raises:
        GateError: it is above 1e-4, or not a number.
    """
    answers = _answers(model, _open(path, "fp32"), TorchEngine(model), max_length)
    return _worst(answers, f"the {name} graph's logits differ from torch's", lambda largest: FP32_TOLERANCE)


def rows(encoded: Sequence[Encoded], theirs: Sequence[RowLogits], ours: Sequence[RowLogits]) -> float:
    """Largest |difference| between the logits of torch and of the fp32 graph, over rows in the batches that they ran
    in.

    Raises:
        GateError: it is above 1e-4, or not a number.
    """
    worst = 0.0
    for row, one, other in zip(encoded, theirs, ours, strict=True):
        real = slice(len(row) if len(one) > 1 else None)  # starts and ends mean nothing at padding
        for a, b in zip(one, other, strict=True):
            worst = float(np.maximum(worst, np.abs(a[real] - b[real]).max()))  # so put, not a number stays
    if not worst <= FP32_TOLERANCE:
        raise GateError(
            f"the fp32 graph's logits differ from torch's by {worst:.2e} on the bundle's own examples; the limit is "
            f"{FP32_TOLERANCE:.0e}"
        )
    return worst


def half(model: PreTrainedModel, path: Path, reference: Path, max_length: int, name: str) -> float | None:
    """Largest |difference| between the logits of an fp16 graph at `path` and those of the graph of the same weights
    that computes in fp32, at `reference`, over several padded shapes; on the CPU, though it is made for GPUs.

    Args:
        name: what to call the graph.

    Returns:
        None where ONNX Runtime has no kernel on the CPU for what the graph asks for, which it logs.

    Raises:
        GateError: it is above 0.05 of the larger of 1 and the largest logit, or not a number.
    """
    try:
        answers = _answers(model, _open(path, "fp16"), _open(reference, "fp32"), max_length)
        what = f"the {name} graph's logits differ from those of its weights in fp32"
        return _worst(answers, what, lambda largest: HALF_TOLERANCE * max(1.0, largest))
    except BundleError as error:
        if NO_KERNEL not in str(error):
            raise
        logger.warning("the %s graph was not compared: %s", name, error)
        return None


def _worst(answers: Iterator[tuple[Batch, Outputs, Outputs]], what: str, limit: Callable[[float], float]) -> float:
    """Return the largest difference; raise `GateError` above the limit, which goes by the largest logit there is."""
    worst = 0.0
    for batch, ours, theirs in answers:
        rows, tokens = batch.input_ids.shape
        most = limit(_largest(batch, theirs, tuple(np.zeros_like(each) for each in theirs)))
        largest = _largest(batch, ours, theirs)
        if not largest <= most:  # so put, not a number fails too
            raise GateError(f"{what} by {largest:.2e} at [{rows}, {tokens}]; the limit is {most:.0e}")
        worst = max(worst, largest)
    logger.info("%s by %.1e at most", what, worst)
    return worst


def _open(path: Path, precision: str) -> OrtEngine:
    return OrtEngine(path, provider="cpu", precision=precision, workers=1, intra_op_threads=0)


def _answers(
    model: PreTrainedModel, one: Engine, other: Engine, max_length: int
) -> Iterator[tuple[Batch, Outputs, Outputs]]:
    """Padded batches of random ids in several shapes, and the logits of two engines."""
    generator = np.random.default_rng(0)
    for rows, tokens in SHAPES:
        tokens = min(tokens, max_length)
        lengths = np.linspace(tokens, max(2, tokens // 3), rows).astype(int)
        mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
        ids = generator.integers(0, model.config.vocab_size, (rows, tokens))
        types = np.zeros_like(ids)
        if getattr(model.config, "type_vocab_size", 0) > 1:
            types[:, tokens // 2 :] = 1
        pad_id = getattr(model.config, "pad_token_id", None) or 0
        ids = _without(ids, pad_id)
        if (end := families.of(model.config).end(model.config)) is not None:
            ids = _without(ids, end)
            ids[np.arange(rows), lengths - 1] = end
        batch = Batch(np.where(mask == 1, ids, pad_id), mask, types * mask)
        yield batch, one.run(batch), other.run(batch)


def _largest(batch: Batch, ours: Outputs, theirs: Outputs) -> float:
    """Largest |difference|; not a number where there is one."""
    differences = []
    for one, other in zip(ours, theirs, strict=True):
        difference = np.abs(one - other)
        if difference.shape == batch.attention_mask.shape:  # span logits mean nothing at padding
            difference = difference[batch.attention_mask == 1]
        differences.append(difference.max())
    return float(np.max(differences))


def scores(
    reference: Mapping[str, Mapping[str, float]],
    quantised: Mapping[str, Mapping[str, float]],
    precision: str,
    main: str,
) -> None:
    """Hold a graph's dev scores, by data set, to those of the fp32 graph: the one that counts, `main`.

    Raises:
        GateError: it lost more than half a point.
    """
    for name, fp32 in reference.items():
        lost = fp32[main] - quantised[name][main]
        if lost > SCORE_TOLERANCE:
            raise GateError(
                f"the {precision} graph's {main} on {name} is {quantised[name][main]:.2f}, {lost:.2f} points "
                f"below fp32; the limit is {SCORE_TOLERANCE}"
            )


def agreement(precision: str, alike: float, mean: float) -> None:
    """Hold a graph's answers to those of the fp32 graph, on a bundle's own examples.

    Args:
        alike: percent of the examples with the same answer.
        mean: difference of the answers' scores, of 1.

    Raises:
        GateError: fewer than 80 % are alike, or scores differ by more than 0.03.
    """
    if not (alike >= ALIKE and mean <= DISTANCE):
        raise GateError(
            f"the {precision} graph answers {alike:.1f} % of the bundle's own examples as fp32 does, with scores "
            f"{mean:.3f} apart; the limits are {ALIKE:.0f} % and {DISTANCE}. Name a dev file (--dev) to judge by that"
        )


def chance(name: str, precision: str, misfit: str) -> None:
    """Refuse a graph whose answers are worse than guesses: every graph agrees with the checkpoint on wrong labels.

    Args:
        name: of the dev data.
        misfit: what `training.tasks.Task.misfit` says of the outcomes.

    Raises:
        GateError: it says something.
    """
    if misfit:
        raise GateError(f"the {precision} graph's answers on {name} do not fit the data: {misfit}")


def _without(ids: np.ndarray, special: int) -> np.ndarray:
    """`ids` without a special one: RoBERTa counts positions by the padding's."""
    return np.where(ids == special, special + 1, ids)
