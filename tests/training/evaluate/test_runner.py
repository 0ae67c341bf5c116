"""Scores are those of what is served: the same rows, the same engine, the same answers."""

from pathlib import Path

import numpy as np
import pytest

from service.engine.batch import Batch, Encoded
from service.metrics import Metrics
from service.repository import bundle as bundles
from service.repository import loading
from service.settings import Settings
from service.tasks import ClassificationTask, SpanExample, SpanTask
from tests.training.samples import (
    ADA,
    PARIS,
    QUESTIONS,
    SENTENCES,
    load_tokenizer,
    make_model,
    squad_json,
    squad_record,
    write_nli,
    write_sst2,
    write_text,
)
from training.data import Report, read_squad
from training.errors import DataError
from training.evaluate import runner as evaluate
from training.evaluate.engine import TorchEngine, run_rows

NOT_ASKED = "who is the man of the movie ?"


class Echo:
    """An engine whose logits name the row they are of: its first id, and its length."""

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers
        self.batches: list[Batch] = []

    def run(self, batch: Batch) -> tuple[np.ndarray, ...]:
        self.batches.append(batch)
        lengths = batch.attention_mask.sum(axis=1)
        return (np.stack([batch.input_ids[:, 0], lengths], axis=1).astype(np.float32),)


@pytest.mark.parametrize("workers", [1, 3])
def test_rows_come_back_in_order(workers: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 40, 100)
    rows = [Encoded(np.full(n, i), np.zeros(n, np.int64)) for i, n in enumerate(lengths)]
    engine = Echo(workers)
    logits = run_rows(engine, rows, pad_id=0, batch_tokens=120)
    assert [tuple(row[0]) for row in logits] == [(i, n) for i, n in enumerate(lengths)]
    assert all(batch.input_ids.size <= 120 for batch in engine.batches)
    assert sum(batch.shape[0] for batch in engine.batches) == 100
    assert len(engine.batches) < 35
    assert float(np.mean([batch.padding_ratio for batch in engine.batches])) < 0.1


def test_a_row_longer_than_the_budget_runs_alone() -> None:
    rows = [Encoded(np.full(n, n), np.zeros(n, np.int64)) for n in (50, 3, 60)]
    engine = Echo()
    run_rows(engine, rows, pad_id=0, batch_tokens=40)
    assert sorted(batch.shape for batch in engine.batches) == [(1, 3), (1, 50), (1, 60)]


@pytest.mark.parametrize(("family", "changes"), [("Bert", {}), ("Roberta", {"type_vocab_size": 1, "pad_token_id": 1})])
def test_torch_engine_gives_what_the_model_gives(family: str, changes: dict[str, int]) -> None:
    tokenizer = load_tokenizer()
    task = SpanTask(tokenizer, max_length=48, doc_stride=8)
    [rows] = task.encode([SpanExample("who wrote the code ?", (ADA, PARIS))])
    model = make_model("ForQuestionAnswering", family, **changes)
    together = run_rows(TorchEngine(model), rows, tokenizer.pad_id)
    for row, logits in zip(rows, together, strict=True):
        [alone] = run_rows(TorchEngine(model), [row], tokenizer.pad_id)
        for many, one in zip(logits, alone, strict=True):
            assert np.allclose(many[: len(row)], one, atol=1e-5)


def test_sentiment(trained_models: Path, data_dir: Path) -> None:
    scores, labels = evaluate.bundle(bundles.load(trained_models / "sentiment"), str(data_dir / "sst2.tsv"))
    assert scores == {
        "accuracy": 100.0,
        "rows": 8,
        "recall_negative": 100.0,
        "recall_positive": 100.0,
        "model": "sentiment",
        "graph": "model.int8.onnx",
        "provider": "cpu",
    }
    assert labels == [("negative", "positive")[int(label)] for _, label in SENTENCES]


def test_wrong_labels_cost(trained_models: Path, tmp_path: Path) -> None:
    turned = [(text, str(1 - int(label)) if i < 2 else label) for i, (text, label) in enumerate(SENTENCES)]
    scores, _ = evaluate.bundle(bundles.load(trained_models / "sentiment"), write_sst2(tmp_path / "t.tsv", turned))
    assert (scores["accuracy"], scores["recall_negative"]) == (75.0, 75.0)


def test_squad_2_takes_the_threshold(trained_models: Path, data_dir: Path) -> None:
    scores, texts = evaluate.bundle(bundles.load(trained_models / "qa"), str(data_dir / "squad-v2.json"))
    assert texts == {i: answer for i, _, _, answer in QUESTIONS} | {"q5": "", "q6": ""}
    assert (scores["exact"], scores["f1"], scores["total"], scores["NoAns_total"]) == (100.0, 100.0, 6, 2)


def test_squad_1_always_answers(trained_models: Path, tmp_path: Path) -> None:
    """A question that the model would leave open has to be answered where the data set has an answer to each."""
    records = [squad_record("open", "who lives in germany ?", ADA, "ada")]
    path = write_text(tmp_path / "v1.json", squad_json((ADA, records)))
    scores, texts = evaluate.bundle(bundles.load(trained_models / "qa"), path)
    assert isinstance(texts, dict)
    assert texts["open"] != ""
    assert scores["total"] == 1
    assert "NoAns_total" not in scores


