"""The code of peers that needs nothing installed beside training's libraries, and the bare session."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bench import rows
from bench.errors import BenchError
from bench.graphs import bare, checkpoint
from bench.peers.graph_model import GraphModel
from bench.peers.qa_pipeline import best_span
from service.engine.batch import pad
from service.engine.session import OrtEngine
from service.engine.tokenizer import Tokenizer
from service.repository import bundle as bundles
from service.repository import loading
from service.tasks import ClassificationExample

TEXTS = ["a great film , wonderful fun", "boring", "an awful , terrible , sad movie " * 20, "the film", "I love it"]
MODELS = Path(__file__).parents[2] / "models"


def test_peers_on_the_graph_answer_as_the_service_does(models_dir: Path) -> None:
    """Scores too: another truncation, padding or temperature would show. One text is cut."""
    folder = models_dir / "sentiment"
    bundle = bundles.load(folder)
    _, task = loading.open_task(bundle)
    engine = OrtEngine(folder / "model.fp32.onnx", provider="cpu", workers=1, intra_op_threads=1)
    answers = GraphModel(folder, threads=1)(TEXTS)
    for text, answer in zip(TEXTS, answers, strict=True):
        example = ClassificationExample(text)
        (encoded,) = task.encode([example])  # type: ignore[list-item]
        logits = engine.run(pad(encoded, 0))
        expected = task.decode(example, encoded, [tuple(output[0] for output in logits)])  # type: ignore[arg-type]
        assert answer["label"] == expected.label  # type: ignore[union-attr]
        assert answer["score"] == pytest.approx(expected.score, abs=1e-5)  # type: ignore[union-attr]


def test_best_span_of_a_window_by_hand() -> None:
    """P(start) and P(end) over the allowed tokens alone; the end never before the start, nor too far behind it."""
    log = np.log(np.array([0.9, 0.5, 0.3, 0.2], dtype=np.float32))
    allowed = np.array([False, True, True, True])
    ends = np.log(np.array([0.9, 0.1, 0.2, 0.7], dtype=np.float32))
    score, first, last = best_span(log, ends, allowed, longest=4)
    assert (first, last) == (1, 3)
    assert score == pytest.approx(0.5 * 0.7, rel=1e-5)
    score, first, last = best_span(log, ends, allowed, longest=2)
    assert (first, last) == (2, 3)
    assert score == pytest.approx(0.3 * 0.7, rel=1e-5)


def test_the_checkpoint_has_the_bundles_shape(tmp_path: Path) -> None:
    folder = checkpoint.make(MODELS / "sentiment", tmp_path / "made")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.num_parameters() == bundles.load(MODELS / "sentiment").manifest.parameters
    assert model.config.id2label == {0: "negative", 1: "positive"}
    text = rows.sentences()[0]
    mine = Tokenizer.from_file(MODELS / "sentiment" / "tokenizer.json").ids([text])[0].tolist()
    ids = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    assert ids[1:-1] == mine
    with torch.inference_mode():
        assert model(input_ids=torch.tensor([ids])).logits.shape == (1, 2)


def test_a_bundle_of_another_shape_wants_its_checkpoint(models_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="--checkpoint"):
        checkpoint.make(models_dir / "sentiment", tmp_path)


@pytest.mark.parametrize(("in_flight", "cores"), [(1, 2), (8, 2), (32, 4)])
def test_schedules_use_the_cores_and_no_more(in_flight: int, cores: int) -> None:
    found = {schedule.name: schedule for schedule in bare.schedules(in_flight, cores)}
    assert found["one by one"].workers == min(in_flight, cores)
    assert all(s.workers * s.threads <= cores for s in found.values())
    assert ("sorted batches of 4" in found) == (in_flight >= 8)


def test_the_bare_session_runs_every_row_in_flight_sorted_or_not(models_dir: Path) -> None:
    found = bare.Bare(models_dir / "sentiment", TEXTS)
    sorted_calls = found._calls(bare.Schedule("", 1, 1, 2), 5)
    window = [len(row) for _ in range(3) for row in next(sorted_calls)]
    assert window == sorted(window)
    assert len(window) == 5
    (whole,) = [next(found._calls(bare.Schedule("", 1, 1, 0, sort=False), 5))]
    assert [len(row) for row in whole] == [len(row) for row in found._rows]
    ran = found.run(bare.Schedule("", 2, 1, 2), in_flight=5, seconds=0.1)
    assert ran["rows_per_second"] > 0
    assert found.labels[0] == "positive"
