"""What `check` says of folders: what they are, whether they can be served and why not, and what to type next."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from service.engine.batch import Batch
from service.engine.session import OrtEngine
from service.repository.manifest import WEIGHTS
from tests.training.samples import make_model, save_checkpoint
from training.__main__ import main
from training.checkpoints.configs import load_config
from training.export import check, speed
from training.export import runner as export
from training.export.runner import Request

LABELS = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}


def classifier(folder: Path, **changes: object) -> Path:
    return save_checkpoint(folder, "ForSequenceClassification", **(LABELS | changes))


def configured(folder: Path, **changes: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_a_checkpoint_that_can_be_served(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "My model")
    report = check.run(folder)
    assert report.problems == []
    facts = report.facts
    assert facts["architecture"] == "bert (BertForSequenceClassification)"
    assert (facts["task"], facts["labels"]) == ("classification", "2: negative, positive")
    parameters = sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
    assert facts["parameters"] == f"{parameters:,}"
    assert facts["weights"].endswith("MB in model.safetensors, F32")
    assert facts["tokenizer"].startswith("WordPiece, ")
    assert report.next == f"python -m training export '{folder}' models/My-model"


def test_the_bundle_is_as_large_as_was_said(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "c", hidden_size=64, intermediate_size=256)
    model = make_model("ForSequenceClassification", hidden_size=64, intermediate_size=256)
    export.run(Request(folder, tmp_path / "models" / "c", without_dev=True))
    written = (tmp_path / "models" / "c" / WEIGHTS).stat().st_size
    said = float(check._bundle(model).split()[1]) * 1e6
    assert said == pytest.approx(written, rel=0.1, abs=60_000)


def test_how_fast_it_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = classifier(tmp_path / "c")
    said = check.run(folder).facts["speed"]
    found = re.fullmatch(r"int8 (\S+), fp32 (\S+) rows of 80 tokens a second on \d+ cores here, an estimate .*", said)
    assert found
    assert float(found[1]) > 0 < float(found[2])
    monkeypatch.setattr(
        speed, "_operations_per_second", lambda config, precision: {"int8": 3e9, "fp32": 1e9}[precision]
    )
    config = load_config(folder)
    linear, products = 1e9 / (80 * 2 * (8 * 32**2 + 4 * 32 * 64)), 2 * 4 * 80**2 * 32 / 1e9
    rows = speed.rows_per_second(config, 80)
    assert rows["fp32"] == pytest.approx(1 / (1 / linear + products), rel=0.01)
    assert rows["int8"] == pytest.approx(1 / (1 / (3 * linear) + products), rel=0.01)  # attention is in fp32


def test_the_blocks_are_the_model_s_own_in_each_precision(tmp_path: Path) -> None:
    """What is timed computes: a batch through it has the shape and the numbers of a layer norm's output."""
    for precision in speed.PRECISIONS:
        path = tmp_path / f"{precision}.onnx"
        onnx.save(speed._blocks(32, 64, precision), path)
        engine = OrtEngine(path, provider="cpu", precision=precision, workers=1, intra_op_threads=1)
        ids = np.zeros((2, 9), dtype=np.int64)
        (states,) = engine.run(Batch(ids, ids, ids))
        assert states.shape == (2, 9, 32)
        assert 0.5 < states.std() < 2
        kinds = Counter(node.op_type for node in onnx.load(path).graph.node)
        assert kinds["MatMulIntegerToFloat" if precision == "int8" else "MatMul"] == 2 * speed.BLOCKS


def test_weights_are_not_read(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "c")
    path = folder / "model.safetensors"
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    content = path.read_bytes()
    path.write_bytes(content[:header] + b"\xff" * (len(content) - header))
    assert check.run(folder).problems == []


def test_shards_of_torch_s_format(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "c")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts = {"a.bin": list(tensors)[::2], "b.bin": list(tensors)[1::2]}
    for file, names in parts.items():
        torch.save({name: tensors[name].half() for name in names}, folder / file)
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    report = check.run(folder)
    assert report.problems == []
    assert report.facts["weights"].endswith("MB in 2 files, a.bin and on, F16")