def test_limit(trained_models: Path, data_dir: Path, tmp_path: Path) -> None:
    sentiment, qa = (bundles.load(trained_models / name) for name in ("sentiment", "qa"))
    scores, labels = evaluate.bundle(sentiment, str(data_dir / "sst2.tsv"), limit=3)
    assert (scores["rows"], len(labels)) == (3, 3)
    scores, texts = evaluate.bundle(qa, str(data_dir / "squad-v1.json"), limit=2)
    assert (scores["total"], list(texts)) == (2, ["q1", "q2"])
    assert evaluate.bundle(sentiment, str(data_dir / "sst2.tsv"), limit=100)[0]["rows"] == 8


def test_chunks_do_not_show(trained_models: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    qa = bundles.load(trained_models / "qa")
    whole = evaluate.bundle(qa, str(data_dir / "squad-v2.json"))
    monkeypatch.setattr(evaluate, "CHUNK", 2)
    assert evaluate.bundle(qa, str(data_dir / "squad-v2.json")) == whole


async def test_answers_are_those_of_the_service(trained_models: Path, tmp_path: Path) -> None:
    """Through the predictor that HTTP requests take, row by row through its queue."""
    contexts = [PARIS, ADA, f"{PARIS} {ADA} {PARIS}", f"{ADA} {ADA} {ADA} {ADA} {PARIS}"]
    questions = [*(q for _, q, _, _ in QUESTIONS), "who lives in germany ?", NOT_ASKED]
    paragraphs = [
        (context, [squad_record(f"{i}-{j}", q, context, is_impossible=True) for j, q in enumerate(questions)])
        for i, context in enumerate(contexts)
    ]
    path = write_text(tmp_path / "d.json", squad_json(*paragraphs))
    _, texts = evaluate.bundle(bundles.load(trained_models / "qa"), path)
    sentences = [text for text, _ in SENTENCES] + [f"{a} {b}" for a, _ in SENTENCES for b, _ in SENTENCES]
    dev = write_sst2(tmp_path / "d.tsv", [(text, "1") for text in sentences])
    _, labels = evaluate.bundle(bundles.load(trained_models / "sentiment"), dev)

    settings = Settings(models_dir=trained_models, device="cpu", workers=1, intra_op_threads=1)
    predictor = loading.load(settings, Metrics())
    try:
        qa, sentiment = predictor.models["qa"], predictor.models["sentiment"]
        classify = sentiment.tasks[0]
        assert isinstance(classify, ClassificationTask)
        asked = list(read_squad(path, Report()))
        served = await predictor.predict(qa, qa.tasks[0], [SpanExample(q.question, (q.context,)) for q in asked])
        found = {q.id: p.answer.text if p.answer else "" for q, p in zip(asked, served.answers, strict=True)}
        examples = [e.example for e in evaluate.read(classify, dev)]
        classified = await predictor.predict(sentiment, classify, examples)
    finally:
        await predictor.drain(5)
    assert found == texts
    assert "" in found.values()
    assert len(set(found.values())) > 3
    assert any(prediction.windows > 1 for prediction in served.answers)
    assert [prediction.label for prediction in classified.answers] == labels
    assert len(set(labels)) == 2


def test_reads_the_layout_that_suits_the_task(data_dir: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer()
    nli = ClassificationTask(tokenizer, ("contradiction", "entailment", "neutral"), 48)
    assert [e.label for e in evaluate.read(nli, write_nli(tmp_path / "n.jsonl"), 2)] == ["neutral", "entailment"]  # type: ignore[union-attr]
    span = SpanTask(tokenizer, max_length=48, doc_stride=8)
    assert len(evaluate.read(span, str(data_dir / "squad-v1.json"))) == 4


def test_the_layout_may_be_named(tmp_path: Path) -> None:
    tokenizer = load_tokenizer()
    sentiment = ClassificationTask(tokenizer, ("negative", "positive"), 48)
    path = write_text(tmp_path / "own.csv", "review,verdict\ngood,positive\nbad,0\n")
    layout = {"data": "table", "text": "review", "label": "verdict", "numbers": "index"}
    assert [e.label for e in evaluate.read(sentiment, path, layout=layout)] == ["positive", "negative"]  # type: ignore[union-attr]
    topics = ClassificationTask(tokenizer, ("sport", "war"), 48)
    path = write_text(tmp_path / "own.jsonl", '{"text": "a", "label": "war"}\n')
    assert [e.label for e in evaluate.read(topics, path)] == ["war"]  # type: ignore[union-attr]
    with pytest.raises(DataError, match="layout 'squad' is of another task than classification"):
        evaluate.read(topics, path, layout={"data": "squad"})


def test_bad_files(tmp_path: Path) -> None:
    task = ClassificationTask(load_tokenizer(), ("negative", "positive"), 48)
    with pytest.raises(DataError, match="holds no example"):
        evaluate.read(task, write_text(tmp_path / "e.tsv", "sentence\tlabel\n"))
    with pytest.raises(DataError, match=r"b\.tsv:3: unknown label"):
        evaluate.read(task, write_sst2(tmp_path / "b.tsv", [("a", "1"), ("b", "x")]))
