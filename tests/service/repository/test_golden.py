"""Golden rows: whatever makes a bundle answer otherwise than at its export is found, and said in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from service.engine.batch import Batch
from service.engine.session import SEVEN_BIT, Outputs
from service.errors import BundleError
from service.repository import bundle as bundles
from service.repository import golden
from service.repository.golden import GOLDEN, LEAST, MAX_INPUTS, OTHER_TOLERANCE, TOLERANCES, Tolerance
from service.repository.loading import open_task
from service.repository.manifest import TOKENIZER
from service.repository.opening import open_engine
from tests.bundles import add_golden, change_file, change_manifest, make_bundle

Factory = Callable[..., Path]
INPUTS: dict[str, tuple[dict[str, Any], ...]] = {
    "sentiment": ({"text": "A great film"}, {"text": "what an awful movie"}, {"text": "Politics"}),
    "nli": (
        {"premise": "a man is sleeping", "hypothesis": "the man is sleeping"},
        {"text": "a dog is playing", "text_pair": "a dog is not playing"},
    ),
    "qa": (
        {"question": "What is the capital of France?", "context": "The capital of France is Paris."},
        {"question": "who wrote code", "context": ["a dog", "code was wrote by ada " * 20], "top_k": 2},
    ),
    "choice": ({"question": "who won ?", "context": "the team won", "options": ["the team", "nobody"]},),
    "rerank": ({"text": "capital of france", "text_pair": "paris is the capital"}, {"text": "film"}),
}


def held(folder: Path, engine: Any = None) -> int:
    """Hold a bundle to its golden rows as a start does."""
    bundle = bundles.load(folder)
    tokenizer, task = open_task(bundle)
    opened, _ = open_engine(bundle, device="cpu", workers=1, intra_op_threads=1, cores=1)
    return golden.check(bundle, tokenizer, task, engine(opened) if engine else opened)


def refused(folder: Path, match: str, engine: Any = None) -> None:
    with pytest.raises(BundleError, match=match) as error:
        held(folder, engine)
    assert error.value.detail.startswith(f"bundle {folder.name!r}")
    assert "\n" not in error.value.detail


def with_golden(kind: str, folder: Path, **changes: Any) -> Path:
    made = make_bundle(folder, kind, **changes)
    add_golden(made, *INPUTS[kind])
    return made


@pytest.fixture
def sentiment(tmp_path: Path) -> Path:
    return with_golden("sentiment", tmp_path)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads((folder / GOLDEN).read_text())
    change(values)
    change_file(folder, GOLDEN, json.dumps(values).encode())


class Played:
    """An engine that adds to each logit, and says how it computes."""

    def __init__(self, engine: Any, add: float | list[float] = 0.0, arithmetic: str = "fp32") -> None:
        self._engine, self._add, self._calls, self.arithmetic = engine, add, 0, arithmetic

    def run(self, batch: Batch) -> Outputs:
        add = self._add if isinstance(self._add, float) else self._add[self._calls]
        self._calls += 1
        return tuple(np.float32(output + add) for output in self._engine.run(batch))


# ---- bundles that answer as they did --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", INPUTS)
def test_every_task_agrees_with_itself(kind: str, tmp_path: Path) -> None:
    folder = with_golden(kind, tmp_path)
    assert held(folder) == len(INPUTS[kind])
    written = json.loads((folder / GOLDEN).read_text())
    assert tuple(written["inputs"]) == INPUTS[kind]
    assert len(written["expected"]["fp32"]) == len(INPUTS[kind])


def test_what_is_expected_is_the_answer(sentiment: Path) -> None:
    [first, *_] = json.loads((sentiment / GOLDEN).read_text())["expected"]["fp32"]
    assert first["logits"] == [[[-2.0, 2.0]]]
    assert (first["answer"]["label"], first["answer"]["score"]) == ("positive", pytest.approx(0.982, abs=1e-3))


def test_a_bundle_without_golden_rows_has_none(models_dir: Path) -> None:
    assert held(models_dir / "sentiment") == 0
    assert golden.read(bundles.load(models_dir / "sentiment")) is None


def test_a_graph_without_golden_rows_has_none(sentiment: Path) -> None:
    assert held(sentiment, lambda engine: Played(engine, arithmetic="w8a16")) == 0
    assert held(sentiment, lambda engine: Played(engine, arithmetic="int4")) == 0


def test_an_answer_may_say_more_than_it_did(sentiment: Path) -> None:
    rewrite(sentiment, lambda values: [each["answer"].pop("truncated") for each in values["expected"]["fp32"]])
    assert held(sentiment) == 3


# ---- what is found --------------------------------------------------------------------------------------------------


def test_other_weights_are_found(sentiment: Path) -> None:
    path = sentiment / "model.fp32.onnx"
    graph = onnx.load(path)
    column = max(graph.graph.initializer, key=lambda each: len(each.raw_data))
    column.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(column) * np.float32(1.1), column.name))
    change_file(sentiment, path.name, graph.SerializeToString())
    refused(sentiment, r"inputs\.0 of golden\.json: a logit is 0\.2 from .* 0\.002 is possible; score is")


def test_a_flipped_bit_is_found(sentiment: Path) -> None:
    path = sentiment / "model.fp32.onnx"
    graph = onnx.load(path)
    column = max(graph.graph.initializer, key=lambda each: len(each.raw_data))
    values = numpy_helper.to_array(column).copy()
    values.view(np.uint32)[np.flatnonzero(values == 2.0)[1]] ^= 1 << 20  # a kind word counts 2.25 or 3
    column.CopyFrom(numpy_helper.from_array(values, column.name))
    change_file(sentiment, path.name, graph.SerializeToString())
    refused(sentiment, r"inputs\.0 of golden\.json: a logit is")


def test_another_tokenizer_of_the_same_size_is_found(sentiment: Path) -> None:
    tokenizer = json.loads((sentiment / TOKENIZER).read_text())
    ids = tokenizer["model"]["vocab"]
    ids["great"], ids["awful"] = ids["awful"], ids["great"]
    change_file(sentiment, TOKENIZER, json.dumps(tokenizer).encode())
    refused(sentiment, r"a logit is 4 from .*; label is 'negative', not 'positive'")


def test_a_tokenizer_that_makes_other_rows_is_found(tmp_path: Path) -> None:
    folder = with_golden("qa", tmp_path)
    tokenizer = json.loads((folder / TOKENIZER).read_text())
    ids = tokenizer["model"]["vocab"]
    ids["capitals"] = ids.pop("capital")
    change_file(folder, TOKENIZER, json.dumps(tokenizer).encode())
    refused(folder, r"inputs\.0 of golden\.json: its rows have \d+ \+ \d+ logits, where 17 \+ 17 are expected")


def test_swapped_labels_are_found(sentiment: Path) -> None:
    change_manifest(sentiment, labels=["positive", "negative"])
    refused(sentiment, r"the expected logits come to another answer: label is 'negative', not 'positive'")


def test_another_temperature_is_found(sentiment: Path) -> None:
    change_manifest(sentiment, temperature=1.5)
    refused(sentiment, r"another answer: score is 0\.93\d+, not 0\.98")


def test_another_threshold_is_found(tmp_path: Path) -> None:
    folder = with_golden("qa", tmp_path, no_answer=True)
    change_manifest(folder, no_answer_threshold=-1e3)
    refused(folder, r"another answer: answer is None, not \{'text': 'Paris'")


def test_another_model_under_the_same_name_is_found(sentiment: Path, tmp_path: Path) -> None:
    other = make_bundle(tmp_path, "rerank")
    change_file(sentiment, "model.fp32.onnx", (other / "model.fp32.onnx").read_bytes())
    refused(sentiment, r"its rows have 1 logits, where 2 are expected")


def test_another_task_under_the_same_name_is_found(sentiment: Path) -> None:
    change_manifest(sentiment, task="span", doc_stride=16, labels=[])
    refused(sentiment, r"the task takes a question and a context, and this is none \(question: Field required\)")


def test_other_windows_are_found(tmp_path: Path) -> None:
    folder = with_golden("qa", tmp_path)
    change_manifest(folder, max_length=48)
    refused(folder, r"inputs\.1 of golden\.json: its rows have .*, where .* are expected")


def test_an_input_that_no_row_can_hold_is_told(tmp_path: Path) -> None:
    folder = with_golden("choice", tmp_path)
    change_manifest(folder, max_length=5)
    refused(folder, r"inputs\.0 of golden\.json: the question is \d tokens long")


def test_an_engine_that_fails_is_told(sentiment: Path) -> None:
    class Broken(Played):
        def run(self, batch: Batch) -> Outputs:
            raise MemoryError

    refused(sentiment, r"inputs\.0 of golden\.json: MemoryError", Broken)


def test_what_is_no_number_is_found(sentiment: Path) -> None:
    refused(sentiment, "not a finite number", lambda engine: Played(engine, float("nan")))


# ---- how far is near ------------------------------------------------------------------------------------------------


UNIT = 2.0
"""The largest logit."""


def as_int8(folder: Path, apart: list[float] | None = None, key: str = "int8") -> None:
    """Write the logits down as those of an int8 graph, and in 7 bits so far apart from them, if that is given."""

    def change(values: dict[str, Any]) -> None:
        rows = values["expected"].pop("fp32")
        values["expected"][key] = rows
        if apart is not None:
            others = json.loads(json.dumps(rows))
            for each, distance in zip(others, apart, strict=True):
                each["logits"][0][0] = [logit + distance for logit in each["logits"][0][0]]
            values["expected"][SEVEN_BIT] = others

    rewrite(folder, change)


def test_int8_is_held_as_tightly_as_seven_bits_are_to_eight(sentiment: Path) -> None:
    """On few inputs an activation may be rounded otherwise, on most none is."""
    as_int8(sentiment, apart=[0.3, 0.2, 0.5])
    few = [0.0, 0.0, 0.45]
    assert held(sentiment, lambda engine: Played(engine, few, "int8")) == 3
    assert held(sentiment, lambda engine: Played(engine, [0.7, 0.2, 0.5], SEVEN_BIT)) == 3
    most = [0.0, 0.16, 0.16]
    refused(sentiment, "of half of the inputs .* 0.16 or more .* 0.15 is", lambda e: Played(e, most, "int8"))
    far = [0.0, 0.0, 0.55]
    refused(sentiment, r"inputs\.2 of .* 0\.55 from .* 0\.5 is possible", lambda e: Played(e, far, "int8"))


def test_int8_has_a_least_tolerance(sentiment: Path) -> None:
    as_int8(sentiment, apart=[0.0] * 3)
    assert held(sentiment, lambda engine: Played(engine, [0.0, 0.0, 0.9 * LEAST.largest * UNIT], "int8")) == 3
    assert held(sentiment, lambda engine: Played(engine, 0.9 * LEAST.typical * UNIT, "int8")) == 3
    refused(sentiment, "half of the", lambda engine: Played(engine, 1.1 * LEAST.typical * UNIT, "int8"))


@pytest.mark.parametrize(
    ("key", "own", "tolerance"),
    [
        ("int8", "int8", TOLERANCES["int8"]),
        (SEVEN_BIT, SEVEN_BIT, TOLERANCES[SEVEN_BIT]),
        ("int8", SEVEN_BIT, OTHER_TOLERANCE),
        (SEVEN_BIT, "int8", OTHER_TOLERANCE),
    ],
)
def test_int8_of_one_kind_is_held_more_loosely(sentiment: Path, key: str, own: str, tolerance: Tolerance) -> None:
    as_int8(sentiment, key=key)
    assert held(sentiment, lambda engine: Played(engine, 0.9 * tolerance.typical * UNIT, own)) == 3
    refused(sentiment, "half of the", lambda engine: Played(engine, 1.1 * tolerance.typical * UNIT, own))
    far = [0.0, 0.0, 1.1 * tolerance.largest * UNIT]
    refused(sentiment, r"inputs\.2 of", lambda engine: Played(engine, far, own))


def test_what_shifts_all_logits_alike_changes_no_answer_and_is_found(sentiment: Path) -> None:
    refused(sentiment, "a logit is 0.5 from .*; the answer is the same", lambda engine: Played(engine, 0.5))


# ---- files that are no golden rows ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "Expecting value"),
        (b"[]", "not of format 1; write it again: python -m training golden"),
        (b'{"format": 2}', "not of format 1"),
        (b"[" * 100_000, "recursion"),
        (b'{"format": 1, "inputs": [], "expected": {}}', r"inputs: .* at least 1 item"),
        (b'{"format": 1, "inputs": [{}]}', r"golden\.json: expected: Field required"),
        (json.dumps({"format": 1, "inputs": [{}] * (MAX_INPUTS + 1), "expected": {}}).encode(), "inputs: .* most 64"),
        (b'{"format": 1, "inputs": [{}], "expected": {"fp32": []}}', "1 inputs and 0 answers in 'fp32'"),
        (
            b'{"format": 1, "inputs": [{}], "expected": {"fp32": [{"answer": {}, "logits": [[[NaN]]]}]}}',
            r"expected\.fp32\.0\.logits\.0\.0\.0: Input should be a finite number",
        ),
        (b'{"format": 1, "inputs": [{}], "expected": {"fp32": [{"answer": {}, "logits": []}]}}', "logits: .* least 1"),
        (
            json.dumps(
                {
                    "format": 1,
                    "inputs": [{}],
                    "expected": {n: [{"answer": {}, "logits": [[[0.0] * w]]}] for n, w in (("a", 1), ("b", 2))},
                }
            ).encode(),
            "rows of different shapes in a, b",
        ),
        (b'{"format": 1, "inputs": [{}], "expected": {"fp32": [{"answer": {}, "logits": [[[]]]}]}}', "at least 1"),
        (b" " * (4 << 20) + b"{}", "has 4194306 bytes; the most is 4194304"),
    ],
)  # fmt: skip
def test_files_that_are_none_are_refused(sentiment: Path, content: bytes, match: str) -> None:
    change_file(sentiment, GOLDEN, content)
    refused(sentiment, match)


def test_a_file_that_was_changed_is_refused(sentiment: Path) -> None:
    bundle = bundles.load(sentiment)
    (sentiment / GOLDEN).write_bytes(b"{}")
    with pytest.raises(BundleError, match=r"golden\.json has sha256"):
        golden.read(bundle)