def without(folder: Path, *names: str) -> Path:
    path = folder / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(path).items() if name not in names}
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def cut(folder: Path) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    return folder


def unnamed(folder: Path) -> Path:
    return save_checkpoint(folder, "ForSequenceClassification", num_labels=3)


def tokenless(folder: Path) -> Path:
    for path in classifier(folder).glob("tokenizer*"):
        path.unlink()
    return folder


def bundled(folder: Path) -> Path:
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    return folder


def empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


PROBLEMS = {
    "a head that is missing": (
        lambda folder: without(classifier(folder), "classifier.bias"), r"weights are missing \(classifier\.bias\)",
    ),
    "other shapes": (
        lambda folder: configured(classifier(folder), intermediate_size=48),
        r"shapes that its config says: bert\.encoder.* is \[64, 32\], and should be \[48, 32\]",
    ),
    "cut off": (lambda folder: cut(classifier(folder)), r"is cut off: it has 5,000 of "),
    "unnamed labels": (unnamed, r"labels are LABEL_0, LABEL_1, LABEL_2: which is which .* --labels entailment"),
    "no tokenizer": (tokenless, r"there is no tokenizer: looked for tokenizer\.json"),
    "an encoder": (lambda folder: save_checkpoint(folder), r"BertModel has no head to serve .*: fine-tune it first"),
    "no architectures": (
        lambda folder: configured(classifier(folder), architectures=None),
        r'its weights have classifier\.\w+: write "architectures": \["BertForSequenceClassification"\] into',
    ),
    "no architectures of a question answerer": (
        lambda folder: configured(save_checkpoint(folder, "ForQuestionAnswering"), architectures=None),
        r'its weights have qa_outputs\.\w+: write "architectures": \["BertForQuestionAnswering"\] into',
    ),
    "neither architectures nor a head": (
        lambda folder: configured(save_checkpoint(folder), architectures=None), "its weights have none either",
    ),
    "another architecture": (lambda folder: configured(classifier(folder), model_type="gpt2"), "'gpt2' is not one of"),
    "a regression": (
        lambda folder: configured(classifier(folder), problem_type="regression"), "problem_type 'regression' cannot",
    ),
    "a bundle": (bundled, "it is a bundle already"),
    "an empty folder": (empty, "is empty: download"),
    "no folder": (lambda folder: folder, "is no folder"),
}  # fmt: skip


@pytest.mark.parametrize("kind", PROBLEMS)
def test_why_a_folder_cannot_be_served(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, message = PROBLEMS[kind]
    folder = make(tmp_path / "c")
    report = check.run(folder)
    assert not report.next
    assert any(re.search(message, problem) for problem in report.problems), report.problems
    assert main(["check", str(folder)]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("error: it cannot be served as it is: ") == 1
    assert json.loads(captured.out.splitlines()[-1])["problems"] == report.problems


def test_named_labels_are_carried_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = unnamed(tmp_path / "c")
    assert main(["check", str(folder), "--labels", "entailment,neutral,contradiction"]) == 0
    output = capsys.readouterr().out
    assert f"export {folder} models/c --labels entailment,neutral,contradiction" in output
    assert output.splitlines()[0] == f"checkpoint    {folder}"


def test_notes_stop_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = classifier(tmp_path / "c", max_position_embeddings=512, bos_token_id=9)
    assert main(["check", str(folder)]) == 0
    output = capsys.readouterr().out
    assert "note: texts are cut at 384 tokens, of the model's 512" in output
    assert "note: its config says bos_token_id 9, its tokenizer uses 2" in output


def test_several_problems_are_all_told(tmp_path: Path) -> None:
    folder = cut(unnamed(tmp_path / "c"))
    assert len(check.run(folder).problems) == 2
