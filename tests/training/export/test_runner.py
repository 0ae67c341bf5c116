"""A checkpoint to a bundle that the service loads; and each way in which none is written."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tokenizers
from onnx import numpy_helper
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from tokenizers.pre_tokenizers import WhitespaceSplit

from service.engine.batch import pad
from service.engine.session import OrtEngine
from service.engine.tokenizer import Tokenizer
from service.repository import bundle as bundles
from service.repository.manifest import FORMAT, MANIFEST, TOKENIZER, WEIGHTS
from service.repository.opening import open_engine
from service.tasks import ClassificationExample, ClassificationTask, MultipleChoiceTask, SpanExample, SpanTask, build
from tests.bundles import make_tokenizer
from tests.training.samples import (
    QUESTIONS,
    SENTENCES,
    UNANSWERABLE,
    make_model,
    recipe,
    save_checkpoint,
    save_tokenizer,
    write_squad,
    write_sst2,
    write_text,
)
from training.data import Table
from training.errors import CheckpointError, DataError, GateError, TrainingError
from training.evaluate import runner as evaluate
from training.export import gate, graph, graphs, own
from training.export import runner as export
from training.export.runner import Request
from training.finetune import runner as finetune
from training.tasks import span
from training.tasks.span import best_threshold

SENTIMENT = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}


def classifier(folder: Path, family: str = "Bert", **changes: Any) -> Path:
    return save_checkpoint(folder, "ForSequenceClassification", family, **(SENTIMENT | changes))


def labelled(folder: Path, *labels: str) -> Path:
    ids = dict(enumerate(labels))
    return classifier(folder, id2label=ids, label2id={label: i for i, label in ids.items()})


def run(checkpoint: Path, models: Path, **changes: Any) -> bundles.Manifest:
    return export.run(Request(checkpoint, models / checkpoint.name, **({"without_dev": True} | changes)))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- bundles --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sentiment(sentiment_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("models") / "sentiment"
    export.run(Request(sentiment_run / "final", output, ("fp32", "int8", "fp16"), licence="MIT"))
    return output


@pytest.fixture(scope="module")
def qa(qa_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("models") / "qa"
    export.run(Request(qa_run / "final", output))
    return output


def test_manifest_is_complete(sentiment: Path, sentiment_run: Path, data_dir: Path) -> None:
    manifest = bundles.load(sentiment).manifest
    assert (manifest.format, manifest.name, manifest.task) == (FORMAT, "sentiment", "classification")
    assert (manifest.architecture, manifest.base_model, manifest.licence) == ("bert", "tiny-bert", "MIT")
    assert manifest.labels == ("negative", "positive")
    assert (manifest.max_length, manifest.doc_stride) == (48, 0)
    weights = load_file(sentiment_run / "final" / "model.safetensors")
    assert manifest.parameters == sum(tensor.numel() for tensor in weights.values())
    digest = hashlib.sha256((data_dir / "sst2.tsv").read_bytes()).hexdigest()
    assert manifest.data == {f"{data_dir.name}/sst2.tsv": digest}
    assert [graph.precision for graph in manifest.graphs] == ["fp32", "int8", "fp16"]
    for each in manifest.graphs[:2]:
        assert each.scores[f"{data_dir.name}/sst2.tsv"]["accuracy"] == 100.0
    assert manifest.graphs[2].scores == {}  # fp16 is scored where it runs
    assert {"torch", "transformers", "onnx", "onnxruntime", "tokenizers"} == manifest.versions.keys()
    assert len(manifest.created) == len("2025-01-01")


def test_every_file_is_hashed(sentiment: Path) -> None:
    manifest = json.loads((sentiment / MANIFEST).read_text())
    names = {path.name for path in sentiment.iterdir()}
    graphs = {f"model.{precision}.onnx" for precision in ("fp32", "int8", "fp16")}
    assert names == {"manifest.json", "tokenizer.json", "weights.bin", "README.md", "golden.json"} | graphs
    assert manifest["files"].keys() == names - {"manifest.json"}
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((sentiment / name).read_bytes()).hexdigest() == digest
    assert not list(sentiment.parent.glob(".export-*"))


@pytest.mark.parametrize("precision", ["fp32", "int8", "fp16"])
def test_each_graph_answers_right(sentiment: Path, precision: str) -> None:
    bundle = bundles.load(sentiment)
    tokenizer = Tokenizer.from_file(sentiment / TOKENIZER)
    task = build(bundle.manifest, tokenizer)
    assert isinstance(task, ClassificationTask)
    path = sentiment / f"model.{precision}.onnx"
    engine = OrtEngine(path, provider="cpu", precision=precision, workers=1, intra_op_threads=1)
    examples = [ClassificationExample(text) for text, _ in SENTENCES]
    rows = [row for [row] in task.encode(examples)]
    (logits,) = engine.run(pad(rows, tokenizer.pad_id))
    assert logits.argmax(axis=1).tolist() == [int(label) for _, label in SENTENCES]


def test_cpu_takes_int8_and_cuda_fp16(sentiment: Path) -> None:
    bundle = bundles.load(sentiment)
    _, graph = open_engine(bundle, device="cpu", workers=1, intra_op_threads=1, cores=1)
    assert graph.precision == "int8"
    assert bundle.graph_for("cuda").precision == "fp16"


def test_qa_bundle_has_its_fitted_threshold(qa: Path, data_dir: Path) -> None:
    bundle = bundles.load(qa)
    manifest = bundle.manifest
    assert (manifest.task, manifest.max_length, manifest.doc_stride, manifest.labels) == ("span", 48, 12, ())
    assert manifest.no_answer
    for each in manifest.graphs:
        scores = each.scores[f"{data_dir.name}/squad-v2.json"]
        assert (scores["f1"], scores["total"], scores["NoAns_total"]) == (100.0, 6, 2)

    tokenizer = Tokenizer.from_file(qa / TOKENIZER)
    task = build(bundle.manifest, tokenizer)
    assert isinstance(task, SpanTask)
    engine, _ = open_engine(bundle, device="cpu", workers=1, intra_op_threads=1, cores=1)
    expected = {q: a for _, q, _, a in QUESTIONS} | {q: None for _, q, _ in UNANSWERABLE}
    margins = {True: [], False: []}
    for question, context in [(q, c) for _, q, c, _ in QUESTIONS] + [(q, c) for _, q, c in UNANSWERABLE]:
        example = SpanExample(question, (context,))
        [rows] = task.encode([example])
        start, end = engine.run(pad(rows, tokenizer.pad_id))
        prediction = task.decode(example, rows, [(start[i], end[i]) for i in range(len(rows))])
        assert (prediction.answer.text if prediction.answer else None) == expected[question]
        margins[expected[question] is None].append(prediction.no_answer_margin)
    # Fitted: it lies between the margins of the two kinds of questions.
    assert max(margins[False]) < manifest.no_answer_threshold < min(margins[True])


def test_qa_without_unanswerable_questions_always_answers(qa_run: Path, data_dir: Path, tmp_path: Path) -> None:
    dev = (str(data_dir / "squad-v1.json"),)
    manifest = export.run(Request(qa_run / "final", tmp_path / "qa", dev=dev, max_length=40, doc_stride=8))
    assert (manifest.no_answer, manifest.no_answer_threshold) == (False, 0.0)
    assert (manifest.max_length, manifest.doc_stride) == (40, 8)
    assert manifest.graphs[0].scores[f"{data_dir.name}/squad-v1.json"]["total"] == 4


def test_options_of_a_bundle(race_run: Path, data_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "models" / "race"
    manifest = export.run(Request(race_run / "final", output))
    assert (manifest.task, manifest.labels, manifest.doc_stride) == ("multiple_choice", (), 0)
    assert manifest.layout == {"data": "race"}
    for each in manifest.graphs:
        assert each.scores[f"{data_dir.name}/race.jsonl"]["accuracy"] == 100.0
    bundle = bundles.load(output)
    assert isinstance(build(bundle.manifest, Tokenizer.from_file(output / TOKENIZER)), MultipleChoiceTask)
    scores, options = evaluate.bundle(bundle, str(data_dir / "race.jsonl"))
    assert (scores["accuracy"], scores["graph"], options) == (100.0, "model.int8.onnx", [1, 2, 0, 3])


@pytest.mark.parametrize("family", ["Albert", "Roberta", "Electra"])
def test_options_of_other_families(tmp_path: Path, data_dir: Path, family: str) -> None:
    more = {"pad_token_id": 1, "type_vocab_size": 1} if family == "Roberta" else {}
    checkpoint = save_checkpoint(tmp_path / "c", "ForMultipleChoice", family, **more)
    dev = (str(data_dir / "race.jsonl"),)
    manifest = run(checkpoint, tmp_path / "models", dev=dev, without_dev=False, precisions=("fp32",))
    assert manifest.graphs[0].scores[f"{data_dir.name}/race.jsonl"]["questions"] == 4


def test_several_labels_of_a_bundle(encoder: Path, tmp_path: Path) -> None:
    """Two labels that a sentence has independently of one another, and a threshold fitted to them."""
    rows = [
        (text, [name for name, holds in (("kind", label == "1"), ("film", "film" in text)) if holds])
        for text, label in SENTENCES
    ]
    lines = "".join(json.dumps({"words": text, "tags": tags}) + "\n" for text, tags in rows)
    path = write_text(tmp_path / "d" / "tags.jsonl", lines)
    table = Table(text="words", label="tags")
    finetune.run(
        recipe(encoder, tmp_path / "run", path, data="table", labels=(), table=table, multi_label=True, epochs=40.0)
    )
    output = tmp_path / "models" / "tags"
    manifest = export.run(Request(tmp_path / "run" / "final", output))
    assert (manifest.labels, manifest.multi_label) == (("film", "kind"), True)
    assert manifest.layout == {
        "data": "table", "text": "words", "text_pair": "", "label": "tags", "id": "id", "separator": ",",
        "numbers": "value", "dialect": "",
    }  # fmt: skip
    for each in manifest.graphs:
        assert (each.scores["d/tags.jsonl"]["f1"], each.scores["d/tags.jsonl"]["exact"]) == (100.0, 100.0)
    assert 0 < manifest.label_threshold < 1
    assert manifest.calibration is None
    scores, predicted = evaluate.bundle(bundles.load(output), path)  # the layout is the manifest's
    assert scores["exact"] == 100.0
    assert [set(tags) for tags in predicted] == [set(tags) for _, tags in rows]  # type: ignore[arg-type]


def test_multi_label_checkpoint_of_another_origin(tmp_path: Path) -> None:
    folder = with_config(tmp_path / "c", problem_type="multi_label_classification")
    manifest = run(folder, tmp_path / "models", precisions=("fp32",))
    assert (manifest.multi_label, manifest.label_threshold, manifest.layout) == (True, 0.5, {})


def test_lengths_of_serving_go_before_those_of_training(qa_run: Path, tmp_path: Path) -> None:
    final = tmp_path / "final"
    shutil.copytree(qa_run / "final", final)
    recorded = json.loads((final / "bertie.json").read_text())
    recorded["recipe"] |= {"serve_max_length": 64, "serve_doc_stride": 20}
    (final / "bertie.json").write_text(json.dumps(recorded))
    manifest = export.run(Request(final, tmp_path / "models" / "a", without_dev=True))
    assert (manifest.max_length, manifest.doc_stride) == (64, 20)
    manifest = export.run(Request(final, tmp_path / "models" / "b", without_dev=True, max_length=72, doc_stride=24))
    assert (manifest.max_length, manifest.doc_stride) == (72, 24)


def test_precisions_that_are_not_asked_for_are_not_kept(tmp_path: Path) -> None:
    manifest = run(classifier(tmp_path / "c"), tmp_path / "models", precisions=("int8",))
    assert [graph.precision for graph in manifest.graphs] == ["int8"]
    assert {path.name for path in (tmp_path / "models" / "c").glob("*.onnx")} == {"model.int8.onnx"}


def test_packed_graphs_share_the_weights(tmp_path: Path, data_dir: Path) -> None:
    checkpoint = classifier(tmp_path / "c", hidden_size=64)
    precisions = ("int8", "fp32", "fp16", "w8a16")
    dev = {"dev": (str(data_dir / "sst2.tsv"),), "without_dev": False}
    for name, packed in (("padded", False), ("packed", True)):
        run(checkpoint, tmp_path / name, precisions=precisions, packed=packed, **dev)
    padded, packed = (bundles.load(tmp_path / name / "c") for name in ("padded", "packed"))
    assert [(graph.file, graph.precision, graph.packed) for graph in packed.manifest.graphs] == [
        *((f"model.{p}.onnx", p, False) for p in precisions),
        *((f"model.{p}.packed.onnx", p, True) for p in precisions[1:]),  # int8 is for CPUs
    ]
    assert not any(graph.packed for graph in padded.manifest.graphs)
    sizes = [(bundle.folder / WEIGHTS).stat().st_size for bundle in (padded, packed)]
    assert sizes[1] <= 1.01 * sizes[0]
    assert {path.name for path in packed.folder.iterdir()} == {*packed.manifest.files, MANIFEST}

    twins = {graph.precision: graph for graph in packed.manifest.graphs if not graph.packed}
    for each in packed.manifest.graphs:
        kinds = {node.op_type for node in onnx.load(packed.folder / each.file).graph.node}
        assert ("PackedMultiHeadAttention" in kinds, "MultiHeadAttention" in kinds) == (each.packed, not each.packed)
        assert each.scores == twins[each.precision].scores
    assert twins["fp32"].scores
    assert (packed.graph_for("cpu").file, packed.graph_for("cuda").file) == (
        "model.int8.onnx",
        "model.fp16.packed.onnx",
    )
    card = (packed.folder / "README.md").read_text()
    for precision in ("fp16", "w8a16"):
        assert f"- packed {precision}: logits within" in card


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ("fp32", "the packed fp32 graph's logits differ from torch's by"),
        ("fp16", "the packed fp16 graph's logits differ from those of its weights in fp32 by"),
        ("w8a16", "the packed w8a16 graph's logits differ from those of its weights in fp32 by"),
    ],
)
def test_gate_stops_a_wrong_packed_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, message: str
) -> None:
    """One whose keys ask and whose queries answer, where everything else is as ever."""
    build = graph.build

    def spoilt(model: Any, **options: Any) -> onnx.ModelProto:
        proto = build(model, **options)
        for node in proto.graph.node:
            if node.op_type == "PackedMultiHeadAttention":
                node.input[0], node.input[1] = node.input[1], node.input[0]
        return proto

    monkeypatch.setattr(graph, "build", spoilt)
    with pytest.raises(GateError, match=message):
        run(
            classifier(tmp_path / "c", initializer_range=0.3), tmp_path / "models", precisions=(precision,), packed=True
        )
    assert not list((tmp_path / "models").iterdir())


def test_packed_graphs_are_for_gpus(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no packed graph is made in int8: they are for GPUs, in fp16 or w8a16 or"):
        run(classifier(tmp_path / "c"), tmp_path / "models", precisions=("int8",), packed=True)
    assert not (tmp_path / "models").exists()


def test_fp16_graph_is_half_as_large_and_close(tmp_path: Path) -> None:
    checkpoint = classifier(tmp_path / "c", hidden_size=64)
    for precision in ("fp32", "fp16"):
        run(checkpoint, tmp_path / precision, precisions=(precision,))
    fp32, fp16 = (tmp_path / p / "c" / f"model.{p}.onnx" for p in ("fp32", "fp16"))
    sizes = [(path.parent / WEIGHTS).stat().st_size for path in (fp32, fp16)]
    assert sizes[1] < 0.6 * sizes[0]
    matrices = [tensor for tensor in onnx.load(fp16).graph.initializer if len(tensor.dims) == 2]
    types = {tensor.data_type for tensor in matrices if tensor.name != "classifier.weight"}
    assert types == {onnx.TensorProto.FLOAT16}
    batch = {name: np.ones((2, 9), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    sessions = [onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]) for path in (fp32, fp16)]
    logits = [session.run(None, batch)[0] for session in sessions]
    assert 0 < np.abs(logits[0] - logits[1]).max() < 0.02


def test_checkpoint_in_half_precision(tmp_path: Path) -> None:
    """Its fp32 graph is held to torch in fp32: to torch in fp16 no graph is as near as the gate wants."""
    make_model("ForSequenceClassification", **SENTIMENT).half().save_pretrained(tmp_path / "c")
    save_tokenizer(tmp_path / "c")
    run(tmp_path / "c", tmp_path / "models", precisions=("fp32", "fp16", "w8a16"))
    card = (tmp_path / "models" / "c" / "README.md").read_text()
    for precision in ("fp16", "w8a16"):
        assert f"- {precision}: logits within " in card
    assert not list((tmp_path / "models").glob(".export-*"))


def test_roberta(tmp_path: Path) -> None:
    """Its positions begin after the padding id: of 66, 64 are of use."""
    checkpoint = classifier(tmp_path / "r", "Roberta", pad_token_id=1, type_vocab_size=1, max_position_embeddings=66)
    manifest = run(checkpoint, tmp_path / "models")
    assert (manifest.architecture, manifest.max_length) == ("roberta", 64)
    with pytest.raises(CheckpointError, match="a max_length of 65 is more than the model's 64 positions"):
        run(checkpoint, tmp_path / "models", max_length=65)


@pytest.mark.parametrize("family", ["Albert", "Electra"])
def test_other_families(tmp_path: Path, family: str) -> None:
    checkpoint = classifier(tmp_path / "c", family, embedding_size=16)
    assert run(checkpoint, tmp_path / "models", precisions=("fp32", "fp16")).architecture == family.lower()


def test_a_name_that_no_request_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"is no name for a bundle: .*printable"):
        export.run(Request(classifier(tmp_path / "c"), tmp_path / "a\nb", without_dev=True))


def test_a_bundle_is_replaced_whole(tmp_path: Path) -> None:
    checkpoint = classifier(tmp_path / "c")
    run(checkpoint, tmp_path / "models", precisions=("fp32", "fp16"))
    run(checkpoint, tmp_path / "models", precisions=("int8",))
    assert {path.name for path in (tmp_path / "models" / "c").glob("*.onnx")} == {"model.int8.onnx"}
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"c"}


# ---- labels ---------------------------------------------------------------------------------------------------------


def test_labels_in_the_wrong_order_are_refused(sentiment_run: Path, tmp_path: Path) -> None:
    """Every graph agrees with the checkpoint on them; the data do not."""
    message = (
        r"the int8 graph's answers on .*/sst2\.tsv do not fit the data: accuracy is 0\.00, and chance is 50\.00; "
        r"with --labels negative,positive accuracy is 100\.00"
    )
    with pytest.raises(GateError, match=message):
        export.run(Request(sentiment_run / "final", tmp_path / "models" / "x", labels=("positive", "negative")))
    assert not list((tmp_path / "models").iterdir())


def test_labels_that_are_numbers(encoder: Path, tmp_path: Path) -> None:
    """pandas writes 1.0 where a cell of the column was empty, and the dev file has whole numbers."""
    stars = [(text, 5 if label == "1" else 1) for text, label in SENTENCES]
    train = write_text(tmp_path / "d" / "t.csv", "text,label\n" + "".join(f"{text},{n}.0\n" for text, n in stars))
    dev = write_text(
        tmp_path / "d" / "dev.jsonl", "".join(json.dumps({"text": text, "label": n}) + "\n" for text, n in stars)
    )
    metrics = finetune.run(recipe(encoder, tmp_path / "run", train, dev, data="table", labels=()))
    assert metrics["recipe"]["labels"] == ("1", "5")
    assert metrics["dev"]["accuracy"] == 100.0
    manifest = export.run(Request(tmp_path / "run" / "final", tmp_path / "models" / "stars"))
    assert manifest.labels == ("1", "5")
    assert {graph.scores["d/dev.jsonl"]["accuracy"] for graph in manifest.graphs} == {100.0}


def test_numbers_are_names_where_somebody_says_so(tmp_path: Path) -> None:
    assert run(labelled(tmp_path / "c", "1", "2"), tmp_path / "models", labels=("1", "2")).labels == ("1", "2")


@pytest.mark.parametrize("labels", [("LABEL_0", "LABEL_1"), ("LABEL_1", "LABEL_0"), ("label_0", "label_1"), ("0", "1")])
def test_unnamed_labels_are_refused_until_named(tmp_path: Path, labels: tuple[str, str]) -> None:
    checkpoint = labelled(tmp_path / "c", *labels)
    with pytest.raises(CheckpointError, match=f"labels are {labels[0]}, {labels[1]}.*--labels negative,positive"):
        run(checkpoint, tmp_path / "models")
    assert run(checkpoint, tmp_path / "models", labels=("positive", "negative")).labels == ("positive", "negative")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("NEGATIVE", "POSITIVE"), ("negative", "positive")),
        (("Contradiction", "Neutral", "Entailment"), ("contradiction", "neutral", "entailment")),
        (("Billing", "Sales"), ("Billing", "Sales")),  # the caller's own are left alone
        (("1 star", "2 stars", "3 stars"), ("1 star", "2 stars", "3 stars")),
    ],
)
def test_named_labels(tmp_path: Path, given: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert run(labelled(tmp_path / "c", *given), tmp_path / "models").labels == expected


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("a", "b", "c"), "--labels names 3 labels, the model has 2"),
        (("a", "a"), "two labels have the same name: a"),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, labels: tuple[str, ...], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        run(classifier(tmp_path / "c"), tmp_path / "models", labels=labels)


# ---- refused checkpoints --------------------------------------------------------------------------------------------


def truncated(folder: Path) -> Path:
    weights = classifier(folder) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    return folder


def without_weight(folder: Path, name: str) -> Path:
    path = classifier(folder) / "model.safetensors"
    weights = load_file(path)
    del weights[name]
    save_file(weights, path, metadata={"format": "pt"})
    return folder


def with_config(folder: Path, **changes: Any) -> Path:
    path = classifier(folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def without_tokenizer(folder: Path, broken: str = "") -> Path:
    for file in classifier(folder).glob("tokenizer*"):
        file.unlink()
    if broken:
        (folder / "tokenizer.json").write_text(broken)
    return folder


def of_family(folder: Path, family: str, **sizes: Any) -> Path:
    make_model("ForSequenceClassification", family, **sizes).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def with_larger_tokenizer(folder: Path) -> Path:
    backend = make_tokenizer()
    backend.add_tokens([AddedToken(f"new{i}") for i in range(3)])
    classifier(folder)
    save_tokenizer(folder, backend)
    return folder


def with_code(folder: Path) -> Path:
    """Its config names code that lies beside it, and that would be seen to have run."""
    (classifier(folder) / "modeling.py").write_text(f"open({str(folder.parent / 'ran')!r}, 'w')\n")
    return with_config_only(folder, auto_map={"AutoModelForSequenceClassification": "modeling.Model"})


def with_config_only(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def with_tokenizer_code(folder: Path) -> Path:
    (without_tokenizer(folder) / "tokenization.py").write_text(f"open({str(folder.parent / 'ran')!r}, 'w')\n")
    settings = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["tokenization.Own", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def taking_text_for_tokens(folder: Path) -> Path:
    """ "[SEP]" in a text would be the special token: nothing cuts it at its brackets."""
    backend = make_tokenizer()
    backend.pre_tokenizer = WhitespaceSplit()
    backend.normalizer = None
    classifier(folder)
    save_tokenizer(folder, backend)
    return folder


REFUSED = {
    "own code": (with_code, r"it wants code of its own \(auto_map\), which is never run"),
    "a tokenizer's own code": (with_tokenizer_code, "no fast tokenizer can be loaded|there is no tokenizer"),
    "text for special tokens": (taking_text_for_tokens, r"takes '\[...+\]' in a text for its special token"),
    "DeBERTa of the first version": (
        lambda folder: of_family(folder, "Deberta"),
        "'deberta' is not one of bert, roberta, ",
    ),
    "T5": (
        lambda folder: of_family(folder, "T5", d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4),
        "'t5' is not one of bert, roberta, ",
    ),
    "no folder": (lambda folder: folder, "is no folder"),
    "truncated": (truncated, r"model\.safetensors is cut off"),
    "no head": (lambda folder: save_checkpoint(folder), "BertModel has no head to serve"),
    "other head": (lambda folder: save_checkpoint(folder, "ForMaskedLM"), "BertForMaskedLM has no head to serve"),
    "head weights": (lambda folder: without_weight(folder, "classifier.weight"), r"missing \(classifier.weight\)"),
    "pooler weights": (lambda folder: without_weight(folder, "bert.pooler.dense.bias"), "weights are missing"),
    "shapes": (lambda folder: with_config(folder, intermediate_size=48), "shapes"),
    "broken config": (lambda folder: with_config(folder, model_type="nonsense"), "nonsense"),
    "no architectures": (lambda folder: with_config(folder, architectures=None), "without architectures"),
    "regression": (lambda folder: with_config(folder, problem_type="regression"), "problem_type 'regression' cannot"),
    "activation": (lambda folder: with_config(folder, hidden_act="silu"), "silu"),
    "decoder": (lambda folder: with_config(folder, is_decoder=True), "is_decoder"),
    "positions": (lambda folder: with_config(folder, position_embedding_type="relative_key"), "relative_key"),
    "GPT-2": (
        lambda folder: of_family(folder, "GPT2", n_embd=32, n_layer=1, n_head=4),
        "'gpt2' is not one of bert, roberta, ",
    ),
    "no tokenizer": (without_tokenizer, "there is no tokenizer"),
    "broken tokenizer": (lambda folder: without_tokenizer(folder, "{}"), "no fast tokenizer can be loaded"),
    "large tokenizer": (with_larger_tokenizer, "the tokenizer has ids up to"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_checkpoints(tmp_path: Path, kind: str) -> None:
    make, message = REFUSED[kind]
    checkpoint = make(tmp_path / "c")
    models = tmp_path / "models"
    run(classifier(tmp_path / "good"), models, precisions=("fp32",))
    (models / "good").rename(models / "c")
    before = contents(models)
    with pytest.raises(CheckpointError, match=message):
        run(checkpoint, models)
    assert not (tmp_path / "ran").exists()  # nothing of the checkpoint's own was run
    assert contents(models) == before  # the bundle of that name is as it was, and nothing is beside it


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_length": 81}, "a max_length of 81 is more than the model's 80 positions"),
        ({"max_length": 4}, "a max_length of 4 is less than 16"),
        ({"doc_stride": -1}, "would leave gaps"),
        ({"doc_stride": 60}, "a doc_stride of 60 leaves no room in a max_length of 80"),
    ],
)
def test_lengths_that_cannot_be(tmp_path: Path, changes: dict[str, int], message: str) -> None:
    checkpoint = save_checkpoint(tmp_path / "c", "ForQuestionAnswering")
    with pytest.raises(CheckpointError, match=message):
        run(checkpoint, tmp_path / "models", **({"doc_stride": 16} | changes))


def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    run(classifier(tmp_path / "c"), tmp_path / "models")
    before = contents(tmp_path / "models")
    with pytest.raises(TrainingError, match="exists and is no bundle"):
        export.run(Request(tmp_path / "c", tmp_path / "models", without_dev=True))
    assert contents(tmp_path / "models") == before


def test_a_bundle_with_versions_beside_it_is_never_replaced(tmp_path: Path) -> None:
    output = tmp_path / "models/sentiment"
    for folder in (output, output / "1"):
        folder.mkdir(parents=True)
        (folder / MANIFEST).write_text("{}")
    before = contents(output)
    with pytest.raises(TrainingError, match=r"holds versions, which would go: .* service models add sentiment FOLDER"):
        export.run(Request(classifier(tmp_path / "c"), output, without_dev=True))
    assert contents(output) == before


def test_broken_recipe_file(tmp_path: Path) -> None:
    (classifier(tmp_path / "c") / "bertie.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"bertie\.json"):
        run(tmp_path / "c", tmp_path / "models")


# ---- the gate, from here --------------------------------------------------------------------------------------------


def test_dev_files(tmp_path: Path, sentiment_run: Path) -> None:
    checkpoint = classifier(tmp_path / "c")
    with pytest.raises(DataError, match="absent"):
        run(checkpoint, tmp_path / "models", dev=(str(tmp_path / "absent.tsv"),))
    same = tuple(write_sst2(tmp_path / folder / "x" / "dev.tsv") for folder in "ab")
    with pytest.raises(DataError, match="same name"):
        run(checkpoint, tmp_path / "models", dev=same)
    with pytest.raises(DataError, match="unknown label"):
        run(checkpoint, tmp_path / "models", dev=(write_sst2(tmp_path / "bad.tsv", [("a", "1"), ("b", "3")]),))
    assert not list((tmp_path / "models").iterdir())
    recorded = sentiment_run / "final"
    assert not export.run(Request(recorded, tmp_path / "models" / "x", without_dev=True)).graphs[0].scores
    assert export.run(Request(recorded, tmp_path / "models" / "x")).graphs[0].scores


def test_dev_limit(tmp_path: Path, sentiment_run: Path, data_dir: Path) -> None:
    manifest = export.run(Request(sentiment_run / "final", tmp_path / "models" / "x", dev_limit=3))
    assert manifest.graphs[0].scores[f"{data_dir.name}/sst2.tsv"]["rows"] == 3


@pytest.mark.parametrize(("spoil", "message"), [("fp32", "logits differ from"), ("int8", "int8 graph's accuracy on")])
def test_gate_stops_a_wrong_graph(
    tmp_path: Path, sentiment_run: Path, monkeypatch: pytest.MonkeyPatch, spoil: str, message: str
) -> None:
    """A graph with its last weights turned round, where everything else is as ever."""
    output = tmp_path / "models" / "x"
    export.run(Request(sentiment_run / "final", output))
    before = contents(tmp_path / "models")
    build = graph.build

    def spoilt(model: Any, *, encoding: Any, **options: Any) -> onnx.ModelProto:
        proto = build(model, encoding=encoding, **options)
        if encoding is graphs.ENCODINGS[spoil]:
            last = next(tensor for tensor in proto.graph.initializer if tensor.name == "classifier.weight")
            last.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(last), last.name))
        return proto

    monkeypatch.setattr(graph, "build", spoilt)
    with pytest.raises(GateError, match=message):
        export.run(Request(sentiment_run / "final", output))
    assert contents(tmp_path / "models") == before
    with pytest.raises(GateError, match=message):
        export.run(Request(sentiment_run / "final", tmp_path / "models" / "new"))
    assert contents(tmp_path / "models") == before


PRECISIONS = ("fp32", "int8", "w8a16", "fp16")


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForMultipleChoice", "ForQuestionAnswering", "several"])
def test_without_a_dev_file_the_card_says_what_was_measured(tmp_path: Path, head: str) -> None:
    """And is held to torch and to fp32 on examples of its own, by every task."""
    several = {"problem_type": "multi_label_classification"} if head == "several" else {}
    more = {} if head in ("ForMultipleChoice", "ForQuestionAnswering") else SENTIMENT | several
    checkpoint = save_checkpoint(tmp_path / "c", "ForSequenceClassification" if several else head, **more)
    manifest = export.run(Request(checkpoint, tmp_path / "models" / "c", PRECISIONS, doc_stride=16))
    assert not any(each.scores for each in manifest.graphs)
    card = (tmp_path / "models" / "c" / "README.md").read_text()
    count = re.search(r"On (\d+) examples of Bertie's own, of 2 to 300 words, half in English and half in the", card)
    assert int(count[1]) >= 40  # type: ignore[index]  # of 60: rows of 80 tokens do not hold every question
    worst = float(re.search(r"- fp32: logits within (\S+) of torch's", card)[1])  # type: ignore[index]
    assert 0 < worst < gate.FP32_TOLERANCE
    for precision in PRECISIONS[1:]:
        found = re.search(rf"- {precision}: (\S+) % of the answers are fp32's, their scores (\S+) apart", card)
        assert found
        assert float(found[1]) >= gate.ALIKE
        assert 0 <= float(found[2]) <= gate.DISTANCE
    fitted = {"several": " and label threshold", "ForQuestionAnswering": " and no answer threshold"}.get(head, "")
    assert f"Not measured: how often answers are right. Not fitted: the temperature of scores{fitted}." in card


def test_own_examples_are_of_every_length_and_not_in_english_alone(sentiment: Path) -> None:
    backend = tokenizers.Tokenizer.from_file(str(sentiment / TOKENIZER))
    task = build(bundles.load(sentiment).manifest, Tokenizer.from_file(sentiment / TOKENIZER))
    made = own.examples(task, backend)
    assert made == own.examples(task, backend)  # the same each time
    assert len({example.text for example in made}) == len(made) == 2 * len(own.LENGTHS) * own.EACH
    english = [e.text for e in made if set(e.text.split()) <= set(own.TEXT.split())]
    assert sorted({len(text.split()) for text in english}) == list(own.LENGTHS)
    assert len(english) == len(made) // 2


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("fp32", r"logits differ from torch's by .* on the bundle's own examples"),
        ("int8", r"the int8 graph answers \d+\.\d % .* the limits are 80 % and 0\.03"),
        ("w8a16", r"the w8a16 graph answers"),
    ],
)
def test_gate_stops_a_wrong_graph_without_a_dev_file(
    tmp_path: Path, sentiment_run: Path, monkeypatch: pytest.MonkeyPatch, spoil: str, message: str
) -> None:
    """Where random rows are blind to it."""
    monkeypatch.setattr(gate, "parity", lambda *given: 0.0)
    monkeypatch.setattr(gate, "half", lambda *given: 0.0)
    build = graph.build

    def spoilt(model: Any, *, encoding: Any, **options: Any) -> onnx.ModelProto:
        proto = build(model, encoding=encoding, **options)
        if encoding is graphs.ENCODINGS[spoil]:
            last = next(tensor for tensor in proto.graph.initializer if tensor.name.startswith("classifier.weight"))
            last.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(last), last.name))
        return proto

    monkeypatch.setattr(graph, "build", spoilt)
    precisions = ("fp32",) if spoil == "fp32" else ("fp32", spoil)
    with pytest.raises(GateError, match=message):
        export.run(Request(sentiment_run / "final", tmp_path / "models" / "x", precisions, without_dev=True))
    assert not list((tmp_path / "models").iterdir())


def test_scores_that_are_far_from_fp32_s_are_refused() -> None:
    gate.agreement("int8", 100.0, 0.02)
    for alike, mean in ((79.0, 0.0), (100.0, 0.04), (100.0, float("nan"))):
        with pytest.raises(GateError, match="Name a dev file"):
            gate.agreement("int8", alike, mean)


def test_gate_counts_attentions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate.graph, "fused_attention_count", lambda proto: 1)
    with pytest.raises(GateError, match="1 of 2 attentions are fused"):
        run(classifier(tmp_path / "c"), tmp_path / "models")


def test_threshold_is_fitted_on_the_graph_that_cpus_run(
    qa_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On int8's outcomes, of the files with unanswerable questions alone."""
    fitted_on = []

    def spy(outcomes: list[Any]) -> float:
        fitted_on.append({o.question.id: o.margin for o in outcomes})
        return best_threshold(outcomes)

    monkeypatch.setattr(span, "best_threshold", spy)
    dev = (write_squad(tmp_path / "v1.json"), write_squad(tmp_path / "v2.json", unanswerable=True))
    manifest = export.run(Request(qa_run / "final", tmp_path / "models" / "qa", dev=dev))
    assert len(fitted_on) == 1
    assert fitted_on[0].keys() == {f"q{i}" for i in range(1, 7)}
    assert manifest.no_answer
    export.run(Request(qa_run / "final", tmp_path / "models" / "fp32", dev=dev[1:], precisions=("fp32",)))
    assert fitted_on[1].keys() == fitted_on[0].keys()
    assert fitted_on[1] != fitted_on[0]
