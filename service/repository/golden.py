"""A bundle's golden rows: inputs with the answers and logits of the export, run again before a bundle serves.

Owns the format of `golden.json` and how far another machine's logits may be from the export's. Inputs are JSON as
clients post it, so the whole path is tried: parse, encode, run, decode.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from service.engine.batch import Encoded, RowLogits, pad, row_logits
from service.engine.session import SEVEN_BIT, Engine
from service.engine.tokenizer import Tokenizer
from service.errors import BertieError, BundleError
from service.repository.bundle import Bundle
from service.tasks import AnyTask
from service.tasks.inputs import choose

GOLDEN = "golden.json"
FORMAT = 1
MAX_BYTES = 4 << 20
MAX_INPUTS = 64
DIGITS = 3
"""Decimals of a logit: what they leave out is half of the least tolerance."""


class Tolerance(NamedTuple):
    """How far honest logits may be from the golden ones, of 1 or of the largest golden logit if that is more.

    Attributes:
        typical: of the median input: of processors that compute alike, most inputs' logits are the same to the bit.
        largest: of any input: where a sum in fp32 is another in its last digit, an activation of int8 may be rounded to
            its neighbour.
    """

    typical: float
    largest: float


TOLERANCES: Mapping[str, Tolerance] = {
    "fp32": Tolerance(1e-3, 1e-3),
    "fp16": Tolerance(0.02, 0.05),
    "w8a16": Tolerance(0.02, 0.05),
    "int8": Tolerance(0.05, 0.2),
    SEVEN_BIT: Tolerance(0.05, 0.2),
}
"""By arithmetic, as measured between processors (docs/lab.md)."""
OTHER: Mapping[str, str] = {"int8": SEVEN_BIT, SEVEN_BIT: "int8"}
OTHER_TOLERANCE = Tolerance(0.15, 0.35)
"""Between 8 and 7 bits, where a bundle has the logits of the other alone."""
LEAST = Tolerance(0.005, 0.02)
"""Of int8, where a bundle has both."""

Number: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]
Output: TypeAlias = Annotated[tuple[Number, ...], Field(min_length=1)]


class GoldenEngine(Engine, Protocol):
    """An engine that says how it computes."""

    @property
    def arithmetic(self) -> str:
        """The graph's precision, or `SEVEN_BIT`."""
        ...


@dataclass(frozen=True, slots=True, config={"extra": "ignore"})
class Expected:
    """What is expected for one input.

    Attributes:
        answer: the prediction's JSON, decoded from `logits`.
        logits: of each row, of each of the graph's outputs.
    """

    answer: dict[str, Any]
    logits: Annotated[tuple[Annotated[tuple[Output, ...], Field(min_length=1)], ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True, config={"extra": "ignore"})
class Golden:
    """The golden rows of a bundle.

    Attributes:
        inputs: as JSON that is posted to the task's path.
        expected: for each input in order, by arithmetic: a graph's precision, or `SEVEN_BIT`.
    """

    inputs: Annotated[tuple[dict[str, Any], ...], Field(min_length=1, max_length=MAX_INPUTS)]
    expected: dict[str, tuple[Expected, ...]]
    format: int = FORMAT

    def to_json(self) -> str:
        """Write them as the text of `golden.json`."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, separators=(",", ":")) + "\n"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Case:
    """An input that is parsed and encoded."""

    example: Any
    rows: Sequence[Encoded]


_ADAPTER = TypeAdapter(Golden)


def read(bundle: Bundle) -> Golden | None:
    """Read a bundle's golden rows; None where it has none.

    Raises:
        BundleError: the file is not what the manifest says, or no such file.
    """
    if GOLDEN not in bundle.manifest.files:
        return None
    content = bundle.read(GOLDEN)
    try:
        return parse(content)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"bundle {bundle.label!r}: {error}") from error


def parse(content: bytes) -> Golden:
    """Read golden rows from the bytes of `golden.json`.

    Raises:
        ValueError: they are none, or too many; one line says which.
    """
    if len(content) > MAX_BYTES:
        raise ValueError(f"{GOLDEN} has {len(content)} bytes; the most is {MAX_BYTES}")
    values: Any = json.loads(content)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(f"{GOLDEN} is not of format {FORMAT}; write it again: python -m training golden BUNDLE")
    try:
        golden = _ADAPTER.validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])).encode("unicode_escape").decode()
        raise ValueError(f"{GOLDEN}: {place}: {first['msg']}"[:300]) from None
    for arithmetic, expected in golden.expected.items():
        inputs, answers = len(golden.inputs), len(expected)
        if inputs != answers:
            raise ValueError(f"{GOLDEN} has {inputs} inputs and {answers} answers in {arithmetic!r:.40}")
    shapes = [[_shapes(each.logits) for each in expected] for expected in golden.expected.values()]
    if any(each != shapes[0] for each in shapes):
        raise ValueError(f"{GOLDEN} has rows of different shapes in {', '.join(golden.expected)}"[:300])
    return golden


def check(bundle: Bundle, tokenizer: Tokenizer, task: AnyTask, engine: GoldenEngine) -> int:
    """Run a bundle's golden rows through the whole path, and hold what comes of them to what is expected.

    Logits must be near the golden ones (`TOLERANCES`), and these must decode to the expected answer. So an answer
    differs from the expected one only where its margin is within the tolerance.

    Args:
        task: the bundle's own.

    Returns:
        How many inputs agree; 0 where the bundle has no golden rows for the engine's arithmetic.

    Raises:
        BundleError: one does not agree; the message says which, and how.
    """
    golden = read(bundle)
    if golden is None:
        return 0
    arithmetic = engine.arithmetic
    tolerance = TOLERANCES.get(arithmetic)
    if arithmetic not in golden.expected and arithmetic in OTHER:
        arithmetic, tolerance = OTHER[arithmetic], OTHER_TOLERANCE
    expected = golden.expected.get(arithmetic, ())
    if tolerance is None or not expected:
        return 0
    tolerance = _scaled(tolerance, expected, golden.expected.get(OTHER.get(engine.arithmetic, ""), ()))
    distances = []
    for place, (given, one) in enumerate(zip(golden.inputs, expected, strict=True)):
        try:
            distances.append(_distance(task, tokenizer, engine, given, one, tolerance.largest))
        except Exception as error:  # engines and tokenizers raise kinds of their own
            detail = error.detail if isinstance(error, BertieError) else str(error)
            message = " ".join(detail.split())[:300] or type(error).__name__
            raise BundleError(f"bundle {bundle.label!r}: inputs.{place} of {GOLDEN}: {message}") from error
    if (typical := statistics.median(distances)) > tolerance.typical:
        raise BundleError(
            f"bundle {bundle.label!r}: the logits of half of the inputs of {GOLDEN} are {typical:.3g} or more from the "
            f"expected ones; {tolerance.typical:.3g} is possible between processors: export it again"
        )
    return len(expected)


def _scaled(tolerance: Tolerance, expected: Sequence[Expected], other: Sequence[Expected]) -> Tolerance:
    """Get a tolerance in logits.

    Of int8 with the logits in 8 bits and in 7, how far these are apart says how sensitive this very model is: there all
    activations are rounded otherwise, between processors a few.
    """
    unit = max(1.0, *(float(np.abs(output).max()) for each in expected for row in each.logits for output in row))
    if other and other is not expected:
        apart = [_apart(one.logits, two.logits) for one, two in zip(expected, other, strict=True)]
        typical, largest = statistics.median(apart) / 2, max(apart)
        return Tolerance(max(typical, LEAST.typical * unit), max(largest, LEAST.largest * unit))
    return Tolerance(tolerance.typical * unit, tolerance.largest * unit)


def encode(task: AnyTask, given: Mapping[str, Any]) -> Case:
    """Parse an input as a request's body is, and encode it.

    Raises:
        ValueError: the task takes no such input.
        InvalidInput: no row can hold it.
    """
    shape = choose(task.inputs, given)
    try:
        checked = shape.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"] if not str(part).startswith("#"))
        raise ValueError(f"the task takes {task.takes}, and this is none ({field}: {first['msg']})") from None
    example = checked.example(checked)
    [rows] = task.encode([example])
    return Case(example, rows)


def run(rows: Sequence[Encoded], pad_id: int, engine: Engine) -> list[RowLogits]:
    """Run rows one by one, which takes no more memory than the longest.

    Raises:
        InferenceError: a logit is no finite number.
    """
    logits = []
    for row in rows:
        batch = pad([row], pad_id)
        logits.append(row_logits(engine.run(batch), batch, 0))
    return logits


def expect(task: AnyTask, case: Case, logits: Sequence[RowLogits]) -> Expected:
    """Get what is written of a case's logits: rounded, and the answer that they come to."""
    kept = tuple(tuple(tuple(np.round(output.astype(np.float64), DIGITS).tolist()) for output in row) for row in logits)
    return Expected(_answer(task, case, kept), kept)


def _answer(task: AnyTask, case: Case, logits: Sequence[Sequence[Sequence[float]]]) -> dict[str, Any]:
    arrays = [tuple(np.array(output, dtype=np.float32) for output in row) for row in logits]
    prediction = task.decode(case.example, case.rows, arrays)
    found: dict[str, Any] = TypeAdapter(task.prediction).dump_python(prediction, mode="json")
    return found


def _distance(
    task: AnyTask, tokenizer: Tokenizer, engine: Engine, given: Mapping[str, Any], expected: Expected, most: float
) -> float:
    """Get the largest difference of a logit from the expected one; raise for what does not agree."""
    case = encode(task, given)
    logits = run(case.rows, tokenizer.pad_id, engine)
    shapes, wanted = _shapes(logits), _shapes(expected.logits)
    if shapes != wanted:
        raise ValueError(f"its rows have {_short(shapes)} logits, where {_short(wanted)} are expected")
    if said := next(_differences(expected.answer, _answer(task, case, expected.logits)), ""):
        raise ValueError(f"the expected logits come to another answer: {said}")
    worst = _apart(logits, expected.logits)
    if worst > most:
        said = next(_differences(expected.answer, expect(task, case, logits).answer), "the answer is the same")
        raise ValueError(f"a logit is {worst:.3g} from the expected one, where {most:.3g} is possible; {said}")
    return worst


def _apart(ones: Sequence[Sequence[Any]], others: Sequence[Sequence[Any]]) -> float:
    """Get the largest difference of a logit between rows of the same shape."""
    pairs = ((a, b) for one, other in zip(ones, others, strict=True) for a, b in zip(one, other, strict=True))
    return max(float(np.abs(np.subtract(a, b)).max()) for a, b in pairs)


def _shapes(rows: Sequence[Sequence[Any]]) -> list[list[int]]:
    return [[len(output) for output in row] for row in rows]


def _differences(expected: Any, found: Any, place: str = "") -> Iterator[str]:
    """Say where what was found lacks what is expected. It may have more: later versions say more."""
    at = place or "it"
    if isinstance(expected, dict) and isinstance(found, dict):
        for key, value in expected.items():
            yield from _differences(value, found.get(key), f"{place}.{key}" if place else key)
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for i, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from _differences(one, other, f"{place}.{i}")
    elif isinstance(expected, float) and isinstance(found, float):
        if not math.isclose(expected, found, rel_tol=1e-6, abs_tol=1e-9):
            yield f"{at} is {found:.6g}, not {expected:.6g}"
    elif expected != found:
        yield f"{at} is {found!r:.60}, not {expected!r:.60}"


def _short(shapes: Sequence[Sequence[int]]) -> str:
    return ", ".join(" + ".join(map(str, row)) for row in shapes[:4]) + (", ..." if len(shapes) > 4 else "")
